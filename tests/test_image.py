import sys
import zlib
from dataclasses import replace
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps

from denoise import InferConfig
from denoise.errors import ImageError
from denoise.images.codec import (
    FORMATS,
    Picture,
    decode,
    encode,
    format_for,
    is_lossy,
    suffix_of,
    to_floats,
    to_pixels,
)
from denoise.images.metadata import Metadata
from denoise.images.metrics import mse
from denoise.images.sniff import looks_like_image
from denoise.verbs.save import save as save_picture
from tests import pictures
from tests.pictures import ALPHA, DEEP, DEEP_ALPHA, GRAY, HEIGHT, RGB, WIDTH, exif, save

GOOD, BAD = pictures.good(), pictures.bad()
WITHOUT_LOSS = {  # kind: its pixels and its alpha
    "PNG, RGB": (RGB, None),
    "PNG, RGBA": (RGB, ALPHA),
    "PNG, gray": (GRAY, None),
    "PNG, gray and alpha": (GRAY, ALPHA),
    "PNG, 16-bit gray": (DEEP[..., :1], None),
    "PNG, 16-bit RGB": (DEEP, None),
    "PNG, 16-bit RGBA": (DEEP, DEEP_ALPHA),
    "PNG, RGB, transparent colour": (RGB, np.full_like(ALPHA, 255)),
    "PNG, gray, transparent value": (GRAY, np.where(GRAY == 100, 0, 255)),
    "PNG, animated": (RGB, None),
    "WebP, lossless, RGBA": (RGB, ALPHA),
    "TIFF, RGB, LZW": (RGB, None),
    "TIFF, RGBA, deflate": (RGB, ALPHA),
    "TIFF, 16-bit gray": (DEEP[..., :1], None),
    "TIFF, 16-bit RGB": (DEEP, None),
    "TIFF, 16-bit RGB, tiled, deflate": (DEEP, None),
    "TIFF, 16-bit RGB, planes apart": (DEEP, None),
    "TIFF, 16-bit RGBA": (DEEP, DEEP_ALPHA),
    "TIFF, float in 0..1": (DEEP, None),
    "TIFF, several pages": (RGB, None),
    "BMP": (RGB, None),
    "JPEG 2000, 16 bits": (DEEP, None),
    "HEIC": (RGB, None),
    "HEIC, gray": (GRAY, None),
    "JPEG XL": (RGB, None),
    "JPEG XL, boxes": (RGB, None),
    "JPEG XL, 16 bits": (DEEP, None),
    "PPM": (RGB, None),
    "PGM, 16 bits": (DEEP[..., :1], None),
    "TGA": (RGB, None),
    "QOI": (RGB, None),
    "SGI": (RGB, None),
    "DDS": (RGB, None),
}


# --- what comes back ---


@pytest.mark.parametrize("kind", GOOD)
def test_every_kind_decodes_to_its_photograph(kind: str):
    picture = decode(GOOD[kind])
    turned = "EXIF 6" in kind
    assert (picture.height, picture.width) == ((WIDTH, HEIGHT) if turned else (HEIGHT, WIDTH))
    assert picture.pixels.flags.c_contiguous
    assert picture.pixels.shape[2] == (
        1 if "gray" in kind or "1 bit" in kind or "PGM" in kind else 3
    )
    assert picture.bit_depth == (16 if any(word in kind for word in ("16", "10 b", "float")) else 8)
    upright = np.rot90(picture.pixels) if turned else picture.pixels
    tolerance = 255 if "1 bit" in kind or "CMYK, profile" in kind else 60
    off = np.abs(to_floats(upright).mean(2) - to_floats(RGB).mean(2))
    assert np.median(off) * 255 < tolerance


@pytest.mark.parametrize("kind", WITHOUT_LOSS)
def test_kinds_without_loss_come_back_bit_for_bit(kind: str):
    picture = decode(GOOD[kind])
    pixels, alpha = WITHOUT_LOSS[kind]
    assert np.array_equal(picture.pixels, pixels)
    assert (picture.alpha is None) == (alpha is None)
    if alpha is not None:
        assert np.array_equal(picture.alpha, alpha.squeeze())


