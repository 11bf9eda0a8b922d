"""Made picture files of every kind, good and bad: what image tests, the fuzz and benches read.

Each maker returns the file's bytes; the photograph inside is 24 rows of 32 columns.
"""

import struct
import zlib
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from denoise.images.codec import Picture, encode
from denoise.images.metadata import Metadata
from tests.conftest import photo

HEIGHT, WIDTH = 24, 32  # alpha is [H, W], the others are [H, W, C]
RGB = photo(HEIGHT, WIDTH)
GRAY = RGB[..., :1]
ALPHA = photo(HEIGHT, WIDTH, seed=1, channels=1)[..., 0]
DEEP = (RGB.astype(np.uint16) * 257) ^ photo(HEIGHT, WIDTH, seed=2)  # all 16 bits are in use
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"'
    b' dc:title="Dog"/></x:xmpmeta>'
)
# 8 x 8 pixels in Display P3's colours, by cjxl 0.7; in base 85
PROFILED_JXL = (
    "{|Z4s2yYDo66OKWoS}gu&b*H8>#G)fh#D4J#1>kD%&CvC^JLJ)h2gZ35bkVYcQ%R9wG}cNjV`UhV+#Y2b+mO"
    "xfLENWX2x}<Kp=nt{|iei-m)0#I&qQ9N*)RUiq@vG(rKo;JhOhudgKOjS;sfP(O1}9+0;{1IxN82*)l*=+0s"
    "(h9BQwX1<+|4Yp4LHdi(Fc^OR5Hok07A^xuE?4fWrD`xU`nE)@82?x0^t@2~&<`|l2dg5kytifj&4`h&)DVb"
    "t8ie9O#ydv+96w&lwXP}e0eDjOVng~CdL7)_YV0SE#C0E_@j7?X~Lg9$LM27ja~#uy`F4Bl}72LkE=pr040K"
    "mdTGfB*"
)
DEEP_ALPHA = (ALPHA.astype(np.uint16) * 257) ^ 3


