"""PNG files by their chunks: taken apart for `decoders` and for their metadata, and written.

Texts and profiles are never inflated beyond what is used of them, however long they are.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from isal import isal_zlib
from isal.igzip_lib import IsalError

from denoise.errors import ImageError
from denoise.images.exif import UNREADABLE
from denoise.images.metadata import NO_METADATA, Metadata
from denoise.images.planes import Planes, most_pieces

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\x00\x00\x00\x00IEND\xaeB\x60\x82"
_NEEDED = {b"IHDR", b"PLTE", b"tRNS"}  # beside the pixels: what a decoder is given
# What says, where no ICC profile does, how the colours are meant, and how long each is
_COLOUR = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_XMP_TEXT = b"XML:com.adobe.xmp\x00"  # the keyword of the text that holds XMP
_EXIF_TEXT = b"Raw profile type exif\x00"  # ImageMagick's: lines of hexadecimals
_LONGEST_PROFILE = 16 << 20  # bytes of an ICC profile: a scanner's largest are a few million
LONGEST_WRITTEN_PROFILE = 1 << 20  # bytes: Pillow opens no PNG with a longer one
_LONGEST_TEXT = 1 << 20  # bytes of all, inflated: Pillow opens no PNG with a longer one
# Texts that say what has changed since: EXIF with an orientation, a profile that may not fit
_OUTDATED = (_EXIF_TEXT, b"Raw profile type APP1\x00", b"Raw profile type icc\x00")
_LONGEST_KEYWORD = 79
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the colour type
_WHOLE = ((0, 0, 1, 1),)
# Adam7's seven passes: first column, first row, step between columns, between rows
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_AT_ONCE = 1 << 20  # bytes inflated at a time
_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # by the number of planes
_BAND = 1 << 22  # bytes of pixels that are filtered at a time: bounds the memory
_DAMAGED = "truncated or damaged PNG"
_TEXTS_LEFT_OUT = f"texts over {_LONGEST_TEXT >> 20} MiB left out"


@dataclass
class Png:
    """A PNG file, taken apart."""

    slim: bytes = b""  # the same picture without all that says more than its pixels
    metadata: Metadata = NO_METADATA
    frames: int = 1
    notes: list[str] = field(default_factory=list)
    text_bytes: int = 0  # of the texts, inflated


def take_apart(encoded: bytes) -> Png:
    """Split a PNG file into what its pixels need and what is known of them besides.

    Raises ImageError where the file has too many chunks, or its last rows are missing.
    """
    png = Png()
    needed: list[memoryview] = []
    pixels: list[memoryview] = []  # the contents of the chunks of pixels, in order
    is_animated_from_the_first = False
    for name, chunk in _chunks(encoded):
        if name == b"IDAT":
            pixels.append(chunk)
        elif pixels:
            _take_of_any_place(png, name, chunk[8:-4])
        elif name in _NEEDED:
            needed.append(chunk)
        else:
            is_animated_from_the_first |= name == b"fcTL"
            _take_of_any_place(png, name, chunk[8:-4])
            _take_of_the_head(png, name, chunk[8:-4])
    if png.frames > 1 and not is_animated_from_the_first:
        png.frames += 1  # the picture itself is none of its animation
    if png.metadata.icc:
        png.metadata = replace(png.metadata, colour=())
    if not needed or bytes(needed[0][4:8]) != b"IHDR" or len(needed[0]) < 25:
        raise ImageError(_DAMAGED)
    _check_rows(needed[0], pixels)
    png.slim = b"".join([_SIGNATURE, *needed, *pixels, _END])
    return png


def _chunks(encoded: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Names and chunks, in order, to the end or to where the file was cut."""
    view, start = memoryview(encoded), len(_SIGNATURE)
    for _ in range(most_pieces(len(encoded))):
        if start + 8 > len(encoded):
            return
        length, name = struct.unpack_from(">L4s", encoded, start)
        if name == b"IEND":
            return
        chunk = view[start : start + 12 + length]
        if len(chunk) < 12 + length:  # it was cut: what there is may be enough
            chunk = memoryview(chunk_of(name, bytes(chunk[8 : 8 + length])))
        yield name, chunk
        start += 12 + length
    raise ImageError("unsupported variant of PNG: too many chunks")


def _take_of_any_place(png: Png, name: bytes, content: memoryview) -> None:
    """What may also stand behind the pixels."""
    if name == b"eXIf":
        png.metadata = png.metadata.filled(exif=bytes(content))
    elif name in _TEXTS:
        _take_text(png, name, bytes(content))


def _take_of_the_head(png: Png, name: bytes, content: memoryview) -> None:
    """What counts in front of the pixels alone."""
    if name == b"iCCP":
        _take_profile(png, bytes(content))
    elif _COLOUR.get(name) == len(content):
        others = (one for one in png.metadata.colour if one[0] != name)
        png.metadata = replace(png.metadata, colour=(*others, (name, bytes(content))))
    elif name == b"pHYs" and len(content) >= 9 and content[8] == 1:  # per metre
        across, down = struct.unpack_from(">LL", content)
        png.metadata = replace(png.metadata, dpi=(across * 0.0254, down * 0.0254))
    elif name == b"acTL" and len(content) >= 8:
        png.frames = max(1, int.from_bytes(content[:4]))


