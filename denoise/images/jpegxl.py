"""JPEG XL files: their head is read here, before imagecodecs decodes them; every depth stays.

The head is that of ISO/IEC 18181-1, annex D; the boxes around a codestream are those of 18181-2.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from denoise.errors import ImageError
from denoise.images import exif
from denoise.images.boxes import box_of, boxes
from denoise.images.jxl_head import DAMAGED, LINEAR, SRGB, Bits, read_metadata, read_size
from denoise.images.metadata import NO_METADATA, Metadata
from denoise.images.planes import (
    Planes,
    Scan,
    check_size,
    extra,
    from_floats,
    join_notes,
    squeeze,
    stretch,
)

_START = b"\xff\x0a"  # of a codestream without boxes
_BOXES = b"\x00\x00\x00\x0cJXL \r\n\x87\n\x00\x00\x00\x14ftypjxl \x00\x00\x00\x00jxl "  # begin so
_BYTES = 20  # for each pixel: libjxl decodes to floats
_HEAD = 1 << 16  # bytes of a codestream that are looked at
_SHORT_HEAD = 256  # bytes of one that is written here


def scan_of_jpegxl(encoded: bytes, max_pixels: int) -> Scan:
    """The first frame, upright as its head says. Raises ImageError."""
    codestream, metadata = _parts(encoded)
    bits = Bits(codestream[:_HEAD])
    width, height = read_size(bits)
    check_size(width, height, max_pixels, each=_BYTES)
    head = read_metadata(bits)
    library = extra("imagecodecs", "JXL", "JPEG XL files need")
    frame = 0 if head.is_animated else None
    planes: Any = library.jpegxl_decode(encoded, index=frame, numthreads=1)
    if planes.ndim not in (2, 3):
        raise ImageError("unsupported variant of JXL: not a flat image")
    planes = planes.reshape(*planes.shape[:2], -1)
    if planes.shape[2] > 4:
        raise ImageError("unsupported variant of JXL: more than four planes")
    planes = from_floats(planes) if planes.dtype.kind == "f" else stretch(planes, head.depth)
    frames = "first of several frames" if head.is_animated else None
    turned = exif.of_turned(metadata.exif, planes.shape[1], planes.shape[0])
    metadata = replace(metadata, exif=turned, icc=head.colours.icc)
    return Scan(np.array(planes), "JXL", metadata, join_notes(frames, head.colours.note))


def encode_jpegxl(planes: Planes, metadata: Metadata) -> bytes:
    """A JPEG XL file without loss, by imagecodecs, which takes no ICC profile.

    Not at effort 1: libjxl 0.11 then makes other pixels of some pictures, and damaged files of
    others; the tests have one of nine pixels.
    """
    library = extra("imagecodecs", "JXL", "JPEG XL files need")
    encoded: bytes = library.jpegxl_encode(squeeze(planes), lossless=True, effort=2, numthreads=1)
    beside = b""
    if metadata.exif:
        beside += box_of(b"Exif", bytes(4) + metadata.exif)  # its TIFF begins at once
    beside += box_of(b"xml ", metadata.xmp) if metadata.xmp else b""
    if not encoded.startswith(_BOXES[:12]):
        codestream = _with_srgb_curve(encoded)
        return _BOXES + beside + box_of(b"jxlc", codestream) if beside else codestream
    parts = []
    for box in boxes(encoded):
        content = encoded[box.start : box.end]
        if box.name == b"jxlc":
            parts.append(beside)
            content = _with_srgb_curve(content)
        parts.append(box_of(box.name, content))
    return b"".join(parts)


def _with_srgb_curve(codestream: bytes) -> bytes:
    """The codestream with the curve of sRGB where it says that its light is linear.

    So imagecodecs writes 16 bits, whatever they are; both curves are numbers of four bits.
    """
    bits = Bits(codestream[:_SHORT_HEAD])
    read_size(bits)
    if read_metadata(bits).curve != LINEAR:
        return codestream
    at = 8 * len(_START) + bits.taken - 4  # the curve is what was read last
    head = int.from_bytes(codestream[:_SHORT_HEAD], "little")
    head ^= (LINEAR - 2 ^ SRGB - 2) << at  # they are stored less two
    return head.to_bytes(len(codestream[:_SHORT_HEAD]), "little") + codestream[_SHORT_HEAD:]


def _parts(encoded: bytes) -> tuple[bytes, Metadata]:
    """The codestream's begin, and the EXIF and XMP of the boxes around it."""
    if encoded.startswith(_START):
        return encoded, NO_METADATA
    head, found = b"", NO_METADATA
    for box in boxes(encoded):
        if box.name in (b"jxlc", b"jxlp") and len(head) < _HEAD:
            head += encoded[box.start + 4 * (box.name == b"jxlp") : box.end][:_HEAD]
        elif box.name == b"Exif":
            begin = box.start + 4 + int.from_bytes(encoded[box.start : box.start + 4])
            found = found.filled(exif=encoded[begin : box.end])
        elif box.name == b"xml ":
            found = found.filled(xmp=encoded[box.start : box.end])
    if not head.startswith(_START):
        raise ImageError(DAMAGED)
    return head, found
