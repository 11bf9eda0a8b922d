"""PNG files by their chunks: whether all rows are there, and how their colours are meant."""

import struct
from collections.abc import Iterator

from isal import isal_zlib
from isal.igzip_lib import IsalError

from denoise.errors import ImageError
from denoise.images.writers import Colour

# What says, where no ICC profile does, how the colours are meant, and how long each is
_COLOUR = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
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


def colour_of(encoded: bytes) -> Colour:
    """The chunks of a PNG file that say how its colours are meant; none where a profile does."""
    found: dict[bytes, bytes] = {}
    for name, content in _chunks(encoded):
        if name == b"iCCP":
            return ()
        if name == b"IDAT":
            break
        if _COLOUR.get(name) == len(content):
            found[name] = bytes(content)
    return tuple(found.items())


def exif_of(encoded: bytes) -> bytes | None:
    """The EXIF of a PNG file, which may also stand behind its pixels."""
    return next((bytes(content) for name, content in _chunks(encoded) if name == b"eXIf"), None)


def check_rows(encoded: bytes) -> None:
    """ImageError where the pixels of a PNG file end before its last row: decoders take a stream
    that ends cleanly for a whole one, and leave the other rows black."""
    missing = _length(encoded)
    inflate = isal_zlib.decompressobj()
    try:
        for name, content in _chunks(encoded):
            rest = content if name == b"IDAT" else b""
            while rest and missing > 0 and not inflate.eof:
                missing -= len(inflate.decompress(rest, _AT_ONCE))
                rest = inflate.unconsumed_tail
    except IsalError as error:  # type: ignore[misc]  # its stub says no exception
        raise ImageError("truncated or damaged PNG") from error
    if missing > 0:
        raise ImageError("truncated or damaged PNG")


def _chunks(encoded: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Names and contents, in order, to the end or to where the file was cut."""
    view, start = memoryview(encoded), 8
    while start + 8 <= len(encoded):
        length, name = struct.unpack_from(">L4s", encoded, start)
        yield name, view[start + 8 : start + 8 + length]
        start += 12 + length


def _length(encoded: bytes) -> int:
    """How many bytes the header promises: the lines of all passes, each after its filter's number.

    PNG specification, sections 8 and 9.
    """
    width, height, bits, kind, _, _, interlaced = struct.unpack_from(">LLBBBBB", encoded, 16)
    total = 0
    for left, top, across, down in _PASSES if interlaced else _WHOLE:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits * _CHANNELS[kind] // 8))
    return total
