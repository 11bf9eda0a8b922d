"""Image files as they lie: the bytes of any kind of file -> planes, and what is known of them.

Planes are [H, W, N] uint8 or uint16, N 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
"""

import logging
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageCms
from PIL.ImageFile import ImageFile

from denoise import kinds
from denoise.exif import without_prefix
from denoise.writers import GRAY_XMP, Planes, descriptive


class ImageError(ValueError):
    """What is wrong with one image, in words fit for a table: the same cause, the same words."""


@dataclass(frozen=True, eq=False)
class Scan:
    """One image as its file has it: not yet upright, alpha still among the planes."""

    planes: Planes
    format: str  # by Pillow's names
    exif: bytes | None  # as read, perhaps nonsense
    icc: bytes | None
    dpi: tuple[float, float] | None
    note: str | None


def scan(encoded: bytes, max_pixels: int) -> Scan:
    """What an image file holds. Raises ImageError in our own words, whatever a decoder says."""
    if not encoded:
        raise ImageError("empty file")
    kind = kinds.kind_of(encoded[: kinds.HEAD])
    if kind is not None and not kinds.is_supported(kind):
        raise ImageError(f"unsupported kind: {kind}")
    with _in_own_words(kind):
        if kind == "TIFF":
            return _scan_of_tiff(encoded, max_pixels)
        image = _opened(encoded, kind or "TGA")  # the one format without a magic number
        _check_size(*image.size, max_pixels)
        exif = _exif_of(image)
        planes = _planes(image, encoded)
        format = "JPEG" if image.format == "MPO" else str(image.format)
        icc, dpi = image.info.get("icc_profile"), _plausible_dpi(image.info.get("dpi"))
        note = _note(lambda: getattr(image, "n_frames", 1))
        return Scan(planes, format, exif, icc, dpi, note)


# What the decoders raise for damaged files, beside their own types: OSError and EOFError (cut off),
# SyntaxError (Pillow: not this format), ValueError (also TiffFileError, zlib in Pillow's PNG),
# struct.error, LookupError and TypeError (parsers running over the end), ArithmeticError (sizes of
# zero, or that overflow), zlib.error, RuntimeError (libavif, libwebp and every imagecodecs error),
# NotImplementedError (DDS), AttributeError and AssertionError (states that parsers thought
# impossible), MemoryError (a size that the file only claims) and Pillow's own bomb alarm.
_DECODER_ERRORS = (
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
    MemoryError,
    ImageCms.PyCMSError,
    Image.DecompressionBombError,
)


@contextmanager
def _in_own_words(kind: str | None) -> Iterator[None]:
    """Turns what decoders raise into an ImageError without addresses, offsets and file names."""
    try:
        yield
    except ImageError:
        raise
    except _DECODER_ERRORS as error:
        raise ImageError(_words_for(error, kind)) from error


def _words_for(error: BaseException, kind: str | None) -> str:
    """What is wrong, by what a decoder said."""
    said = str(error).lower()
    if kind is None:
        return "not an image"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if "decompressed data too large" in said or "too much memory used in text" in said:
        return f"too much text or too large a profile in {kind}"
    if "decompression bomb" in said:
        return "too many pixels"
    if "unsupported" in said or "cannot handle" in said or "not supported" in said:
        return f"unsupported variant of {kind}"
    return f"truncated or damaged {kind}"


def _opened(encoded: bytes, kind: str) -> ImageFile:
    """Pillow's image with its header read, and nothing else.

    Not through Image.open: that has one limit of pixels for the whole process, and tries decoders
    that the content does not call for.
    """
    Image.init()
    opener = Image.OPEN[kind][0]
    return opener(BytesIO(encoded), "")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError("no pixels: the width or the height is zero")
    if width * height > max_pixels:
        raise ImageError(f"more than {max_pixels:,} pixels (the limit is --max-pixels)")


def _planes(image: ImageFile, encoded: bytes) -> Planes:
    """[H, W, N]: gray, gray and alpha, RGB, or RGB and alpha; not yet upright."""
    if image.format in ("JPEG", "MPO"):
        return _jpeg_planes(image, encoded)
    if image.format == "ICO":
        icon: Any = image
        inner = encoded[icon.ico.entry[0].offset :]  # of the largest
        if kinds.kind_of(inner[: kinds.HEAD]) == "PNG":
            return _planes(_opened(inner, "PNG"), inner)
    bits = _depth_of(image, encoded)
    if bits > 8:
        return _deep_planes(str(image.format), encoded, bits)
    planes = _pillow_planes(image)
    return planes[..., ::3] if _is_gray_webp(image, planes) else planes


