"""TIFF files: checked to be whole, and read by whichever library keeps their depth."""

import struct
from collections.abc import Iterator
from io import BytesIO
from itertools import islice

import numpy as np
from PIL import Image

from denoise.errors import ImageError
from denoise.images import sniff, xmp
from denoise.images.deep_tiff import deep_planes
from denoise.images.exif import check_claims, without_prefix
from denoise.images.planes import (
    DECODER_ERRORS,
    MANY_FRAMES,
    Scan,
    check_size,
    note_of,
    opened,
    pillow_planes,
    plausible_dpi,
    profile_of,
)
from denoise.images.subsampled import is_subsampled, subsampled_planes
from denoise.images.writers import Planes, descriptive

# TIFF's tags, by number
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION = 254, 256, 257, 258, 262, 274
_SAMPLES, _PLANAR, _BESIDE, _SAMPLE_FORMAT, _FILL_ORDER = 277, 284, 338, 339, 266
_COMPRESSION, _COLOUR_MAP, _SUB_PAGES = 259, 320, 330
_ICC, _XMP = 34675, 700
_OF_RAW = {50706, 33424, 34310}  # DNG's version, and what Kodak's and Leaf's files begin with
_STRIP_STARTS, _ROWS_PER_STRIP, _STRIP_LENGTHS = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_STARTS, _TILE_LENGTHS = 322, 323, 324, 325

_PALETTE, _CMYK, _YCBCR, _LAB = 3, 5, 6, 8  # photometric interpretations
_COLOURS_OF_PILLOW = {-1: 4, 3: 2, 5: 4, 6: 3, 8: 3}  # with how many planes it reads them
_JPEG = 7  # a compression
_MOSAICS = (32803, 34892)  # one colour a pixel, as sensors have, or made of it and still linear
# Compressions of 8 bits that Pillow reads: none, CCITT's, LZW, JPEG, deflate, PackBits
_OF_PILLOW = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
_MOST_PREVIEWS = 100
_MOST_INSIDE = 8  # pages that are asked whether they are a sensor's
_DAMAGED = "truncated or damaged TIFF"


def scan_of_tiff(encoded: bytes, max_pixels: int) -> Scan:
    """TIFF by Pillow, and by tifffile where Pillow would cut 16 bits to 8 or not open it at all."""
    number, tags = _main_page(encoded)
    value = 1 + int(np.max(tags.get(_BITS, 1))) // 8  # bytes
    each = 2 + tags.get(_SAMPLES, 1) * (2 + value)
    check_size(tags[_WIDTH], tags[_HEIGHT], max_pixels, each=each)
    lengths = _lengths_of_pieces(tags, len(encoded))
    note = note_of(lambda: sum(1 for _ in islice(_page_starts(encoded), MANY_FRAMES + 1)))
    if number:
        note = f"frame {number + 1}: those before are previews"
    if is_subsampled(tags) or _needs_tifffile(tags):
        if is_subsampled(tags):
            planes = subsampled_planes(encoded, number, lengths, tags)
        else:
            planes = deep_planes(encoded, number, lengths, tags)
        per_inch = {2: 1, 3: 2.54}.get(tags.get(296, 2), 0)
        dpi = plausible_dpi([per_inch * tags.get(side, 0) for side in (282, 283)])
        icc = None if tags.get(_PHOTOMETRIC) == _CMYK else tags.get(_ICC)  # converted through it
        return Scan(planes, "TIFF", _exif_of_tiff(tags), icc, dpi, note, xmp=tags.get(_XMP))
    image = opened(encoded, "TIFF")
    image.seek(number)
    packet = image.info.pop("xmp", None)  # by which only Pillow would rotate it
    check_size(*image.size, max_pixels)
    planes = _pillow_palette(image, tags) if _has_small_map(tags) else pillow_planes(image)
    icc, dpi = profile_of(image), plausible_dpi(image.info.get("dpi"))
    if dpi and tags.get(_ORIENTATION, 1) > 4:
        dpi = dpi[::-1]
    if tags.get(_ORIENTATION, 1) > 1 and isinstance(packet, bytes):
        packet = xmp.upright(packet)
    tags[_ORIENTATION] = 1  # Pillow has turned it already
    return Scan(planes, "TIFF", _exif_of_tiff(tags), icc, dpi, note, xmp=packet)


def _main_page(encoded: bytes) -> tuple[int, Image.Exif]:
    """Number and tags of the first page that is no preview; of the first where all of them are.

    Raises ImageError for camera raw, whose first page is a preview of what lies further behind.
    """
    first = _tags_of(encoded, next(_page_starts(encoded), 0))
    is_reduced = bool(first.get(_SUBFILE_TYPE, 0) & 1)
    is_raw = not _OF_RAW.isdisjoint(first) or (is_reduced and _SUB_PAGES in first)
    if is_raw or _has_mosaic(encoded, first):
        raise ImageError(sniff.unsupported("camera raw"))
    if is_reduced:
        for number, start in enumerate(islice(_page_starts(encoded), _MOST_PREVIEWS)):
            tags = _tags_of(encoded, start)
            if not tags.get(_SUBFILE_TYPE, 0) & 1:
                return number, tags
    return 0, first


def _has_mosaic(encoded: bytes, first: Image.Exif) -> bool:
    """Whether a page, or one inside of the first, is as a sensor sees it: a raw file's picture."""
    try:
        inside = np.atleast_1d(first.get(_SUB_PAGES, ()))[:_MOST_INSIDE]
        for start in (*islice(_page_starts(encoded), _MOST_INSIDE), *map(int, inside)):
            if _tags_of(encoded, start).get(_PHOTOMETRIC) in _MOSAICS:
                return True
    except DECODER_ERRORS:  # a later page is damaged: the first may be good
        pass
    return first.get(_PHOTOMETRIC) in _MOSAICS


