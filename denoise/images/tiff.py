"""TIFF files: checked to be whole, read by whichever library keeps their depth, and written.

Planes are [H, W, N], uint8 or uint16; N is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
"""

import struct
from itertools import accumulate, islice

import numpy as np
from isal import isal_zlib
from PIL import Image, TiffImagePlugin

from denoise.images import tiff_tags as tag
from denoise.images.deep_tiff import deep_planes
from denoise.images.metadata import Metadata, upright_xmp
from denoise.images.planes import (
    MANY_FRAMES,
    Planes,
    Scan,
    check_size,
    note_of,
    open_image,
    pillow_planes,
    plausible_dpi,
    profile_of,
)
from denoise.images.subsampled import is_subsampled, subsampled_planes

# Compressions of 8 bits that Pillow reads: none, CCITT's, LZW, JPEG, deflate, PackBits
_OF_PILLOW = {1, 2, 3, 4, 5, 7, 8, 32773, 32946}
# With how many planes Pillow reads other colours than gray and RGB; -1: none are named
_COLOURS_OF_PILLOW = {-1: 4, tag.PALETTE: 2, tag.CMYK: 4, tag.YCBCR: 3, tag.LAB: 3}


def scan_of_tiff(encoded: bytes, max_pixels: int) -> Scan:
    """TIFF by Pillow, and by tifffile where Pillow would cut 16 bits to 8 or not open it at all."""
    number, tags = tag.main_page(encoded)
    value = 1 + int(np.max(tags.get(tag.BITS, 1))) // 8  # bytes
    each = 2 + tags.get(tag.SAMPLES, 1) * (2 + value)
    check_size(tags[tag.WIDTH], tags[tag.HEIGHT], max_pixels, each=each)
    lengths = tag.lengths_of_pieces(tags, len(encoded))
    note = note_of(lambda: sum(1 for _ in islice(tag.page_starts(encoded), MANY_FRAMES + 1)))
    if number:
        note = f"frame {number + 1}: those before are previews"
    if is_subsampled(tags) or _needs_tifffile(tags):
        if is_subsampled(tags):
            planes = subsampled_planes(encoded, number, lengths, tags)
        else:
            planes = deep_planes(encoded, number, lengths, tags)
        per_inch = {2: 1, 3: 2.54}.get(tags.get(tag.RESOLUTION_UNIT, 2), 0)
        dpi = plausible_dpi([per_inch * tags.get(side, 0) for side in tag.RESOLUTIONS])
        # CMYK was converted through it
        icc = None if tags.get(tag.PHOTOMETRIC) == tag.CMYK else tags.get(tag.ICC)
        metadata = Metadata(exif=tag.exif_of(tags), icc=icc, dpi=dpi, xmp=tags.get(tag.XMP))
        return Scan(planes, "TIFF", metadata, note)
    image = open_image(encoded, "TIFF")
    image.seek(number)
    packet = image.info.pop("xmp", None)  # by which only Pillow would rotate it
    check_size(*image.size, max_pixels)
    planes = _pillow_palette(image, tags) if _has_small_map(tags) else pillow_planes(image)
    icc, dpi = profile_of(image), plausible_dpi(image.info.get("dpi"))
    if dpi and tags.get(tag.ORIENTATION, 1) > 4:
        dpi = dpi[::-1]
    if tags.get(tag.ORIENTATION, 1) > 1 and isinstance(packet, bytes):
        packet = upright_xmp(packet)
    tags[tag.ORIENTATION] = 1  # Pillow has turned it already
    metadata = Metadata(exif=tag.exif_of(tags), icc=icc, dpi=dpi, xmp=packet)
    return Scan(planes, "TIFF", metadata, note)


