"""What a file says of its photograph in XMP and texts comes along, as long as it is short."""

import struct
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from denoise.images.codec import FORMATS, Picture, decode, encode
from denoise.images.metadata import Metadata
from denoise.images.named_colours import made_profile
from denoise.images.png import chunk_of
from tests.pictures import DEEP, GRAY, RGB, XMP, exif, good, heic, save, tiff

UPRIGHT = XMP.replace(b'Orientation="6"', b'Orientation="1"')


def texts_of(encoded: bytes) -> dict[str, str]:
    image = Image.open(BytesIO(encoded))
    assert isinstance(image, PngImagePlugin.PngImageFile)
    image.load()
    return image.text


@pytest.mark.parametrize("into", [format for format in FORMATS if format != "jxl"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_xmp_comes_along_into_every_format_and_pillow_reads_it_there(kind: str, into: str):
    rgb = Image.fromarray(RGB)
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", UPRIGHT.decode(), zip=True)
    more = {"PNG": {"pnginfo": text}, "TIFF": {"tiffinfo": {700: UPRIGHT}}}
    picture = decode(save(rgb, kind, **more.get(kind, {"xmp": UPRIGHT})))
    assert picture.metadata.xmp == UPRIGHT
    written = encode(picture, format=into)
    assert decode(written).metadata.xmp == UPRIGHT
    if into != "jpeg2000":
        assert Image.open(BytesIO(written)).info["xmp"] == UPRIGHT
    stripped = encode(picture, format=into, metadata=False)
    assert UPRIGHT not in stripped and decode(stripped).metadata.xmp is None


@pytest.mark.parametrize("pixels", [RGB, GRAY, DEEP, DEEP[..., :1]])
@pytest.mark.parametrize("format", ["jxl", "jpeg2000"])
def test_boxes_hold_exif_and_xmp_at_every_depth(format: str, pixels: np.ndarray):
    picture = Picture(
        pixels, format=format.upper(), metadata=Metadata(exif=exif(1)[6:], xmp=UPRIGHT)
    )
    again = decode(encode(picture, format=format))
    assert again.metadata == picture.metadata
    assert np.array_equal(again.pixels, pixels)


@pytest.mark.parametrize("kind", ["HEIC, XMP", "JPEG XL, EXIF, XMP"])
def test_xmp_of_pixels_that_a_library_has_turned_says_upright(kind: str):
    assert decode(good()[kind]).metadata.xmp == UPRIGHT


@pytest.mark.parametrize("kind", ["HEIC", "JPEG XL"])
def test_damaged_exif_does_not_turn_pixels_that_a_library_has_turned(kind: str):
    whole, claimed = exif(1)[6:], exif(6)[6:]
    at = claimed.index(struct.pack(">HHL", 0x8769, 4, 1)) + 8  # where its inner folder lies
    damaged = claimed[:at] + struct.pack(">L", 0x7FFFFFF0) + claimed[at + 4 :]
    described = Picture(RGB, metadata=Metadata(exif=whole))
    encoded = heic(RGB, exif=exif(1)) if kind == "HEIC" else encode(described, format="jxl")
    assert encoded.count(whole) == 1
    picture = decode(encoded.replace(whole, damaged))
    assert np.array_equal(picture.pixels, RGB)
    assert (picture.metadata.exif, picture.note) == (None, "unreadable EXIF left out")


@pytest.mark.parametrize("turned", [1, 6])
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "deep TIFF"])
def test_xmp_is_turned_with_the_pixels_by_their_exif_and_only_then(kind: str, turned: int):
    if kind == "deep TIFF":
        tags = [(274, 3, 1, turned, True), (700, 1, len(XMP), XMP, True)]
        encoded = tiff(DEEP, extratags=tags)
    else:
        more = {"xmp": XMP} if kind == "JPEG" else {"tiffinfo": {700: XMP, 274: turned}}
        more |= {"exif": exif(turned)} if kind == "JPEG" else {}
        encoded = save(Image.fromarray(RGB), kind, **more)
    picture = decode(encoded)
    assert picture.metadata.xmp == (UPRIGHT if turned == 6 else XMP)
    assert picture.height == (32 if turned == 6 else 24)


@pytest.mark.parametrize("into", ["png", "webp", "jpeg", "avif", "jpeg2000", "jxl"])
def test_exif_comes_along_byte_for_byte(into: str):
    odd = exif(1)[6:] + b"\x00odd bytes that no tag names"
    encoded = encode(Picture(RGB, metadata=Metadata(exif=odd)), format=into)
    assert decode(encoded).metadata.exif == odd


def test_a_jpeg_xl_has_the_pixels_that_it_was_given():
    ramp = [(204, 169, 122), (196, 165, 119), (189, 161, 117), (182, 157, 114), (176, 154, 112)]
    ramp += [(169, 150, 109), (162, 146, 107), (155, 142, 104), (149, 139, 102)]
    pixels = np.array([ramp], np.uint8)  # [1, 9, 3]; at its fastest libjxl gives other ones
    assert np.array_equal(decode(encode(Picture(pixels), format="jxl")).pixels, pixels)


def test_a_jpeg_xl_of_16_bits_says_that_its_curve_is_that_of_srgb():
    for deep in (DEEP, DEEP[..., :1]):
        linear = imagecodecs.jpegxl_encode(deep.squeeze(), lossless=True)
        assert decode(linear).metadata.icc  # of linear light: so imagecodecs writes 16 bits
        for more in ({}, {"exif": exif(1)[6:]}):
            ours = decode(encode(Picture(deep, metadata=Metadata(**more)), format="jxl"))
            assert ours.metadata.icc is None and np.array_equal(ours.pixels, deep)


