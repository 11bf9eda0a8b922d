"""Colours that JPEG XL, AVIF and HEIC files name by numbers become profiles."""

import struct
from base64 import b85decode
from io import BytesIO

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from denoise.errors import ImageError
from denoise.images.boxes import box_of, meta_of
from denoise.images.codec import decode, encode, format_for
from denoise.images.jxl_head import Bits, read_metadata
from denoise.images.named_colours import NOT_SRGB, colours_of, made_profile
from tests.pictures import PROFILED_JXL, RGB, save

RAMP = (np.arange(64).reshape(8, 8, 1) * 3 + np.array([0, 20, 40])).astype(np.uint8)
# RAMP by cjxl 0.7, without loss: with a profile of Display P3's colours, and its red with one of
# gray
OF_CJXL = {
    "RGB": PROFILED_JXL,
    "GRAY": (
        "{|Z4s7$*q>66OI=)soJ|qULq&hn9P6J{4Np#Fkk0$UN1tz|Ijj$Ic;fwKNw1vW~XS2mnCqcl{>=JXg&f>)Zl"
        "?00#UoEUoyO;ZoO$RhB)K4b1}-txaX6(@b^wl=n;KEjo~89p3;)Utx1)Q%_OpumEdk%K%MfOG{aE=-h~TC9R"
        "doiz%~B2m%2BU;s-fB*vEt5|U!lG(b;)2P|L#3s}Gc761"
    ),
}


@pytest.mark.parametrize("space", OF_CJXL)
def test_a_profile_inside_of_a_jpeg_xl_is_left_out_with_a_note(space: str):
    pixels = RAMP if space == "RGB" else RAMP[..., :1]
    picture = decode(b85decode(OF_CJXL[space]))
    assert np.array_equal(picture.pixels, pixels)
    assert picture.metadata.icc is None
    assert picture.note == "its ICC profile, which cannot be read, is left out"
    assert format_for(picture, "same") == "jxl"  # as of any picture without a profile
    again = decode(encode(picture, format="jxl"))
    assert np.array_equal(again.pixels, pixels)
    assert again.note is None


Fields = list[tuple[int, int]]  # numbers, and how many bits each has
# Nothing by default, no more fields; whole numbers of 8 bits; 16 suffice
BEGIN: Fields = [(0, 1), (0, 1), (0, 1), (0, 2), (1, 1)]
COLOURS: Fields = [*BEGIN, (0, 2), (0, 1), (0, 1), (0, 1)]  # no more channels, no XYB, no profile


def head_of(fields: Fields) -> Bits:
    number = at = 0
    for value, count in fields:
        number |= value << at
        at += count
    return Bits(b"\xff\x0a" + number.to_bytes(at // 8 + 9, "little"))


def named(number: int) -> Fields:
    """As an Enum stores it."""
    return [(number, 2)] if number < 2 else [(2, 2), (number - 2, 4)]


def custom(*values: float) -> Fields:
    """Chromaticities, in millionths and with the sign as the last bit."""
    fields = []
    for value in values:
        whole = round(value * 1e6) * 2 if value >= 0 else round(-value * 1e6) * 2 - 1
        starts = (0, 524288, 1048576, 2097152)
        kind = max(k for k, start in enumerate(starts) if whole >= start)
        fields += [(kind, 2), (whole - starts[kind], (19, 19, 20, 21)[kind])]
    return fields


RGB_SPACE, GRAY_SPACE, D65, P3, BT_2100, BY_VALUE = named(0), named(1), named(1), 11, 9, named(2)
CORNERS = ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001))


@pytest.mark.parametrize(
    ("fields", "profile"),
    [
        ([*RGB_SPACE, *D65, *named(1), (0, 1), *named(13)], None),
        (
            [
                *RGB_SPACE,
                *(*BY_VALUE, *custom(0.3127, 0.329)),
                *(*BY_VALUE, *custom(0.64, 0.33, 0.3, 0.6, 0.15, 0.06)),
                *((0, 1), *named(13)),
            ],
            None,  # sRGB's in numbers
        ),
        ([*GRAY_SPACE, *D65, (0, 1), *named(13)], None),
        ([*RGB_SPACE, *D65, *named(P3), (0, 1), *named(13)], colours_of(12, 13, is_gray=False).icc),
        (
            [*RGB_SPACE, *D65, *named(BT_2100), (0, 1), *named(8)],
            colours_of(9, 8, is_gray=False).icc,
        ),
        (
            [
                *RGB_SPACE,
                *(*BY_VALUE, *custom(0.3457, 0.3585)),
                *(*BY_VALUE, *custom(*CORNERS[0], *CORNERS[1], *CORNERS[2])),
                *((1, 1), (5_000_000, 24)),
            ],
            made_profile((0.3457, 0.3585), CORNERS, 2.0),
        ),
        ([*GRAY_SPACE, *D65, (0, 1), *named(8)], made_profile((0.3127, 0.329), None, 1.0)),
    ],
)
def test_colours_that_a_jpeg_xl_names_become_a_profile(fields: Fields, profile: bytes | None):
    found = read_metadata(head_of([*COLOURS, *fields])).colours
    assert (found.icc, found.note) == (profile, None)


