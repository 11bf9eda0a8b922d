"""AVIF, JPEG 2000 and JPEG XL files from planes, with the metadata in the boxes of their formats.

Planes are [H, W, N], uint8 or uint16; N is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
"""

import struct
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from denoise.images.boxes import EXIF_UUID, XMP_UUID, boxes
from denoise.images.jpegxl import with_srgb_curve
from denoise.images.planes import extra
from denoise.images.writers import Planes

_AVIF_QUALITY = 95  # 45 dB on photographs: what denoising leaves is a good deal coarser
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_JXL_HEAD = b"\x00\x00\x00\x0cJXL \r\n\x87\n\x00\x00\x00\x14ftypjxl \x00\x00\x00\x00jxl "
_MOST_RESOLUTIONS = 6  # of a JPEG 2000: each is half the last, and the least has a pixel


class _Exif(Image.Exif):
    """EXIF as it is: Pillow writes an AVIF's anew, and cannot where it is odd."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self._raw = raw

    def __bool__(self) -> bool:
        return True

    def tobytes(self, offset: int = 8) -> bytes:
        return self._raw


def avif(
    planes: Planes,
    *,
    quality: int | None,
    exif: bytes | None = None,
    icc: bytes | None = None,
    xmp: bytes | None = None,
) -> bytes:
    """An AVIF file, of 8 bits and with loss.

    One thread, so that its bytes do not depend on the machine, and the fastest of libaom's speeds:
    six times as fast as Pillow's usual one, and 0.3 dB below it.
    """
    is_gray = planes.shape[2] < 3
    image = _pillow(planes)
    options: dict[str, Any] = {"subsampling": "4:0:0" if is_gray else "4:4:4"}
    options |= {"exif": _Exif(exif)} if exif else {}
    options |= {"icc_profile": icc, "xmp": xmp}  # None: there is none
    out = BytesIO()
    quality = quality or _AVIF_QUALITY
    image.save(out, "AVIF", quality=quality, speed=10, max_threads=1, **options)
    return out.getvalue()


def jpeg2000(
    planes: Planes,
    *,
    exif: bytes | None = None,
    icc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    xmp: bytes | None = None,
) -> bytes:
    """A JP2 file without loss: 8 bits by Pillow, 16 by imagecodecs."""
    resolutions = min(_MOST_RESOLUTIONS, min(planes.shape[:2]).bit_length())
    if planes.itemsize == 1:
        out = BytesIO()
        mixes = int(planes.shape[2] > 2)  # the colours, which halves the file
        _pillow(planes).save(out, "JPEG2000", mct=mixes, num_resolutions=resolutions, no_jp2=False)
        encoded = out.getvalue()
    else:
        encoded = extra("imagecodecs", "JPEG2000").jpeg2k_encode(
            np.ascontiguousarray(planes.squeeze(2) if planes.shape[2] == 1 else planes),
            level=0,
            reversible=True,
            codecformat="jp2",
            resolutions=resolutions,
            numthreads=1,
        )
    beside = _box(b"uuid", EXIF_UUID + exif) if exif else b""
    beside += _box(b"uuid", XMP_UUID + xmp) if xmp else b""
    parts = []
    for box in boxes(encoded):
        content = encoded[box.start : box.end]
        if box.name == b"jp2h":
            content = _jp2_header(content, icc, dpi, planes.shape[2])
        parts += [beside] * (box.name == b"jp2c") + [_box(box.name, content)]
    return b"".join(parts)


def _jp2_header(
    content: bytes, icc: bytes | None, dpi: tuple[float, float] | None, count: int
) -> bytes:
    """The boxes of a JP2's head, with the profile instead of the named colours, and with what
    its planes are where one is alpha."""
    parts = []
    for box in boxes(content):
        inner = content[box.start : box.end]
        if box.name == b"colr" and icc:
            inner = b"\x02\x00\x00" + icc  # method 2: a profile
        if box.name != b"cdef":
            parts.append(_box(box.name, inner))
    if count in (2, 4):  # imagecodecs does not say so
        colours = [struct.pack(">HHH", plane, 0, plane + 1) for plane in range(count - 1)]
        alpha = struct.pack(">HHH", count - 1, 1, 0)
        parts.append(_box(b"cdef", struct.pack(">H", count) + b"".join(colours) + alpha))
    if dpi:
        across, down = (min(max(1, round(side / 0.0254)), 0xFFFF) for side in dpi)  # per metre
        resolution = struct.pack(">HHHHbb", down, 1, across, 1, 0, 0)
        parts.append(_box(b"res ", _box(b"resc", resolution)))
    return b"".join(parts)


def jpegxl(planes: Planes, *, exif: bytes | None = None, xmp: bytes | None = None) -> bytes:
    """A JPEG XL file without loss, by imagecodecs, which takes no ICC profile.

    Not at effort 1: libjxl 0.11 then makes other pixels of some pictures, and damaged files of
    others; the tests have one of nine pixels.
    """
    library = extra("imagecodecs", "JXL", "JPEG XL files need")
    squeezed = np.ascontiguousarray(planes[..., 0] if planes.shape[2] == 1 else planes)
    encoded: bytes = library.jpegxl_encode(squeezed, lossless=True, effort=2, numthreads=1)
    beside = _box(b"Exif", bytes(4) + exif) if exif else b""  # its TIFF begins at once
    beside += _box(b"xml ", xmp) if xmp else b""
    if not encoded.startswith(_JXL_HEAD[:12]):
        codestream = with_srgb_curve(encoded)
        return _JXL_HEAD + beside + _box(b"jxlc", codestream) if beside else codestream
    parts = []
    for box in boxes(encoded):
        content = encoded[box.start : box.end]
        if box.name == b"jxlc":
            parts.append(beside)
            content = with_srgb_curve(content)
        parts.append(_box(box.name, content))
    return b"".join(parts)


def _pillow(planes: Planes) -> Image.Image:
    squeezed = planes[..., 0] if planes.shape[2] == 1 else planes
    return Image.frombuffer(
        _MODES[planes.shape[2]],
        (planes.shape[1], planes.shape[0]),
        np.ascontiguousarray(squeezed).tobytes(),
        "raw",
        _MODES[planes.shape[2]],
        0,
        1,
    )


def _box(name: bytes, content: bytes) -> bytes:
    """A box, with a length of 64 bits where it needs one."""
    if len(content) + 8 < 1 << 32:
        return struct.pack(">L4s", len(content) + 8, name) + content
    return struct.pack(">L4sQ", 1, name, len(content) + 16) + content