def test_a_jpeg_has_the_pixels_that_pillow_gives_it():
    rgb = Image.fromarray(pictures.photo(101, 67))
    for options in ({}, {"subsampling": 2}, {"subsampling": "4:1:1"}, {"progressive": True}):
        encoded = save(rgb, "JPEG", quality=70, **options)
        assert np.array_equal(decode(encoded).pixels, np.asarray(Image.open(BytesIO(encoded))))
    cmyk = GOOD["JPEG, CMYK"]
    by_pillow = np.asarray(Image.open(BytesIO(cmyk)).convert("RGB"))
    assert np.array_equal(decode(cmyk).pixels, by_pillow)


def test_a_jpeg_with_stray_bytes_before_its_end_is_fine():
    jpeg = save(Image.fromarray(RGB), "JPEG")
    stray = jpeg[:-2] + b"\x00\x00" + jpeg[-2:]
    assert np.array_equal(decode(stray).pixels, decode(jpeg).pixels)


def test_ten_bits_are_stretched_to_sixteen_so_that_white_stays_white():
    white = np.full((HEIGHT, WIDTH, 3), 1023, np.uint16)
    picture = decode(imagecodecs.avif_encode(white, level=100, bitspersample=10))
    assert picture.pixels.min() > 65535 - 300


def test_white_is_zero_in_some_tiffs():
    deep = pictures.tiff(65535 - DEEP[..., 0], photometric="miniswhite")
    assert np.array_equal(decode(deep).pixels, DEEP[..., :1])


def test_a_transparent_colour_of_a_deep_png_becomes_alpha():
    gray = Image.fromarray(np.ascontiguousarray(DEEP[..., 0]))
    picture = decode(save(gray, "PNG", transparency=int(DEEP[3, 4, 0])))
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha == 0, DEEP[..., 0] == DEEP[3, 4, 0])


def test_of_an_animation_the_first_frame_is_taken_and_said_so():
    for kind in ("PNG, animated", "WebP, animated", "GIF, animated", "TIFF, several pages"):
        assert decode(GOOD[kind]).note == "first of 3 frames"
    assert decode(GOOD["GIF"]).note is None


def test_the_name_of_the_format_is_that_of_the_content():
    assert decode(GOOD["JPEG, CMYK"]).format == "JPEG"
    assert decode(GOOD["WebP"]).format == "WEBP"
    two = save(Image.fromarray(RGB), "MPO", save_all=True, append_images=[Image.fromarray(RGB)])
    assert (decode(two).format, decode(two).note) == ("JPEG", "first of 2 frames")


# --- bad files ---


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_an_error_in_plain_words(kind: str):
    with pytest.raises(ImageError) as caught:
        decode(BAD[kind])
    words = str(caught.value)
    assert len(words) < 90 and "\n" not in words and "0x7" not in words
    expected = {
        "empty": "empty file",
        "text": "not an image",
        "half": "truncated or damaged ",
        "60000x60000": "more than 200,000,000 pixels",
        "NaN": "not a number (NaN)",
        "SVG": "unsupported kind: SVG",
        "MP4": "unsupported kind: video",
    }
    for part, start in expected.items():
        assert part not in kind or words.startswith(start)


