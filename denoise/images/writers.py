"""PNG and TIFF files from pixels: Pillow writes PNG slowly, and 16-bit colour not at all.

Planes are [H, W, N], uint8 or uint16; N is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
"""

import struct
import zlib
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from PIL import Image, TiffImagePlugin

Planes = npt.NDArray[Any]  # uint8 or uint16
Colour = tuple[tuple[bytes, bytes], ...]  # names and contents of a PNG file's chunks
Texts = Colour
XMP_TEXT = b"XML:com.adobe.xmp\x00"  # the keyword of the text that holds XMP

# Marks a WebP, which knows colours only, as one of gray: in the words of TIFF, 0 is black
GRAY_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" rdf:about=""'
    b' tiff:PhotometricInterpretation="1"/></rdf:RDF></x:xmpmeta>'
)

_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by the number of planes
_BAND = 1 << 22  # bytes of pixels that are filtered at a time: bounds the memory


def png(
    planes: Planes,
    *,
    exif: bytes | None = None,
    icc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    xmp: bytes | None = None,
    colour: Colour = (),
    texts: Texts = (),
) -> bytes:
    """A PNG file: the Sub filter in numpy and ISA-L's deflate; see tests/bench/encode.py."""
    height, width, count = planes.shape
    header = struct.pack(
        ">LLBBBBB", width, height, 8 * planes.itemsize, _COLOUR_TYPE[count], 0, 0, 0
    )
    chunks = [chunk_of(b"IHDR", header)]
    if icc:
        chunks.append(chunk_of(b"iCCP", b"ICC profile\x00\x00" + zlib.compress(icc)))
    chunks += [chunk_of(*one) for one in (*colour, *texts)]
    if xmp:
        chunks.append(chunk_of(b"iTXt", XMP_TEXT + bytes(4) + xmp))  # neither compressed nor named
    if dpi:
        per_metre = [min(round(side / 0.0254), 0x7FFFFFFF) for side in dpi]
        chunks.append(chunk_of(b"pHYs", struct.pack(">LLB", *per_metre, 1)))
    if exif:
        chunks.append(chunk_of(b"eXIf", exif))
    deflate = isal_zlib.compressobj(level=1)
    rows = max(1, _BAND // max(1, width * count * planes.itemsize))
    for top in range(0, height, rows):
        chunks.append(chunk_of(b"IDAT", deflate.compress(sub_filtered(planes[top : top + rows]))))
    chunks += [chunk_of(b"IDAT", deflate.flush()), chunk_of(b"IEND", b"")]
    return b"".join([b"\x89PNG\r\n\x1a\n", *chunks])


def sub_filtered(planes: Planes) -> npt.NDArray[np.uint8]:
    """PNG's scan lines: every byte minus the one a pixel to the left, after the filter's number."""
    height = len(planes)
    step = planes.shape[2] * planes.itemsize
    lines = np.ascontiguousarray(planes, planes.dtype.newbyteorder(">")).view(np.uint8)
    lines = lines.reshape(height, -1)
    filtered = np.empty((height, 1 + lines.shape[1]), np.uint8)
    filtered[:, 0] = 1  # the number of the Sub filter
    filtered[:, 1 : 1 + step] = lines[:, :step]
    np.subtract(lines[:, step:], lines[:, :-step], out=filtered[:, 1 + step :])
    return filtered


def chunk_of(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return b"".join(
        [struct.pack(">L", len(content)), name, content, struct.pack(">L", _crc(name, content))]
    )


def _crc(name: bytes, content: bytes) -> int:
    return isal_zlib.crc32(content, isal_zlib.crc32(name))


def tiff(
    planes: Planes,
    *,
    exif: bytes | None = None,
    icc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
    xmp: bytes | None = None,
) -> bytes:
    """A little-endian TIFF file: strips of about a megabyte, horizontal differences, deflate."""
    height, width, count = planes.shape
    rows = max(1, (1 << 20) // (width * count * planes.itemsize))
    strips = [
        isal_zlib.compress(_differences(planes[top : top + rows]), 1)
        for top in range(0, height, rows)
    ]
    tags = TiffImagePlugin.ImageFileDirectory_v2(b"II\x2a\x00\x00\x00\x00\x00")
    _copy_exif(exif, tags)
    tags[256], tags[257] = width, height
    tags[258] = (8 * planes.itemsize,) * count
    tags[259] = 8  # deflate
    tags[262] = 1 if count < 3 else 2  # gray with 0 as black, or RGB
    tags[277] = count
    tags[278] = rows
    tags[279] = tuple(len(strip) for strip in strips)
    tags[317] = 2  # the horizontal differences
    if count in (2, 4):
        tags[338] = 2  # alpha that the colours are not multiplied with
    if icc:
        tags.tagtype[34675] = 7
        tags[34675] = icc
    if xmp:
        tags.tagtype[700] = 1
        tags[700] = xmp
    if dpi:
        tags[282], tags[283], tags[296] = *dpi, 2  # per inch
    tags.tagtype[273] = 4
    tags[273] = tuple(accumulate(map(len, strips[:-1]), initial=0))
    # tobytes adds where the tags end, so the strips follow them
    return b"".join([b"II\x2a\x00", struct.pack("<L", 8), tags.tobytes(8), *strips])


def _differences(planes: Planes) -> bytes:
    differences = planes.astype(planes.dtype.newbyteorder("<"))
    differences[:, 1:] -= planes[:, :-1]
    return differences.tobytes()


def _copy_exif(exif: bytes | None, tags: TiffImagePlugin.ImageFileDirectory_v2) -> None:
    """The tags of the EXIF that describe the photograph and not how its pixels lie."""
    source = Image.Exif()
    try:
        source.load(b"Exif\x00\x00" + (exif or b""))
        described = descriptive(source)
    except (SyntaxError, OSError, *_PACKING_ERRORS):  # damaged in a way that only Pillow minds
        return
    for tag, value in described.items():
        tags[tag] = value


def descriptive(source: Image.Exif) -> Image.Exif:
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
