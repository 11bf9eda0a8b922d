"""JPEG XL files: their head is read here, before imagecodecs decodes them; every depth stays.

The head is that of ISO/IEC 18181-1, annex D; the boxes around a codestream are those of 18181-2.
"""

from typing import Any

import numpy as np

from denoise.errors import ImageError
from denoise.images.boxes import boxes
from denoise.images.exif import check_claims, upright
from denoise.images.jxl_bits import Bits
from denoise.images.jxl_head import LINEAR, SRGB, read_metadata, read_size
from denoise.images.planes import Scan, check_size, extra, from_floats, stretched

_START = b"\xff\x0a"  # of a codestream without boxes
_BYTES = 20  # for each pixel: libjxl decodes to floats
_HEAD = 1 << 20  # bytes of a codestream that are looked at
_SHORT_HEAD = 256  # bytes of one without a profile
_DAMAGED = "truncated or damaged JXL"


def scan_of_jpegxl(encoded: bytes, max_pixels: int) -> Scan:
    """The first frame, upright as its head says. Raises ImageError."""
    codestream, exif, xmp = _parts(encoded)
    bits = Bits(codestream[:_HEAD])
    width, height = read_size(bits)
    check_size(width, height, max_pixels, each=_BYTES)
    depth, is_animated, colours = read_metadata(bits)
    library = extra("imagecodecs", "JXL", "JPEG XL files need")
    planes: Any = library.jpegxl_decode(encoded, index=0 if is_animated else None, numthreads=1)
    if planes.ndim not in (2, 3):
        raise ImageError("unsupported variant of JXL: not a flat image")
    planes = planes.reshape(*planes.shape[:2], -1)
    if planes.shape[2] > 4:
        raise ImageError("unsupported variant of JXL: more than four planes")
    planes = from_floats(planes) if planes.dtype.kind == "f" else stretched(planes, depth)
    frames = "first of several frames" if is_animated else None
    note = "; ".join(filter(None, [frames, colours.note])) or None
    exif = _turned_already(exif, planes)
    return Scan(np.array(planes), "JXL", exif, colours.icc, None, note, xmp=xmp)


def with_srgb_curve(codestream: bytes) -> bytes:
    """The codestream with the curve of sRGB where it says that its light is linear.

    So imagecodecs writes 16 bits, whatever they are; both curves are numbers of four bits.
    """
    bits = Bits(codestream[:_SHORT_HEAD])
    read_size(bits)
    _, _, colours = read_metadata(bits)
    if colours.curve != LINEAR:
        return codestream
    at = 8 * len(_START) + bits.taken - 4  # the curve is what was read last
    head = int.from_bytes(codestream[:_SHORT_HEAD], "little")
    head ^= (LINEAR - 2 ^ SRGB - 2) << at  # they are stored less two
    return head.to_bytes(len(codestream[:_SHORT_HEAD]), "little") + codestream[_SHORT_HEAD:]


def _parts(encoded: bytes) -> tuple[bytes, bytes | None, bytes | None]:
    """The codestream's begin, and the EXIF and XMP of the boxes around it."""
    if encoded.startswith(_START):
        return encoded, None, None
    head, exif, xmp = b"", None, None
    for box in boxes(encoded):
        if box.name in (b"jxlc", b"jxlp") and len(head) < _HEAD:
            head += encoded[box.start + 4 * (box.name == b"jxlp") : box.end][:_HEAD]
        elif box.name == b"Exif":
            begin = box.start + 4 + int.from_bytes(encoded[box.start : box.start + 4])
            exif = exif or encoded[begin : box.end]
        elif box.name == b"xml ":
            xmp = xmp or encoded[box.start : box.end]
    if not head.startswith(_START):
        raise ImageError(_DAMAGED)
    return head, exif, xmp


def _turned_already(exif: bytes | None, planes: Any) -> bytes | None:
    """The EXIF of pixels that the library has turned; as it is where it cannot be read."""
    try:
        if exif:
            check_claims(exif)
            return upright(exif, planes.shape[1], planes.shape[0])
    except ValueError:
        return b"unreadable"
    return None
