"""The members of a zip archive: its directory, read in parts, and one member by its offset."""

import struct
from collections.abc import Callable, Iterator

from isal import isal_zlib
from isal.igzip_lib import IsalError

from denoise.errors import ImageError
from denoise.images.sniff import HEAD
from denoise.storage.spans import (
    DAMAGED,
    NAMELESS,
    DamagedError,
    Member,
    Span,
    check_head,
    error_of_size,
)

OVERLAPPING = "its archive's members overlap, as in a bomb: unpack it"
_TAIL = 22 + 65_535  # bytes in which the end of a directory is, with the longest comment
_ENTRY = struct.Struct("<4s4B4HL2L5H2L")
_LOCAL = struct.Struct("<4s2B4HL2L2H")
_SLACK = 1024  # bytes of a member's name and more that are read with it, to ask once
_STORED, _DEFLATED = 0, 8
_IS_ENCRYPTED, _IS_DESCRIBED_BEHIND, _IS_UTF8 = 1, 8, 0x800


def members(span: Span, size: int, wants_head: Callable[[str], int]) -> Iterator[Member]:
    """The members that a zip's directory names, in its order, folders left out.

    Members that share their bytes are members as long as an archive of this size could hold them
    apart. Raises OSError, and DamagedError where it has no directory, or what follows is none.
    """
    at, end, shift = _directory(span, size)
    room = at  # bytes before the directory: members that lie apart fit into them
    while at < end:
        head = span.read(at, _ENTRY.size)
        if len(head) < _ENTRY.size or head[:4] != b"PK\1\2":
            raise DamagedError
        fields = _ENTRY.unpack(head)
        flags, method, stored, length = fields[5], fields[6], fields[10], fields[11]
        sizes = fields[12:15]  # of its name, of more fields, of a comment
        names = span.read(at + _ENTRY.size, sizes[0] + sizes[1])
        here, at = at, at + _ENTRY.size + sum(sizes)
        name = _text(names[: sizes[0]], flags) or NAMELESS
        wide = [length, stored, fields[18]]
        length, stored, offset = _widen(names[sizes[0] :], wide)
        is_link = fields[2] == 3 and fields[17] >> 28 == 0xA  # made on Unix
        if name.endswith("/"):
            continue
        if is_link:
            yield Member(name, left_out="link in an archive")
            continue
        offset += shift
        error = _error(flags, method, stored, length)
        if not error and offset + _LOCAL.size + stored > size:
            error = DAMAGED
        if not error:
            room -= _LOCAL.size + stored
            error = OVERLAPPING if room < 0 else ""
        if error:  # its numbers may be anything, and its entry lies where no other one does
            yield Member(name, here, error=error)
            continue
        found = Member(name, offset, stored, length)
        if wanted := wants_head(name):
            found = found._replace(head=_head(span, found, wanted))
        yield found


def content(read: Callable[[int, int], bytes], found: Member) -> bytes:
    """A member's bytes; `read` gives those of the archive from one offset to another.

    Raises OSError, and ImageError where they are not what the archive says.
    """
    packed = read(found.offset, found.offset + _LOCAL.size + _SLACK + found.stored)
    if len(packed) < _LOCAL.size or packed[:4] != b"PK\3\4":
        raise ImageError(DAMAGED)
    fields = _LOCAL.unpack_from(packed)
    flags, method, crc = fields[3], fields[4], fields[7]
    first = _LOCAL.size + fields[10] + fields[11]
    wanted = first + found.stored + 8  # what may stand behind it: a mark and the checksum
    if len(packed) < wanted:
        packed += read(found.offset + len(packed), found.offset + wanted)
    body = memoryview(packed)[first : first + found.stored]
    if len(body) < found.stored:
        raise ImageError(DAMAGED)
    if flags & _IS_DESCRIBED_BEHIND:
        behind = packed[first + found.stored :]
        crc = int.from_bytes(behind[4:8] if behind[:4] == b"PK\7\10" else behind[:4], "little")
    whole = bytes(body) if method == _STORED else _inflate(body, found.size)
    if len(whole) != found.size or isal_zlib.crc32(whole) != crc:
        raise ImageError(DAMAGED)
    return whole


