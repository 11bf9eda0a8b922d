"""Made image files that cost far more than their size: what the tests and the bench of limits read.

Each maker returns the file's bytes. `FILES` has all of them, by what is wrong, as functions: some
files are tens of megabytes long.
"""

import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.conftest import photo
from tests.pictures import png_of, save


def exif_in_circles(count: int) -> bytes:
    """EXIF of `count` entries, each of which says that EXIF's own directory is the first one."""
    entry = struct.pack("<HHLL", 0x8769, 4, 1, 8)
    return b"II\x2a\x00" + struct.pack("<LH", 8, count) + entry * count + bytes(4)


def exif_read_over_and_over(count: int, size: int) -> bytes:
    """EXIF of `count` tags, each of whose values are the same `size` bytes."""
    entries = b"".join(
        struct.pack("<HHLL", 0x1000 + number, 7, size, 14 + 12 * count) for number in range(count)
    )
    return b"II\x2a\x00" + struct.pack("<LH", 8, count) + entries + bytes(4 + size)


def png_with_exif(exif: bytes) -> bytes:
    return png_of(4, 4, bytes(4 * 5), eXIf=exif)


def png_of_pieces(content: bytes, size: int) -> bytes:
    """Pixels of a PNG in chunks of so many bytes."""
    pieces = (content[start : start + size] for start in range(0, len(content), size))
    return b"".join(_chunk(b"IDAT", piece) for piece in pieces)


def _chunk(name: bytes, content: bytes) -> bytes:
    crc = struct.pack(">L", zlib.crc32(name + content))
    return struct.pack(">L", len(content)) + name + content + crc


def png_of_chunks(count: int, name: bytes = b"teSt", content: bytes = b"") -> bytes:
    """A good PNG, with `count` more chunks before its pixels."""
    whole = png_of(4, 4, bytes(4 * 5))
    return whole[:33] + _chunk(name, content) * count + whole[33:]