@pytest.mark.parametrize("kind", GOOD)
def test_a_cut_file_is_an_error_or_the_whole_picture(kind: str):
    encoded = GOOD[kind]
    whole = decode(encoded)
    for end in range(0, len(encoded), max(1, len(encoded) // 40)):
        try:
            cut = decode(encoded[:end])
        except ImageError:
            continue
        assert np.array_equal(cut.pixels, whole.pixels)
        assert (cut.alpha is None) == (whole.alpha is None)


def test_a_tiff_that_lacks_a_strip_is_an_error_and_not_half_black():
    encoded = bytearray(GOOD["TIFF, RGB, not compressed"])
    height = encoded.index(b"\x01\x01\x04\x00\x01\x00\x00\x00\x18\x00")  # tag 257: 24 rows
    encoded[height + 8] = 48  # the one strip still holds 24
    with pytest.raises(ImageError, match="truncated or damaged TIFF"):
        decode(bytes(encoded))


def test_the_limit_of_pixels_is_the_callers():
    assert decode(GOOD["PNG, RGB"], max_pixels=WIDTH * HEIGHT).width == WIDTH
    for kind in ("PNG, RGB", "JPEG", "TIFF, 16-bit RGB", "GIF", "WebP"):
        with pytest.raises(ImageError, match="more than 767 pixels"):
            decode(GOOD[kind], max_pixels=WIDTH * HEIGHT - 1)


def test_a_bomb_in_the_profile_is_left_out_and_said_so():
    bomb = zlib.compress(bytes(1 << 25))
    picture = decode(pictures.png_of(4, 4, bytes(20), iCCP=b"x\x00\x00" + bomb))
    assert (picture.metadata.icc, picture.note) == (None, "ICC profile over 16 MiB left out")
    assert picture.pixels.shape == (4, 4, 1)


@pytest.mark.parametrize(
    "library, kind", [("imagecodecs", "PNG, 16-bit RGB"), ("tifffile", "TIFF, 16-bit RGB")]
)
def test_without_the_extra_a_deep_picture_is_an_error_that_names_it(
    library: str, kind: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImageError, match=r"pip install 'bulk-denoise\[formats\]'"):
        decode(GOOD[kind])
    assert decode(GOOD["PNG, 16-bit gray"]).bit_depth == 16  # Pillow suffices


def test_what_looks_like_an_image():
    assert all(looks_like_image(encoded[:512]) for kind, encoded in GOOD.items() if kind != "TGA")
    assert looks_like_image(BAD["PSD"]) and looks_like_image(BAD["SVG"])
    for other in (b"", b"BM is a text about bitmaps", b"\xd0\xcf\x11\xe0", BAD["MP4"], BAD["PDF"]):
        assert not looks_like_image(other)


# --- orientation and metadata ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_orientation_is_applied_and_reset(format: str, orientation: int):
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    both = np.dstack([RGB, ALPHA]) if format != "JPEG" else RGB
    encoded = save(Image.fromarray(both), format, exif=exif(orientation), **options)
    picture = decode(encoded)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(encoded))))
    assert np.array_equal(picture.pixels, expected[..., :3])
    assert picture.alpha is None or np.array_equal(picture.alpha, expected[..., 3])
    tags = Image.Exif()
    tags.load(picture.metadata.exif)
    inner = tags.get_ifd(0x8769)
    assert (tags[0x010F], tags.get(0x0112, 1), inner[0x829A]) == ("Maker", 1, 0.01)
    if format != "TIFF":  # there the tags of the EXIF's own folder are copied as they are
        assert (inner[0xA002], inner[0xA003]) == (picture.width, picture.height)


def test_a_deep_tiff_is_turned_too():
    turned = pictures.tiff(DEEP, extratags=[(274, 3, 1, 6, True)])
    assert np.array_equal(decode(turned).pixels, np.rot90(DEEP, -1))


