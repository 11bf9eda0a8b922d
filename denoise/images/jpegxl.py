"""JPEG XL files: their head is read here, before imagecodecs decodes them; every depth stays.

The head is that of ISO/IEC 18181-1, annex D; the boxes around a codestream are those of 18181-2.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from denoise.errors import ImageError
from denoise.images import exif
from denoise.images.boxes import box_of, boxes
from denoise.images.metadata import NO_METADATA, Metadata, joined
from denoise.images.planes import (
    Planes,
    Scan,
    check_size,
    extra,
    from_floats,
    squeezed,
    stretched,
)

_START = b"\xff\x0a"  # of a codestream without boxes
_BOXES = b"\x00\x00\x00\x0cJXL \r\n\x87\n\x00\x00\x00\x14ftypjxl \x00\x00\x00\x00jxl "  # begin so
_BYTES = 20  # for each pixel: libjxl decodes to floats
_HEAD = 256  # bytes of a codestream that are looked at
_DAMAGED = "truncated or damaged JXL"
# Where its colours are not sRGB's: the library gives no profile
_NO_PROFILE = "its ICC profile, which no library here reads, is left out"
_NOT_SRGB = "its colours are not sRGB's, as which they are written"
_LINEAR, _SRGB = 8 - 2, 13 - 2  # curves, as they are stored
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def scan_of_jpegxl(encoded: bytes, max_pixels: int) -> Scan:
    """The first frame, upright as its head says. Raises ImageError."""
    codestream, metadata = _parts(encoded)
    bits = _Bits(codestream[:_HEAD])
    width, height = _size(bits)
    check_size(width, height, max_pixels, each=_BYTES)
    depth, is_animated, colours = _metadata(bits)
    library = extra("imagecodecs", "JXL", "JPEG XL files need")
    planes: Any = library.jpegxl_decode(encoded, index=0 if is_animated else None, numthreads=1)
    if planes.ndim not in (2, 3):
        raise ImageError("unsupported variant of JXL: not a flat image")
    planes = planes.reshape(*planes.shape[:2], -1)
    if planes.shape[2] > 4:
        raise ImageError("unsupported variant of JXL: more than four planes")
    planes = from_floats(planes) if planes.dtype.kind == "f" else stretched(planes, depth)
    frames = "first of several frames" if is_animated else None
    metadata = replace(
        metadata, exif=exif.of_turned(metadata.exif, planes.shape[1], planes.shape[0])
    )
    return Scan(np.array(planes), "JXL", metadata, joined(frames, colours))


def encode_jpegxl(planes: Planes, metadata: Metadata) -> bytes:
    """A JPEG XL file without loss, by imagecodecs, which takes no ICC profile.

    Not at effort 1: libjxl 0.11 then makes other pixels of some pictures, and damaged files of
    others; the tests have one of nine pixels.
    """
    library = extra("imagecodecs", "JXL", "JPEG XL files need")
    encoded: bytes = library.jpegxl_encode(squeezed(planes), lossless=True, effort=2, numthreads=1)
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
    bits = _Bits(codestream[:_HEAD])
    _size(bits)
    _, _, colours = _metadata(bits)
    at = 8 * len(_START) + bits.taken - 4  # the curve is what was read last
    head = int.from_bytes(codestream[:_HEAD], "little")
    if colours != _NOT_SRGB or (head >> at) & 15 != _LINEAR:
        return codestream
    head ^= (_LINEAR ^ _SRGB) << at
    return head.to_bytes(len(codestream[:_HEAD]), "little") + codestream[_HEAD:]


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
        raise ImageError(_DAMAGED)
    return head, found


class _Bits:
    """A codestream's head as bits, the lowest of each byte first."""

    def __init__(self, head: bytes) -> None:
        self._number, self._left = int.from_bytes(head[2:], "little"), 8 * (len(head) - 2)
        self.taken = 0

    def take(self, count: int) -> int:
        if count > self._left:
            raise ImageError(_DAMAGED)
        self.taken += count
        taken = self._number & ((1 << count) - 1)
        self._number >>= count
        self._left -= count
        return taken

    def one_of(self, *choices: tuple[int, int]) -> int:
        """A number in one of four forms: what is added, and how many bits follow."""
        added, count = choices[self.take(2)]
        return added + self.take(count)