def _take_profile(png: Png, content: bytes) -> None:
    compressed = content[content.find(b"\x00") + 2 :]
    inflate = zlib.decompressobj()
    try:
        icc = inflate.decompress(compressed, _LONGEST_PROFILE)
    except zlib.error:  # a damaged profile costs no picture
        return
    png.metadata = replace(png.metadata, icc=icc if inflate.eof else None)
    if not inflate.eof and inflate.unconsumed_tail:
        png.notes.append(f"ICC profile over {_LONGEST_PROFILE >> 20} MiB left out")


def _take_text(png: Png, name: bytes, content: bytes) -> None:
    """A text: EXIF, XMP, or one that goes along as long as all of them are short."""
    if content.startswith(_EXIF_TEXT):
        png.metadata = png.metadata.filled(exif=_exif_in_text(name, content))
        return
    keyword, _, rest = content.partition(b"\x00")
    if not rest or not 0 < len(keyword) <= _LONGEST_KEYWORD or content.startswith(_OUTDATED):
        return
    try:
        text = _inflate(name, rest)
    except (ValueError, zlib.error):  # a damaged text costs no picture
        return
    if name == b"iTXt" and content.startswith(_XMP_TEXT):
        png.metadata = png.metadata.filled(xmp=text)
        return
    png.text_bytes += max(len(content), len(text))
    if png.text_bytes <= _LONGEST_TEXT:
        png.metadata = replace(png.metadata, texts=(*png.metadata.texts, (name, content)))
    elif _TEXTS_LEFT_OUT not in png.notes:
        png.notes.append(_TEXTS_LEFT_OUT)


def _inflate(name: bytes, rest: bytes) -> bytes:
    """What a text says, from behind its keyword on, and never more than a byte beyond the longest.

    Raises ValueError or zlib.error where it is damaged.
    """
    if name == b"tEXt":
        return rest
    start, is_compressed = 1, True  # the first byte of a zTXt says how
    if name == b"iTXt":  # whether, and how, then its language, and its keyword in that
        is_compressed = rest[:1] == b"\x01"
        start = rest.index(b"\x00", rest.index(b"\x00", 2) + 1) + 1
    if not is_compressed:
        return rest[start:]
    inflate = zlib.decompressobj()
    text = inflate.decompress(rest[start:], _LONGEST_TEXT + 1)
    if not inflate.eof and len(text) <= _LONGEST_TEXT:
        raise ValueError("a text that is cut off")
    return text


def _exif_in_text(name: bytes, content: bytes) -> bytes:
    """EXIF from a text, as ImageMagick writes it; nonsense where it cannot be read."""
    try:
        text = _inflate(name, content[len(_EXIF_TEXT) :])
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except (ValueError, zlib.error):
        return UNREADABLE


def _check_rows(header: memoryview, pixels: list[memoryview]) -> None:
    """ImageError where the pixels of a PNG file end before its last row: decoders take a stream
    that ends cleanly for a whole one, and leave the other rows black."""
    missing = _length(header)
    inflate = isal_zlib.decompressobj()
    try:
        for chunk in pixels:
            rest: bytes | memoryview = chunk[8:-4]
            while rest and missing > 0 and not inflate.eof:
                missing -= len(inflate.decompress(rest, _AT_ONCE))
                rest = inflate.unconsumed_tail
    except IsalError as error:  # type: ignore[misc]  # its stub says no exception
        raise ImageError(_DAMAGED) from error
    if missing > 0:
        raise ImageError(_DAMAGED)


def _length(header: memoryview) -> int:
    """How many bytes the header promises: the lines of all passes, each after its filter's number.

    PNG specification, sections 8 and 9.
    """
    width, height, bits, kind, _, _, interlaced = struct.unpack_from(">LLBBBBB", header, 8)
    if kind not in _CHANNELS:
        raise ImageError(_DAMAGED)
    total = 0
    for left, top, across, down in _PASSES if interlaced else _WHOLE:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits * _CHANNELS[kind] // 8))
    return total


def encode_png(planes: Planes, metadata: Metadata) -> bytes:
    """A PNG file: the Sub filter in numpy and ISA-L's deflate; see tests/bench/encode.py.

    Pillow writes PNG slowly, and 16-bit colour not at all. A profile that Pillow would not read is
    left out.
    """
    height, width, count = planes.shape
    header = struct.pack(
        ">LLBBBBB", width, height, 8 * planes.itemsize, _COLOUR_TYPE[count], 0, 0, 0
    )
    chunks = [chunk_of(b"IHDR", header)]
    if metadata.icc and len(metadata.icc) <= LONGEST_WRITTEN_PROFILE:
        chunks.append(chunk_of(b"iCCP", b"ICC profile\x00\x00" + zlib.compress(metadata.icc)))
    chunks += [chunk_of(*one) for one in (*metadata.colour, *metadata.texts)]
    if metadata.xmp:  # neither compressed nor named
        chunks.append(chunk_of(b"iTXt", _XMP_TEXT + bytes(4) + metadata.xmp))
    if metadata.dpi:
        per_metre = [min(round(side / 0.0254), 0x7FFFFFFF) for side in metadata.dpi]
        chunks.append(chunk_of(b"pHYs", struct.pack(">LLB", *per_metre, 1)))
    if metadata.exif:
        chunks.append(chunk_of(b"eXIf", metadata.exif))
    deflate = isal_zlib.compressobj(level=1)
    rows = max(1, _BAND // max(1, width * count * planes.itemsize))
    for top in range(0, height, rows):
        chunks.append(chunk_of(b"IDAT", deflate.compress(sub_filtered(planes[top : top + rows]))))
    chunks += [chunk_of(b"IDAT", deflate.flush()), chunk_of(b"IEND", b"")]
    return b"".join([_SIGNATURE, *chunks])


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
