"""What cameras, scanners of patients and telescopes write is a row that names a converter.

Never a thumbnail's picture: the first page of most raw files is one. Heads and structures are those
of real files; the pixels are made.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, TiffImagePlugin

from denoise.errors import ImageError
from denoise.images.codec import decode
from denoise.images.sniff import IMAGE_SUFFIXES, looks_like_image
from tests.conftest import photo
from tests.pictures import RGB, save, tiff

MOSAIC = photo(24, 32, channels=1)[..., 0].astype(np.uint16) * 16
ZEROS = bytes(600)
HEADS = {  # of files that have no picture in their first bytes
    "Canon CR2": b"II\x2a\x00\x10\x00\x00\x00CR\x02\x00",
    "Canon CR3": b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x01",
    "Canon CRW": b"II\x1a\x00\x00\x00HEAPCCDR\x02\x00",
    "Fujifilm RAF": b"FUJIFILMCCD-RAW 0201FF383501FinePix S5Pro",
    "Minolta MRW": b"\x00MRM\x00\x00\x06\xe4\x00PRD",
    "Olympus ORF": b"IIRO\x08\x00\x00\x00",
    "Olympus ORF, another": b"IIRS\x08\x00\x00\x00",
    "Olympus ORF, big-endian": b"MMOR\x00\x00\x00\x08",
    "Panasonic RW2": b"IIU\x00\x18\x00\x00\x00",
    "Phase One IIQ": b"II\x2a\x00\x08\x0a\x00\x00IIIICwaRX\x06\x00\x00",
    "Phase One IIQ, big-endian": b"MM\x00\x2a\x00\x00\x00\x10MMMMRawT",
    "Sigma X3F": b"FOVb\x03\x00\x02\x00",
}


def with_inner_page(**options: Any) -> bytes:
    """A TIFF whose first page is a thumbnail in colours, with a sensor's mosaic inside of it."""
    out = BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(RGB[::4, ::4], photometric="rgb", subifds=1, **options)
        file.write(MOSAIC, photometric="cfa")
    return out.getvalue()


def made_by(maker: str) -> list[tuple[Any, ...]]:
    return [(271, "s", 0, maker, True)]


PAGES = {
    "Nikon NEF": with_inner_page(subfiletype=1, extratags=made_by("NIKON CORPORATION")),
    "Sony ARW": with_inner_page(subfiletype=1, extratags=made_by("SONY")),
    "a preview that does not say it is one": with_inner_page(),
    "Pentax PEF": tiff(MOSAIC, photometric="cfa", extratags=made_by("PENTAX")),
    "DNG": tiff(RGB, extratags=[(50706, 1, 4, b"\x01\x04\x00\x00", True)]),
    "Kodak": tiff(RGB, extratags=[(33424, 4, 1, 8, True), *made_by("EASTMAN KODAK")]),
    "Leaf MOS": tiff(RGB, extratags=[(34310, 1, 4, b"PKTS", True)]),
}


@pytest.fixture
def libtiff(monkeypatch: pytest.MonkeyPatch) -> Callable[[np.ndarray], bytes]:
    """A writer of TIFFs whose pixels follow the header at once."""
    monkeypatch.setattr(TiffImagePlugin, "WRITE_LIBTIFF", True)
    return lambda planes: save(Image.fromarray(planes.squeeze()), "TIFF", compression="raw")


def test_a_mosaic_further_down_the_chain_of_pages_is_camera_raw():
    out = BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(RGB[::4, ::4], photometric="rgb")
        file.write(MOSAIC, photometric="cfa")
    with pytest.raises(ImageError, match="camera raw"):
        decode(out.getvalue())


@pytest.mark.parametrize("encoded", HEADS.values(), ids=HEADS)
def test_a_raw_file_names_what_develops_it_whatever_it_is_called(encoded: bytes):
    with pytest.raises(
        ImageError, match="unsupported kind: camera raw: develop it to a 16-bit TIFF"
    ):
        decode(encoded + ZEROS)
    assert looks_like_image(encoded + ZEROS)  # a row, whatever its suffix


@pytest.mark.parametrize("value", [73, 77])  # "I" and "M", of which headers of raw files are made
@pytest.mark.parametrize("channels", [1, 3])
def test_a_flat_picture_whose_pixels_follow_the_header_is_read(
    value: int, channels: int, libtiff: Callable[[np.ndarray], bytes]
):
    flat = np.full((16, 16, channels), value, np.uint8)
    encoded = libtiff(flat)
    assert encoded[8:12] == bytes([value]) * 4
    assert np.array_equal(decode(encoded).pixels, flat)


@pytest.mark.parametrize("encoded", PAGES.values(), ids=PAGES)
def test_the_thumbnail_of_a_raw_file_is_never_taken_for_its_picture(encoded: bytes):
    with pytest.raises(
        ImageError, match="unsupported kind: camera raw: develop it to a 16-bit TIFF"
    ):
        decode(encoded)


def test_smaller_pages_inside_of_a_picture_make_no_raw_file_of_it():
    out = BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(RGB, photometric="rgb", subifds=1)
        file.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)
    assert np.array_equal(decode(out.getvalue()).pixels, RGB)


def test_a_broken_list_of_inner_pages_costs_no_picture():
    encoded = tiff(RGB, extratags=[(330, 4, 2, (7, 0x7FFFFFFF), True)])
    assert np.array_equal(decode(encoded).pixels, RGB)


@pytest.mark.parametrize(
    ("encoded", "kind"),
    [
        (bytes(128) + b"DICM", "DICOM"),
        (b"\x02\x00\x00\x00UL\x04\x00\xc0\x00\x00\x00", "DICOM"),  # without its first 132 bytes
        (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100", "DICOM"),
        (b"\x08\x00\x08\x00\x16\x00\x00\x00ORIGINAL\\PRIMARY", "DICOM"),
        (b"SIMPLE  =                    T / conforms", "FITS"),
        (b"SIMPLE  = T", "FITS"),
    ],
)
def test_dicom_and_fits_name_a_converter(encoded: bytes, kind: str):
    with pytest.raises(ImageError, match=f"^unsupported kind: {kind}: convert it to a 16-bit"):
        decode(encoded + ZEROS)
    assert looks_like_image(encoded + ZEROS)


def test_a_tiff_that_is_a_dicom_too_is_read_as_a_tiff(libtiff: Callable[[np.ndarray], bytes]):
    pixels = RGB.copy()
    pixels.reshape(-1)[120:124] = list(b"DICM")  # behind a header of eight bytes
    encoded = libtiff(pixels)
    assert encoded[128:132] == b"DICM"
    assert np.array_equal(decode(encoded).pixels, pixels)


def test_a_raw_file_that_is_no_image_by_its_content_is_a_row_nevertheless():
    assert {".nef", ".cr3", ".x3f", ".mrw", ".iiq", ".3fr", ".dng"} <= IMAGE_SUFFIXES
