"""EXIF as raw bytes: read the orientation, and mend what no longer holds once a picture is upright.

The bytes are overwritten, never laid out anew, so that the offsets inside makers' notes and
all unknown tags stay as the camera wrote them. Every function raises ValueError for bytes that are
no EXIF.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

_ORIENTATION = 0x0112
_EXIF_FOLDER = 0x8769
_WIDTH, _HEIGHT = 0xA002, 0xA003
_THUMBNAIL, _THUMBNAIL_LENGTH = 0x0201, 0x0202
_SHORT, _LONG = 3, 4
_DIRECTORIES = {_EXIF_FOLDER, 0x8825, 0xA005}  # tags that point to another one: EXIF, GPS, interop
# Bytes of one value by its type, of TIFF and of BigTIFF; those of one byte stay bytes when read
_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
# What a file may claim. A camera writes some hundred tags; a strip a row makes a million values.
_MOST_ENTRIES = 4000
_MOST_VALUES = 1 << 20
TOO_MUCH = "its directories of tags claim more than there is"
UNREADABLE = b"unreadable"  # stands for EXIF that cannot be read: a note will say so
PREFIX = b"Exif\x00\x00"  # in JPEG and in some WebP files, not in PNG


class _Entry(NamedTuple):
    tag: int
    kind: int
    values: int  # how many
    at: int  # where its value (or the offset of a long value) lies


def without_prefix(exif: bytes) -> bytes:
    """The bytes from the byte-order mark on."""
    return exif.removeprefix(PREFIX)


def orientation_of(exif: bytes) -> int:
    """1 to 8 as in the EXIF standard; 1 where the tag is missing or nonsense."""
    order, first = _header(exif)
    for entry in _entries(exif, order, first):
        if entry.tag == _ORIENTATION and entry.kind in (_SHORT, _LONG):
            value = _number(exif, order, entry)
            return value if 1 <= value <= 8 else 1
    return 1


def upright(exif: bytes, width: int, height: int) -> bytes:
    """The same EXIF once the picture is turned: orientation 1, this size, no thumbnail."""
    order, first = _header(exif)
    mended = bytearray(exif)
    inner_first = 0
    for entry in list(_entries(exif, order, first)):
        if entry.tag == _ORIENTATION and entry.kind in (_SHORT, _LONG):
            _put(mended, order, entry, 1)
        if entry.tag == _EXIF_FOLDER:
            inner_first = _number(exif, order, entry)
    for inner in list(_entries(exif, order, inner_first)) if inner_first else ():
        if inner.tag in (_WIDTH, _HEIGHT) and inner.kind in (_SHORT, _LONG):
            _put(mended, order, inner, width if inner.tag == _WIDTH else height)
    return _without_thumbnail(mended, order, first)


def of_turned(exif: bytes | None, width: int, height: int) -> bytes | None:
    """The EXIF of pixels that a library has turned already."""
    if not exif:
        return None
    try:
        check_claims(exif)
        return upright(exif, width, height)
    except (ValueError, struct.error):
        return UNREADABLE


def check_claims(
    encoded: bytes, order: str | None = None, first: int = 0, *, is_big: bool = False
) -> None:
    """Raise ValueError where directories of tags claim more than a file of their length can hold.

    Libraries read each value that a tag claims: thousands of tags may name the same megabytes. What
    lies outside of the file claims nothing. Of a TIFF file its byte order and first directory are
    given, and whether it is a BigTIFF; of EXIF neither.
    """
    if order is None:
        order, first = _header(encoded)
    counts, entry_of = ("Q", "HHQQ") if is_big else ("H", "HHLL")
    size = struct.calcsize("=" + entry_of)
    todo, seen, entries, claimed = [first], set(), 0, 0
    while todo:
        start = todo.pop()
        if start in seen or start + struct.calcsize("=" + counts) > len(encoded):
            continue
        seen.add(start)
        (count,) = struct.unpack_from(order + counts, encoded, start)
        start += struct.calcsize("=" + counts)
        entries += count
        if entries > _MOST_ENTRIES:
            raise ValueError(TOO_MUCH)
        for at in range(start, min(start + count * size, len(encoded) - size + 1), size):
            tag, kind, values, value = struct.unpack_from(order + entry_of, encoded, at)
            each = _SIZES[kind] if kind < len(_SIZES) else 0
            claimed += each * values
            if claimed > 2 * len(encoded) + (1 << 16) or (each > 1 and values > _MOST_VALUES):
                raise ValueError(TOO_MUCH)
            if tag in _DIRECTORIES:
                todo.append(value)


def _without_thumbnail(exif: bytearray, order: str, first: int) -> bytes:
    """Unlinks the second folder, which describes the thumbnail, and cuts off or blanks its JPEG."""
    link = first + 2 + 12 * struct.unpack_from(order + "H", exif, first)[0]
    if link + 4 > len(exif):
        return bytes(exif)
    second = struct.unpack_from(order + "L", exif, link)[0]
    if second == 0:
        return bytes(exif)
    found = {e.tag: _number(exif, order, e) for e in _entries(exif, order, second)}
    struct.pack_into(order + "L", exif, link, 0)
    start, length = found.get(_THUMBNAIL, 0), found.get(_THUMBNAIL_LENGTH, 0)
    if start > 8 and exif[start : start + 2] == b"\xff\xd8":
        end = min(start + length, len(exif))
        if len(exif) - end < 4:  # the thumbnail comes last, but for padding
            return bytes(exif[:start])
        exif[start:end] = bytes(end - start)
    return bytes(exif)


def _header(exif: bytes) -> tuple[str, int]:
    """struct's sign of the byte order, and where the first folder of tags lies."""
    order = {b"II\x2a\x00": "<", b"MM\x00\x2a": ">"}.get(exif[:4])
    if order is None or len(exif) < 14:
        raise ValueError("no EXIF: it does not begin as a TIFF file does")
    first: int = struct.unpack_from(order + "L", exif, 4)[0]
    return order, first


def _entries(exif: bytes | bytearray, order: str, start: int) -> Iterator[_Entry]:
    """The entries of the folder of tags that begins here."""
    if start + 2 > len(exif):
        raise ValueError("damaged EXIF: a folder of tags lies outside")
    count = struct.unpack_from(order + "H", exif, start)[0]
    for at in range(start + 2, start + 2 + 12 * count, 12):
        if at + 12 > len(exif):
            raise ValueError("damaged EXIF: a folder of tags is cut off")
        tag, kind, values = struct.unpack_from(order + "HHL", exif, at)
        yield _Entry(tag, kind, values, at + 8)


def _number(exif: bytes | bytearray, order: str, entry: _Entry) -> int:
    number: int = struct.unpack_from(
        order + ("H" if entry.kind == _SHORT else "L"), exif, entry.at
    )[0]
    return number


def _put(exif: bytearray, order: str, entry: _Entry, value: int) -> None:
    if entry.kind == _LONG:
        struct.pack_into(order + "L", exif, entry.at, value)
    elif value <= 0xFFFF:
        struct.pack_into(order + "H", exif, entry.at, value)