def _jpeg_planes(image: ImageFile, encoded: bytes) -> Planes:
    """By simplejpeg: the pixels of Pillow in a third of the time, and it notices cut files."""
    colours = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}[image.mode]
    exact = {"colorspace": colours, "fastdct": False, "fastupsample": False}
    try:
        planes = simplejpeg.decode_jpeg(encoded, **exact)
    except ValueError as error:
        if "extraneous bytes before marker 0xd9" not in str(error):
            raise
        planes = simplejpeg.decode_jpeg(encoded, **exact, strict=False)  # stray bytes at the end
    if colours == "CMYK":
        inverted = Image.fromarray(255 - planes, "CMYK")  # as all of them are stored
        return np.asarray(_to_rgb(inverted, image.info.get("icc_profile")))
    return planes


def _depth_of(image: ImageFile, encoded: bytes) -> int:
    """Bits a channel where Pillow would cut them to 8 silently; else 8."""
    if image.mode.startswith("I"):
        return 8  # gray of 16 bits, which Pillow leaves alone
    if image.format == "JPEG2000":
        start = encoded.find(b"\xff\x4f\xff\x51")  # start of codestream, SIZ
        return (encoded[start + 42] & 0x7F) + 1
    if image.format == "AVIF":
        start = encoded.find(b"av1C")
        flags = encoded[start + 6] if start > 0 else 0  # high_bitdepth, twelve_bit
        return 8 + 2 * bool(flags & 0x40) + 2 * bool(flags & 0x20)
    if image.format == "SGI":
        return 8 * encoded[3]
    return _depth_of_tile(image)


def _depth_of_tile(image: ImageFile) -> int:
    """The same, by what Pillow tells its own decoder."""
    codec, raw = (image.tile[0].codec_name, image.tile[0].args) if image.tile else ("", "")
    first: Any = raw[0] if isinstance(raw, tuple) else raw
    if image.format == "PPM":
        return 16 if isinstance(raw, tuple) and int(raw[1]) > 255 else 8  # the largest value
    if codec == "bcn":
        return 16 if first == 6 else 8  # BC6H, half floats
    if codec == "dds_rgb" and isinstance(raw, tuple):
        return max(8, *(mask.bit_count() for mask in raw[1]))
    return 16 if ";16" in str(first) and image.format != "BMP" else 8  # a BMP's is 5 bits a colour


def _deep_planes(format: str, encoded: bytes, bits: int) -> Planes:
    """More than 8 bits a channel by imagecodecs; 9 to 15 bits are stretched to 16."""
    readers = {"PNG": "png_decode", "JPEG2000": "jpeg2k_decode", "AVIF": "avif_decode"}
    if format not in readers or bits > 16:
        raise ImageError(f"unsupported variant of {format}: {bits} bits a channel")
    planes = getattr(_extra("imagecodecs", format), readers[format])(encoded)
    return _stretched(planes.reshape(*planes.shape[:2], -1), bits)


def _stretched(planes: Planes, bits: int) -> Planes:
    """Values of 0 to 2^bits - 1 -> 0 to 65535, so that no two values fall together."""
    if bits in (8, 16):
        return planes
    return np.rint(planes * (65535 / (2**bits - 1))).astype(np.uint16)


