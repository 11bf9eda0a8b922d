"""JPEG 2000 files: what their codestream claims is looked at first; every depth fills its type."""

import struct
from typing import NamedTuple

from PIL.ImageFile import ImageFile

from denoise.errors import ImageError
from denoise.images.boxes import EXIF_UUID, XMP_UUID, boxes
from denoise.images.planes import check_size, extra, most_pieces, pillow_planes, stretched
from denoise.images.writers import Planes

_START = b"\xff\x4f\xff\x51"  # of a codestream, and its segment of sizes
_DAMAGED = "truncated or damaged JPEG2000"


class Beside(NamedTuple):
    """What the boxes around a codestream say of it."""

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None


def beside_codestream(encoded: bytes) -> Beside:
    """The profile, EXIF and XMP in the boxes of a JP2 file, the first of each."""
    found = Beside()
    if encoded.startswith(_START):
        return found
    for box in boxes(encoded):
        begin = encoded[box.start : min(box.start + 16, box.end)]
        if box.name == b"jp2h":
            for inner in boxes(encoded, box.start, box.end):
                if inner.name == b"colr" and encoded[inner.start] in (2, 3):  # a profile
                    icc = found.icc or encoded[inner.start + 3 : inner.end]
                    found = found._replace(icc=icc)
        elif box.name == b"uuid" and begin == EXIF_UUID:
            found = found._replace(exif=found.exif or encoded[box.start + 16 : box.end])
        elif box.name == b"uuid" and begin == XMP_UUID:
            found = found._replace(xmp=found.xmp or encoded[box.start + 16 : box.end])
    return found


class Components(NamedTuple):
    """What a codestream says of its planes."""

    number: int
    bits: int


def check_codestream(encoded: bytes, max_pixels: int) -> Components:
    """Raise ImageError where a codestream has too many pixels or planes, or none of ours."""
    start = _codestream(encoded)
    right, bottom, left, top = struct.unpack_from(">4L", encoded, start + 8)
    (count,) = struct.unpack_from(">H", encoded, start + 40)
    depths = [encoded[start + 42 + 3 * number] for number in range(min(count, 5))]
    if count > 4:
        raise ImageError("unsupported variant of JPEG2000: more than four planes")
    if any(depth & 0x80 for depth in depths):
        raise ImageError("unsupported: signed pixels")
    if len(set(depths)) > 1:
        raise ImageError("unsupported variant of JPEG2000: planes of different depths")
    if depths[0] > 15:
        raise ImageError(f"unsupported variant of JPEG2000: {depths[0] + 1} bits a channel")
    each = 7 * count  # OpenJPEG holds 32 bits a value
    check_size(right - left, bottom - top, max_pixels, each=each)
    return Components(count, depths[0] + 1)


def planes_of_jpeg2000(image: ImageFile, encoded: bytes, components: Components) -> Planes:
    """8 bits for those of up to 8 bits a channel, else 16; white is the largest of either."""
    bits = components.bits
    if bits > 8 and image.mode != "I;16":  # gray of 9 bits too, which Pillow takes for 8
        planes = extra("imagecodecs", "JPEG2000").jpeg2k_decode(_without_profile(encoded))
        return stretched(planes.reshape(*planes.shape[:2], -1), bits)
    if bits != 8 and image.mode in ("P", "PA"):
        raise ImageError(f"unsupported variant of JPEG2000: a palette of {bits} bits")
    planes = pillow_planes(image)
    if bits in (8, 16):
        return planes
    most = 8 * planes.itemsize
    return stretched(planes >> (most - bits), bits)  # Pillow has shifted them to the top


def _without_profile(encoded: bytes) -> bytes:
    """The file with its profile out of the sight of a library that would convert through it."""
    changed = bytearray(encoded)
    for box in boxes(encoded) if not encoded.startswith(_START) else ():
        for inner in boxes(encoded, box.start, box.end) if box.name == b"jp2h" else ():
            if inner.name == b"colr" and encoded[inner.start] in (2, 3):
                at = encoded.rindex(b"colr", box.start, inner.start)
                changed[at : at + 4] = b"free"
    return bytes(changed)


def _codestream(encoded: bytes) -> int:
    """Where it begins: at once, or in a box of its own."""
    at = 0
    if not encoded.startswith(_START):
        for _ in range(most_pieces(len(encoded))):
            length, name = struct.unpack_from(">L4s", encoded, at)
            if name == b"jp2c":
                at += 16 if length == 1 else 8
                break
            if length == 1:
                (length,) = struct.unpack_from(">Q", encoded, at + 8)
            if length < 8:
                raise ImageError(_DAMAGED)
            at += length
    if encoded[at : at + 4] != _START or len(encoded) < at + 45:
        raise ImageError(_DAMAGED)
    return at