def test_a_thumbnail_in_the_exif_goes():
    tags = Image.Exif()
    tags.load(exif(6))
    folder = bytearray(tags.tobytes())
    jpeg = save(Image.fromarray(RGB), "JPEG")
    link = (
        6 + 8 + 2 + 12 * int.from_bytes(folder[14:16], "big" if folder[6:8] == b"MM" else "little")
    )
    order = "big" if folder[6:8] == b"MM" else "little"
    second = len(folder) - 6
    folder[link : link + 4] = second.to_bytes(4, order)
    entries = [(0x0201, second + 30), (0x0202, len(jpeg))]
    folder += (2).to_bytes(2, order)
    for tag, value in entries:
        folder += tag.to_bytes(2, order) + (4).to_bytes(2, order) + (1).to_bytes(4, order)
        folder += value.to_bytes(4, order)
    folder += bytes(4) + jpeg
    picture = decode(save(Image.fromarray(RGB), "JPEG", exif=bytes(folder)))
    assert picture.metadata.exif is not None and jpeg[:20] not in picture.metadata.exif
    kept = Image.Exif()
    kept.load(picture.metadata.exif)
    assert kept[0x010F] == "Maker" and not kept.get_ifd(1)


def test_unreadable_exif_is_left_out_and_said_so():
    picture = decode(save(Image.fromarray(RGB), "PNG", exif=b"Exif\x00\x00nonsense and no tags"))
    assert (picture.metadata.exif, picture.note) == (None, "unreadable EXIF left out")


@pytest.mark.parametrize("format", FORMATS)
def test_exif_profile_and_resolution_are_kept_or_stripped(format: str):
    source = decode(
        save(Image.fromarray(RGB), "PNG", exif=exif(6), icc_profile=ICC, dpi=(300, 200))
    )
    if format == "jxl":
        with pytest.raises(ImageError, match=r"without ICC profiles: .* or --strip-metadata"):
            encode(source, format=format)
        source = replace(source, metadata=replace(source.metadata, icc=None))
    kept = decode(encode(source, format=format))
    tags = Image.Exif()
    tags.load(kept.metadata.exif)
    assert (tags[0x0110], tags.get_ifd(0x8769)[0x829A]) == ("Model 1", 0.01)
    assert kept.metadata.icc == source.metadata.icc
    if format not in ("webp", "avif", "jxl"):  # have no field for the resolution
        assert kept.metadata.dpi == pytest.approx((200, 300), rel=0.01)  # it was turned
    stripped = decode(encode(source, format=format, metadata=False))
    assert stripped.metadata == Metadata()


def test_what_is_too_long_for_a_format_can_be_left_out():
    long = decode(save(Image.fromarray(RGB), "PNG", exif=exif(1))).metadata.exif + bytes(1 << 17)
    picture = Picture(RGB, metadata=Metadata(exif=long))
    with pytest.raises(ImageError, match=r"too long for jpeg.*--strip-metadata"):
        encode(picture, format="jpeg")
    assert decode(encode(picture, format="jpeg", metadata=False)).pixels.shape == RGB.shape


def test_cmyk_becomes_rgb_through_its_profile():
    picture = decode(GOOD["JPEG, CMYK, profile"])  # the profile of an ink without colour
    assert np.ptp(picture.pixels.astype(int), axis=2).max() <= 1
    assert np.ptp(decode(GOOD["JPEG, CMYK"]).pixels.astype(int), axis=2).max() > 100
    assert picture.metadata.icc is None


def test_a_damaged_cmyk_profile_costs_no_picture():
    damaged = pictures.cmyk_profile()[:150].ljust(400, b"\x00")
    cmyk = save(Image.fromarray(RGB).convert("CMYK"), "JPEG", icc_profile=damaged)
    assert np.array_equal(decode(cmyk).pixels, decode(GOOD["JPEG, CMYK"]).pixels)


def test_the_profile_of_cmyk_is_not_kept_for_rgb():
    profile = ICC[:16] + b"CMYK" + ICC[20:]
    encoded = save(Image.fromarray(RGB), "PNG", icc_profile=profile)
    assert decode(encoded).metadata.icc is None