def _extra(module: str, format: str) -> Any:
    """An optional library; ImageError says how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        needs = f"16-bit colour in {format} files needs pip install 'denoise[formats]'"
        raise ImageError(needs) from error


def _pillow_planes(image: Image.Image) -> Planes:
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
        return _from_floats(np.asarray(image)[..., None])
    if mode in ("CMYK", "LAB"):
        return np.asarray(_to_rgb(image, image.info.get("icc_profile")))
    is_gray = mode in ("1", "L", "LA", "La")
    plain = image.convert(("L" if is_gray else "RGB") + ("A" if transparent else ""))
    planes = np.asarray(plain)
    return planes.reshape(*planes.shape[:2], -1)


def _is_gray_webp(image: ImageFile, planes: Planes) -> bool:
    """Whether image.encode wrote it from gray, and nobody has painted it since."""
    marked = image.format == "WEBP" and image.info.get("xmp") == GRAY_XMP
    return marked and bool((planes[..., :1] == planes[..., 1:3]).all())


def _to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
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


def _from_floats(floats: npt.NDArray[np.floating[Any]]) -> Planes:
    """Floats of 0..1 -> 16 bits; ImageError for all others."""
    if np.isnan(floats).any():
        raise ImageError("not a number (NaN) among the float pixels")
    if floats.size and (floats.min() < 0 or floats.max() > 1):
        raise ImageError("unsupported: float pixels outside 0..1")
    return np.rint(floats.astype(np.float64) * 65535).astype(np.uint16)


def _scan_of_tiff(encoded: bytes, max_pixels: int) -> Scan:
    """TIFF by Pillow, and by tifffile where Pillow would cut 16 bits to 8 or not open it at all."""
    tags = _tags_of(encoded)
    is_cr2 = encoded[4:10] == b"\x10\x00\x00\x00CR"
    if _DNG_VERSION in tags or is_cr2 or tags.get(_SUBFILE_TYPE, 0) & 1:
        raise ImageError("unsupported kind: camera raw")  # what comes first is a thumbnail
    _check_size(tags[_WIDTH], tags[_HEIGHT], max_pixels)
    _check_whole(tags, len(encoded))
    note = _note(lambda: sum(1 for _ in _page_starts(encoded)))
    if _needs_tifffile(tags):
        planes = _tifffile_planes(encoded)
        per_inch = {2: 1, 3: 2.54}.get(tags.get(296, 2), 0)
        dpi = _plausible_dpi([per_inch * tags.get(side, 0) for side in (282, 283)])
        return Scan(planes, "TIFF", _exif_of_tiff(tags), tags.get(_ICC), dpi, note)
    image = _opened(encoded, "TIFF")
    _check_size(*image.size, max_pixels)
    planes = _pillow_planes(image)
    tags[_ORIENTATION] = 1  # Pillow has turned it already
    icc, dpi = image.info.get("icc_profile"), _plausible_dpi(image.info.get("dpi"))
    return Scan(planes, "TIFF", _exif_of_tiff(tags), icc, dpi, note)


def _tags_of(encoded: bytes) -> Image.Exif:
    """The tags of the first page; EXIF has the form of a TIFF file."""
    tags = Image.Exif()
    tags.endian, tags.bigtiff = _form_of(encoded)
    if tags.bigtiff and tags.endian == ">":  # Pillow knows the other order only
        raise ImageError("unsupported variant of TIFF: big-endian BigTIFF")
    tags.load_from_fp(BytesIO(encoded), next(_page_starts(encoded), 0))
    return tags


def _page_starts(encoded: bytes) -> Iterator[int]:
    """Where the tags of each page lie. Raises struct.error where the chain of them is broken."""
    order, is_big = _form_of(encoded)
    address, count, entry = ("Q", "Q", 20) if is_big else ("L", "H", 12)
    (start,) = struct.unpack_from(order + address, encoded, 8 if is_big else 4)
    seen = {0}  # which ends the chain
    while start not in seen:
        yield start
        seen.add(start)
        (entries,) = struct.unpack_from(order + count, encoded, start)
        end = start + struct.calcsize(order + count) + entries * entry
        (start,) = struct.unpack_from(order + address, encoded, end)


def _form_of(encoded: bytes) -> tuple[str, bool]:
    """The byte order of a TIFF, and whether it is a BigTIFF, whose addresses have 64 bits."""
    return "<" if encoded[:2] == b"II" else ">", b"\x2b" in encoded[2:4]


def _check_whole(tags: Image.Exif, length: int) -> None:
    """ImageError where strips or tiles are missing, which Pillow and tifffile would leave black."""
    is_tiled = _TILE_WIDTH in tags
    width, height = tags[_WIDTH], tags[_HEIGHT]
    columns = tags[_TILE_WIDTH] if is_tiled else width
    rows = tags[_TILE_HEIGHT] if is_tiled else min(tags.get(_ROWS_PER_STRIP, height), height)
    if columns > 2 * width + 4096 or rows > 2 * height + 4096:
        raise ImageError("truncated or damaged TIFF")  # tiles far larger than the picture
    expected = -(-width // columns) * -(-height // rows)
    expected *= tags.get(_SAMPLES, 1) if tags.get(_PLANAR, 1) == 2 else 1
    starts = np.atleast_1d(tags[_TILE_STARTS if is_tiled else _STRIP_STARTS])
    lengths = np.atleast_1d(tags.get(_TILE_LENGTHS if is_tiled else _STRIP_LENGTHS, starts * 0 + 1))
    if min(len(starts), len(lengths)) < expected or lengths.min() < 1:
        raise ImageError("truncated or damaged TIFF")
    if (starts[:expected].astype(np.float64) + lengths[:expected]).max() > length:
        raise ImageError("truncated or damaged TIFF")


def _needs_tifffile(tags: Image.Exif) -> bool:
    """Whether Pillow would lose something, silently."""
    bits, samples = np.atleast_1d(tags.get(_BITS, 1)), tags.get(_SAMPLES, 1)
    if bits.max() <= 8:
        return False
    simple = samples == 1 and tags.get(_PHOTOMETRIC) == 1  # gray, 0 is black
    return not (simple and bits[0] in (16, 32))


def _tifffile_planes(encoded: bytes) -> Planes:
    """The first page, of any depth: gray or RGB, with or without alpha."""
    tifffile = _extra("tifffile", "TIFF")
    _extra("imagecodecs", "TIFF")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says becomes an ImageError
    with tifffile.TiffFile(BytesIO(encoded)) as file:
        page = file.pages[0]
        if page.photometric not in (0, 1, 2) or page.sampleformat not in (1, 3):
            raise ImageError("unsupported variant of TIFF: deep pixels neither gray nor RGB")
        planes = page.asarray(maxworkers=1)
        if page.axes == "SYX":
            planes = np.moveaxis(planes, 0, 2)
        elif page.axes not in ("YX", "YXS"):
            raise ImageError("unsupported variant of TIFF: not a flat image")
        colours = 3 if page.photometric == 2 else 1
        if 1 in page.extrasamples or page.samplesperpixel not in (colours, colours + 1):
            raise ImageError("unsupported variant of TIFF: multiplied alpha or more than one")
    planes = planes.reshape(*planes.shape[:2], -1)
    if planes.dtype.kind == "f":
        return _from_floats(planes)
    if planes.dtype not in (np.uint8, np.uint16):
        raise ImageError("unsupported: 32-bit integer or signed pixels")
    planes = _stretched(planes, page.bitspersample)
    if page.photometric == 0:  # 0 is white
        planes[..., 0] = np.iinfo(planes.dtype).max - planes[..., 0]
    return np.ascontiguousarray(planes)


def _exif_of_tiff(tags: Image.Exif) -> bytes | None:
    """What a TIFF's tags say about the photograph, as EXIF; nonsense where they cannot be read."""
    try:
        kept = descriptive(tags)
        if set(kept) == {_ORIENTATION} and kept[_ORIENTATION] == 1:
            return None  # says nothing
        return without_prefix(kept.tobytes()) if len(kept) else None
    except _DECODER_ERRORS:
        return b"unreadable"


