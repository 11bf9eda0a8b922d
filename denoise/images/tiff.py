"""TIFF files: checked to be whole, and read by whichever library keeps their depth."""

import logging
import struct
from collections.abc import Iterator
from io import BytesIO
from itertools import islice

import numpy as np
from PIL import Image

from denoise.errors import ImageError
from denoise.images.exif import check_claims, without_prefix
from denoise.images.planes import (
    DECODER_ERRORS,
    MANY_FRAMES,
    Scan,
    check_size,
    extra,
    from_floats,
    note_of,
    opened,
    pillow_planes,
    plausible_dpi,
    stretched,
)
from denoise.images.writers import Planes, descriptive

# TIFF's tags, by number
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION = 254, 256, 257, 258, 262, 274
_SAMPLES, _PLANAR, _BESIDE, _SAMPLE_FORMAT = 277, 284, 338, 339
_ICC, _DNG_VERSION = 34675, 50706
_STRIP_STARTS, _ROWS_PER_STRIP, _STRIP_LENGTHS = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_STARTS, _TILE_LENGTHS = 322, 323, 324, 325


def scan_of_tiff(encoded: bytes, max_pixels: int) -> Scan:
    """TIFF by Pillow, and by tifffile where Pillow would cut 16 bits to 8 or not open it at all."""
    tags = _tags_of(encoded)
    is_cr2 = encoded[4:10] == b"\x10\x00\x00\x00CR"
    if _DNG_VERSION in tags or is_cr2 or tags.get(_SUBFILE_TYPE, 0) & 1:
        raise ImageError("unsupported kind: camera raw")  # what comes first is a thumbnail
    value = 1 + int(np.max(tags.get(_BITS, 1))) // 8  # bytes
    each = 2 + tags.get(_SAMPLES, 1) * (2 + value)
    check_size(tags[_WIDTH], tags[_HEIGHT], max_pixels, each=each)
    _check_whole(tags, len(encoded))
    note = note_of(lambda: sum(1 for _ in islice(_page_starts(encoded), MANY_FRAMES + 1)))
    if _needs_tifffile(tags):
        planes = _tifffile_planes(encoded)
        per_inch = {2: 1, 3: 2.54}.get(tags.get(296, 2), 0)
        dpi = plausible_dpi([per_inch * tags.get(side, 0) for side in (282, 283)])
        return Scan(planes, "TIFF", _exif_of_tiff(tags), tags.get(_ICC), dpi, note)
    image = opened(encoded, "TIFF")
    check_size(*image.size, max_pixels)
    planes = pillow_planes(image)
    icc, dpi = image.info.get("icc_profile"), plausible_dpi(image.info.get("dpi"))
    if dpi and tags.get(_ORIENTATION, 1) > 4:
        dpi = dpi[::-1]
    tags[_ORIENTATION] = 1  # Pillow has turned it already
    return Scan(planes, "TIFF", _exif_of_tiff(tags), icc, dpi, note)


def _tags_of(encoded: bytes) -> Image.Exif:
    """The tags of the first page; EXIF has the form of a TIFF file."""
    tags = Image.Exif()
    tags.endian, tags.bigtiff = _form_of(encoded)
    if tags.bigtiff and tags.endian == ">":  # Pillow knows the other order only
        raise ImageError("unsupported variant of TIFF: big-endian BigTIFF")
    first = next(_page_starts(encoded), 0)
    check_claims(encoded, tags.endian, first, is_big=tags.bigtiff)
    tags.load_from_fp(BytesIO(encoded), first)
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
    """Whether Pillow would lose something, silently, or (half floats) not open it."""
    bits, samples = np.atleast_1d(tags.get(_BITS, 1)), tags.get(_SAMPLES, 1)
    if bits.max() <= 8:
        colours = {0: 1, 1: 1, 2: 3}.get(tags.get(_PHOTOMETRIC, -1)) or samples
        is_signed = 2 in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1))
        # a fourth channel of which nobody says what it is, a fifth one: Pillow leaves them out
        beside = np.atleast_1d(tags.get(_BESIDE, 2))[: samples - colours]
        return is_signed or samples > colours + 1 or (samples > colours and 0 in beside)
    is_half = bits[0] == 16 and 3 in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1))
    simple = samples == 1 and tags.get(_PHOTOMETRIC) == 1  # gray, 0 is black
    return not (simple and bits[0] in (16, 32)) or is_half


def _tifffile_planes(encoded: bytes) -> Planes:
    """The first page, of any depth: gray or RGB, with or without alpha."""
    tifffile = extra("tifffile", "TIFF")
    extra("imagecodecs", "TIFF")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says becomes an ImageError
    with tifffile.TiffFile(BytesIO(encoded)) as file:
        page = file.pages[0]
        if page.photometric not in (0, 1, 2) or page.sampleformat not in (1, 2, 3):
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
        return from_floats(planes)
    if planes.dtype not in (np.uint8, np.uint16):
        raise ImageError("unsupported: 32-bit integer or signed pixels")
    planes = stretched(planes, page.bitspersample)
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
    except DECODER_ERRORS:
        return b"unreadable"