def _tags_of(encoded: bytes, start: int) -> Image.Exif:
    """The tags of a page; EXIF has the form of a TIFF file."""
    tags = Image.Exif()
    tags.endian, tags.bigtiff = _form_of(encoded)
    if tags.bigtiff and tags.endian == ">":  # Pillow knows the other order only
        raise ImageError("unsupported variant of TIFF: big-endian BigTIFF")
    check_claims(encoded, tags.endian, start, is_big=tags.bigtiff)
    tags.load_from_fp(BytesIO(encoded), start)
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


def _lengths_of_pieces(tags: Image.Exif, length: int) -> list[int]:
    """How many bytes each strip or tile has.

    Raises ImageError where one is missing, which Pillow and tifffile would leave black. What is not
    compressed is as long as its pixels, whatever its tag says (scanners write 0).
    """
    is_tiled = _TILE_WIDTH in tags
    width, height = tags[_WIDTH], tags[_HEIGHT]
    columns = tags[_TILE_WIDTH] if is_tiled else width
    rows = tags[_TILE_HEIGHT] if is_tiled else min(tags.get(_ROWS_PER_STRIP, height), height)
    if columns > 2 * width + 4096 or rows > 2 * height + 4096:
        raise ImageError(_DAMAGED)  # tiles far larger than the picture
    is_apart = tags.get(_PLANAR, 1) == 2
    expected = -(-width // columns) * -(-height // rows)
    expected *= tags.get(_SAMPLES, 1) if is_apart else 1
    starts = np.atleast_1d(tags[_TILE_STARTS if is_tiled else _STRIP_STARTS])[:expected]
    named = tags.get(_TILE_LENGTHS if is_tiled else _STRIP_LENGTHS, starts * 0 + 1)
    lengths = np.atleast_1d(named)[:expected].astype(np.float64)
    if min(len(starts), len(lengths)) < expected:
        raise ImageError(_DAMAGED)
    is_wrong = (lengths < 1) | (starts + lengths > length)
    if is_wrong.any() and tags.get(_COMPRESSION, 1) == 1 and tags.get(_PHOTOMETRIC) != _YCBCR:
        bits = np.max(tags.get(_BITS, 1)) * (1 if is_apart else tags.get(_SAMPLES, 1))
        left = np.full(expected, rows)
        if not is_tiled:
            left = np.minimum(rows, height - rows * (np.arange(expected) % -(-height // rows)))
        lengths = np.where(is_wrong, left * np.ceil(columns * bits / 8), lengths)
    if lengths.min() < 1 or (starts + lengths).max() > length:
        raise ImageError(_DAMAGED)
    return [int(one) for one in lengths]


def _needs_tifffile(tags: Image.Exif) -> bool:
    """Whether Pillow would lose something, silently, or not open it."""
    bits, samples = np.atleast_1d(tags.get(_BITS, 1)), tags.get(_SAMPLES, 1)
    kind, compression = tags.get(_PHOTOMETRIC, -1), tags.get(_COMPRESSION, 1)
    formats = np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1))
    if compression not in _OF_PILLOW:
        return True
    if bits.max() > 8:
        is_half = bits[0] == 16 and 3 in formats
        is_swapped = bits[0] == 32 and compression > 1 and tags.endian == ">"  # twice by Pillow
        simple = samples == 1 and kind == 1 and compression != _JPEG  # gray, 0 is black
        return is_half or is_swapped or not (simple and bits[0] in (16, 32))
    if kind not in (0, 1, 2):
        is_shallow = kind in (_CMYK, _LAB) and bits.min() < 8
        return kind not in _COLOURS_OF_PILLOW or is_shallow or samples > _COLOURS_OF_PILLOW[kind]
    colours = 3 if kind == 2 else 1
    odd = bits.min() < 8 and (samples > 1 or bits[0] not in (1, 2, 4))
    # a fourth channel of which nobody says what it is, a fifth one: Pillow leaves them out
    beside = np.atleast_1d(tags.get(_BESIDE, 2))[: samples - colours]
    unnamed = samples > colours and (0 in beside or (colours == 1 and _BESIDE not in tags))
    more = samples > colours + 1 or unnamed or (kind == 0 and samples > 1)
    more |= samples == 2 and tags.get(_PLANAR) == 2  # of which Pillow reads the first alone
    more |= samples in (2, 4) and tags.get(_FILL_ORDER) == 2  # bits of a byte from the other end
    return 2 in formats or more or odd


def _has_small_map(tags: Image.Exif) -> bool:
    """Whether a palette holds 8 bits a colour, as old programs write them, instead of 16."""
    return tags.get(_PHOTOMETRIC) == _PALETTE and max(tags.get(_COLOUR_MAP, (256,))) < 256


def _pillow_palette(image: Image.Image, tags: Image.Exif) -> Planes:
    """The colours of a palette that Pillow would take for black."""
    table = np.array(tags[_COLOUR_MAP], np.uint8).reshape(3, -1).T
    planes = table[np.minimum(np.asarray(image), len(table) - 1)]
    is_gray = bool((table == table[:, :1]).all())
    return np.ascontiguousarray(planes[..., :1]) if is_gray else planes


def _exif_of_tiff(tags: Image.Exif) -> bytes | None:
    """What a TIFF's tags say about the photograph, as EXIF; nonsense where they cannot be read."""
    try:
        described = descriptive(tags)
        if set(described) == {_ORIENTATION} and described[_ORIENTATION] == 1:
            return None  # says nothing
        return without_prefix(described.tobytes()) if len(described) else None
    except DECODER_ERRORS:
        return b"unreadable"