def _exif_of(image: Image.Image) -> bytes | None:
    """Raw EXIF from wherever the format keeps it."""
    exif = image.info.get("exif")
    if raw := image.info.get("Raw profile type exif"):  # ImageMagick's PNG: lines of hexadecimals
        try:
            exif = exif or bytes.fromhex("".join(raw.split("\n")[3:]))
        except ValueError:
            exif = b"unreadable"
    return without_prefix(exif) if exif else None


def _note(frames: Callable[[], int]) -> str | None:
    """What of the file is not in the picture."""
    try:
        count = frames()
    except _DECODER_ERRORS:  # a later frame is damaged: the first is good
        return "first of several frames"
    return f"first of {count} frames" if count > 1 else None


def _plausible_dpi(dpi: Any) -> tuple[float, float] | None:
    """Two positive numbers, or None for what files claim besides."""
    try:
        x, y = float(dpi[0]), float(dpi[1])
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return None
    return (x, y) if 1 < x < 1e6 and 1 < y < 1e6 else None  # 1: an aspect ratio


# TIFF's tags, by number
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION = 254, 256, 257, 258, 262, 274
_SAMPLES, _PLANAR, _ICC, _DNG_VERSION = 277, 284, 34675, 50706
_STRIP_STARTS, _ROWS_PER_STRIP, _STRIP_LENGTHS = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_STARTS, _TILE_LENGTHS = 322, 323, 324, 325
