"""The boxes of HEIF, AVIF, JPEG XL and JPEG 2000 files, and what their metadata claim.

The boxes are those of ISO/IEC 14496-12, the items of a picture those of ISO/IEC 23008-12. Every
function raises ImageError or one of DECODER_ERRORS for bytes that are none.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from denoise.errors import ImageError
from denoise.images.exif import PREFIX, TOO_MUCH, check_claims
from denoise.images.planes import most_pieces

# A head that libraries accept, of a directory that lies outside: unreadable, as its note says
_NO_EXIF = b"II\x2a\x00" + struct.pack("<L", 0x7FFFFFF0)
_XMP_KIND = b"application/rdf+xml"
_MOST_ITEMS = 10_000  # a grid of a telephone's tiles has a hundred


class Box(NamedTuple):
    """A box's name, and where its content lies."""

    name: bytes
    start: int
    end: int


@dataclass
class Meta:
    """What the `meta` box of a HEIF or AVIF file says."""

    sizes: list[tuple[int, int]] = field(default_factory=list)  # widths and heights of its items
    exif: list[tuple[int, int]] = field(default_factory=list)  # where EXIF lies, from its TIFF on
    xmp: list[tuple[int, int]] = field(default_factory=list)  # where XMP lies
    links: list[int] = field(default_factory=list)  # where the names of boxes lie that link to it
    # numbers of primaries and curve (ITU-T H.273); none where its items differ, such as a gain map
    colours: tuple[int, int] | None = None


def boxes(encoded: bytes, start: int = 0, end: int | None = None) -> Iterator[Box]:
    """The boxes between two positions, in order, to the end or to where the file was cut."""
    end = len(encoded) if end is None else min(end, len(encoded))
    for _ in range(most_pieces(end - start)):
        if start + 8 > end:
            return
        length, name = struct.unpack_from(">L4s", encoded, start)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", encoded, start + 8)
            head = 16
        stop = min(start + length, end) if length else end
        if stop < start + head:
            return
        yield Box(name, start + head, stop)
        start = stop
    raise ImageError("unsupported variant of its format: too many boxes")


def meta_of(encoded: bytes) -> Meta:
    """What the first `meta` box says of sizes and EXIF; nothing where there is none."""
    meta = Meta()
    found = next((box for box in boxes(encoded) if box.name == b"meta"), None)
    if found is None:
        return meta
    inner = {box.name: box for box in boxes(encoded, found.start + 4, found.end)}
    if b"iprp" in inner:
        named: set[tuple[int, int]] = set()
        for container in boxes(encoded, *inner[b"iprp"][1:]):
            for box in boxes(encoded, *container[1:]):
                if box.name == b"ispe":
                    meta.sizes.append(struct.unpack_from(">LL", encoded, box.start + 4))
                elif box.name == b"colr" and encoded[box.start : box.start + 4] == b"nclx":
                    named.add(struct.unpack_from(">HH", encoded, box.start + 4))
        meta.colours = named.pop() if len(named) == 1 else None
    if b"iref" in inner:
        references = boxes(encoded, inner[b"iref"].start + 4, inner[b"iref"].end)
        meta.links = [box.start - 4 for box in references if box.name == b"cdsc"]
    if b"iinf" in inner and b"iloc" in inner:
        _add_descriptions(meta, encoded, inner)
    return meta


def _add_descriptions(meta: Meta, encoded: bytes, inner: Mapping[bytes, Box]) -> None:
    """Note where the EXIF and the XMP of a file lie."""
    wanted = dict(_described_by(encoded, inner[b"iinf"]))
    data = inner.get(b"idat")
    for item, start, length in _extents(encoded, inner[b"iloc"], data.start if data else 0):
        if wanted.get(item) == b"Exif":
            meta.exif.append(_tiff_in(encoded, start, length))
        elif item in wanted:
            meta.xmp.append((start, start + length))


def without_bombs(encoded: bytes, meta: Meta) -> bytes:
    """The file, its EXIF blanked where that claims more than it holds: libraries read all of it."""
    for start, end in meta.exif:
        try:
            check_claims(encoded[start:end])
        except ValueError as error:
            if str(error) == TOO_MUCH:
                encoded = encoded[:start] + _NO_EXIF.ljust(end - start, b"\0") + encoded[end:]
    return encoded


def without_links(encoded: bytes, meta: Meta) -> bytes:
    """The file, its pictures without what describes them: a library that reads it may crash."""
    unlinked = bytearray(encoded)
    for start in meta.links:
        unlinked[start : start + 4] = b"skip"
    return bytes(unlinked)


def _described_by(encoded: bytes, iinf: Box) -> Iterator[tuple[int, bytes]]:
    """Number and kind of the items that are EXIF or XMP."""
    is_long = encoded[iinf.start] > 0  # the count's size depends on the version
    for count, box in enumerate(boxes(encoded, iinf.start + (8 if is_long else 6), iinf.end)):
        if count > _MOST_ITEMS:
            raise ImageError("unsupported variant of its format: too many items")
        if box.name == b"infe":
            layout = ">4xLH4s" if encoded[box.start] == 3 else ">4xHH4s"
            number, _, kind = struct.unpack_from(layout, encoded, box.start)
            is_xmp = kind == b"mime" and _XMP_KIND in encoded[box.start : box.end]
            if kind == b"Exif" or is_xmp:
                yield number, kind


def _extents(encoded: bytes, iloc: Box, data: int) -> Iterator[tuple[int, int, int]]:
    """Number, position and length of every part of an item."""
    version = encoded[iloc.start]
    sizes = struct.unpack_from(">BB", encoded, iloc.start + 4)
    of_offset, of_length, of_base, of_index = (n for size in sizes for n in (size >> 4, size & 15))
    of_index = of_index if version else 0
    at = iloc.start + 6

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > iloc.end:
            raise ValueError("a list of items that is cut off")
        return int.from_bytes(encoded[at - size : at])

    left = _MOST_ITEMS
    for _ in range(number(4 if version > 1 else 2)):
        item = number(4 if version > 1 else 2)
        is_inside = version > 0 and number(2) & 15 == 1  # in the `idat` box
        number(2)
        base = number(of_base) + (data if is_inside else 0)
        for _ in range(number(2)):
            left -= 1
            if left < 0:
                raise ImageError("unsupported variant of its format: too many items")
            number(of_index)
            offset, length = number(of_offset), number(of_length)
            yield item, base + offset, length


def _tiff_in(encoded: bytes, start: int, length: int) -> tuple[int, int]:
    """Where the TIFF of an EXIF item begins, which its first four bytes say, and where it ends."""
    end = min(start + length if length else len(encoded), len(encoded))
    begin = start + 4 + int.from_bytes(encoded[start : start + 4])
    if encoded[begin : begin + 6] == PREFIX:
        begin += 6
    return min(begin, end), end


def box_of(name: bytes, content: bytes) -> bytes:
    """A box as it is written, with a length of 64 bits where it needs one."""
    if len(content) + 8 < 1 << 32:
        return struct.pack(">L4s", len(content) + 8, name) + content
    return struct.pack(">L4sQ", 1, name, len(content) + 16) + content
