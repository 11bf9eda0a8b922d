"""Deep pixels and TIFF's variants: 16 bits stay 16 bits or are refused, whole files are whole."""

import struct
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from denoise.errors import ImageError
from denoise.images.codec import decode
from tests.pictures import ALPHA, DEEP, GRAY, HEIGHT, RGB, WIDTH, bmp_of, png_of, save, tiff

PLAIN = b" ".join(b"%d" % value for value in DEEP.ravel())
BIG = {  # kind: BigTIFF's pixels and how they are written
    "8-bit RGB": (RGB, {}),
    "8-bit RGB, LZW": (RGB, {"compression": "lzw"}),
    "8-bit gray": (GRAY[..., 0], {"photometric": "minisblack"}),
    "16-bit gray": (DEEP[..., 0], {"photometric": "minisblack"}),
    "16-bit RGB": (DEEP, {}),
    "16-bit RGB, tiled, deflate": (DEEP, {"compression": "zlib", "tile": (16, 16)}),
}


def sgi(planes: np.ndarray) -> bytes:
    """A 16-bit SGI file, not compressed: plane by plane, the lowest row first."""
    height, width, count = planes.shape
    head = struct.pack(">hBBHHHH", 474, 0, 2, 3 if count > 1 else 2, width, height, count)
    return head.ljust(512, b"\0") + np.moveaxis(planes, 2, 0)[:, ::-1].astype(">u2").tobytes()


def ico(png: bytes) -> bytes:
    head = struct.pack("<HHH", 0, 1, 1)
    return head + struct.pack("<BBBBHHLL", WIDTH, HEIGHT, 0, 0, 1, 48, len(png), 22) + png


def dds(*pixel_format: int, more: bytes = b"") -> bytes:
    """A texture of 4 x 4 pixels: its size and flags, the format of its pixels, what follows."""
    head = struct.pack("<4sLLLLL", b"DDS ", 124, 0x1007, 4, 4, 16) + bytes(52)
    return head + struct.pack("<8L", *pixel_format) + bytes(20) + more


DEEP_FILES = {
    "PPM, plain": b"P3 %d %d 65535\n" % (WIDTH, HEIGHT) + PLAIN,
    "PPM, plain, 10 bits": b"P3 1 1 1023\n1023 1 2\n",
    "SGI, RGB": sgi(DEEP),
    "SGI, gray": sgi(DEEP[..., :1]),
    "DDS, BC6H": dds(
        32,
        4,
        int.from_bytes(b"DX10", "little"),
        *[0] * 5,
        more=struct.pack("<5L", 95, 3, 0, 1, 0) + bytes(range(16)),
    ),
    "DDS, 10 bits": dds(32, 0x40, 0, 32, 0x3FF, 0xFFC00, 0x3FF00000, 0, more=bytes(range(64))),
}


@pytest.mark.parametrize("kind", DEEP_FILES)
def test_deep_pixels_that_cannot_be_kept_are_refused_and_never_cut_to_eight_bits(kind: str):
    bits = 10 if kind == "DDS, 10 bits" else 16
    words = f"unsupported variant of {kind[:3]}: {bits} bits a channel"
    with pytest.raises(ImageError, match=words):
        decode(DEEP_FILES[kind])


def test_a_plain_portable_map_of_eight_bits_or_of_deep_gray_is_fine():
    colour = b"P3 2 1 255\n1 2 3 255 0 9\n"
    assert decode(colour).pixels.tolist() == [[[1, 2, 3], [255, 0, 9]]]
    assert decode(b"P2 2 1 65535\n1 65535\n").pixels.tolist() == [[[1], [65535]]]
    assert decode(b"P1 2 1\n1 0\n").pixels.tolist() == [[[0], [255]]]


@pytest.mark.parametrize("pixels", [RGB, DEEP])
def test_an_icon_keeps_the_bits_of_the_png_inside(pixels: np.ndarray):
    picture = decode(ico(imagecodecs.png_encode(pixels)))
    assert np.array_equal(picture.pixels, pixels)
    assert picture.format == "ICO"


@pytest.mark.parametrize("kind", BIG)
def test_a_bigtiff_is_a_tiff(kind: str):
    pixels, options = BIG[kind]
    picture = decode(tiff(pixels, bigtiff=True, **options))
    assert np.array_equal(picture.pixels, pixels.reshape(HEIGHT, WIDTH, -1))
    assert (picture.format, picture.note) == ("TIFF", None)


@pytest.mark.parametrize("pixels, kind", [(GRAY[..., 0], "minisblack"), (RGB, "rgb")])
def test_half_floats_are_pixels(pixels: np.ndarray, kind: str):
    halves = (pixels / 255).astype(np.float16)
    opened = decode(tiff(halves, photometric=kind)).pixels.reshape(pixels.shape)
    assert opened.dtype == np.uint16
    np.testing.assert_array_equal(opened, np.rint(halves.astype(np.float64) * 65535))


@pytest.mark.parametrize("pixels", [RGB, DEEP])
def test_a_big_endian_bigtiff_is_not_called_damaged(pixels: np.ndarray):
    with pytest.raises(ImageError, match="unsupported variant of TIFF: big-endian BigTIFF"):
        decode(tiff(pixels, bigtiff=True, byteorder=">"))


@pytest.mark.parametrize("pixels", [RGB, DEEP])
def test_a_bigtiff_is_turned_and_keeps_what_its_tags_say(pixels: np.ndarray):
    tags = [(274, 3, 1, 6, True), (271, 2, 0, "Maker", True)]
    picture = decode(tiff(pixels, bigtiff=True, extratags=tags))
    assert np.array_equal(picture.pixels, np.rot90(pixels, -1))
    assert picture.metadata.exif is not None and b"Maker" in picture.metadata.exif