def good() -> dict[str, bytes]:
    """Files that decode, by what they are."""
    rgb, rgba = Image.fromarray(RGB), Image.fromarray(np.dstack([RGB, ALPHA]))
    gray, palette = Image.fromarray(GRAY[..., 0]), rgb.quantize(64)
    la = Image.fromarray(np.dstack([GRAY, ALPHA]), "LA")
    deep_gray = Image.fromarray(np.ascontiguousarray(DEEP[..., 0]))
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    described = Picture(RGB, metadata=Metadata(exif=exif(1)[6:], xmp=XMP))
    frames = [Image.fromarray(photo(HEIGHT, WIDTH, seed=seed)) for seed in range(3)]
    return {
        "JPEG": save(rgb, "JPEG", quality=90),
        "JPEG, progressive, profile, dpi": save(
            rgb, "JPEG", progressive=True, icc_profile=icc, dpi=(300, 300)
        ),
        "JPEG, gray": save(gray, "JPEG"),
        "JPEG, CMYK": save(rgb.convert("CMYK"), "JPEG"),
        "JPEG, CMYK, profile": save(
            rgb.convert("CMYK"), "JPEG", quality=95, icc_profile=cmyk_profile()
        ),
        "JPEG, turned (EXIF 6)": save(rgb, "JPEG", exif=exif(6)),
        "PNG, RGB": save(rgb, "PNG", icc_profile=icc, exif=exif(1)),
        "PNG, RGBA": save(rgba, "PNG"),
        "PNG, gray": save(gray, "PNG"),
        "PNG, gray and alpha": save(la, "PNG"),
        "PNG, 1 bit": save(gray.convert("1"), "PNG"),
        "PNG, palette": save(palette, "PNG"),
        "PNG, palette, transparent": save(palette, "PNG", transparency=3),
        "PNG, RGB, transparent colour": save(rgb, "PNG", transparency=(9, 9, 9)),
        "PNG, gray, transparent value": save(gray, "PNG", transparency=100),
        "PNG, 16-bit gray": save(deep_gray, "PNG"),
        "PNG, 16-bit RGB": imagecodecs.png_encode(DEEP),
        "PNG, 16-bit RGBA": imagecodecs.png_encode(np.dstack([DEEP, DEEP_ALPHA])),
        "PNG, texts, XMP": _with_texts(rgb),
        "JPEG, XMP": save(rgb, "JPEG", xmp=XMP),
        "TIFF, XMP": save(rgb, "TIFF", tiffinfo={700: XMP}),
        "PNG, animated": save(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "WebP": save(rgb, "WEBP", quality=80),
        "WebP, lossless, RGBA": save(rgba, "WEBP", lossless=True, exact=True),
        "WebP, animated": save(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "TIFF, RGB, LZW": save(rgb, "TIFF", compression="tiff_lzw", dpi=(300, 300)),
        "TIFF, RGB, not compressed": save(rgb, "TIFF"),
        "TIFF, RGBA, deflate": save(rgba, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF, JPEG inside": save(rgb, "TIFF", compression="jpeg"),
        "TIFF, 1 bit, group 4": save(gray.convert("1"), "TIFF", compression="group4"),
        "TIFF, CMYK": save(rgb.convert("CMYK"), "TIFF"),
        "TIFF, CMYK, 16 bits": tiff(
            np.asarray(rgb.convert("CMYK")) * np.uint16(257), photometric="separated"
        ),
        "TIFF, LAB, 16 bits": tiff(DEEP, photometric="cielab"),
        "TIFF, 16-bit RGB, multiplied alpha": tiff(
            np.dstack([DEEP // 2, DEEP_ALPHA | 32768]), extrasamples=["assocalpha"]
        ),
        "TIFF, LAB": save(_lab(rgb), "TIFF"),
        "TIFF, palette": save(palette, "TIFF"),
        "TIFF, 16-bit gray": save(deep_gray, "TIFF"),
        "TIFF, 16-bit RGB": tiff(DEEP),
        "TIFF, 16-bit RGB, tiled, deflate": tiff(DEEP, compression="zlib", tile=(16, 16)),
        "TIFF, 16-bit RGB, planes apart": tiff(np.moveaxis(DEEP, 2, 0), planarconfig="separate"),
        "TIFF, 16-bit RGBA": tiff(np.dstack([DEEP, DEEP_ALPHA]), extrasamples=["unassalpha"]),
        "TIFF, float in 0..1": tiff((DEEP / 65535).astype(np.float32)),
        "TIFF, several pages": save(
            frames[0], "TIFF", save_all=True, append_images=frames[1:], compression="tiff_lzw"
        ),
        "BMP": save(rgb, "BMP"),
        "GIF": save(palette, "GIF"),
        "GIF, animated": save(palette, "GIF", save_all=True, append_images=frames[1:]),
        "AVIF": save(rgb, "AVIF"),
        "AVIF, 10 bits": imagecodecs.avif_encode(DEEP >> 6, level=100, bitspersample=10),
        "HEIC": heic(RGB),
        "HEIC, gray": heic(GRAY[..., 0]),
        "HEIC, 10 bits": heic(DEEP),
        "AVIF, EXIF, XMP": save(rgb, "AVIF", exif=exif(1), xmp=XMP),
        "HEIC, XMP": heic(RGB, xmp=XMP.replace(b'"6"', b'"1"')),
        "HEIC, turned (EXIF 6)": heic(RGB, exif=exif(6)),
        "JPEG XL": imagecodecs.jpegxl_encode(RGB, lossless=True),
        "JPEG XL, boxes": imagecodecs.jpegxl_encode(RGB, lossless=True, usecontainer=True),
        "JPEG XL, 16 bits": imagecodecs.jpegxl_encode(DEEP, lossless=True, bitspersample=16),
        "JPEG 2000": save(rgb, "JPEG2000"),
        "JPEG XL, EXIF, XMP": encode(described, format="jxl"),
        "JPEG 2000, EXIF, XMP": encode(described, format="jpeg2000"),
        "JPEG 2000, 16 bits": imagecodecs.jpeg2k_encode(DEEP, level=0, reversible=True),
        "PPM": save(rgb, "PPM"),
        "PGM, 16 bits": b"P5 32 24 65535\n" + DEEP[..., 0].astype(">u2").tobytes(),
        "TGA": save(rgb, "TGA"),
        "ICO": save(rgba, "ICO", sizes=[(32, 24)]),
        "PCX": save(rgb, "PCX"),
        "SGI": save(rgb, "SGI"),
        "QOI": imagecodecs.qoi_encode(RGB),
        "DDS": save(rgb, "DDS"),
    }


def bad() -> dict[str, bytes]:
    """Files that do not, by what is wrong with them."""
    rgb = Image.fromarray(photo(120, 160))
    jpeg, png = save(rgb, "JPEG", quality=95), save(rgb, "PNG")
    with_nan = (DEEP / 65535).astype(np.float32)
    with_nan[3, 4] = np.nan
    return {
        "empty file": b"",
        "text": b"This is not a picture.\n",
        "JPEG, half of it": jpeg[: len(jpeg) // 2],
        "JPEG, half of it, but an end": jpeg[: len(jpeg) // 2] + b"\xff\xd9",
        "JPEG, header only": jpeg[:100],
        "PNG, half of it": png[: len(png) // 2],
        "TIFF, half of it": (whole := save(rgb, "TIFF"))[: len(whole) // 2],
        "WebP, half of it": (whole := save(rgb, "WEBP"))[: len(whole) // 2],
        "GIF, half of it": (whole := save(rgb, "GIF"))[: len(whole) // 2],
        "BMP, half of it": (whole := save(rgb, "BMP"))[: len(whole) // 2],
        "PNG that says 60000x60000": png_of(60000, 60000),
        "PNG that says 0x5": png_of(0, 5),
        "BMP that says 60000x60000": bmp_of(60000, 60000),
        "TIFF, NaN": tiff(with_nan),
        "TIFF, floats to 255": tiff(RGB.astype(np.float32)),
        "TIFF, 32-bit integers": tiff(DEEP.astype(np.uint32)),
        "TIFF, five planes": tiff(
            np.dstack([DEEP, DEEP[..., :2]]), photometric="rgb", extrasamples=[0, 0]
        ),
        "PPM, 16-bit RGB": b"P6 32 24 65535\n" + DEEP.astype(">u2").tobytes(),
        "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        "PSD": b"8BPS\x00\x01" + bytes(60),
        "HEIC, header only": b"\x00\x00\x00\x18ftypheic" + bytes(60),
        "MP4": b"\x00\x00\x00\x18ftypisom" + bytes(60),
        "PDF": b"%PDF-1.7\n",
        "JPEG XL, header only": b"\xff\x0a" + bytes(60),
        "DICOM": bytes(128) + b"DICM" + bytes(60),
        "FITS": b"SIMPLE  =                    T" + bytes(60),
        "camera raw (CR3)": b"\x00\x00\x00\x18ftypcrx " + bytes(60),
    }


def save(image: Image.Image, format: str, **options: Any) -> bytes:
    """By Pillow."""
    out = BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def _with_texts(image: Image.Image) -> bytes:
    """A PNG with a text of each kind, and XMP."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "Dog")
    texts.add_text("Comment", "long " * 100, zip=True)
    texts.add_itxt("Author", "Ä", lang="de", tkey="Autor", zip=True)
    texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return save(image, "PNG", pnginfo=texts)


def heic(planes: np.ndarray, **options: Any) -> bytes:
    """By pillow-heif, without loss; 16 bits become 10. Wheels of it hold GPL code: tests alone."""
    mode = ("L" if planes.ndim == 2 else "RGB") + (";16" if planes.itemsize > 1 else "")
    made = pillow_heif.from_bytes(mode, planes.shape[1::-1], np.ascontiguousarray(planes).tobytes())
    out = BytesIO()
    lossless = {"quality": -1, "chroma": 444} | (
        {"matrix_coefficients": 0} if planes.ndim > 2 else {}
    )
    made.save(out, **lossless, **options)
    return out.getvalue()


def tiff(planes: np.ndarray, **options: Any) -> bytes:
    """By tifffile."""
    out = BytesIO()
    tifffile.imwrite(out, planes, **({"photometric": "rgb"} | options))
    return out.getvalue()


def exif(orientation: int) -> bytes:
    """EXIF of a camera with this orientation and its size before it is turned."""
    tags = Image.Exif()
    tags[0x0112], tags[0x010F], tags[0x0110] = orientation, "Maker", "Model 1"
    tags.get_ifd(0x8769).update(
        {0xA002: WIDTH, 0xA003: HEIGHT, 0x829A: 0.01, 0x927C: b"maker's note \x00\xff", 0xA005: 8}
    )
    tags.get_ifd(0x8825).update({1: "N", 2: (47.0, 30.0, 1.5), 0: b"\x02\x03\x00\x00"})
    return tags.tobytes()


def png_of(width: int, height: int, lines: bytes = b"", **chunks: bytes) -> bytes:
    """An 8-bit gray PNG that claims this size and holds these scan lines."""
    named = {"IHDR": struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0)}
    named |= chunks | {"IDAT": zlib.compress(lines), "IEND": b""}
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in named.items():
        crc = zlib.crc32(name.encode() + content)
        parts += [struct.pack(">L", len(content)), name.encode(), content, struct.pack(">L", crc)]
    return b"".join(parts)


def bmp_of(width: int, height: int) -> bytes:
    """The header of a 24-bit BMP, and no pixels."""
    return b"BM" + struct.pack("<LHHLLllHHLLllLL", 54, 0, 0, 54, 40, width, height, 1, 24, *[0] * 6)


def cmyk_profile() -> bytes:
    """An ICC profile of an ink that is black and white only: CMYK -> L with a = b = 0."""
    corners = [b"\x00\x80\x80"] * 16  # any ink at all is black
    corners[0] = b"\xff\x80\x80"  # L 100, a 0, b 0: paper
    ramp = bytes(range(256))
    matrix = struct.pack(">9l", *(65536 if index % 4 == 0 else 0 for index in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix
    table += ramp * 4 + b"".join(corners) + ramp * 3
    tags = struct.pack(">L4sLL", 1, b"A2B0", 144, len(table))
    header = struct.pack(">L4xL", 144 + len(table), 0x02400000) + b"prtrCMYKLab " + bytes(12)
    white = struct.pack(">3l", 63190, 65536, 54061)
    header += b"acsp" + bytes(28) + white
    return header.ljust(128, b"\x00") + tags + table


def _lab(image: Image.Image) -> Image.Image:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    turned = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    assert turned is not None
    return turned
