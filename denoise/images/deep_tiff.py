"""TIFF pages that Pillow would cut or not open: by tifffile, of any depth and colour model.

Planes are [H, W, N] uint8 or uint16, N 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha).
"""

import logging
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from denoise.errors import ImageError
from denoise.images import tiff_tags as tag
from denoise.images.planes import Planes, extra, from_floats, in_bands, stretch, to_rgb

# How many colours each photometric interpretation has
_COLOURS = {tag.MINISWHITE: 1, tag.GRAY: 1, tag.RGB: 3, tag.PALETTE: 1}
_COLOURS |= {tag.CMYK: 4, tag.YCBCR: 3, tag.LAB: 3}
_MULTIPLIED = 1  # an extra sample: alpha that the colours are multiplied with


def deep_planes(encoded: bytes, number: int, lengths: list[int], tags: Image.Exif) -> Planes:
    """The planes of a page; `lengths` are how many bytes its strips or tiles have.

    Raises ImageError, and what tifffile raises for damaged files.
    """
    tifffile = extra("tifffile", "TIFF")
    extra("imagecodecs", "TIFF")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says becomes an ImageError
    with tifffile.TiffFile(BytesIO(encoded)) as file:
        page = file.pages[number]
        kind, samples = int(page.photometric), page.samplesperpixel
        depths = np.atleast_1d(tags.get(tag.BITS, 1))
        _check_colours(kind, int(depths.max()))
        if page.sampleformat not in (1, 2, 3) or len(set(depths.tolist())) > 1:
            raise ImageError(
                "unsupported variant of TIFF: complex pixels or planes of unlike depths"
            )
        beside = [int(one) for one in page.extrasamples]
        can_divide = kind in (tag.GRAY, tag.RGB)
        if samples - _COLOURS[kind] not in (0, 1) or (_MULTIPLIED in beside and not can_divide):
            raise ImageError("unsupported variant of TIFF: multiplied alpha or more than one")
        page.databytecounts = tuple(lengths)
        planes = page.asarray(maxworkers=1)
        if page.axes == "SYX":
            planes = np.moveaxis(planes, 0, 2)
        elif page.axes not in ("YX", "YXS"):
            raise ImageError("unsupported variant of TIFF: not a flat image")
    planes = planes.reshape(*planes.shape[:2], -1)
    planes = _of_our_colours(planes, kind, int(depths[0]), tags)
    return _divide(planes) if _MULTIPLIED in beside and planes.shape[2] in (2, 4) else planes


def _check_colours(kind: int, bits: int) -> None:
    """ImageError where the colours of a page are none of ours, or not in so many bits."""
    is_odd = (kind == tag.PALETTE and bits > 8) or (kind == tag.LAB and bits not in (8, 16))
    if kind not in _COLOURS or is_odd:
        raise ImageError(f"unsupported variant of TIFF: colours of kind {kind} in {bits} bits")


def _of_our_colours(planes: Planes, kind: int, bits: int, tags: Image.Exif) -> Planes:
    """What tifffile has read -> gray or RGB, with alpha where there is one, of 8 or 16 bits."""
    if kind == tag.LAB:
        return in_bands(planes, _from_lab)
    if planes.dtype.kind == "f":
        planes = from_floats(planes)
    elif planes.dtype == bool:
        planes = planes.astype(np.uint8) * 255
    elif planes.dtype not in (np.uint8, np.uint16):
        raise ImageError("unsupported: 32-bit integer or signed pixels")
    elif kind == tag.PALETTE:
        table = np.array(tags[tag.COLOUR_MAP]).reshape(3, -1).T
        table = (table if table.max() < 256 else table >> 8).astype(np.uint8)
        return table[np.minimum(planes[..., 0], len(table) - 1)]
    else:
        planes = stretch(planes, bits)
    if kind == tag.MINISWHITE:
        planes[..., 0] = np.iinfo(planes.dtype).max - planes[..., 0]
    elif kind == tag.CMYK:
        return _from_inks(planes, tags.get(tag.ICC))
    elif kind == tag.YCBCR and tags.get(tag.COMPRESSION) != tag.JPEG:  # its decoder makes RGB
        if planes.itemsize > 1:
            raise ImageError("unsupported variant of TIFF: YCbCr of more than 8 bits")
        image = Image.fromarray(np.ascontiguousarray(planes[..., :3]), "YCbCr")
        return np.concatenate([np.asarray(image.convert("RGB")), planes[..., 3:]], axis=2)
    return np.ascontiguousarray(planes)


def _from_inks(inks: Planes, icc: bytes | None) -> Planes:
    """CMYK, perhaps with alpha -> RGB, through its profile, or by Pillow's rule of thumb."""
    if inks.itemsize == 1:
        image = Image.fromarray(np.ascontiguousarray(inks[..., :4]), "CMYK")
        colours = np.asarray(to_rgb(image, icc))
    elif icc and icc[16:20] == b"CMYK":
        colours = _through_profiles(inks[..., :4], icc, "cmyk")
    else:
        colours = in_bands(inks, _by_rule_of_thumb)
    return np.concatenate([colours, inks[..., 4:]], axis=2)


def _by_rule_of_thumb(inks: Planes) -> Planes:
    """16 bits: each ink takes its share of what black has left."""
    paper = 1 - inks.astype(np.float64) / 65535
    return np.rint(paper[..., :3] * paper[..., 3:4] * 65535).astype(np.uint16)


def _from_lab(planes: Planes) -> Planes:
    """CIELAB of 8 or 16 bits, perhaps with alpha -> RGB of as many.

    TIFF 6.0, section 23: L fills its type, a and b are signed, in whole numbers or in 256ths.
    """
    if planes.dtype not in (np.uint8, np.uint16):
        raise ImageError("unsupported: 32-bit integer or signed pixels")
    signed = planes[..., 1:3].view(f"i{planes.itemsize}")
    if planes.itemsize == 1:
        lab = np.dstack([planes[..., 0], signed.astype(np.int16) + 128]).astype(np.uint16) * 257
    else:
        lab = np.empty((*planes.shape[:2], 3), np.uint16)
        lab[..., 0] = planes[..., 0]
        lab[..., 1:] = np.rint((signed / 256 + 128) * 257)
    colours = _through_profiles(lab, _lcms_profile("LAB"), "lab")
    if planes.itemsize == 1:
        colours = np.rint(colours / 257).astype(np.uint8)
    return np.concatenate([colours, planes[..., 3:]], axis=2)


def _through_profiles(planes: Planes, icc: bytes, colours: str) -> Planes:
    """16 bits of CMYK or Lab -> sRGB, by LittleCMS."""
    library = extra("imagecodecs", "TIFF")
    spaces = {"colorspace": colours, "outcolorspace": "rgb", "outdtype": "uint16"}
    made: Planes = library.cms_transform(
        np.ascontiguousarray(planes), icc, _lcms_profile("sRGB"), **spaces
    )
    return made


def _lcms_profile(name: Any) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def _divide(planes: Planes) -> Planes:
    """Colours that were multiplied with their alpha, as they were before; as they are at 0."""

    def divide(band: Planes) -> Planes:
        most = np.iinfo(band.dtype).max
        alpha = band[..., -1:].astype(np.float64)
        colours = np.rint(band[..., :-1] * (most / np.where(alpha, alpha, most)))
        return np.concatenate([np.minimum(colours, most), alpha], axis=2).astype(band.dtype)

    return in_bands(planes, divide)
