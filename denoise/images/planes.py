"""What decoders of images share: the planes of a file as a library gives them, and its errors.

Planes are [H, W, N] uint8 or uint16, N 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms
from PIL.ImageFile import ImageFile

from denoise.errors import ImageError
from denoise.images.metadata import Metadata

Planes = npt.NDArray[Any]  # uint8 or uint16

# What the decoders raise for damaged files, beside their own types: OSError and EOFError (cut off),
# SyntaxError (Pillow: not this format), ValueError (also TiffFileError, zlib in Pillow's PNG),
# struct.error, LookupError and TypeError (parsers running over the end), ArithmeticError (sizes of
# zero, or that overflow), zlib.error, RuntimeError (libavif, libwebp and every imagecodecs error),
# NotImplementedError (DDS), AttributeError and AssertionError (states that parsers thought
# impossible), UnboundLocalError and BufferError (slips of theirs), MemoryError (a size that the
# file only claims) and Pillow's own bomb alarm.
DECODER_ERRORS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    struct.error,
    LookupError,
    TypeError,
    ArithmeticError,
    zlib.error,
    RuntimeError,
    AttributeError,
    AssertionError,
    UnboundLocalError,
    BufferError,
    MemoryError,
    ImageCms.PyCMSError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True, eq=False)
class Scan:
    """One image as its file has it: not yet upright, alpha still among the planes."""

    planes: Planes
    format: str  # by Pillow's names
    metadata: Metadata  # EXIF, XMP and profile as they were read, perhaps nonsense
    note: str | None = None


# Of memory that decoding may take for each pixel that is allowed. Nearly every kind needs 3 to 20
# (tests/bench/hostile.py measures); those that may need more say so and may have fewer pixels.
BYTES_PER_PIXEL = 20

MANY_FRAMES = 10_000  # are counted, which reads a file to its end; not more
_BAND = 1 << 20  # pixels converted at a time

_limits = Lock()
_theirs: list[int | None] = []  # Pillow's own limit, once for each thread that decodes


@contextmanager
def pillow_limited(max_pixels: int) -> Iterator[None]:
    """Our limit instead of Pillow's, which is one for the process and knows no flags."""
    with _limits:
        _theirs.append(_theirs[0] if _theirs else Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        yield
    finally:
        with _limits:
            theirs = _theirs.pop()
            if not _theirs:
                Image.MAX_IMAGE_PIXELS = theirs


def open_image(encoded: bytes, kind: str) -> ImageFile:
    """Pillow's image with its header read, and nothing else.

    Not through Image.open, which tries decoders that the content does not call for.
    """
    Image.init()
    opener = Image.OPEN[kind][0]
    return opener(BytesIO(encoded), "")


def check_size(width: int, height: int, max_pixels: int, *, each: int = 0) -> None:
    """Raise ImageError for a picture without pixels or with too many, before any is decoded.

    `each` is how many bytes decoding takes for a pixel at its peak, the result included: what takes
    more than BYTES_PER_PIXEL may have accordingly fewer pixels.
    """
    if width < 1 or height < 1:
        raise ImageError("no pixels: the width or the height is zero")
    if width * height > max_pixels:
        raise ImageError(too_many(max_pixels))
    if width * height * each > max_pixels * BYTES_PER_PIXEL:
        most = max_pixels * BYTES_PER_PIXEL / 1e9
        raise ImageError(
            f"decoding takes more than {most:.3g} GB"
            f" (the limit is {BYTES_PER_PIXEL} bytes for each of --max-pixels)"
        )


def most_pieces(length: int) -> int:
    """How many parts (chunks, segments) a file of so many bytes may have: each costs about as much
    as decoding a kilobyte."""
    return 10_000 + length // 1024


def too_many(max_pixels: int) -> str:
    return f"more than {max_pixels:,} pixels (the limit is --max-pixels)"


def squeeze(planes: Planes) -> Planes:
    """[H, W, N], or [H, W] of gray, as libraries take them to encode."""
    return np.ascontiguousarray(planes[..., 0] if planes.shape[2] == 1 else planes)


def pillow_planes(image: Image.Image) -> Planes:
    """What Pillow decodes without loss, without palette and odd colour spaces."""
    image.load()
    mode, transparent = image.mode, image.has_transparency_data
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        gray = np.asarray(image).astype(np.uint16)[..., None]
        if not transparent:
            return gray
        alpha = np.where(gray == image.info["transparency"], 0, 65535).astype(np.uint16)
        return np.concatenate([gray, alpha], axis=2)
    if mode == "I":
        raise ImageError("unsupported: 32-bit integer or signed pixels")
    if mode == "F":
        return from_floats(np.asarray(image)[..., None])
    if mode in ("CMYK", "LAB"):
        return np.asarray(to_rgb(image, image.info.get("icc_profile")))
    is_gray = mode in ("1", "L", "LA", "La") or _has_gray_palette(image)
    colours = "L" if mode in ("1", "L", "LA", "La") else "RGB"
    return _planes_of_mode(image, colours + ("A" if transparent else ""), is_gray=is_gray)


def _planes_of_mode(image: Image.Image, mode: str, *, is_gray: bool) -> Planes:
    """Planes of a mode, converted band by band: all at once would hold the picture four times."""
    count = len(mode) - 2 * (is_gray and mode.startswith("RGB"))
    planes = np.empty((image.height, image.width, count), np.uint8)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels = np.asarray(band if band.mode == mode else band.convert(mode))
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        planes[top : top + rows] = pixels[..., ::3] if is_gray and len(mode) > 2 else pixels
    return planes


def _has_gray_palette(image: Image.Image) -> bool:
    """Whether it can show no colour, as the GIF of a gray picture."""
    palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    return len(palette) > 0 and bool((palette == palette[:, :1]).all())


def to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """CMYK or LAB -> sRGB through the file's profile; CMYK by rule of thumb where it has none."""
    srgb = ImageCms.createProfile("sRGB")
    if image.mode == "LAB":
        profile: Any = ImageCms.createProfile("LAB")
    elif icc and icc[16:20] == b"CMYK":
        profile = BytesIO(icc)
    else:
        return image.convert("RGB")
    try:
        turned = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    except ImageCms.PyCMSError:  # a damaged profile
        turned = None
    return turned or image.convert("RGB")


def from_floats(floats: npt.NDArray[np.floating[Any]]) -> Planes:
    """Floats of 0..1 -> 16 bits; ImageError for all others."""
    if np.isnan(floats.sum()):  # of which no array of its size is made
        raise ImageError("not a number (NaN) among the float pixels")
    if floats.size and (floats.min() < 0 or floats.max() > 1):
        raise ImageError("unsupported: float pixels outside 0..1")
    return _scale(floats, 65535, np.uint16)


def stretch(planes: Planes, bits: int) -> Planes:
    """Values of 0 to 2^bits - 1 -> all that 8 bits hold, or 16, so that no two fall together."""
    if bits in (8, 16):
        return planes
    kind = np.uint8 if bits < 8 else np.uint16
    return _scale(planes, np.iinfo(kind).max / (2**bits - 1), kind)


def _scale(values: npt.NDArray[Any], factor: float, kind: type[np.integer[Any]]) -> Planes:
    """Times a factor and rounded."""

    def scale(band: npt.NDArray[Any]) -> Planes:
        scaled = band.astype(np.float64)
        return np.rint(scaled * factor, out=scaled).astype(kind)

    return in_bands(values, scale)


def in_bands(planes: npt.NDArray[Any], convert: Callable[[npt.NDArray[Any]], Planes]) -> Planes:
    """The same of all of it, of some rows at a time: in float64 all of it would be large."""
    rows = max(1, _BAND // max(1, planes[:1].size))
    first = convert(planes[:rows])
    converted = np.empty((len(planes), *first.shape[1:]), first.dtype)
    converted[:rows] = first
    for top in range(rows, len(planes), rows):
        converted[top : top + rows] = convert(planes[top : top + rows])
    return converted


def extra(module: str, format: str, needs: str = "") -> Any:
    """An optional library; ImageError says how to get it, and what needs it."""
    try:
        return import_module(module)
    except ImportError as error:
        needs = needs or f"16-bit colour in {format} files needs"
        raise ImageError(f"{needs} pip install 'bulk-denoise[formats]'") from error


def note_of(frames: Callable[[], int]) -> str | None:
    """What of the file is not in the picture."""
    try:
        count = frames()
    except ImageError:
        raise
    except DECODER_ERRORS:  # a later frame is damaged: the first is good
        return "first of several frames"
    if count > MANY_FRAMES:
        return f"first of more than {MANY_FRAMES:,} frames"
    return f"first of {count} frames" if count > 1 else None


def join_notes(*notes: str | None) -> str | None:
    """Notes for a user as one, None where there are none."""
    return "; ".join(filter(None, notes)) or None


def profile_of(image: Image.Image) -> bytes | None:
    """The ICC profile of pixels that were not converted through it."""
    return None if image.mode in ("CMYK", "LAB") else image.info.get("icc_profile")


def plausible_dpi(dpi: Any) -> tuple[float, float] | None:
    """Two positive numbers, or None for what files claim besides."""
    try:
        x, y = float(dpi[0]), float(dpi[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return (x, y) if 1 < x < 1e6 and 1 < y < 1e6 else None  # 1: an aspect ratio
