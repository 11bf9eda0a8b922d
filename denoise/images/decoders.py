"""Image files as they lie: the bytes of any kind of file -> planes, and what is known of them.

A new kind has its first bytes in `sniff`, its reader here, and its writer, if any, in `codec`.

Planes are [H, W, N] uint8 or uint16, N 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from denoise.errors import ImageError
from denoise.images import sniff
from denoise.images.avif import bits_of_avif, check_avif, is_monochrome
from denoise.images.boxes import meta_of
from denoise.images.gif import frames_of_gif
from denoise.images.heif import scan_of_heif
from denoise.images.jpeg import check_jpeg, planes_of_jpeg
from denoise.images.jpeg2000 import check_codestream, metadata_of_jpeg2000, planes_of_jpeg2000
from denoise.images.jpegxl import scan_of_jpegxl
from denoise.images.metadata import Metadata
from denoise.images.named_colours import with_named_colours
from denoise.images.planes import (
    DECODER_ERRORS,
    Planes,
    Scan,
    check_size,
    extra,
    join_notes,
    note_of,
    open_image,
    pillow_limited,
    pillow_planes,
    plausible_dpi,
    profile_of,
    stretch,
    too_many,
)
from denoise.images.png import take_apart
from denoise.images.tiff import scan_of_tiff
from denoise.images.webp import GRAY_XMP


def scan(encoded: bytes, max_pixels: int) -> Scan:
    """What an image file holds. Raises ImageError in our own words, whatever a decoder says."""
    if not encoded:
        raise ImageError("empty file")
    kind = sniff.kind_of(encoded[: sniff.HEAD])
    if kind is not None and not sniff.is_supported(kind):
        raise ImageError(sniff.unsupported(kind))
    with _in_own_words(kind, max_pixels), pillow_limited(max_pixels):
        if size := sniff.size_of(kind, encoded[: sniff.HEAD]):
            check_size(*size, max_pixels)
        found = _scan_of(kind, encoded, max_pixels)
        if found.planes.dtype not in (np.uint8, np.uint16):
            raise ImageError(f"unsupported: pixels of {found.planes.dtype}")
        return found


def _scan_of(kind: str | None, encoded: bytes, max_pixels: int) -> Scan:
    """The same, by the reader of its kind."""
    if kind == "TIFF":
        return scan_of_tiff(encoded, max_pixels)
    if kind == "PNG":
        return _scan_of_png(encoded)
    if kind in ("HEIF", "JXL"):
        return (scan_of_heif if kind == "HEIF" else scan_of_jpegxl)(encoded, max_pixels)
    if kind == "JPEG":
        encoded = check_jpeg(encoded)
    if kind == "JPEG2000":
        check_codestream(encoded, max_pixels)  # before Pillow reads any of it
    if kind == "AVIF":
        encoded = check_avif(encoded, max_pixels)
    note = note_of(lambda: frames_of_gif(encoded)) if kind == "GIF" else None
    image = open_image(encoded, kind or "TGA")  # the one format without a magic number
    check_size(*image.size, max_pixels)
    planes = _planes(image, encoded, max_pixels)
    format = "JPEG" if image.format == "MPO" else str(image.format)
    if kind == "JPEG2000":
        metadata = metadata_of_jpeg2000(encoded)
    else:
        exif, xmp = (image.info.get(name) for name in ("exif", "xmp"))
        metadata = Metadata(exif=exif, icc=profile_of(image), xmp=None if xmp == GRAY_XMP else xmp)
    dpi = plausible_dpi(image.info.get("dpi"))
    note = note if kind == "GIF" else note_of(lambda: getattr(image, "n_frames", 1))
    if kind == "AVIF":
        numbers = meta_of(encoded).colours
        metadata, words = with_named_colours(metadata, numbers, is_gray=planes.shape[2] < 3)
        note = join_notes(note, words)
    return Scan(planes, format, replace(metadata, dpi=dpi), note)


def _scan_of_png(encoded: bytes) -> Scan:
    png = take_apart(encoded)
    notes = join_notes(note_of(lambda: png.frames), *png.notes)
    metadata = replace(png.metadata, dpi=plausible_dpi(png.metadata.dpi))
    return Scan(_planes_of_png(png.slim), "PNG", metadata, notes)


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
    """What is wrong, by a decoder's message."""
    message = str(error).lower()
    if kind is None:
        return "not an image"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    if "decompressed data too large" in message or "too much memory used in text" in message:
        return f"too much text or too large a profile in {kind}"
    if "unsupported" in message or "cannot handle" in message or "not supported" in message:
        return f"unsupported variant of {kind}"
    return f"truncated or damaged {kind}"


def _planes(image: ImageFile, encoded: bytes, max_pixels: int) -> Planes:
    """[H, W, N]: gray, gray and alpha, RGB, or RGB and alpha; not yet upright."""
    if image.format in ("JPEG", "MPO"):
        return planes_of_jpeg(image, encoded)
    if image.format == "JPEG2000":
        return planes_of_jpeg2000(image, encoded, check_codestream(encoded, max_pixels))
    if image.format == "ICO":
        icon: Any = image
        inner = encoded[icon.ico.entry[0].offset :]  # of the largest
        if sniff.kind_of(inner[: sniff.HEAD]) == "PNG":
            check_size(*(sniff.size_of("PNG", inner) or (0, 0)), max_pixels)
            return _planes_of_png(take_apart(inner).slim)
    bits = _depth_of(image, encoded)
    if bits > 8:
        return _deep_planes(str(image.format), encoded, bits)
    planes = pillow_planes(image)
    return planes[..., ::3] if _is_gray(image, encoded, planes) else planes


def _planes_of_png(slim: bytes) -> Planes:
    image = open_image(slim, "PNG")
    _scale_transparency(image)
    bits = _depth_of(image, slim)
    return _deep_planes("PNG", slim, bits) if bits > 8 else pillow_planes(image)


def _scale_transparency(image: ImageFile) -> None:
    """Of gray with 2 or 4 bits: Pillow stretches the pixels to 8, but not what is transparent."""
    raw = image.tile[0].args if image.tile else ""
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and raw in ("L;2", "L;4"):
        image.info["transparency"] = transparent * (85 if raw == "L;2" else 17)


def _depth_of(image: ImageFile, encoded: bytes) -> int:
    """Bits a channel where Pillow would cut them to 8 silently; else 8."""
    if image.mode.startswith("I"):
        return 8  # gray of 16 bits, which Pillow leaves alone
    if image.format == "AVIF":
        return bits_of_avif(encoded)
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
    """More than 8 bits a channel, alpha included, by imagecodecs; 9 to 15 are stretched to 16."""
    readers = {"PNG": "png_decode", "AVIF": "avif_decode"}
    if format not in readers or bits > 16:
        raise ImageError(f"unsupported variant of {format}: {bits} bits a channel")
    planes = getattr(extra("imagecodecs", format), readers[format])(encoded)
    return stretch(planes.reshape(*planes.shape[:2], -1), bits)


def _is_gray(image: ImageFile, encoded: bytes, planes: Planes) -> bool:
    """Whether three equal planes are one: of a monochrome AVIF, and of a WebP that codec.encode
    wrote from gray, if nobody has painted it since."""
    if image.format == "AVIF":
        return is_monochrome(encoded)
    marked = image.format == "WEBP" and image.info.get("xmp") == GRAY_XMP
    return marked and bool((planes[..., :1] == planes[..., 1:3]).all())
