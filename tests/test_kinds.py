"""Every depth, compression, sampling and colour model that the libraries read comes out right.

What is right is what was written, or what another library than ours makes of the file.
"""

import struct
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image

from denoise.errors import ImageError
from denoise.images.codec import Picture, decode, encode
from denoise.images.exif import orientation_of
from denoise.images.metadata import Metadata
from denoise.images.sniff import looks_like_image
from tests.hostile import exif_in_circles
from tests.pictures import (
    ALPHA,
    DEEP,
    GRAY,
    HEIGHT,
    RGB,
    WIDTH,
    bad,
    exif,
    heic,
    png_of,
    save,
    tiff,
)

COMPRESSIONS = "none lzw zlib packbits lzma zstd webp jpeg2000 png jpegxl jpegxr lerc".split()
PIXELS = {  # kind of colours, what is written
    "minisblack": GRAY[..., 0],
    "miniswhite": GRAY[..., 0],
    "rgb": RGB,
}


@pytest.mark.parametrize(
    ("compression", "colours", "depth"),
    [
        (compression, colours, depth)
        for compression in COMPRESSIONS
        for colours in PIXELS
        for depth in (8, 16)
        if compression != "webp" or (colours, depth) == ("rgb", 8)  # which holds nothing else
    ],
)
def test_a_tiff_of_any_compression_and_depth_holds_what_was_written(
    compression: str, colours: str, depth: int
):
    pixels = PIXELS[colours] if depth == 8 else DEEP[..., 0] if PIXELS[colours].ndim < 3 else DEEP
    lossless = {"webp": {"lossless": True}, "jpeg2000": {"level": 0, "reversible": True}}
    lossless |= {"jpegxl": {"lossless": True}, "jpegxr": {"level": 1.0}}
    encoded = tiff(
        pixels,
        photometric=colours,
        compression=None if compression == "none" else compression,
        compressionargs=lossless.get(compression),
    )
    expected = pixels.reshape(HEIGHT, WIDTH, -1)
    if colours == "miniswhite":
        expected = np.iinfo(pixels.dtype).max - expected
    picture = decode(encoded)
    assert picture.pixels.dtype == pixels.dtype
    assert np.array_equal(picture.pixels, expected)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("colours", PIXELS)
