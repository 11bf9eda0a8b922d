"""JPEG files: bounded by their segments before they are decoded, decoded to planes, and written."""

import re
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image
from PIL.ImageFile import ImageFile

from denoise.errors import ImageError
from denoise.images.exif import PREFIX, TOO_MUCH, UNREADABLE, check_claims
from denoise.images.metadata import Metadata
from denoise.images.planes import Planes, most_pieces, pillow_planes, squeeze, to_rgb

_MOST_SCANS = 64  # a pass over the whole picture each; ordinary progressive files have ten
_MOST_EXIF = 64  # segments of EXIF, which are put together
_LONGEST_XMP = 65_000  # bytes: it must fit a segment
_SCAN = b"\xff\xda"
_NEXT = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)  # a marker with a length, or EOI
_APP1, _APP2, _END = 0xE1, 0xE2, 0xD9


def check_jpeg(encoded: bytes) -> bytes:
    """Raise ImageError for a JPEG of too many segments or scans, each of which costs much.

    Returns the file without tables of tags that claim more than they hold: Pillow reads them.
    """
    exif, tables = [], []
    for marker, start, end in _head(encoded):
        if marker == _APP1 and encoded[start + 4 : start + 10] == PREFIX:
            exif.append((start, end))
        elif marker == _APP2 and encoded[start + 4 : start + 8] == b"MPF\x00":
            tables.append([(start, end)])
    if len(exif) > _MOST_EXIF:
        raise ImageError("unsupported variant of JPEG: too many segments")
    if encoded.count(_SCAN) > _MOST_SCANS and _scans(encoded) > _MOST_SCANS:
        raise ImageError("unsupported variant of JPEG: too many scans")
    for spans in [exif, *tables]:
        if spans and _claims_too_much(encoded, spans):
            return _without_tables(encoded, exif, tables)
    return encoded


def planes_of_jpeg(image: ImageFile, encoded: bytes) -> Planes:
    """By simplejpeg: the pixels of Pillow in a third of the time, and it notices cut files."""
    colours = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[image.mode]
    exact = {"colorspace": colours, "fastdct": False, "fastupsample": False}
    try:
        planes = simplejpeg.decode_jpeg(encoded, **exact)
    except ValueError as error:
        words = str(error)
        if "Could not determine subsampling" in words:  # one that libjpeg knows
            return pillow_planes(image)
        if "extraneous bytes before marker 0xd9" not in words:
            raise
        planes = simplejpeg.decode_jpeg(encoded, **exact, strict=False)  # stray bytes at the end
    if colours == "CMYK":
        inverted = Image.fromarray(255 - planes, "CMYK")  # as all of them are stored
        return np.asarray(to_rgb(inverted, image.info.get("icc_profile")))
    return planes


def encode_jpeg(planes: Planes, metadata: Metadata, quality: int | None) -> bytes:
    """A JPEG file of quality 95 by default; without XMP and dpi that its fields do not hold."""
    options: dict[str, Any] = {"quality": quality or 95, "subsampling": 0}
    if metadata.exif:
        options["exif"] = PREFIX + metadata.exif
    if metadata.icc:
        options["icc_profile"] = metadata.icc
    if metadata.xmp and len(metadata.xmp) <= _LONGEST_XMP:
        options["xmp"] = metadata.xmp
    if metadata.dpi and max(metadata.dpi) < 1 << 16:
        options["dpi"] = metadata.dpi
    out = BytesIO()
    Image.fromarray(squeeze(planes)).save(out, "JPEG", **options)
    return out.getvalue()


def _head(encoded: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments before the first scan: marker, start, end."""
    at = 2
    for _ in range(most_pieces(len(encoded))):
        found = _NEXT.search(encoded, at)
        if found is None or found[1][0] in (_SCAN[1], _END) or found.end() + 2 > len(encoded):
            return
        start = found.end() - 2
        (length,) = struct.unpack_from(">H", encoded, start + 2)
        at = start + 2 + max(2, length)
        yield found[1][0], start, at
    raise ImageError("unsupported variant of JPEG: too many segments")


def _scans(encoded: bytes) -> int:
    """How many scans the first picture has, counted up to one too many."""
    at = count = 0
    at = 2
    while count <= _MOST_SCANS:
        found = _NEXT.search(encoded, at)
        if found is None or found[1][0] == _END or found.end() + 2 > len(encoded):
            break
        count += found[1][0] == _SCAN[1]
        at = found.end() + max(2, struct.unpack_from(">H", encoded, found.end())[0])
    return count


def _claims_too_much(encoded: bytes, spans: list[tuple[int, int]]) -> bool:
    table = b"".join(encoded[start + 4 : end] for start, end in spans).removeprefix(PREFIX)
    try:
        check_claims(table.removeprefix(b"MPF\x00"))
    except ValueError as error:
        return str(error) == TOO_MUCH  # other damage is found by those who read it
    return False


def _without_tables(
    encoded: bytes, exif: list[tuple[int, int]], tables: list[list[tuple[int, int]]]
) -> bytes:
    """The file, its EXIF replaced by what is no EXIF, so that a note says that it is unreadable."""
    spans = sorted([*exif, *(one for spans in tables for one in spans)])
    parts, at = [encoded[:2]], 2
    if exif:
        content = PREFIX + UNREADABLE
        parts.append(b"\xff\xe1" + struct.pack(">H", 2 + len(content)) + content)
    for start, end in spans:
        parts.append(encoded[at:start])
        at = end
    return b"".join([*parts, encoded[at:]])