@pytest.mark.parametrize("kind", BIG)
def test_a_cut_bigtiff_is_an_error_or_the_whole_picture(kind: str):
    pixels, options = BIG[kind]
    encoded = tiff(pixels, bigtiff=True, **options)
    for end in range(0, len(encoded), 50):
        try:
            cut = decode(encoded[:end])
        except ImageError:
            continue
        assert np.array_equal(cut.pixels, pixels.reshape(HEIGHT, WIDTH, -1))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("pixels", [RGB, DEEP])
def test_of_a_tiff_of_any_depth_the_first_page_is_taken_and_said_so(pixels, big):
    pages = tiff(np.stack([pixels, pixels // 2, pixels // 3]), bigtiff=big)
    picture = decode(pages)
    assert np.array_equal(picture.pixels, pixels)
    assert picture.note == "first of 3 frames"


def test_a_tiff_whose_pages_run_in_a_circle_has_as_many_as_there_are():
    pages = bytearray(tiff(np.stack([DEEP, DEEP])))
    with tifffile.TiffFile(BytesIO(bytes(pages))) as file:
        first, second = (page.offset for page in file.pages)
    (entries,) = struct.unpack_from("<H", pages, second)
    struct.pack_into("<L", pages, second + 2 + 12 * entries, first)
    assert decode(bytes(pages)).note == "first of 2 frames"


def test_a_tiff_whose_second_page_is_cut_off_has_several_and_the_first_is_good():
    pages = bytearray(tiff(DEEP))
    (first,) = struct.unpack_from("<L", pages, 4)
    (entries,) = struct.unpack_from("<H", pages, first)
    struct.pack_into("<L", pages, first + 2 + 12 * entries, len(pages) + 8)
    picture = decode(bytes(pages))
    assert np.array_equal(picture.pixels, DEEP)
    assert picture.note == "first of several frames"


def test_a_tiff_whose_first_pixels_spell_cr_is_no_camera_raw():
    head = struct.pack("<2sHL", b"II", 42, 8 + 4) + b"CRCR"
    tags = {256: 2, 257: 2, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 2, 279: 4}
    entries = [struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags.items()]
    encoded = head + struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    assert decode(encoded).pixels.ravel().tolist() == list(b"CRCR")


@pytest.mark.parametrize("format", ["GIF", "PNG", "TIFF"])
def test_gray_in_a_palette_is_gray(format: str):
    gray = Image.fromarray(GRAY[..., 0])
    for picture in (gray, gray.convert("P")):
        assert np.array_equal(decode(save(picture, format)).pixels, GRAY)


def test_gray_in_a_palette_keeps_what_is_transparent():
    value = int(GRAY[0, 0, 0])
    encoded = save(Image.fromarray(GRAY[..., 0]).convert("P"), "PNG", transparency=value)
    picture = decode(encoded)
    assert np.array_equal(picture.pixels, GRAY)
    assert np.array_equal(picture.alpha, np.where(GRAY[..., 0] == value, 0, 255))


@pytest.mark.parametrize("format", ["TIFF", "WEBP", "GIF", "PNG"])
def test_the_limit_of_pixels_is_ours_and_not_pillows(format: str, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    encoded = save(Image.fromarray(RGB), format)
    assert decode(encoded).height == HEIGHT
    with pytest.raises(ImageError, match="more than 50 pixels \\(the limit is --max-pixels\\)"):
        decode(encoded, max_pixels=50)
    assert Image.MAX_IMAGE_PIXELS == 100  # which others in this process may rely on


def test_a_canvas_too_large_is_refused_before_it_is_made():
    side = (60_000 - 1).to_bytes(3, "little")
    head = b"VP8X" + struct.pack("<LL", 10, 0) + side + side
    encoded = b"RIFF" + struct.pack("<L", 4 + len(head)) + b"WEBP" + head
    with pytest.raises(ImageError, match="more than 200,000,000 pixels"):
        decode(encoded)


@pytest.mark.parametrize("encoded", [png_of(0, 5), bmp_of(0, 5), bmp_of(5, 0)])
def test_a_picture_without_pixels_is_called_so_whatever_its_kind(encoded: bytes):
    with pytest.raises(ImageError, match="no pixels: the width or the height is zero"):
        decode(encoded)


@pytest.mark.parametrize("pixels", [RGB, DEEP])
def test_the_resolution_of_a_tiff_is_turned_with_it(pixels: np.ndarray):
    turned = tiff(pixels, resolution=(300, 150), resolutionunit=2, extratags=[(274, 3, 1, 6, True)])
    assert decode(turned).metadata.dpi == (150, 300)


def test_a_fourth_channel_without_a_name_is_carried_as_alpha_at_any_depth():
    for pixels, fourth in ((RGB, ALPHA), (DEEP, DEEP[..., 0])):
        picture = decode(tiff(np.dstack([pixels, fourth]), extrasamples=["unspecified"]))
        assert np.array_equal(picture.pixels, pixels)
        assert np.array_equal(picture.alpha, fourth)


def test_signed_pixels_and_a_fifth_channel_are_refused_and_never_misread():
    with pytest.raises(ImageError, match="unsupported: 32-bit integer or signed pixels"):
        decode(tiff(GRAY[..., 0].view(np.int8), photometric="minisblack"))
    for pixels in (RGB, DEEP):
        with pytest.raises(ImageError, match="multiplied alpha or more than one"):
            decode(tiff(np.dstack([pixels, pixels[..., :2]])))