# --- encode ---


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize("format", ["png", "tiff", "webp", "jpeg2000", "jxl"])
def test_a_picture_comes_back_from_a_lossless_format(format: str, data: st.DataObject):
    kind = np.uint8 if format == "webp" else data.draw(st.sampled_from([np.uint8, np.uint16]))
    channels = data.draw(st.sampled_from([1, 3]))
    size = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    pixels = data.draw(arrays.arrays(kind, (*size, channels)))
    alpha = data.draw(st.none() | arrays.arrays(kind, size))
    again = decode(encode(Picture(pixels, alpha), format=format))
    assert np.array_equal(again.pixels, pixels)
    assert again.pixels.dtype == kind
    if format == "webp" and alpha is not None and (alpha == 255).all():
        assert again.alpha is None or np.array_equal(again.alpha, alpha)  # libwebp drops it
    else:
        assert (again.alpha is None) == (alpha is None)
        assert alpha is None or np.array_equal(again.alpha, alpha)


def test_large_pngs_and_tiffs_are_written_in_several_pieces():
    pixels = pictures.photo(1200, 1300)
    for format in ("png", "tiff"):
        assert np.array_equal(decode(encode(Picture(pixels), format=format)).pixels, pixels)


def test_our_png_is_what_pillow_and_libpng_read():
    for pixels, alpha in ((RGB, None), (RGB, ALPHA), (GRAY, None), (GRAY, ALPHA)):
        planes = pixels if alpha is None else np.dstack([pixels, alpha])
        image = Image.open(BytesIO(encode(Picture(pixels, alpha))))
        image.verify()
        image = Image.open(BytesIO(encode(Picture(pixels, alpha))))
        assert np.array_equal(np.asarray(image), planes.squeeze())
    deep = encode(Picture(DEEP, DEEP_ALPHA))
    assert np.array_equal(imagecodecs.png_decode(deep), np.dstack([DEEP, DEEP_ALPHA]))


@pytest.mark.parametrize("quality", [None, 50])
@pytest.mark.parametrize("alpha", [None, ALPHA])
def test_gray_in_webp_comes_back_gray_and_is_three_equal_planes_to_others(quality, alpha):
    webp = encode(Picture(GRAY, alpha), format="webp", quality=quality, metadata=False)
    again = decode(webp)
    assert np.array_equal(again.pixels, GRAY)
    assert alpha is None or np.array_equal(again.alpha, alpha)
    others = np.asarray(Image.open(BytesIO(webp)))
    assert np.array_equal(others[..., :3], np.repeat(GRAY, 3, axis=2))


def test_a_webp_of_equal_planes_that_nobody_calls_gray_stays_in_colour():
    rgb = np.repeat(GRAY, 3, axis=2)
    assert np.array_equal(decode(encode(Picture(rgb), format="webp")).pixels, rgb)


def test_a_gray_webp_that_was_painted_since_is_in_colour():
    mark = Image.open(BytesIO(encode(Picture(GRAY), format="webp"))).info["xmp"]
    painted = save(Image.fromarray(RGB), "WEBP", lossless=True, xmp=mark)
    assert np.array_equal(decode(painted).pixels, RGB)


@pytest.mark.parametrize(
    "format, quality", [("webp", None), ("webp", 80), ("jpeg", 80), ("same", None)]
)
@pytest.mark.parametrize("pixels", [GRAY, RGB])
def test_what_is_measured_is_what_the_stored_bytes_hold(pixels, format, quality):
    config = InferConfig(images="photos", output="out", format=format, quality=quality)
    saved = save_picture(Picture(pixels, format="AVIF"), "a.png", config)
    stored = saved.pixels
    assert np.array_equal(stored, decode(saved.image["bytes"]).pixels)
    others = np.asarray(Image.open(BytesIO(saved.image["bytes"])))
    gap = others.reshape(*pixels.shape[:2], -1) / 255 - pixels / 255
    assert mse(stored, pixels) == pytest.approx(np.square(gap).mean(), abs=1e-9)


def test_jpeg_is_95_by_default_and_close():
    encoded = encode(Picture(RGB), format="jpeg")
    assert len(encode(Picture(RGB), format="jpeg", quality=50)) < len(encoded)
    assert np.abs(decode(encoded).pixels.astype(int) - RGB).mean() < 4


