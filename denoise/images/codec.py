"""Bytes of an image file <-> upright pixels <-> working floats.

Shapes: pixels [H, W, C] uint8 or uint16, C 1 (gray) or 3 (RGB); alpha [H, W] of the same kind.
"""

import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from denoise.errors import ImageError
from denoise.images.avif import encode_avif
from denoise.images.decoders import scan
from denoise.images.exif import check_claims, orientation_of, upright, without_prefix
from denoise.images.jpeg import encode_jpeg
from denoise.images.jpeg2000 import encode_jpeg2000
from denoise.images.jpegxl import encode_jpegxl
from denoise.images.metadata import NO_METADATA, Metadata, fitting_xmp, upright_xmp
from denoise.images.planes import Planes, Scan, join_notes
from denoise.images.png import LONGEST_WRITTEN_PROFILE, encode_png
from denoise.images.tiff import encode_tiff
from denoise.images.webp import encode_webp

Pixels = npt.NDArray[Any]  # uint8 or uint16
Floats = npt.NDArray[np.float32]

MAX_PIXELS = 200_000_000  # as the largest sensors of telephones have
_OR_NONE = "or --strip-metadata"
# What is written, by Pillow's names in small letters, with the suffix; HEIF is read alone
FORMATS = {
    "png": ".png",
    "webp": ".webp",
    "jpeg": ".jpg",
    "tiff": ".tif",
    "avif": ".avif",
    "jpeg2000": ".jp2",
    "jxl": ".jxl",
}
_DEEP = ("png", "tiff", "jpeg2000", "jxl")  # those that hold 16 bits, all without loss
_WITHOUT_ALPHA = ("jpeg", "avif")  # avif has it, but with loss
_MOST = dict.fromkeys(("avif", "jpeg2000"), 150_000_000)  # values: encoding takes 13 bytes each
_LONGEST_SIDE = {"webp": 16383, "jpeg": 65500, "avif": 65536}
_TURNED = ("HEIF", "JXL")  # formats that libraries turn upright themselves


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded image, upright."""

    pixels: Pixels  # [H, W, C]
    alpha: Pixels | None = None  # [H, W]
    format: str = "PNG"  # of the file it came from, by Pillow's names
    metadata: Metadata = NO_METADATA  # its EXIF says upright, and has no thumbnail
    note: str | None = None  # what a user should know, such as "first of 12 frames"
    white_level: int | None = None  # 1.0 of the working scale; None: the largest of the type

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def bit_depth(self) -> int:
        return 8 * int(self.pixels.itemsize)


def decode(encoded: bytes, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """The picture in the bytes of an image file, whatever the file's name says.

    The EXIF orientation is applied, alpha is separate, CMYK becomes RGB through its profile, the
    first frame stands for an animation, floats in 0..1 become 16 bits. Raises ImageError.
    """
    return _upright(scan(encoded, max_pixels))


def encode(
    picture: Picture, *, format: str = "png", quality: int | None = None, metadata: bool = True
) -> bytes:
    """The bytes of an image file of one of FORMATS.

    quality is 1 to 100: for jpeg and avif 95 by default; webp is lossless without it; the others
    always are. metadata=False leaves EXIF, XMP, ICC profile, texts and resolution out. Gray is
    stored as gray; in webp, which knows colours only, as three equal planes, marked so that decode
    gives gray again (instead of the XMP), and always lossless. XMP that is too long for a
    segment is left out of a jpeg. Raises ImageError where the format cannot hold the picture.
    """
    _check_fits(picture, format)
    about = picture.metadata if metadata else NO_METADATA
    _check_metadata_fits(about, format)
    planes = picture.pixels
    if picture.alpha is not None:
        planes = np.concatenate([planes, picture.alpha[..., None]], axis=2)
    match format:
        case "png":
            return encode_png(planes, about)
        case "tiff":
            return encode_tiff(planes, about)
        case "jpeg2000":
            return encode_jpeg2000(planes, about)
        case "jxl":
            return encode_jpegxl(planes, about)
        case "avif":
            return encode_avif(planes, about, quality)
        case "jpeg":
            return encode_jpeg(planes, about, quality)
    return encode_webp(planes, about, quality)


def format_for(picture: Picture, wanted: str, *, metadata: bool = True) -> str:
    """The one of FORMATS to write: "same" is the input's, or png where that is none of them, or
    would lose more than `quality` says (16 bits, alpha, or a profile, unless `metadata` is left out
    anyway) or take too much memory to encode."""
    if wanted != "same":
        return wanted
    format = picture.format.lower()
    is_deeper = picture.bit_depth > 8 and format not in _DEEP
    has_alpha = picture.alpha is not None and format in _WITHOUT_ALPHA
    is_large = picture.pixels.size > _MOST.get(format, picture.pixels.size)
    is_profiled = metadata and picture.metadata.icc is not None and format == "jxl"
    is_fit = format in FORMATS and not (is_deeper or has_alpha or is_large or is_profiled)
    return format if is_fit else "png"


def is_lossy(format: str, quality: int | None) -> bool:
    """Whether what a file of this format holds differs from what was encoded."""
    return format in ("jpeg", "avif") or (format == "webp" and quality is not None)


def suffix_of(format: str) -> str:
    """What a file's name of this format ends with."""
    return FORMATS[format]