def _size(bits: _Bits) -> tuple[int, int]:
    """Width and height (SizeHeader)."""
    is_small = bits.take(1)

    def side() -> int:
        if is_small:
            return 8 * (1 + bits.take(5))
        return 1 + bits.one_of((0, 9), (0, 13), (0, 18), (0, 30))

    height = side()
    ratio = bits.take(3)
    if ratio == 0:
        return side(), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height


def _metadata(bits: _Bits) -> tuple[int, bool, str | None]:
    """Bits a channel, whether it is an animation, and a note on its colours (ImageMetadata)."""
    if bits.take(1):
        return 8, False, None
    is_animated = False
    if bits.take(1):
        bits.take(3)  # orientation
        if bits.take(1):
            _size(bits)  # as it is meant to be displayed
        if bits.take(1):
            _skip_preview(bits)
        is_animated = bool(bits.take(1))
        if is_animated:
            _skip_animation(bits)
    depth = _depth(bits)
    try:
        return depth, is_animated, _note_on_colours(bits)
    except ImageError:  # a longer head than is looked at
        return depth, is_animated, None


def _depth(bits: _Bits) -> int:
    """Bits a channel (BitDepth)."""
    if not bits.take(1):
        return bits.one_of((8, 0), (10, 0), (12, 0), (1, 6))
    depth = bits.one_of((32, 0), (16, 0), (24, 0), (1, 6))  # of floats
    bits.take(4)  # of the exponent
    return depth


def _note_on_colours(bits: _Bits) -> str | None:
    """What is lost where the colours are written as sRGB; None where these are sRGB."""
    bits.take(1)  # whether 16 bits suffice to decode it
    for _ in range(bits.one_of((0, 0), (1, 0), (2, 4), (1, 12))):
        _skip_channel(bits)
    is_xyb = bits.take(1)
    if bits.take(1):
        return None
    if bits.take(1):
        return None if is_xyb else _NO_PROFILE  # of XYB the library makes sRGB
    space = _enum(bits)
    if _enum(bits) != 1 or (space != 1 and _enum(bits) != 1):  # white is D65; sRGB's primaries
        return _NOT_SRGB
    is_gamma = bits.take(1)
    return _NOT_SRGB if is_gamma or _enum(bits) not in (1, 13) else None  # curve of BT.709, sRGB


def _enum(bits: _Bits) -> int:
    return bits.one_of((0, 0), (1, 0), (2, 4), (18, 6))


def _skip_channel(bits: _Bits) -> None:
    """Alpha, depth and what else there is beside colours (ExtraChannelInfo)."""
    if bits.take(1):
        return
    kind = _enum(bits)
    _depth(bits)
    bits.one_of((0, 0), (3, 0), (4, 0), (1, 3))
    bits.take(8 * bits.one_of((0, 0), (0, 4), (16, 5), (48, 10)))  # its name
    if kind == 0:  # alpha
        bits.take(1)
    elif kind == 2:  # a spot colour
        bits.take(64)
    elif kind == 5:  # a colour filter's
        bits.one_of((1, 0), (0, 2), (3, 4), (19, 8))


def _skip_preview(bits: _Bits) -> None:
    is_of_eights = bits.take(1)
    forms = (
        ((16, 0), (32, 0), (1, 5), (33, 9))
        if is_of_eights
        else ((1, 6), (65, 8), (321, 10), (1345, 12))
    )
    bits.one_of(*forms)
    if bits.take(3) == 0:
        bits.one_of(*forms)


def _skip_animation(bits: _Bits) -> None:
    bits.one_of((100, 0), (1000, 0), (1, 10), (1, 30))
    bits.one_of((1, 0), (1001, 0), (1, 8), (1, 10))
    bits.one_of((0, 0), (0, 3), (0, 16), (0, 32))
    bits.take(1)
