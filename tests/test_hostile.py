"""Files that cost far more than their size: refused in fixed words, or read at a bounded cost."""

import struct

import numpy as np
import pytest
from PIL import Image

from denoise.errors import ImageError
from denoise.images.codec import Picture, decode, encode
from denoise.images.exif import TOO_MUCH, check_claims
from tests import hostile
from tests.pictures import GRAY, RGB, exif, png_of, save, tiff

REFUSED = {
    "PNG, 3 million empty chunks": "unsupported variant of PNG: too many chunks",
    "PNG, 3 million empty IDAT": "unsupported variant of PNG: too many chunks",
    "PNG, 1 million texts": "unsupported variant of PNG: too many chunks",
    "JPEG, 1,000 scans": "unsupported variant of JPEG: too many scans",
    "JPEG, 3 million comments": "unsupported variant of JPEG: too many segments",
    "JPEG, 1,500 EXIF segments": "unsupported variant of JPEG: too many segments",
    "WebP, animated, 16,000 x 16,000": "more than 200,000,000 pixels (the limit is --max-pixels)",
    "WebP, animated, 20,000 x 20,000": "more than 200,000,000 pixels (the limit is --max-pixels)",
    "WebP, one colour, 16,383 x 16,383": "more than 200,000,000 pixels (the limit is --max-pixels)",
    "TIFF, 60,000 tags with the same value": "truncated or damaged TIFF",
    "TIFF, 10 million strips": "truncated or damaged TIFF",
    "GIF, 1 million comments": "unsupported variant of GIF: too many extensions",
    "JPEG 2000, 16,384 components": "unsupported variant of JPEG2000: more than four planes",
    "PPM, a number of 10 million digits": "truncated or damaged PPM",
}
READ = {  # and what their note says
    "PNG, EXIF of 4,000 directories in circles": None,
    "PNG, EXIF of 60,000 directories in circles": "unreadable EXIF left out",
    "PNG, EXIF of 60,000 tags with the same value": "unreadable EXIF left out",
    "TIFF, 16 million directories": "first of more than 10,000 frames",
    "GIF, 1 million frames": "first of more than 10,000 frames",
    "GIF, a comment of 50 MB": None,
}


def test_every_hostile_file_is_either_refused_or_read():
    assert {*REFUSED, *READ} == {*hostile.FILES}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_claims_too_much_is_refused_in_fixed_words(kind: str):
    with pytest.raises(ImageError) as caught:
        decode(hostile.FILES[kind]())
    assert str(caught.value) == REFUSED[kind]


@pytest.mark.parametrize("kind", READ)
def test_a_file_whose_claims_concern_no_pixel_is_read_without_them(kind: str):
    picture = decode(hostile.FILES[kind]())
    assert picture.note == READ[kind]


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_exif_whose_tags_name_the_same_bytes_again_and_again_is_left_out(format: str):
    table = b"Exif\x00\x00" + hostile.exif_read_over_and_over(4000, 10_000)
    picture = decode(save(Image.fromarray(RGB), format, exif=table))
    assert (picture.metadata.exif, picture.note) == (None, "unreadable EXIF left out")
    assert picture.pixels.shape == RGB.shape


def test_a_cameras_exif_claims_no_more_than_there_is():
    check_claims(exif(6).removeprefix(b"Exif\x00\x00"))
    with pytest.raises(ValueError, match=TOO_MUCH):
        check_claims(hostile.exif_read_over_and_over(3000, 100_000))


def test_what_decoding_a_pixel_takes_counts_besides_the_number_of_pixels():
    doubles = tiff(RGB / 255)  # 24 bytes of each pixel
    assert decode(doubles, max_pixels=2 * RGB[..., 0].size).pixels.dtype == np.uint16
    words = "decoding takes more than 1.54e-05 GB .the limit is 20 bytes for each of --max-pixels"
    with pytest.raises(ImageError, match=words):
        decode(doubles, max_pixels=RGB[..., 0].size)


def test_an_icon_is_as_large_as_the_picture_inside():
    inner = png_of(60_000, 60_000)
    head = struct.pack("<HHHBBBBHHLL", 0, 1, 1, 16, 16, 0, 0, 1, 8, len(inner), 22)
    with pytest.raises(ImageError, match="more than 200,000,000 pixels"):
        decode(head + inner)


def test_an_ordinary_progressive_file_and_a_png_in_small_chunks_are_fine():
    progressive = save(Image.fromarray(RGB), "JPEG", progressive=True)
    assert decode(progressive).pixels.shape == RGB.shape
    whole = encode(Picture(GRAY))
    start = whole.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">L", whole, start)
    pieces = hostile.png_of_pieces(whole[start + 8 : start + 8 + length], 1)
    cut = whole[:start] + pieces + whole[start + 12 + length :]
    assert np.array_equal(decode(cut).pixels, GRAY)
