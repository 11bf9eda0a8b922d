"""JPEG 2000 files: what a codestream claims is looked at first; every depth fills its type.

Planes are [H, W, N], uint8 or uint16; N is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
"""

import struct
from io import BytesIO
from typing import NamedTuple

from PIL import Image
from PIL.ImageFile import ImageFile

from denoise.errors import ImageError
from denoise.images.boxes import box_of, boxes
from denoise.images.metadata import NO_METADATA, Metadata
from denoise.images.planes import (
    Planes,
    check_size,
    extra,
    most_pieces,
    pillow_planes,
    squeeze,
    stretch,
)

_START = b"\xff\x4f\xff\x51"  # of a codestream, and its segment of sizes
# What the boxes of a user's own hold, by the UUID that they begin with
EXIF_UUID = b"JpgTiffExif->JP2"
XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_MOST_RESOLUTIONS = 6  # each is half the last, and the least has a pixel
_DAMAGED = "truncated or damaged JPEG2000"


def metadata_of_jpeg2000(encoded: bytes) -> Metadata:
    """The profile, EXIF and XMP in the boxes of a JP2 file, the first of each."""
    found = NO_METADATA
    if encoded.startswith(_START):
        return found
    for box in boxes(encoded):
        begin = encoded[box.start : min(box.start + 16, box.end)]
        if box.name == b"jp2h":
            for inner in boxes(encoded, box.start, box.end):
                if inner.name == b"colr" and encoded[inner.start] in (2, 3):  # a profile
                    found = found.filled(icc=encoded[inner.start + 3 : inner.end])
        elif box.name == b"uuid" and begin == EXIF_UUID:
            found = found.filled(exif=encoded[box.start + 16 : box.end])
        elif box.name == b"uuid" and begin == XMP_UUID:
            found = found.filled(xmp=encoded[box.start + 16 : box.end])
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
        return stretch(planes.reshape(*planes.shape[:2], -1), bits)
    if bits != 8 and image.mode in ("P", "PA"):
        raise ImageError(f"unsupported variant of JPEG2000: a palette of {bits} bits")
    planes = pillow_planes(image)
    if bits in (8, 16):
        return planes
    most = 8 * planes.itemsize
    return stretch(planes >> (most - bits), bits)  # Pillow has shifted them to the top


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


def encode_jpeg2000(planes: Planes, metadata: Metadata) -> bytes:
    """A JP2 file without loss: 8 bits by Pillow, 16 by imagecodecs."""
    resolutions = min(_MOST_RESOLUTIONS, min(planes.shape[:2]).bit_length())
    if planes.itemsize == 1:
        out = BytesIO()
        Image.fromarray(squeeze(planes)).save(
            out,
            "JPEG2000",
            mct=int(planes.shape[2] > 2),  # mixes the colours, which halves the file
            num_resolutions=resolutions,
            no_jp2=False,
        )
        encoded = out.getvalue()
    else:
        encoded = extra("imagecodecs", "JPEG2000").jpeg2k_encode(
            squeeze(planes),
            level=0,
            reversible=True,
            codecformat="jp2",
            resolutions=resolutions,
            numthreads=1,
        )
    beside = box_of(b"uuid", EXIF_UUID + metadata.exif) if metadata.exif else b""
    beside += box_of(b"uuid", XMP_UUID + metadata.xmp) if metadata.xmp else b""
    parts = []
    for box in boxes(encoded):
        content = encoded[box.start : box.end]
        if box.name == b"jp2h":
            content = _head_of_jp2(content, metadata, planes.shape[2])
        parts += [beside] * (box.name == b"jp2c") + [box_of(box.name, content)]
    return b"".join(parts)


def _head_of_jp2(content: bytes, metadata: Metadata, count: int) -> bytes:
    """The boxes of a JP2's head, with the profile instead of the named colours, and with what
    its planes are where one is alpha."""
    parts = []
    for box in boxes(content):
        inner = content[box.start : box.end]
        if box.name == b"colr" and metadata.icc:
            inner = b"\x02\x00\x00" + metadata.icc  # method 2: a profile
        if box.name != b"cdef":
            parts.append(box_of(box.name, inner))
    if count in (2, 4):  # imagecodecs does not say so
        colours = [struct.pack(">HHH", plane, 0, plane + 1) for plane in range(count - 1)]
        alpha = struct.pack(">HHH", count - 1, 1, 0)
        parts.append(box_of(b"cdef", struct.pack(">H", count) + b"".join(colours) + alpha))
    if metadata.dpi:
        per_metre = [min(max(1, round(side / 0.0254)), 0xFFFF) for side in metadata.dpi]
        resolution = struct.pack(">HHHHbb", per_metre[1], 1, per_metre[0], 1, 0, 0)
        parts.append(box_of(b"res ", box_of(b"resc", resolution)))
    return b"".join(parts)
