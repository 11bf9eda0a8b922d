"""The tags of TIFF files: of the page to decode, of its strips or tiles, and of its photograph."""

import struct
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, TiffImagePlugin

from denoise.errors import ImageError
from denoise.images import sniff
from denoise.images.exif import PREFIX, UNREADABLE, check_claims, without_prefix
from denoise.images.planes import DECODER_ERRORS

# TIFF's tags, by number
SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
STRIP_STARTS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_LENGTHS = 273, 274, 277, 278, 279
RESOLUTIONS, PLANAR, RESOLUTION_UNIT, PREDICTOR, COLOUR_MAP = (282, 283), 284, 296, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILE_STARTS, TILE_LENGTHS, SUB_PAGES = 322, 323, 324, 325, 330
BESIDE, SAMPLE_FORMAT, SUBSAMPLING, XMP, ICC, FILL_ORDER = 338, 339, 530, 700, 34675, 266
_OF_RAW = {50706, 33424, 34310}  # DNG's version, and what Kodak's and Leaf's files begin with

# Photometric interpretations
MINISWHITE, GRAY, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
JPEG = 7  # a compression
_MOSAICS = (32803, 34892)  # one colour a pixel, as sensors have, or made of it and still linear
_MOST_PREVIEWS = 100
_MOST_INSIDE = 8  # pages that are asked whether they are a sensor's
DAMAGED = "truncated or damaged TIFF"
# description, make, model, orientation, software, date, artist, host, copyright
_DESCRIPTIVE = {270, 271, 272, 274, 305, 306, 315, 316, 33432}
_FOLDERS = {0x8769, 0x8825}  # EXIF's own, GPS
_INTEROP = 0xA005  # points to a further folder, which would stay behind
# What Pillow raises for values of another type or size than their tag's
_PACKING_ERRORS = (
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    struct.error,
)


def main_page(encoded: bytes) -> tuple[int, Image.Exif]:
    """Number and tags of the first page that is no preview; of the first where all of them are.

    Raises ImageError for camera raw, whose first page is a preview of what lies further behind.
    """
    first = _tags_of(encoded, next(page_starts(encoded), 0))
    is_reduced = bool(first.get(SUBFILE_TYPE, 0) & 1)
    is_raw = not _OF_RAW.isdisjoint(first) or (is_reduced and SUB_PAGES in first)
    if is_raw or _has_mosaic(encoded, first):
        raise ImageError(sniff.unsupported("camera raw"))
    if is_reduced:
        for number, start in enumerate(islice(page_starts(encoded), _MOST_PREVIEWS)):
            tags = _tags_of(encoded, start)
            if not tags.get(SUBFILE_TYPE, 0) & 1:
                return number, tags
    return 0, first


def _has_mosaic(encoded: bytes, first: Image.Exif) -> bool:
    """Whether a page, or one inside of the first, is as a sensor sees it: a raw file's picture."""
    try:
        inside = np.atleast_1d(first.get(SUB_PAGES, ()))[:_MOST_INSIDE]
        for start in (*islice(page_starts(encoded), _MOST_INSIDE), *map(int, inside)):
            if _tags_of(encoded, start).get(PHOTOMETRIC) in _MOSAICS:
                return True
    except DECODER_ERRORS:  # a later page is damaged: the first may be good
        pass
    return first.get(PHOTOMETRIC) in _MOSAICS


def _tags_of(encoded: bytes, start: int) -> Image.Exif:
    """The tags of a page; EXIF has the form of a TIFF file."""
    tags = Image.Exif()
    tags.endian, tags.bigtiff = _form_of(encoded)
    if tags.bigtiff and tags.endian == ">":  # Pillow knows the other order only
        raise ImageError("unsupported variant of TIFF: big-endian BigTIFF")
    check_claims(encoded, tags.endian, start, is_big=tags.bigtiff)
    tags.load_from_fp(BytesIO(encoded), start)
    return tags


def page_starts(encoded: bytes) -> Iterator[int]:
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


class Pieces(NamedTuple):
    """The strips or tiles that a page is cut into."""

    is_tiled: bool
    columns: int  # of each
    rows: int
    starts: Any  # [n] offsets in the file