def jpeg_of_scans(count: int, side: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    whole = save(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * (count - 1) + whole[-2:]


def jpeg_of_segments(count: int, marker: bytes, content: bytes = b"") -> bytes:
    """A good JPEG that begins with `count` more segments."""
    whole = save(Image.fromarray(photo(24, 32)), "JPEG")
    return whole[:2] + (marker + struct.pack(">H", 2 + len(content)) + content) * count + whole[2:]


def animated_webp(width: int, height: int) -> bytes:
    """An animation of three small frames that claims this canvas."""
    frames = [Image.fromarray(photo(24, 32, seed=seed)) for seed in range(3)]
    whole = bytearray(save(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    whole[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(whole)


def plain_webp(side: int) -> bytes:
    """One colour without loss: no pixel takes a bit."""
    whole = bytearray(save(Image.new("RGB", (16, 16), (9, 99, 199)), "WEBP", lossless=True))
    (bits,) = struct.unpack_from("<L", whole, 21)
    bits = bits & ~0xFFFFFFF | (side - 1) | (side - 1) << 14
    struct.pack_into("<L", whole, 21, bits)
    return bytes(whole)


def tiff_of_pages(count: int) -> bytes:
    """A good TIFF that is followed by `count` directories without entries."""
    whole = save(Image.fromarray(photo(24, 32)), "TIFF")
    whole += bytes(len(whole) % 2)
    (first,) = struct.unpack_from("<L", whole, 4)
    link = first + 2 + 12 * struct.unpack_from("<H", whole, first)[0]
    pages = np.zeros(count, np.dtype([("entries", "<u2"), ("next", "<u4")]))
    pages["next"] = len(whole) + 6 * np.arange(1, count + 1)
    pages["next"][-1] = 0
    return whole[:link] + struct.pack("<L", len(whole)) + whole[link + 4 :] + pages.tobytes()


def tiff_read_over_and_over(count: int, size: int) -> bytes:
    """A TIFF of `count` tags, each of whose values are the same `size` bytes."""
    plain = {256: 2, 257: 2, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 2, 279: 4}
    entries = [struct.pack("<HHLL", tag, 4, 1, value) for tag, value in plain.items()]
    start = 16 + 2 + 12 * (len(plain) + count) + 4
    entries += [struct.pack("<HHLL", 1000 + number, 7, size, start) for number in range(count)]
    head = b"II\x2a\x00" + struct.pack("<L", 16) + bytes(8)
    return head + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4 + size)


def tiff_of_strips(count: int) -> bytes:
    """A TIFF that lists `count` strips, of which it needs one."""
    plain = {256: 2, 257: 2, 258: 8, 259: 1, 262: 1, 277: 1, 278: 2}
    entries = [struct.pack("<HHLL", tag, 4, 1, value) for tag, value in plain.items()]
    start = 16 + 2 + 12 * (len(plain) + 2) + 4
    entries.insert(5, struct.pack("<HHLL", 273, 4, count, start))
    entries.append(struct.pack("<HHLL", 279, 4, count, start + 4 * count))
    head = b"II\x2a\x00" + struct.pack("<L", 16) + bytes(8)
    lists = struct.pack("<L", 8) * count + struct.pack("<L", 4) * count
    return head + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4) + lists


def gif_of_frames(count: int) -> bytes:
    """A good GIF, with `count` more frames of one pixel."""
    whole = save(Image.fromarray(photo(24, 32)).quantize(64), "GIF")
    frame = b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\x00"
    return whole[:-1] + frame * count + whole[-1:]


def gif_of_comments(count: int, *, is_one: bool) -> bytes:
    """A good GIF that begins with `count` comments, or with one of so many blocks."""
    whole = save(Image.fromarray(photo(24, 32)).quantize(64), "GIF", optimize=False)
    start = 13 + 3 * 2 ** ((whole[10] & 7) + 1)
    comments = b"\x21\xfe\x04abcd\x00" * count
    if is_one:
        comments = b"\x21\xfe" + (b"\xff" + b"a" * 255) * count + b"\x00"
    return whole[:start] + comments + whole[start:]


def jp2_of_components(count: int, side: int) -> bytes:
    """A JPEG 2000 codestream that claims `count` components, and holds nothing."""
    siz = struct.pack(">HLLLLLLLLH", 0, side, side, 0, 0, side, side, 0, 0, count)
    siz += b"\x07\x01\x01" * count
    cod = struct.pack(">BBHBBBBBB", 0, 0, 1, 0, 0, 4, 4, 0, 1)
    qcd = b"\x40\x40"
    parts = [b"\xff\x4f\xff\x51", struct.pack(">H", len(siz) + 2), siz]
    parts += [b"\xff\x52", struct.pack(">H", len(cod) + 2), cod]
    parts += [b"\xff\x5c", struct.pack(">H", len(qcd) + 2), qcd]
    parts += [b"\xff\x90", struct.pack(">HHLBB", 10, 0, 15, 0, 1), b"\xff\x93\x00", b"\xff\xd9"]
    return b"".join(parts)


def ppm_of_digits(count: int) -> bytes:
    """A plain portable map whose first number has `count` digits."""
    return b"P3\n2 2\n255\n" + b"1" * count


FILES: dict[str, Callable[[], bytes]] = {
    "PNG, EXIF of 4,000 directories in circles": lambda: png_with_exif(exif_in_circles(4000)),
    "PNG, EXIF of 60,000 directories in circles": lambda: png_with_exif(exif_in_circles(60000)),
    "PNG, EXIF of 60,000 tags with the same value": lambda: png_with_exif(
        exif_read_over_and_over(60000, 1 << 18)
    ),
    "PNG, 3 million empty chunks": lambda: png_of_chunks(3_000_000),
    "PNG, 3 million empty IDAT": lambda: png_of_chunks(3_000_000, b"IDAT"),
    "PNG, 1 million texts": lambda: png_of_chunks(1_000_000, b"tEXt", b"a\x00b"),
    "JPEG, 1,000 scans": lambda: jpeg_of_scans(1000, 5000),
    "JPEG, 3 million comments": lambda: jpeg_of_segments(3_000_000, b"\xff\xfe"),
    "JPEG, 1,500 EXIF segments": lambda: jpeg_of_segments(
        1500, b"\xff\xe1", b"Exif\x00\x00" + bytes(60_000)
    ),
    "WebP, animated, 16,000 x 16,000": lambda: animated_webp(16_000, 16_000),
    "WebP, animated, 20,000 x 20,000": lambda: animated_webp(20_000, 20_000),
    "WebP, one colour, 16,383 x 16,383": lambda: plain_webp(16_383),
    "TIFF, 16 million directories": lambda: tiff_of_pages(16_000_000),
    "TIFF, 60,000 tags with the same value": lambda: tiff_read_over_and_over(60000, 1 << 20),
    "TIFF, 10 million strips": lambda: tiff_of_strips(10_000_000),
    "GIF, 1 million frames": lambda: gif_of_frames(1_000_000),
    "GIF, a comment of 50 MB": lambda: gif_of_comments(200_000, is_one=True),
    "GIF, 1 million comments": lambda: gif_of_comments(1_000_000, is_one=False),
    "JPEG 2000, 16,384 components": lambda: jp2_of_components(16_384, 4000),
    "PPM, a number of 10 million digits": lambda: ppm_of_digits(10_000_000),
}
