"""TIFF files: checked to be whole, and read by whichever library keeps their depth."""

import logging
import struct
from collections.abc import Iterator
from io import BytesIO
from itertools import islice

import numpy as np
from PIL import Image

from denoise.errors import ImageError
from denoise.images import sniff, xmp
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
    profile_of,
    stretched,
    to_rgb,
)
from denoise.images.subsampled import is_subsampled, subsampled_planes
from denoise.images.writers import Planes, descriptive

# TIFF's tags, by number
_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _ORIENTATION = 254, 256, 257, 258, 262, 274
_SAMPLES, _PLANAR, _BESIDE, _SAMPLE_FORMAT = 277, 284, 338, 339
_COMPRESSION, _COLOUR_MAP, _SUB_PAGES = 259, 320, 330
_ICC, _DNG_VERSION, _XMP = 34675, 50706, 700
_STRIP_STARTS, _ROWS_PER_STRIP, _STRIP_LENGTHS = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_STARTS, _TILE_LENGTHS = 322, 323, 324, 325

_PALETTE, _CMYK, _YCBCR = 3, 5, 6  # photometric interpretations
_MOSAICS = (32803, 34892)  # one colour a pixel, as sensors have, or made of it and still linear
# Compressions of 8 bits that Pillow reads: none, CCITT's, LZW, JPEG, deflate, PackBits
_OF_PILLOW = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
_MOST_PREVIEWS = 100
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
            planes = _tifffile_planes(encoded, number, lengths, tags)
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

    Raises ImageError for camera raw, whose pages are previews with the picture inside.
    """
    first = _tags_of(encoded, next(_page_starts(encoded), 0))
    is_reduced = bool(first.get(_SUBFILE_TYPE, 0) & 1)
    is_cr2 = encoded[4:10] == b"\x10\x00\x00\x00CR"
    is_mosaic = first.get(_PHOTOMETRIC) in _MOSAICS
    if _DNG_VERSION in first or is_mosaic or is_cr2 or (is_reduced and _SUB_PAGES in first):
        raise ImageError(sniff.unsupported("camera raw"))
    if is_reduced:
        for number, start in enumerate(islice(_page_starts(encoded), _MOST_PREVIEWS)):
            tags = _tags_of(encoded, start)
            if not tags.get(_SUBFILE_TYPE, 0) & 1:
                return number, tags
    return 0, first


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
    if bits.max() > 8:
        is_half = bits[0] == 16 and 3 in formats
        simple = samples == 1 and kind == 1  # gray, 0 is black
        return is_half or compression not in _OF_PILLOW or not (simple and bits[0] in (16, 32))
    if kind not in (0, 1, 2):
        return compression not in _OF_PILLOW
    colours = 3 if kind == 2 else 1
    odd = bits.min() < 8 and (samples > 1 or bits[0] not in (1, 2, 4))
    # a fourth channel of which nobody says what it is, a fifth one: Pillow leaves them out
    beside = np.atleast_1d(tags.get(_BESIDE, 2))[: samples - colours]
    unnamed = samples > colours and (0 in beside or (colours == 1 and _BESIDE not in tags))
    more = samples > colours + 1 or unnamed or (kind == 0 and samples > 1)
    return 2 in formats or more or odd or compression not in _OF_PILLOW


def _has_small_map(tags: Image.Exif) -> bool:
    """Whether a palette holds 8 bits a colour, as old programs write them, instead of 16."""
    return tags.get(_PHOTOMETRIC) == _PALETTE and max(tags.get(_COLOUR_MAP, (256,))) < 256


def _pillow_palette(image: Image.Image, tags: Image.Exif) -> Planes:
    """The colours of a palette that Pillow would take for black."""
    table = np.array(tags[_COLOUR_MAP], np.uint8).reshape(3, -1).T
    planes = table[np.minimum(np.asarray(image), len(table) - 1)]
    is_gray = bool((table == table[:, :1]).all())
    return np.ascontiguousarray(planes[..., :1]) if is_gray else planes


def _tifffile_planes(encoded: bytes, number: int, lengths: list[int], tags: Image.Exif) -> Planes:
    """A page of any depth: gray or RGB, with or without alpha, or a palette's or CMYK's RGB."""
    tifffile = extra("tifffile", "TIFF")
    extra("imagecodecs", "TIFF")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says becomes an ImageError
    with tifffile.TiffFile(BytesIO(encoded)) as file:
        page = file.pages[number]
        kind, samples = int(page.photometric), page.samplesperpixel
        depths = np.atleast_1d(tags.get(_BITS, 1))
        is_shallow = depths.max() <= 8 and kind in (_PALETTE, _CMYK)
        if kind not in (0, 1, 2) and not is_shallow and kind != _YCBCR:
            raise ImageError("unsupported variant of TIFF: deep pixels neither gray nor RGB")
        if page.sampleformat not in (1, 2, 3) or len(set(depths.tolist())) > 1:
            raise ImageError(
                "unsupported variant of TIFF: complex pixels or planes of unlike depths"
            )
        colours = {_CMYK: 4, 2: 3, _YCBCR: 3}.get(kind, 1)
        if 1 in page.extrasamples or samples not in (colours, colours + 1):
            raise ImageError("unsupported variant of TIFF: multiplied alpha or more than one")
        page.databytecounts = tuple(lengths)
        planes = page.asarray(maxworkers=1)
        if page.axes == "SYX":
            planes = np.moveaxis(planes, 0, 2)
        elif page.axes not in ("YX", "YXS"):
            raise ImageError("unsupported variant of TIFF: not a flat image")
    planes = planes.reshape(*planes.shape[:2], -1)
    return _unsigned(planes, kind, int(depths[0]), tags)


def _unsigned(planes: Planes, kind: int, bits: int, tags: Image.Exif) -> Planes:
    """What tifffile has read -> gray or RGB, of 8 or 16 bits."""
    if planes.dtype.kind == "f":
        planes = from_floats(planes)
    elif planes.dtype == bool:
        planes = planes.astype(np.uint8) * 255
    elif planes.dtype not in (np.uint8, np.uint16):
        raise ImageError("unsupported: 32-bit integer or signed pixels")
    elif kind == _PALETTE:
        table = np.array(tags[_COLOUR_MAP]).reshape(3, -1).T
        table = (table if table.max() < 256 else table >> 8).astype(np.uint8)
        return table[np.minimum(planes[..., 0], len(table) - 1)]
    else:
        planes = stretched(planes, bits)
    if kind == 0:  # 0 is white
        planes[..., 0] = np.iinfo(planes.dtype).max - planes[..., 0]
    if kind == _CMYK:
        inks = Image.fromarray(np.ascontiguousarray(planes[..., :4]), "CMYK")
        return np.asarray(to_rgb(inks, tags.get(_ICC)))
    if kind == _YCBCR:
        return np.asarray(Image.fromarray(np.ascontiguousarray(planes), "YCbCr").convert("RGB"))
    return np.ascontiguousarray(planes)


def _exif_of_tiff(tags: Image.Exif) -> bytes | None:
    """What a TIFF's tags say about the photograph, as EXIF; nonsense where they cannot be read."""
    try:
        described = descriptive(tags)
        if set(described) == {_ORIENTATION} and described[_ORIENTATION] == 1:
            return None  # says nothing
        return without_prefix(described.tobytes()) if len(described) else None
    except DECODER_ERRORS:
        return b"unreadable"
