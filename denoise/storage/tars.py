"""The members of a tar archive: its headers are read one by one and never held all together."""

from collections.abc import Callable, Iterator

from denoise.storage.spans import DAMAGED, NAMELESS, DamagedError, Member, Span

_BLOCK = 512
_LONGEST = 1 << 20  # bytes of a header about the next member: its long name, its pax fields
_RECORDS = 1000  # in a pax header; real ones have a dozen
_HEADERS = 16  # about one member; real ones have two
_LARGEST = (1 << 63) - 1  # bytes of a file
_REGULAR = b"\0" + b"07"
_LINKS, _SPECIAL = b"12", b"346"
_TO_A_NAME = b"L"  # GNU: the next member's name, where it is long
TOO_MUCH = (
    f"archive with more headers about a member ({_HEADERS}), more records in one ({_RECORDS:,}) or "
    f"longer ones ({_LONGEST >> 20} MiB) than programs write: pack it anew"
)


def members(span: Span, wants_head: Callable[[str], int]) -> Iterator[Member]:
    """The members of a tar in their order, folders left out.

    `wants_head` gives the number of first bytes of a name that are needed to know its kind. A
    member that the file ends in has an error. Raises OSError, and DamagedError where it is no tar.
    """
    at, name, size, is_sparse, headers = 0, "", None, False, 0
    while True:
        header = span.read(at, _BLOCK)
        # some programs leave the zeros at the end out
        if header == bytes(_BLOCK) or (not header and at and span.reaches(at)):
            return
        kind, own_name, own_size = _parse(header)
        at += _BLOCK
        if kind in b"xgLK":
            headers += 1
            if headers > _HEADERS or own_size > _LONGEST:
                raise DamagedError(TOO_MUCH)
            if kind == _TO_A_NAME:
                name = _text(_payload(span, at, own_size))
            elif kind == b"x":
                fields = _fields(_payload(span, at, own_size))
                name, size = fields.get("path") or name, _size_in(fields, size)
                is_sparse = any(key.startswith("GNU.sparse") for key in fields)
            at += _pad(own_size)
            continue
        full_name = name or own_name or NAMELESS
        length = own_size if size is None else size
        more = header[482:483] if kind == b"S" else b"\0"  # whether its map goes on
        while more not in (b"", b"\0"):
            more = span.read(at, _BLOCK)[504:505]
            at += _BLOCK
        holds = 0 if kind in _LINKS + b"3456" else length
        found = kind, full_name, at, holds
        yield from _member(span, found, wants_head, is_sparse or kind == b"S")
        if at + holds > _LARGEST or not span.reaches(at + holds):
            return
        at += _pad(holds)
        name, size, is_sparse, headers = "", None, False, 0


def _member(
    span: Span,
    found: tuple[bytes, str, int, int],
    wants_head: Callable[[str], int],
    is_sparse: bool,
) -> Iterator[Member]:
    """A member, unless it is a folder or of a kind that only some tar programs know."""
    kind, name, at, size = found
    if kind in _LINKS:
        yield Member(name, left_out="link in an archive")
    elif kind in _SPECIAL:
        yield Member(name, left_out="neither file nor folder")
    elif kind in _REGULAR + b"S" and not name.endswith("/"):
        head = span.read(at, min(size, wants_head(name))) if size else b""
        if is_sparse:
            error = "a sparse file in its archive, which cannot be read there: unpack it"
            yield Member(name, at, head=head, error=error)
        elif at + size > _LARGEST or not span.reaches(at + size):
            yield Member(name, at, head=head, error=DAMAGED)
        else:
            yield Member(name, at, size, size, head)


def _parse(header: bytes) -> tuple[bytes, str, int]:
    """Type, name and size of a header. Raises DamagedError where it is none."""
    if len(header) < _BLOCK:
        raise DamagedError
    rest = header[:148] + b" " * 8 + header[156:]
    differs = sum(rest) - _number(header[148:156])
    if differs and differs != 256 * sum(byte > 127 for byte in rest):  # of bytes with a sign
        raise DamagedError
    name = header[:100].partition(b"\0")[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    size = _number(header[124:136])
    if size < 0:
        raise DamagedError
    return header[156:157], _text(name), size


def _number(field: bytes) -> int:
    """A number in octal digits, or in GNU's binary form."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        return -1
    digits = field.partition(b"\0")[0].strip()
    try:
        return int(digits, 8) if digits else 0
    except ValueError as error:
        raise DamagedError from error


def _payload(span: Span, at: int, size: int) -> bytes:
    """The content of a header about the members that follow. Raises DamagedError."""
    if len(payload := span.read(at, size)) < size:
        raise DamagedError
    return payload


def _fields(payload: bytes) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE` of a pax header. Raises DamagedError."""
    fields: dict[str, str] = {}
    at = records = 0
    while at < len(payload):
        records += 1
        if records > _RECORDS:
            raise DamagedError(TOO_MUCH)
        blank = payload.find(b" ", at, at + 9)
        if blank < 0 or not payload[at:blank].isdigit():
            raise DamagedError
        stop = at + int(payload[at:blank])
        key, equals, value = payload[blank + 1 : stop].rstrip(b"\n").partition(b"=")
        if not equals or stop > len(payload):
            raise DamagedError
        fields[_text(key)] = _text(value)
        at = stop
    return fields


def _size_in(fields: dict[str, str], size: int | None) -> int | None:
    if "size" not in fields:
        return size
    if not (fields["size"].isascii() and fields["size"].isdigit() and len(fields["size"]) < 20):
        raise DamagedError
    return int(fields["size"])


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _pad(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