def _needs_tifffile(tags: Image.Exif) -> bool:
    """Whether Pillow would lose something, silently, or not open it."""
    bits, samples = np.atleast_1d(tags.get(tag.BITS, 1)), tags.get(tag.SAMPLES, 1)
    kind, compression = tags.get(tag.PHOTOMETRIC, -1), tags.get(tag.COMPRESSION, 1)
    formats = np.atleast_1d(tags.get(tag.SAMPLE_FORMAT, 1))
    if compression not in _OF_PILLOW:
        return True
    if bits.max() > 8:
        is_half = bits[0] == 16 and 3 in formats
        is_swapped = bits[0] == 32 and compression > 1 and tags.endian == ">"  # twice by Pillow
        simple = samples == 1 and kind == tag.GRAY and compression != tag.JPEG
        return is_half or is_swapped or not (simple and bits[0] in (16, 32))
    if kind not in (tag.MINISWHITE, tag.GRAY, tag.RGB):
        is_shallow = kind in (tag.CMYK, tag.LAB) and bits.min() < 8
        return kind not in _COLOURS_OF_PILLOW or is_shallow or samples > _COLOURS_OF_PILLOW[kind]
    colours = 3 if kind == tag.RGB else 1
    odd = bits.min() < 8 and (samples > 1 or bits[0] not in (1, 2, 4))
    # a fourth channel of which nobody says what it is, a fifth one: Pillow leaves them out
    beside = np.atleast_1d(tags.get(tag.BESIDE, 2))[: samples - colours]
    unnamed = samples > colours and (0 in beside or (colours == 1 and tag.BESIDE not in tags))
    more = samples > colours + 1 or unnamed or (kind == 0 and samples > 1)
    more |= samples == 2 and tags.get(tag.PLANAR) == 2  # of which Pillow reads the first alone
    more |= samples in (2, 4) and tags.get(tag.FILL_ORDER) == 2  # bits of a byte from the other end
    return 2 in formats or more or odd


def _has_small_map(tags: Image.Exif) -> bool:
    """Whether a palette holds 8 bits a colour, as old programs write them, instead of 16."""
    return tags.get(tag.PHOTOMETRIC) == tag.PALETTE and max(tags.get(tag.COLOUR_MAP, (256,))) < 256


def _pillow_palette(image: Image.Image, tags: Image.Exif) -> Planes:
    """The colours of a palette that Pillow would take for black."""
    table = np.array(tags[tag.COLOUR_MAP], np.uint8).reshape(3, -1).T
    planes = table[np.minimum(np.asarray(image), len(table) - 1)]
    is_gray = bool((table == table[:, :1]).all())
    return np.ascontiguousarray(planes[..., :1]) if is_gray else planes


def encode_tiff(planes: Planes, metadata: Metadata) -> bytes:
    """A little-endian TIFF file: strips of about a megabyte, horizontal differences, deflate."""
    height, width, count = planes.shape
    rows = max(1, (1 << 20) // (width * count * planes.itemsize))
    strips = [
        isal_zlib.compress(_differences(planes[top : top + rows]), 1)
        for top in range(0, height, rows)
    ]
    tags = TiffImagePlugin.ImageFileDirectory_v2(b"II\x2a\x00\x00\x00\x00\x00")
    tag.copy_exif(metadata.exif, tags)
    tags[tag.WIDTH], tags[tag.HEIGHT] = width, height
    tags[tag.BITS] = (8 * planes.itemsize,) * count
    tags[tag.COMPRESSION] = 8  # deflate
    tags[tag.PHOTOMETRIC] = tag.GRAY if count < 3 else tag.RGB
    tags[tag.SAMPLES] = count
    tags[tag.ROWS_PER_STRIP] = rows
    tags[tag.STRIP_LENGTHS] = tuple(len(strip) for strip in strips)
    tags[tag.PREDICTOR] = 2  # the horizontal differences
    if count in (2, 4):
        tags[tag.BESIDE] = 2  # alpha that the colours are not multiplied with
    if metadata.icc:
        tags.tagtype[tag.ICC] = 7
        tags[tag.ICC] = metadata.icc
    if metadata.xmp:
        tags.tagtype[tag.XMP] = 1
        tags[tag.XMP] = metadata.xmp
    if metadata.dpi:
        tags[tag.RESOLUTION_UNIT] = 2  # per inch
        for side, per_inch in zip(tag.RESOLUTIONS, metadata.dpi, strict=True):
            tags[side] = per_inch
    tags.tagtype[tag.STRIP_STARTS] = 4
    tags[tag.STRIP_STARTS] = tuple(accumulate(map(len, strips[:-1]), initial=0))
    # tobytes adds where the tags end, so the strips follow them
    return b"".join([b"II\x2a\x00", struct.pack("<L", 8), tags.tobytes(8), *strips])


def _differences(planes: Planes) -> bytes:
    differences = planes.astype(planes.dtype.newbyteorder("<"))
    differences[:, 1:] -= planes[:, :-1]
    return differences.tobytes()
