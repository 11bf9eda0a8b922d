"""HEIF files, as telephones write them (HEIC): read by pi-heif, 10 and 12 bits as 16.

HEVC is read only: no library under a free licence other than the GPL writes it.
"""

from typing import Any

import numpy as np

from denoise.errors import ImageError
from denoise.images.boxes import meta_of, without_links
from denoise.images.exif import check_claims, upright
from denoise.images.named_colours import Colours, colours_of
from denoise.images.planes import Scan, check_size, extra, note_of, stretched

# libheif holds the picture in its own colours beside the result, and tiles of it
_BYTES = 16


def scan_of_heif(encoded: bytes, max_pixels: int) -> Scan:
    """The primary picture of a file, upright as its own boxes say. Raises ImageError."""
    meta = meta_of(encoded)
    for width, height in meta.sizes:
        check_size(width, height, max_pixels, each=_BYTES)
    library = extra("pi_heif", "HEIF", "HEIF files need")
    for more in ("THUMBNAILS", "DEPTH_IMAGES", "AUX_IMAGES"):
        setattr(library.options, more, False)  # the fewer of its parts run, the better
    slim = without_links(encoded, meta)
    file = library.open_heif(slim, convert_hdr_to_8bit=False, hdr_to_16bit=False)
    image: Any = file[file.primary_index]
    check_size(image.size[0], image.size[1], max_pixels, each=_BYTES)
    mode, _, deep = image.mode.partition(";")
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise ImageError(f"unsupported variant of HEIF: pixels of mode {image.mode}")
    planes = np.asarray(image)
    bits = int(deep or 8)
    planes = stretched(planes.reshape(*planes.shape[:2], -1), bits)
    colours = Colours(image.info.get("icc_profile"))
    if not colours.icc and meta.colours:
        colours = colours_of(*meta.colours, is_gray=mode[0] == "L")
    note = "; ".join(filter(None, [note_of(lambda: len(file)), colours.note])) or None
    exif, xmp = (
        next((encoded[start:end] for start, end in found), None) for found in (meta.exif, meta.xmp)
    )
    return Scan(
        np.array(planes),
        "HEIF",
        exif and _turned_already(exif, planes),
        colours.icc,
        None,
        note,
        xmp=xmp,
    )


def _turned_already(exif: bytes, planes: Any) -> bytes:
    """The EXIF of pixels that the library has turned; as it is where it cannot be read."""
    try:
        check_claims(exif)
        return upright(exif, planes.shape[1], planes.shape[0])
    except ValueError:
        return exif