def pieces_of(tags: Image.Exif) -> Pieces:
    """How the pixels of a page lie."""
    is_tiled = TILE_WIDTH in tags
    height = tags[HEIGHT]
    columns = tags[TILE_WIDTH] if is_tiled else tags[WIDTH]
    rows = tags[TILE_HEIGHT] if is_tiled else min(tags.get(ROWS_PER_STRIP, height), height)
    starts = np.atleast_1d(tags[TILE_STARTS if is_tiled else STRIP_STARTS])
    return Pieces(is_tiled, columns, rows, starts)


def lengths_of_pieces(tags: Image.Exif, length: int) -> list[int]:
    """How many bytes each strip or tile has, in a file of so many.

    Raises ImageError where one is missing, which Pillow and tifffile would leave black. What is not
    compressed is as long as its pixels, whatever its tag says (scanners write 0).
    """
    width, height = tags[WIDTH], tags[HEIGHT]
    is_tiled, columns, rows, starts = pieces_of(tags)
    if columns > 2 * width + 4096 or rows > 2 * height + 4096:
        raise ImageError(DAMAGED)  # tiles far larger than the picture
    is_apart = tags.get(PLANAR, 1) == 2
    expected = -(-width // columns) * -(-height // rows)
    expected *= tags.get(SAMPLES, 1) if is_apart else 1
    starts = starts[:expected]
    named = tags.get(TILE_LENGTHS if is_tiled else STRIP_LENGTHS, starts * 0 + 1)
    lengths = np.atleast_1d(named)[:expected].astype(np.float64)
    if min(len(starts), len(lengths)) < expected:
        raise ImageError(DAMAGED)
    is_wrong = (lengths < 1) | (starts + lengths > length)
    if is_wrong.any() and tags.get(COMPRESSION, 1) == 1 and tags.get(PHOTOMETRIC) != YCBCR:
        bits = np.max(tags.get(BITS, 1)) * (1 if is_apart else tags.get(SAMPLES, 1))
        left = np.full(expected, rows)
        if not is_tiled:
            left = np.minimum(rows, height - rows * (np.arange(expected) % -(-height // rows)))
        lengths = np.where(is_wrong, left * np.ceil(columns * bits / 8), lengths)
    if lengths.min() < 1 or (starts + lengths).max() > length:
        raise ImageError(DAMAGED)
    return [int(one) for one in lengths]


def exif_of(tags: Image.Exif) -> bytes | None:
    """What a TIFF's tags say about the photograph, as EXIF; nonsense where they cannot be read."""
    try:
        described = _descriptive(tags)
        if set(described) == {ORIENTATION} and described[ORIENTATION] == 1:
            return None  # says nothing
        return without_prefix(described.tobytes()) if len(described) else None
    except DECODER_ERRORS:
        return UNREADABLE


def copy_exif(exif: bytes | None, tags: TiffImagePlugin.ImageFileDirectory_v2) -> None:
    """The tags of the EXIF that describe the photograph and not how its pixels lie."""
    source = Image.Exif()
    try:
        source.load(PREFIX + (exif or b""))
        described = _descriptive(source)
    except (SyntaxError, OSError, *_PACKING_ERRORS):  # damaged in a way that only Pillow minds
        return
    for tag, value in described.items():
        tags[tag] = value


def _descriptive(source: Image.Exif) -> Image.Exif:
    """The tags that tell about the photograph, those of EXIF's own folder and of GPS included."""
    carried = Image.Exif()
    for tag in _DESCRIPTIVE & set(source):
        if _can_be_written(tag, source[tag]):
            carried[tag] = source[tag]
    for folder in _FOLDERS & set(source):
        inner = {
            tag: value
            for tag, value in source.get_ifd(folder).items()
            if tag != _INTEROP and _can_be_written(tag, value, folder)
        }
        if inner:
            carried[folder] = inner
    return carried


def _can_be_written(tag: int, value: Any, folder: int | None = None) -> bool:
    """Whether Pillow packs what it has read: from a damaged file, a value may be of any type."""
    tags = TiffImagePlugin.ImageFileDirectory_v2(group=folder)
    try:
        tags[tag] = value
        tags.tobytes()
    except _PACKING_ERRORS:
        return False
    return True