def to_floats(pixels: Pixels, white_level: int | None = None) -> Floats:
    """Integers [H, W, C] -> float32 0..1, where 1 is the white level, else the type's largest."""
    floats = pixels.astype(np.float32)
    floats /= np.float32(white_level or np.iinfo(pixels.dtype).max)  # in place: memory is slow
    return floats


def to_pixels(floats: Floats, bit_depth: int, white_level: int | None = None) -> Pixels:
    """float32 [H, W, C], clipped to 0..1 -> the nearest integers of 8 or 16 bits, where 1 becomes
    the white level, else the type's largest."""
    scaled = np.clip(floats, 0, 1)
    scaled *= np.float32(white_level or 2**bit_depth - 1)
    return np.rint(scaled, out=scaled).astype(np.uint8 if bit_depth == 8 else np.uint16)


def _check_fits(picture: Picture, format: str) -> None:
    """ImageError where this format cannot hold this picture."""
    if format not in FORMATS:
        raise ImageError(f"unknown format {format!r}: choose among {', '.join(FORMATS)}")
    if format == "tiff" and picture.pixels.nbytes * 4 / 3 > 2**32 - 2**24:
        raise ImageError("tiff holds at most 4 GiB: choose png")
    if format in _DEEP:
        return
    if picture.bit_depth > 8:
        raise ImageError(f"{format} holds 8 bits a channel, not 16: choose png or tiff")
    if format in _WITHOUT_ALPHA and picture.alpha is not None:
        raise ImageError(f"{format} holds no alpha unchanged: choose png, webp or tiff")
    limit = _LONGEST_SIDE[format]
    if max(picture.height, picture.width) > limit:
        raise ImageError(f"{format} holds at most {limit} pixels a side: choose png or tiff")


def _check_metadata_fits(metadata: Metadata, format: str) -> None:
    """ImageError where this format cannot hold what goes with a picture."""
    if format == "jpeg" and len(metadata.exif or b"") > 65000:
        raise ImageError(f"the EXIF is too long for jpeg: choose another format, {_OR_NONE}")
    if format == "jxl" and metadata.icc:
        raise ImageError(f"jxl is written without ICC profiles: choose another format, {_OR_NONE}")


def _upright(raw: Scan) -> Picture:
    """Turned as its EXIF says, with alpha apart."""
    planes, dpi, orientation = raw.planes, raw.metadata.dpi, 1
    exif = without_prefix(raw.metadata.exif or b"") or None
    xmp, words = fitting_xmp(raw.metadata.xmp)
    notes = [raw.note, words]
    if exif:
        try:
            check_claims(exif)
            orientation = orientation_of(exif)
            planes = _orient(planes, orientation)
            exif = upright(exif, planes.shape[1], planes.shape[0])
            dpi = dpi[::-1] if dpi and orientation > 4 else dpi
        except (ValueError, struct.error):
            exif = None
            notes.append("unreadable EXIF left out")
    if xmp and (orientation > 1 or raw.format in _TURNED):
        xmp = upright_xmp(xmp)
    icc, words = _fitting_profile(raw.metadata.icc, is_gray=planes.shape[2] < 3)
    colours = planes.shape[2] - 1 + planes.shape[2] % 2
    return Picture(
        pixels=np.ascontiguousarray(planes[..., :colours]),
        alpha=np.ascontiguousarray(planes[..., -1]) if planes.shape[2] % 2 == 0 else None,
        format=raw.format,
        metadata=replace(raw.metadata, exif=exif, icc=icc, dpi=dpi, xmp=xmp),
        note=join_notes(*notes, words),
    )


def _fitting_profile(icc: bytes | None, *, is_gray: bool) -> tuple[bytes | None, str | None]:
    """The profile if it is one for these pixels, and a note about it."""
    if not icc or len(icc) < 20:
        return None, None
    model = icc[16:20]
    if model not in (b"RGB ", b"GRAY") or is_gray != (model == b"GRAY"):
        return None, "ICC profile for another colour model left out"
    if len(icc) > LONGEST_WRITTEN_PROFILE:
        return icc, "its ICC profile is too long for png, which goes without"
    return icc, None


def _orient(planes: Planes, orientation: int) -> Planes:
    """As the EXIF orientation says the picture is to be looked at."""
    if orientation > 4:
        planes = planes.swapaxes(0, 1)  # 5: mirrored at the diagonal
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    return {1: planes, 2: planes[:, ::-1], 3: planes[::-1, ::-1], 4: planes[::-1]}[orientation]