@pytest.mark.parametrize("curve", [16, 18])
def test_hdr_in_a_jpeg_xl_is_said_to_be_lost(curve: int):
    fields = [*COLOURS, *RGB_SPACE, *D65, *named(BT_2100), (0, 1), *named(curve)]
    found = read_metadata(head_of(fields)).colours
    assert (found.icc, found.note) == (None, NOT_SRGB)


@pytest.mark.parametrize("is_gray", [False, True])
@pytest.mark.parametrize("curve", [1, 2, 6, 13])
def test_colours_named_as_those_of_srgb_need_no_profile(curve: int, is_gray: bool):
    assert colours_of(1, curve, is_gray=is_gray) == (None, None)


@pytest.mark.parametrize("curve", [16, 18])
def test_the_brightness_of_hdr_is_said_to_be_lost(curve: int):
    assert colours_of(9, curve, is_gray=False) == (None, NOT_SRGB)


def test_a_made_profile_is_what_littlecms_makes_of_the_same_numbers():
    srgb = ImageCms.createProfile("sRGB")
    p3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
    for white in ((0.3127, 0.329), (0.314, 0.351)):
        for gamma in (1.0, 2.2, 2.6):
            theirs = imagecodecs.cms_profile(
                "rgb",
                whitepoint=[*white, 1],
                primaries=[n for one in p3 for n in (*one, 1)],
                gamma=gamma,
            )
            ours = made_profile(white, p3, gamma)
            turned = [
                ImageCms.profileToProfile(
                    Image.fromarray(RGB), BytesIO(icc), srgb, outputMode="RGB", renderingIntent=1
                )
                for icc in (ours, theirs)
            ]
            ours_turned, theirs_turned = (np.asarray(one, int) for one in turned)
            assert np.abs(ours_turned - theirs_turned).max() <= 1


def test_a_made_profile_of_srgb_changes_nothing():
    white, corners = (0.3127, 0.329), ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06))
    icc = BytesIO(made_profile(white, corners, None))
    srgb = ImageCms.createProfile("sRGB")
    turned = ImageCms.profileToProfile(Image.fromarray(RGB), icc, srgb, outputMode="RGB")
    assert np.abs(np.asarray(turned, int) - RGB).max() <= 1


def test_primaries_on_a_line_make_no_profile():
    with pytest.raises((ValueError, np.linalg.LinAlgError)):
        made_profile((0.3127, 0.329), ((0.1, 0.1), (0.2, 0.2), (0.3, 0.3)), 2.2)


def of_p3(format: str) -> bytes:
    """An AVIF or HEIC that names P3's primaries (12) and sRGB's curve (13), without a profile."""
    if format == "HEIC":
        made = pillow_heif.from_bytes("RGB", RGB.shape[1::-1], RGB.tobytes())
        out = BytesIO()
        numbers = {"color_primaries": 12, "transfer_characteristics": 13}
        made.save(out, quality=-1, chroma=444, matrix_coefficients=0, **numbers)
        return out.getvalue()
    encoded = save(Image.fromarray(RGB), "AVIF", quality=90)
    at = encoded.index(b"colrnclx") + 8
    return encoded[:at] + struct.pack(">HH", 12, 13) + encoded[at + 4 :]


@pytest.mark.parametrize("format", ["AVIF", "HEIC"])
def test_colours_that_an_avif_or_heic_names_become_a_profile(format: str):
    picture = decode(of_p3(format))
    assert picture.metadata.icc == colours_of(12, 13, is_gray=False).icc
    assert picture.metadata.icc and decode(encode(picture)).metadata.icc == picture.metadata.icc


@pytest.mark.parametrize(
    ("items", "taken"),
    [
        ([], None),
        ([(12, 13)], (12, 13)),
        ([(12, 13), (12, 13)], (12, 13)),  # tiles of one picture
        ([(1, 8), (12, 13)], None),  # whose they are is not looked up
    ],
)
def test_items_that_name_unlike_colours_name_none(
    items: list[tuple[int, int]], taken: tuple[int, int] | None
):
    colours = (box_of(b"colr", b"nclx" + struct.pack(">HHHB", *one, 0, 0)) for one in items)
    properties = box_of(b"iprp", box_of(b"ipco", b"".join(colours)))
    assert meta_of(box_of(b"meta", bytes(4) + properties)).colours == taken


def test_black_ink_beside_the_colours_of_a_jpeg_xl_is_never_taken_for_alpha():
    channel = [(1, 2), (0, 1), *named(4)]  # one, not the usual alpha, of black
    depth_and_name = [(0, 1), (0, 2), (0, 2), (0, 2)]
    with pytest.raises(ImageError, match="black ink"):
        read_metadata(head_of([*BEGIN, *channel, *depth_and_name]))