def _inflate(body: memoryview, size: int) -> bytes:
    """What a member inflates to, of which no more is made than it claims to be."""
    try:
        check_head(size, lambda: isal_zlib.decompressobj(wbits=-15).decompress(body, HEAD))
        whole = isal_zlib.decompressobj(wbits=-15).decompress(body, size + 1)
        return bytes(whole)
    except IsalError as error:  # type: ignore[misc]  # its stub says no exception
        raise ImageError(DAMAGED) from error


def _directory(span: Span, size: int) -> tuple[int, int, int]:
    """Where the directory begins and ends, and by how much all offsets in it are too small."""
    first = max(0, size - _TAIL)
    tail = span.read(first, size - first)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + 22:
        raise DamagedError
    length, offset = struct.unpack_from("<2L", tail, at + 12)
    end = first + at
    if 0xFFFFFFFF in (length, offset) or tail[at + 10 : at + 12] == b"\xff\xff":
        length, offset, end = _wide_directory(span, tail, at, (length, offset, end))
    if length > end or offset > end - length:
        raise DamagedError
    return end - length, end, end - length - offset


def _wide_directory(
    span: Span, tail: bytes, at: int, narrow: tuple[int, int, int]
) -> tuple[int, int, int]:
    """Of an archive with more than 65,535 members or 4 GiB."""
    locator = tail[at - 20 : at] if at >= 20 else b""
    if locator[:4] != b"PK\6\7":
        return narrow
    (named,) = struct.unpack_from("<Q", locator, 8)
    end = narrow[2] - 20 - 56
    for where in (named, end):  # the second, where something stands before the archive
        record = span.read(where, 56) if where >= 0 else b""
        if len(record) == 56 and record[:4] == b"PK\6\6":
            length, offset = struct.unpack_from("<2Q", record, 40)
            return length, offset, where
    raise DamagedError


def _widen(more: bytes, values: list[int]) -> list[int]:
    """Size, stored bytes and offset, of which those too large for 32 bits stand further behind."""
    at = 0
    while at + 4 <= len(more):
        tag, length = struct.unpack_from("<2H", more, at)
        if tag == 1:
            wide = more[at + 4 : at + 4 + length]
            for k in [k for k, value in enumerate(values) if value == 0xFFFFFFFF]:
                if len(wide) < 8:
                    raise DamagedError
                values[k], wide = int.from_bytes(wide[:8], "little"), wide[8:]
        at += 4 + length
    return values


def _error(flags: int, method: int, stored: int, size: int) -> str:
    if flags & _IS_ENCRYPTED:
        return "its archive asks for a password: unpack it"
    if method not in (_STORED, _DEFLATED):
        return "packed in a way that is not read: pack it as zip commonly does, or unpack it"
    if method == _STORED and stored != size:
        return DAMAGED
    return error_of_size(max(stored, size))


def _head(span: Span, found: Member, size: int) -> bytes:
    """The first bytes of a member, none where they cannot be had."""
    local = span.read(found.offset, _LOCAL.size)
    if len(local) < _LOCAL.size or local[:4] != b"PK\3\4":
        return b""
    fields = _LOCAL.unpack(local)
    start = found.offset + _LOCAL.size + fields[10] + fields[11]
    packed = span.read(start, min(found.stored, 2 * size))
    if fields[4] == _STORED:
        return packed[:size]
    try:
        return bytes(isal_zlib.decompressobj(wbits=-15).decompress(packed, size))
    except IsalError:  # type: ignore[misc]
        return b""


def _text(name: bytes, flags: int) -> str:
    """A name; some programs write it in UTF-8 and do not say so, or with backslashes."""
    name = name.partition(b"\0")[0]
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = name.decode("utf-8", "surrogateescape") if flags & _IS_UTF8 else name.decode("cp437")
    return text if "/" in text else text.replace("\\", "/")