def test_every_depth_of_a_tiff_fills_its_type(bits: int, colours: str):
    kind = np.uint8 if bits <= 8 else np.uint16
    most = 2**bits - 1
    values = (PIXELS[colours].astype(int) * most // 255).astype(kind)
    values.flat[0], values.flat[1] = 0, most
    try:
        encoded = tiff(values, photometric=colours, bitspersample=bits)
        if tifffile.TiffFile(BytesIO(encoded)).pages[0].bitspersample != bits:
            raise ValueError("another depth was written")
    except ValueError:
        encoded = packed_tiff(values.reshape(HEIGHT, WIDTH, -1), bits, colours)
    full = 255 if bits <= 8 else 65535
    expected = np.rint(values.reshape(HEIGHT, WIDTH, -1) * (full / most))
    if colours == "miniswhite":
        expected = full - expected
    assert np.array_equal(decode(encoded).pixels, expected)


def packed_tiff(planes: np.ndarray, bits: int, colours: str) -> bytes:
    """Values of any number of bits, each row filled up to whole bytes."""
    height, width, count = planes.shape
    ones = (planes.reshape(height, -1, 1) >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(ones.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    kind = {"miniswhite": 0, "minisblack": 1, "rgb": 2}[colours]
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: kind, 273: 0, 277: count, 278: height}
    tags |= {279: len(rows)}
    start = 8 + 2 + 12 * len(tags) + 4
    tags[273] = start + 2 * count
    entries = b""
    for tag, value in tags.items():
        if tag == 258 and count > 2:
            entries += struct.pack("<HHLL", tag, 3, count, start)
        else:
            entries += struct.pack("<HHLL", tag, 4, 1, value)
    head = b"II\x2a\x00" + struct.pack("<LH", 8, len(tags))
    return head + entries + bytes(4) + struct.pack(f"<{count}H", *[bits] * count) + rows


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_of_which_zero_is_white_are_turned(kind: type):
    floats = (GRAY[..., 0] / 255).astype(kind)
    black = decode(tiff(floats, photometric="minisblack")).pixels
    white = decode(tiff(floats, photometric="miniswhite")).pixels
    assert np.array_equal(white, 65535 - black)


@pytest.mark.parametrize("colours", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("extra", [["unassalpha"], ["unspecified"], []])
def test_gray_and_alpha_are_read_whatever_their_file_says_of_them(colours: str, extra: list):
    both = np.dstack([GRAY, ALPHA])
    options = {"photometric": colours, "planarconfig": "contig", "extrasamples": extra or [0]}
    encoded = bytearray(tiff(both, **options))
    if not extra:  # the tag becomes one that nobody knows
        offset = encoded.index(struct.pack("<HH", 338, 3))
        struct.pack_into("<H", encoded, offset, 337)
    picture = decode(bytes(encoded))
    assert np.array_equal(picture.pixels, GRAY if colours == "minisblack" else 255 - GRAY)
    assert np.array_equal(picture.alpha, ALPHA)


@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
@pytest.mark.parametrize("scale", [1, 257])
def test_a_palette_has_its_colours_whether_they_are_of_8_bits_or_of_16(compression, scale: int):
    table = RGB.reshape(-1, 3)[:256].astype(np.uint16)
    indices = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    encoded = tiff(
        indices, photometric="palette", colormap=(table * scale).T, compression=compression
    )
    assert np.array_equal(decode(encoded).pixels, table.astype(np.uint8)[indices])


def test_cmyk_of_a_compression_that_pillow_lacks_is_what_pillow_makes_of_it():
    cmyk = Image.fromarray(RGB).convert("CMYK")
    encoded = tiff(np.asarray(cmyk), photometric="separated", compression="zstd")
    assert np.array_equal(decode(encoded).pixels, np.asarray(cmyk.convert("RGB")))


def test_the_first_page_that_is_no_preview_is_the_picture():
    out = BytesIO()
    with tifffile.TiffWriter(out) as file:
        file.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(RGB, photometric="rgb")
    picture = decode(out.getvalue())
    assert np.array_equal(picture.pixels, RGB)
    assert picture.note == "frame 2: those before are previews"
    for pixels in (RGB, DEEP):
        assert np.array_equal(decode(tiff(pixels, subfiletype=1)).pixels, pixels)


@pytest.mark.parametrize("pixels", [RGB, DEEP])
@pytest.mark.parametrize("wrong", [0, 500_000])
def test_what_is_not_compressed_is_as_long_as_its_pixels_whatever_its_tag_says(pixels, wrong: int):
    encoded = bytearray(tiff(pixels))
    offset = encoded.index(struct.pack("<HH", 279, 4)) + 8
    struct.pack_into("<L", encoded, offset, wrong)
    assert np.array_equal(decode(bytes(encoded)).pixels, pixels)
    with pytest.raises(ImageError, match="truncated or damaged TIFF"):
        decode(bytes(encoded[:-100]))


def subsampled_tiff(across: int, down: int, orientation: int = 1) -> tuple[bytes, np.ndarray]:
    """Brightness of every pixel, and one pair of colours for each of so many; and its RGB."""
    ycbcr = np.asarray(Image.fromarray(RGB).convert("YCbCr"))
    blocks = ycbcr.reshape(HEIGHT // down, down, WIDTH // across, across, 3).swapaxes(1, 2)
    colours = blocks[:, :, 0, 0, 1:]
    light = blocks[..., 0].reshape(*blocks.shape[:2], -1)
    content = np.concatenate([light, colours], axis=2).tobytes()
    tags = [(256, 4, WIDTH), (257, 4, HEIGHT), (258, 3, 8), (259, 3, 1), (262, 3, 6)]
    tags += [(273, 4, 0), (274, 3, orientation), (277, 3, 3), (278, 4, HEIGHT)]
    tags += [(279, 4, len(content)), (530, 3, across | down << 16)]
    start = 8 + 2 + 12 * len(tags) + 4
    head = struct.pack("<2sHLH", b"II", 42, 8, len(tags))
    for tag, kind, value in tags:
        count = 3 if tag == 258 else 2 if tag == 530 else 1
        value = {258: start, 273: start + 6}.get(tag, value)
        head += struct.pack("<HHLL", tag, kind, count, value)
    wide = colours.repeat(down, 0).repeat(across, 1)
    expected = np.asarray(Image.fromarray(np.dstack([ycbcr[..., 0], wide]), "YCbCr").convert("RGB"))
    return head + bytes(4) + struct.pack("<3H", 8, 8, 8) + content, expected


@pytest.mark.parametrize("sampling", [(2, 2), (2, 1), (1, 2), (4, 1), (4, 2), (4, 4)])
def test_subsampled_colours_outside_of_a_jpeg_are_those_that_were_written(sampling: tuple):
    encoded, expected = subsampled_tiff(*sampling)
    found = decode(encoded).pixels
    assert np.abs(found.astype(int) - expected).max() <= 2  # of rounding in the two conversions


@pytest.mark.parametrize("codec", [5, 8, 32773])
def test_subsampled_colours_of_any_compression_are_whole_or_an_error(codec: int):
    plain, _ = subsampled_tiff(2, 2)
    length = HEIGHT * WIDTH * 3 // 2
    packed = {5: imagecodecs.lzw_encode, 8: zlib.compress, 32773: imagecodecs.packbits_encode}
    content = packed[codec](plain[-length:])
    for cut in (0, 1, 30, len(content) // 2):
        encoded = bytearray(plain[:-length] + content[: len(content) - cut])
        for tag, kind, value in ((259, 3, codec), (279, 4, len(content) - cut)):
            struct.pack_into("<L", encoded, plain.index(struct.pack("<HH", tag, kind)) + 8, value)
        try:
            picture = decode(bytes(encoded))
        except ImageError as error:
            assert cut and str(error) == "truncated or damaged TIFF"
        else:
            assert np.array_equal(picture.pixels, decode(plain).pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_subsampled_colours_are_turned_as_all_others(orientation: int):
    plain = decode(subsampled_tiff(2, 2)[0]).pixels
    turned = decode(subsampled_tiff(2, 2, orientation)[0]).pixels
    by_pillow = decode(save(Image.fromarray(plain), "TIFF", tiffinfo={274: orientation})).pixels
    assert np.array_equal(turned, by_pillow)


# --- JPEG 2000 ---


@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8, 9, 10, 12, 15, 16])
@pytest.mark.parametrize("pixels", [GRAY[..., 0], RGB])
def test_every_depth_of_a_jpeg_2000_fills_its_type(bits: int, pixels: np.ndarray):
    most = 2**bits - 1
    kind = np.uint8 if bits <= 8 else np.uint16
    values = (pixels.astype(int) * most // 255).astype(kind)
    values.flat[0], values.flat[1] = 0, most
    encoded = imagecodecs.jpeg2k_encode(values, level=0, reversible=True, bitspersample=bits)
    full = 255 if bits <= 8 else 65535
    expected = np.rint(values.reshape(HEIGHT, WIDTH, -1) * (full / most))
    assert np.array_equal(decode(encoded).pixels, expected)


@pytest.mark.parametrize("kind", [np.int8, np.int16])
@pytest.mark.parametrize("pixels", [GRAY[..., 0], RGB])
@pytest.mark.parametrize("codec", ["jp2", "j2k"])
def test_signed_samples_of_a_jpeg_2000_are_refused(kind: type, pixels: np.ndarray, codec: str):
    signed = (pixels.astype(int) - 128).astype(kind)
    encoded = imagecodecs.jpeg2k_encode(signed, level=0, reversible=True, codecformat=codec)
    with pytest.raises(ImageError, match="unsupported: signed pixels"):
        decode(encoded)


# --- JPEG ---


def sampled_jpeg(*factors: tuple[int, int]) -> bytes:
    """A JPEG of three components with these sampling factors, each of one colour."""
    across, down = max(one for one, _ in factors), max(one for _, one in factors)
    width, height = 16 * across, 16 * down
    dqt = b"\xff\xdb\x00\x43\x00" + b"\x01" * 64
    sof = struct.pack(">BHHB", 8, height, width, 3)
    sof += b"".join(bytes([n + 1, h << 4 | v, 0]) for n, (h, v) in enumerate(factors))
    # one code each: difference of category 0, end of block
    table = b"\x01" + bytes(15) + b"\x00"
    dht = b"\xff\xc4" + struct.pack(">H", 2 + 36) + b"\x00" + table + b"\x10" + table
    sos = b"\xff\xda\x00\x0c\x03\x01\x00\x02\x00\x03\x00\x00\x3f\x00"
    blocks = sum(h * v for h, v in factors) * 4  # of 2 x 2 units
    bits = 2 * blocks
    data = bytes(bits // 8) + (bytes([(1 << 8 - bits % 8) - 1]) if bits % 8 else b"")
    length = struct.pack(">H", 2 + len(sof))
    return b"".join([b"\xff\xd8", dqt, b"\xff\xc0", length, sof, dht, sos, data, b"\xff\xd9"])


@pytest.mark.parametrize(
    "factors",
    [
        *[[(h, v), (1, 1), (1, 1)] for h in (1, 2, 3, 4) for v in (1, 2, 3, 4) if h * v <= 8],
        [(1, 1), (2, 1), (1, 1)],
        [(2, 2), (1, 1), (2, 1)],
        [(2, 2), (1, 1), (2, 2)],
        [(2, 1), (2, 1), (2, 1)],
        [(2, 2), (1, 2), (1, 2)],
    ],
)
def test_every_sampling_of_a_jpeg_is_what_pillow_makes_of_it(factors: list):
    encoded = sampled_jpeg(*factors)
    by_pillow = np.asarray(Image.open(BytesIO(encoded)))
    assert np.array_equal(decode(encoded).pixels, by_pillow)


def test_a_resolution_that_a_jpeg_cannot_name_is_left_out_of_it():
    fine = Picture(RGB, metadata=Metadata(dpi=(101_600, 101_600)))
    assert decode(encode(fine, format="jpeg")).metadata.dpi is None
    for format in ("png", "tiff"):
        assert decode(encode(fine, format=format)).metadata.dpi == pytest.approx((101_600, 101_600))
    assert decode(
        encode(Picture(RGB, metadata=Metadata(dpi=(600, 600))), format="jpeg")
    ).metadata.dpi == (600, 600)


# --- PNG ---


@pytest.mark.parametrize("name", ["tEXt", "zTXt", "iTXt"])
def test_a_text_of_any_length_costs_no_picture(name: str):
    text = b"workflow\x00" + {"tEXt": b"", "zTXt": b"\x00", "iTXt": b"\x01\x00\x00\x00"}[name]
    long = bytes(range(65, 91)) * 200_000
    text += long if name == "tEXt" else zlib.compress(long)
    lines = b"".join(b"\x00" + row.tobytes() for row in GRAY[..., 0])
    for whole in (
        png_of(WIDTH, HEIGHT, lines, **{name: text}),
        png_of(WIDTH, HEIGHT, lines).replace(
            b"\x00\x00\x00\x00IEND", png_of(1, 1, **{name: text})[33:-59] + b"\x00\x00\x00\x00IEND"
        ),
    ):
        picture = decode(whole)
        assert np.array_equal(picture.pixels, GRAY)
        assert picture.note == "texts over 1 MiB left out" and not picture.metadata.texts


def test_a_profile_of_any_length_is_read_and_left_out_of_a_png_that_could_not_be_opened():
    profile = (bytes(16) + b"RGB ").ljust(1_500_000, b"\x07")
    picture = decode(save(Image.fromarray(RGB), "PNG", icc_profile=profile))
    assert picture.metadata.icc == profile
    assert picture.note == "its ICC profile is too long for png, which goes without"
    again = encode(picture)
    assert np.array_equal(np.asarray(Image.open(BytesIO(again))), RGB)
    assert decode(encode(picture, format="tiff")).metadata.icc == profile


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_a_profile_of_another_colour_model_is_left_out_and_said_so(format: str):
    profile = (bytes(16) + b"RGB ").ljust(600, b"\x07")
    gray = Image.fromarray(GRAY[..., 0])
    picture = decode(save(gray, format, icc_profile=profile))
    assert (picture.metadata.icc, picture.note) == (
        None,
        "ICC profile for another colour model left out",
    )
    assert decode(save(Image.fromarray(RGB), format, icc_profile=profile)).metadata.icc == profile


def test_exif_in_imagemagicks_text_is_exif():
    raw = exif(6).removeprefix(b"Exif\x00\x00")
    text = b"Raw profile type exif\x00\nexif\n%8d\n" % len(raw) + raw.hex().encode() + b"\n"
    lines = b"".join(b"\x00" + row.tobytes() for row in GRAY[..., 0])
    picture = decode(png_of(WIDTH, HEIGHT, lines, tEXt=text))
    assert np.array_equal(picture.pixels, np.rot90(GRAY, -1))


@pytest.mark.parametrize("pixels", [GRAY[..., 0], np.dstack([GRAY, GRAY, GRAY])])
def test_a_monochrome_avif_is_gray(pixels: np.ndarray):
    encoded = imagecodecs.avif_encode(pixels, level=100)
    assert decode(encoded).pixels.shape[2] == (1 if pixels.ndim == 2 else 3)


# --- HEIF, JPEG XL, and what is not read ---


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_turned_once_as_its_boxes_say(orientation: int):
    picture = decode(heic(RGB, exif=exif(orientation)))
    by_pillow = decode(save(Image.fromarray(RGB), "PNG", exif=exif(orientation)))
    assert np.array_equal(picture.pixels, by_pillow.pixels)
    assert picture.metadata.exif is not None and orientation_of(picture.metadata.exif) == 1


def test_ten_bits_of_a_heic_fill_sixteen_and_are_what_another_library_reads():
    encoded = heic(DEEP)
    other = pillow_heif.open_heif(encoded, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    expected = np.rint(np.asarray(other) * (65535 / 1023))
    assert np.array_equal(decode(encoded).pixels, expected)


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("pixels", [GRAY[..., 0], RGB])
def test_every_depth_of_a_jpeg_xl_fills_its_type(bits: int, pixels: np.ndarray):
    most = 2**bits - 1
    values = (pixels.astype(int) * most // 255).astype(np.uint8 if bits <= 8 else np.uint16)
    values.flat[0], values.flat[1] = 0, most
    encoded = imagecodecs.jpegxl_encode(values, lossless=True, bitspersample=bits)
    full = 255 if bits <= 8 else 65535
    expected = np.rint(values.reshape(HEIGHT, WIDTH, -1) * (full / most))
    assert np.array_equal(decode(encoded).pixels, expected)


@pytest.mark.parametrize(
    "shape", [(1, 1), (8, 8), (24, 32), (7, 300), (600, 9), (1, 1000), (64, 48)]
)
def test_the_size_of_a_jpeg_xl_is_known_before_it_is_decoded(shape: tuple):
    height, width = shape
    encoded = imagecodecs.jpegxl_encode(np.zeros((*shape, 3), np.uint8), lossless=True)
    assert decode(encoded, max_pixels=height * width).pixels.shape == (*shape, 3)
    if height * width > 1:
        with pytest.raises(ImageError, match="the limit is --max-pixels"):
            decode(encoded, max_pixels=height * width - 1)


def test_the_size_of_a_heic_is_known_before_it_is_decoded():
    with pytest.raises(ImageError, match="more than 700 pixels"):
        decode(heic(RGB), max_pixels=700)


@pytest.mark.parametrize("format", ["AVIF", "HEIC"])
def test_exif_that_claims_more_than_it_holds_is_left_out(format: str):
    bomb = exif_in_circles(5000)
    if format == "AVIF":
        encoded = save(Image.fromarray(RGB), "AVIF", exif=placeholder(len(bomb)))
    else:
        encoded = heic(RGB, exif=placeholder(len(bomb)))
    encoded = encoded.replace(placeholder(len(bomb)), bomb)
    assert bomb in encoded
    picture = decode(encoded)
    assert (picture.metadata.exif, picture.note) == (None, "unreadable EXIF left out")
    assert picture.pixels.shape == RGB.shape


def placeholder(length: int) -> bytes:
    """EXIF without an entry, of so many bytes."""
    return (b"II\x2a\x00" + struct.pack("<LHL", 8, 0, 0)).ljust(length, b"\x55")


@pytest.mark.parametrize(
    ("kind", "way_out"),
    [("DICOM", "dcm2img"), ("FITS", "astropy"), ("camera raw (CR3)", "darktable")],
)
def test_what_is_not_read_says_what_to_convert_it_with(kind: str, way_out: str):
    with pytest.raises(ImageError, match=f"unsupported kind: .*{way_out}"):
        decode(bad()[kind])
    assert looks_like_image(bad()[kind])  # a row, and not left out


@pytest.mark.parametrize("photometric", [32803, 34892])
def test_the_mosaic_of_a_sensor_in_a_tiff_is_camera_raw(photometric: int):
    encoded = bytearray(tiff(DEEP[..., 0], photometric="minisblack"))
    offset = encoded.index(struct.pack("<HH", 262, 3)) + 8
    struct.pack_into("<H", encoded, offset, photometric)
    with pytest.raises(ImageError, match="unsupported kind: camera raw: develop it"):
        decode(bytes(encoded))