@pytest.mark.parametrize("pixels", [RGB, GRAY, DEEP, DEEP[..., :1]])
def test_a_jp2_says_which_plane_is_alpha(pixels: np.ndarray):
    encoded = encode(Picture(pixels, pixels[..., 0]), format="jpeg2000")
    count = pixels.shape[2] + 1
    at = encoded.index(b"cdef") + 4
    said = np.frombuffer(encoded[at + 2 : at + 2 + 6 * count], ">u2").reshape(count, 3)
    assert said[-1].tolist() == [count - 1, 1, 0] and not said[:-1, 1].any()
    if pixels.itemsize == 1:
        assert Image.open(BytesIO(encoded)).mode == {2: "LA", 4: "RGBA"}[count]


def test_the_profile_of_a_jp2_comes_along():
    icc = decode(good()["PNG, RGB"]).metadata.icc
    assert icc
    encoded = encode(Picture(RGB, metadata=Metadata(icc=icc)), format="jpeg2000")
    assert decode(encoded).metadata.icc == icc
    assert Image.open(BytesIO(encoded)).size == (32, 24)


@pytest.mark.parametrize("pixels", [RGB, DEEP])
def test_the_pixels_of_a_jp2_are_not_converted_through_its_profile(pixels: np.ndarray):
    linear = made_profile((0.3127, 0.329), ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06)), 1.0)
    written = Picture(pixels, metadata=Metadata(icc=linear))
    picture = decode(encode(written, format="jpeg2000"))
    assert np.array_equal(picture.pixels, pixels)
    assert picture.metadata.icc == linear


def test_texts_of_a_png_come_along_into_a_png_as_they_are():
    source = good()["PNG, texts, XMP"]
    picture = decode(source)
    written = encode(picture)
    assert texts_of(written) == texts_of(source)
    assert texts_of(written)["Author"] == "Ä"
    assert texts_of(encode(picture, metadata=False)) == {}
    assert decode(encode(picture, format="tiff")).metadata.texts == ()


def test_texts_that_say_what_has_changed_since_stay_behind():
    raw = exif(6)[6:].hex().encode()
    old = b"Raw profile type APP1\x00\nAPP1\n%8d\n" % len(raw) + raw
    whole = save(Image.fromarray(RGB), "PNG")
    picture = decode(whole[:33] + chunk_of(b"tEXt", old) + whole[33:])
    assert picture.metadata.texts == () and np.array_equal(picture.pixels, RGB)


@pytest.mark.parametrize(
    "text",
    [
        b"no keyword",
        b"\x00empty keyword",
        b"k" * 80 + b"\x00long keyword",
    ],
)
def test_damaged_texts_cost_no_picture_and_stay_behind(text: bytes):
    whole = save(Image.fromarray(RGB), "PNG")
    for name in (b"tEXt", b"zTXt", b"iTXt"):
        picture = decode(whole[:33] + chunk_of(name, text) + whole[33:])
        assert picture.metadata.texts == () and picture.note is None


@pytest.mark.parametrize("packed", [b"nonsense", zlib.compress(b"cut off" * 999)[:-9]])
def test_compressed_texts_that_do_not_inflate_stay_behind(packed: bytes):
    whole = save(Image.fromarray(RGB), "PNG")
    for name, head in ((b"zTXt", b"\x00"), (b"iTXt", b"\x01\x00\x00\x00")):
        picture = decode(whole[:33] + chunk_of(name, b"Title\x00" + head + packed) + whole[33:])
        assert picture.metadata.texts == () and picture.note is None


@pytest.mark.parametrize("size", [1_000_000, 2_000_000])
def test_xmp_of_more_than_a_megabyte_is_left_out_and_said_so(size: int):
    long = XMP + b" " * size + b"<!-- end -->"
    picture = decode(tiff(RGB, extratags=[(700, 1, len(long), long, True)]))
    is_long = size > 1 << 20
    assert (picture.metadata.xmp is None) == is_long
    assert picture.note == ("XMP over 1 MiB left out" if is_long else None)


def test_xmp_that_is_too_long_for_a_jpeg_is_left_out_of_it():
    picture = Picture(RGB, metadata=Metadata(xmp=XMP + b" " * 70_000 + b"<!-- end -->"))
    assert decode(encode(picture, format="jpeg")).metadata.xmp is None
    assert decode(encode(picture, format="png")).metadata.xmp == picture.metadata.xmp


def test_a_gray_webp_keeps_its_mark_in_the_place_of_the_xmp():
    again = decode(encode(Picture(GRAY, metadata=Metadata(xmp=XMP)), format="webp"))
    assert np.array_equal(again.pixels, GRAY) and again.metadata.xmp is None


def test_the_profile_of_another_model_is_said_to_be_left_out():
    icc = decode(good()["PNG, RGB"]).metadata.icc or b""
    cmyk = icc[:16] + b"CMYK" + icc[20:]
    picture = decode(save(Image.fromarray(RGB), "JPEG", icc_profile=cmyk))
    assert (picture.metadata.icc, picture.note) == (
        None,
        "ICC profile for another colour model left out",
    )
    inks = decode(save(Image.fromarray(RGB).convert("CMYK"), "JPEG", icc_profile=cmyk))
    assert (inks.metadata.icc, inks.note) == (None, None)  # its colours were converted through it


def test_xmp_of_a_heic_is_found_whatever_else_it_holds():
    assert decode(heic(RGB, exif=exif(1), xmp=UPRIGHT)).metadata.xmp == UPRIGHT
