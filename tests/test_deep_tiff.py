"""TIFF pages of colour models, depths and alpha that Pillow cuts, misreads or does not open.

What is right is what was written, or what the same picture of 8 bits becomes.
"""

import struct
import tracemalloc
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from denoise.errors import ImageError
from denoise.images.codec import decode
from tests.pictures import ALPHA, DEEP, DEEP_ALPHA, GRAY, RGB, cmyk_profile, tiff

INKS = np.asarray(Image.fromarray(RGB).convert("CMYK"))
DEEP_INKS = INKS.astype(np.uint16) * 257


def lab(deep: bool) -> np.ndarray:
    """RGB as CIELAB, of 8 bits, or the same in 16."""
    srgb, model = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    turned = ImageCms.profileToProfile(Image.fromarray(RGB), srgb, model, outputMode="LAB")
    assert turned is not None
    planes = np.asarray(turned)
    if not deep:
        return planes
    signed = planes[..., 1:].view(np.int8).astype(np.int16) * 256
    return np.dstack([planes[..., 0].astype(np.uint16) * 257, signed.view(np.uint16)])


@pytest.mark.parametrize("icc", [None, cmyk_profile()], ids=["no profile", "its profile"])
def test_inks_of_16_bits_have_the_colours_of_the_same_in_8(icc: bytes | None):
    options: dict[str, Any] = {"photometric": "separated", "iccprofile": icc}
    shallow, deep = (decode(tiff(inks, **options)) for inks in (INKS, DEEP_INKS))
    assert (shallow.pixels.dtype, deep.pixels.dtype) == (np.uint8, np.uint16)
    assert np.abs(deep.pixels / 257 - shallow.pixels).max() < 1.6
    assert deep.metadata.icc is None  # they were converted through it


@pytest.mark.parametrize("inks", [INKS, DEEP_INKS], ids=["8 bits", "16 bits"])
def test_alpha_beside_inks_is_carried(inks: np.ndarray):
    alpha = ALPHA if inks.itemsize == 1 else DEEP_ALPHA
    options: dict[str, Any] = {"photometric": "separated"}
    without = decode(tiff(inks, **options))
    picture = decode(tiff(np.dstack([inks, alpha]), extrasamples=["unassalpha"], **options))
    assert np.array_equal(picture.pixels, without.pixels)
    assert np.array_equal(picture.alpha, alpha)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_lab_of_any_depth_is_converted(deep: bool, with_alpha: bool):
    planes = lab(deep)
    alpha = DEEP_ALPHA if deep else ALPHA
    options: dict[str, Any] = {"photometric": "cielab"}
    if with_alpha:
        planes = np.dstack([planes, alpha])
        options["extrasamples"] = ["unassalpha"]
    picture = decode(tiff(planes, **options))
    assert picture.bit_depth == (16 if deep else 8)
    assert np.abs(picture.pixels / (257 if deep else 1) - RGB).max() < 5  # of a and b's rounding
    assert np.array_equal(picture.alpha, alpha if with_alpha else None)


def test_lab_of_16_bits_takes_no_more_memory_than_the_bound_on_tiffs_allows():
    height, width, each = 2000, 2000, 2 + 3 * 5  # bytes a pixel, by which scan_of_tiff refuses
    encoded = tiff(np.zeros((height, width, 3), np.uint16), photometric="cielab")
    tracemalloc.start()
    try:
        decode(encoded)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < height * width * each


@pytest.mark.parametrize("colours", [RGB, DEEP, GRAY, DEEP[..., :1]])
def test_colours_multiplied_with_their_alpha_are_divided_by_it(colours: np.ndarray):
    most = int(np.iinfo(colours.dtype).max)
    alpha = np.maximum(ALPHA, 128).astype(colours.dtype) * (most // 255)
    multiplied = np.rint(colours * (alpha[..., None] / most)).astype(colours.dtype)
    kind = "rgb" if colours.shape[2] == 3 else "minisblack"
    stacked = np.dstack([multiplied, alpha])
    picture = decode(tiff(stacked, photometric=kind, extrasamples=["assocalpha"]))
    assert picture.pixels.shape == colours.shape
    assert np.abs(picture.pixels.astype(int) - colours).max() <= 2
    assert np.array_equal(picture.alpha, alpha)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_gray_and_alpha_in_planes_apart_are_both_read(compression: str | None):
    planes = np.stack([GRAY[..., 0], ALPHA])
    options: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "separate"}
    options |= {"extrasamples": ["unassalpha"], "compression": compression}
    picture = decode(tiff(planes, **options))
    assert np.array_equal(picture.pixels, GRAY)
    assert np.array_equal(picture.alpha, ALPHA)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    ("compression", "predictor"),
    [
        *((None, False), ("packbits", False)),  # have no predictor
        *(("lzw", False), ("lzw", True), ("zlib", False), ("zlib", True)),
    ],
)
def test_floats_of_either_byte_order_and_any_compression_are_read(
    byteorder: str, compression: str | None, predictor: bool
):
    floats = (GRAY[..., 0] / 255).astype(np.float32)
    options: dict[str, Any] = {"photometric": "minisblack", "compression": compression}
    encoded = tiff(floats, byteorder=byteorder, predictor=predictor, **options)
    assert np.array_equal(decode(encoded).pixels[..., 0], np.rint(floats * 65535.0))


def test_a_jpeg_of_12_bits_inside_is_read_by_its_depth():
    twelve = DEEP >> 4
    for planes, kind in ((twelve, "rgb"), (twelve[..., 0], "minisblack")):
        encoded = tiff(planes, photometric=kind, compression="jpeg", bitspersample=12)
        written = tifffile.imread(BytesIO(encoded)).reshape(*planes.shape[:2], -1)
        picture = decode(encoded)
        assert np.array_equal(picture.pixels, np.rint(written * (65535 / 4095)))


def test_bits_in_the_other_order_are_read_with_alpha_too():
    """FillOrder 2: the first bit of a byte is its lowest one."""
    planes = np.dstack([RGB, ALPHA])
    encoded = tiff(planes, extrasamples=["unassalpha"], extratags=[(264, 3, 1, 2, True)])
    tag = struct.pack("<HHL", 266, 3, 1)  # which tifffile does not write
    encoded = encoded.replace(struct.pack("<HHL", 264, 3, 1), tag)
    reverse = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    (start,) = tifffile.TiffFile(BytesIO(encoded)).pages[0].dataoffsets
    stored = encoded[start : start + planes.size].translate(reverse)
    picture = decode(encoded[:start] + stored + encoded[start + planes.size :])
    assert np.array_equal(picture.pixels, RGB)
    assert np.array_equal(picture.alpha, ALPHA)


def test_colours_that_nothing_here_knows_are_called_so_and_not_damaged():
    encoded = bytearray(tiff(RGB))
    at = encoded.index(struct.pack("<HH", 262, 3)) + 8
    struct.pack_into("<H", encoded, at, 10)  # ITULAB, of fax machines
    with pytest.raises(ImageError, match="unsupported variant of TIFF: colours of kind 10"):
        decode(bytes(encoded))
