"""PNG files by their chunks: all rows or an error, and colours as they are meant."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from denoise.errors import ImageError
from denoise.images.codec import decode, encode
from denoise.images.png import take_apart
from tests.pictures import ALPHA, DEEP, GRAY, HEIGHT, RGB, WIDTH, exif, save

PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
PASSES += [(0, 1, 1, 2)]
KINDS = {  # kind: bits, colour type, pixels
    "gray": (8, 0, GRAY),
    "gray, 16 bits": (16, 0, DEEP[..., :1]),
    "RGB": (8, 2, RGB),
    "RGB, 16 bits": (16, 2, DEEP),
    "palette": (8, 3, GRAY),
    "gray and alpha": (8, 4, np.dstack([GRAY, ALPHA])),
    "RGBA": (8, 6, np.dstack([RGB, ALPHA])),
}


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">L", len(content))
        + name
        + content
        + struct.pack(">L", zlib.crc32(name + content))
    )


def lines_of(pixels: np.ndarray) -> bytes:
    big_endian = pixels.astype(pixels.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in big_endian)


def png(bits: int, kind: int, lines: bytes, *more: bytes, interlaced: int = 0) -> bytes:
    head = struct.pack(">LLBBBBB", WIDTH, HEIGHT, bits, kind, 0, 0, interlaced)
    palette = chunk(b"PLTE", RGB.tobytes()[:768]) if kind == 3 else b""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more) + palette
    return start + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["RGB", "RGB, 16 bits"])
def test_exif_behind_the_pixels_counts_as_exif_before_them(kind: str):
    bits, colours, pixels = KINDS[kind]
    plain = png(bits, colours, lines_of(pixels))
    turned = chunk(b"eXIf", exif(6)[6:])
    before = decode(png(bits, colours, lines_of(pixels), turned))
    behind = decode(plain[:-12] + turned + plain[-12:])
    assert np.array_equal(behind.pixels, np.rot90(pixels, -1))
    assert np.array_equal(behind.pixels, before.pixels)
    assert behind.metadata.exif == before.metadata.exif is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_ends_cleanly_before_the_last_row_is_no_picture(kind: str):
    bits, colours, pixels = KINDS[kind]
    assert decode(png(bits, colours, lines_of(pixels))).height == HEIGHT
    for rows in (0, 1, HEIGHT - 1):
        with pytest.raises(ImageError, match="truncated or damaged PNG"):
            decode(png(bits, colours, lines_of(pixels[:rows])))


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (1, WIDTH), (HEIGHT, 1), (3, 5)])
def test_an_interlaced_picture_has_all_of_its_passes(size: tuple[int, int]):
    pixels = RGB[: size[0], : size[1]]
    passes = [pixels[y::down, x::across] for x, y, across, down in PASSES]
    lines = b"".join(lines_of(one) for one in passes if one.size)
    encoded = bytearray(png(8, 2, lines, interlaced=1))
    head = struct.pack(">LLBBBBB", size[1], size[0], 8, 2, 0, 0, 1)
    encoded[8:33] = chunk(b"IHDR", head)
    assert np.array_equal(decode(bytes(encoded)).pixels, pixels)
    cut = encoded.replace(
        chunk(b"IDAT", zlib.compress(lines)), chunk(b"IDAT", zlib.compress(lines[:-1]))
    )
    with pytest.raises(ImageError, match="truncated or damaged PNG"):
        take_apart(bytes(cut))


def test_of_a_stream_that_never_ends_no_more_is_read_than_the_header_promises():
    endless = zlib.compress(bytes(200 << 20), 9)
    take_apart(png(8, 2, b"").replace(chunk(b"IDAT", zlib.compress(b"")), chunk(b"IDAT", endless)))


@pytest.mark.parametrize(("bits", "factor"), [(2, 85), (4, 17)])
def test_the_transparent_value_of_few_bits_is_transparent(bits: int, factor: int):
    values = GRAY[..., 0] >> (8 - bits)
    each = 8 // bits
    packed = sum(values[:, k::each] << (8 - bits * (k + 1)) for k in range(each))
    transparent = int(values[0, 0])
    lines = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in packed)
    picture = decode(png(bits, 0, lines, chunk(b"tRNS", struct.pack(">H", transparent))))
    assert np.array_equal(picture.pixels[..., 0], values * factor)
    assert np.array_equal(picture.alpha, np.where(values == transparent, 0, 255))


def test_what_a_png_says_of_its_colours_is_said_again_and_can_be_stripped():
    said = [(b"gAMA", struct.pack(">L", 100_000)), (b"cHRM", bytes(range(32)))]
    picture = decode(png(8, 2, lines_of(RGB), *(chunk(*one) for one in said)))
    assert picture.metadata.colour == tuple(said)
    assert take_apart(encode(picture)).metadata.colour == tuple(said)
    assert decode(encode(picture)).metadata.colour == tuple(said)
    assert take_apart(encode(picture, metadata=False)).metadata.colour == ()


def test_a_profile_stands_for_all_else_that_says_of_colours():
    profile = save(Image.fromarray(RGB), "PNG", icc_profile=bytes(16) + b"RGB " + bytes(200))
    at = profile.index(b"iCCP") - 4
    encoded = profile[:at] + chunk(b"gAMA", bytes(4)) + profile[at:]
    assert take_apart(encoded).metadata.colour == ()
