"""Image files as they lie: the bytes of any kind of file -> planes, and what is known of them.

Planes are [H, W, N] uint8 or uint16, N 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image
from PIL.ImageFile import ImageFile

from denoise.errors import ImageError
from denoise.images import sniff
from denoise.images.exif import without_prefix
from denoise.images.planes import (
    DECODER_ERRORS,
    Scan,
    check_size,
    extra,
    note_of,
    opened,
    pillow_limited,
    pillow_planes,
    plausible_dpi,
    stretched,
    to_rgb,
    too_many,
)
from denoise.images.png import check_rows, colour_of, exif_of
from denoise.images.tiff import scan_of_tiff
from denoise.images.writers import GRAY_XMP, Planes


def scan(encoded: bytes, max_pixels: int) -> Scan:
    """What an image file holds. Raises ImageError in our own words, whatever a decoder says."""
    if not encoded:
        raise ImageError("empty file")
    kind = sniff.kind_of(encoded[: sniff.HEAD])
    if kind is not None and not sniff.is_supported(kind):
        raise ImageError(f"unsupported kind: {kind}")
    with _in_own_words(kind, max_pixels), pillow_limited(max_pixels):
        if size := sniff.size_of(kind, encoded[: sniff.HEAD]):
            check_size(*size, max_pixels)
        if kind == "TIFF":
            return scan_of_tiff(encoded, max_pixels)
        image = opened(encoded, kind or "TGA")  # the one format without a magic number
        check_size(*image.size, max_pixels)
        exif = _exif_of(image, encoded)
        planes = _planes(image, encoded)
        format = "JPEG" if image.format == "MPO" else str(image.format)
        icc, dpi = image.info.get("icc_profile"), plausible_dpi(image.info.get("dpi"))
        note = note_of(lambda: getattr(image, "n_frames", 1))
        colour = colour_of(encoded) if kind == "PNG" else ()
        return Scan(planes, format, exif, icc, dpi, note, colour)


@contextmanager
def _in_own_words(kind: str | None, max_pixels: int) -> Iterator[None]:
    """Turns what decoders raise into an ImageError without addresses, offsets and file names."""
    try:
        yield
    except ImageError:
        raise
    except DECODER_ERRORS as error:
        if isinstance(error, Image.DecompressionBombError):
            raise ImageError(too_many(max_pixels)) from error
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
    if "unsupported" in said or "cannot handle" in said or "not supported" in said:
        return f"unsupported variant of {kind}"
    return f"truncated or damaged {kind}"


def _planes(image: ImageFile, encoded: bytes) -> Planes:
    """[H, W, N]: gray, gray and alpha, RGB, or RGB and alpha; not yet upright."""
    if image.format in ("JPEG", "MPO"):
        return _jpeg_planes(image, encoded)
    if image.format == "ICO":
        icon: Any = image
        inner = encoded[icon.ico.entry[0].offset :]  # of the largest
        if sniff.kind_of(inner[: sniff.HEAD]) == "PNG":
            return _planes(opened(inner, "PNG"), inner)
    if image.format == "PNG":
        check_rows(encoded)
        _scale_transparency(image)
    bits = _depth_of(image, encoded)
    if bits > 8:
        return _deep_planes(str(image.format), encoded, bits)
    planes = pillow_planes(image)
    return planes[..., ::3] if _is_gray_webp(image, planes) else planes


def _scale_transparency(image: ImageFile) -> None:
    """Of gray with 2 or 4 bits: Pillow stretches the pixels to 8, but not what is transparent."""
    raw = image.tile[0].args if image.tile else ""
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and raw in ("L;2", "L;4"):
        image.info["transparency"] = transparent * (85 if raw == "L;2" else 17)


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
        return np.asarray(to_rgb(inverted, image.info.get("icc_profile")))
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
    planes = getattr(extra("imagecodecs", format), readers[format])(encoded)
    return stretched(planes.reshape(*planes.shape[:2], -1), bits)


def _is_gray_webp(image: ImageFile, planes: Planes) -> bool:
    """Whether image.encode wrote it from gray, and nobody has painted it since."""
    marked = image.format == "WEBP" and image.info.get("xmp") == GRAY_XMP
    return marked and bool((planes[..., :1] == planes[..., 1:3]).all())


def _exif_of(image: Image.Image, encoded: bytes) -> bytes | None:
    """Raw EXIF from wherever the format keeps it."""
    exif = exif_of(encoded) if image.format == "PNG" else image.info.get("exif")
    if raw := image.info.get("Raw profile type exif"):  # ImageMagick's PNG: lines of hexadecimals
        try:
            exif = exif or bytes.fromhex("".join(raw.split("\n")[3:]))
        except ValueError:
            exif = b"unreadable"
    return without_prefix(exif) if exif else None