@pytest.mark.parametrize(
    "picture, format, words",
    [
        (Picture(DEEP), "jpeg", "8 bits"),
        (Picture(DEEP), "webp", "8 bits"),
        (Picture(DEEP), "avif", "8 bits"),
        (Picture(RGB, ALPHA), "jpeg", "alpha"),
        (Picture(np.zeros((1, 16384, 3), np.uint8)), "webp", "16383"),
        (Picture(np.zeros((65501, 1, 3), np.uint8)), "jpeg", "65500"),
        (Picture(RGB), "gif", "unknown format 'gif'"),
        (Picture(RGB, metadata=Metadata(exif=b"II" + bytes(70000))), "jpeg", "EXIF"),
    ],
)
def test_a_format_that_cannot_hold_the_picture_is_refused(picture, format, words):
    with pytest.raises(ImageError, match=words):
        encode(picture, format=format)


@pytest.mark.parametrize("kind", GOOD)
def test_the_same_format_holds_every_picture_it_came_from(kind: str):
    picture = decode(GOOD[kind])
    format = format_for(picture, "same")
    again = decode(encode(picture, format=format))
    assert again.pixels.shape == picture.pixels.shape
    assert again.bit_depth == picture.bit_depth
    assert is_lossy(format, None) or np.array_equal(again.pixels, picture.pixels)


def test_a_jpeg_xl_with_a_profile_stays_one_where_its_profile_is_stripped():
    profiled = Picture(DEEP, format="JXL", metadata=Metadata(icc=ICC))
    assert format_for(profiled, "same") == "png"  # jxl is written without profiles
    format = format_for(profiled, "same", metadata=False)
    assert format == "jxl"
    again = decode(encode(profiled, format=format, metadata=False))
    assert np.array_equal(again.pixels, DEEP) and again.metadata.icc is None


def test_names_of_formats():
    assert format_for(Picture(RGB, format="JPEG"), "same") == "jpeg"
    assert format_for(Picture(RGB, format="GIF"), "same") == "png"
    assert format_for(Picture(RGB, format="GIF"), "webp") == "webp"
    assert format_for(Picture(RGB, format="HEIF"), "same") == "png"  # is read alone
    assert format_for(Picture(RGB, format="AVIF"), "same") == "avif"
    assert format_for(Picture(RGB, RGB[..., 0], format="AVIF"), "same") == "png"  # alpha unchanged
    large = np.broadcast_to(np.uint8(0), (8000, 8000, 3))  # encoding takes 40 bytes a pixel
    assert format_for(Picture(large, format="AVIF"), "same") == "png"
    assert format_for(Picture(DEEP, format="AVIF"), "same") == "png"  # which holds 16 bits
    assert format_for(Picture(DEEP, format="JXL"), "same") == "jxl"
    assert format_for(Picture(DEEP, format="JPEG2000"), "same") == "jpeg2000"
    assert [suffix_of(format) for format in FORMATS] == [
        *(".png", ".webp", ".jpg", ".tif", ".avif", ".jp2", ".jxl")
    ]


# --- floats ---


@pytest.mark.parametrize("depth", [8, 16])
def test_every_integer_survives_the_way_to_floats_and_back(depth: int):
    integers = np.arange(2**depth).astype(np.uint8 if depth == 8 else np.uint16)[None, :, None]
    floats = to_floats(integers)
    assert floats.dtype == np.float32
    assert (floats.min(), floats.max()) == (0, 1)
    assert np.array_equal(to_pixels(floats, depth), integers)


def test_floats_outside_the_range_are_clipped():
    floats = np.array([[[-0.5], [0.5], [1.5]]], np.float32)
    assert to_pixels(floats, 8).ravel().tolist() == [0, 128, 255]
    assert to_pixels(floats, 16).ravel().tolist() == [0, 32768, 65535]


ICC = decode(GOOD["PNG, RGB"]).metadata.icc or b""
