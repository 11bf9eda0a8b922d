"""HEIF files, as telephones write them (HEIC): read by pi-heif, 10 and 12 bits as 16.

HEVC is read only: no library under a free licence other than the GPL writes it.
"""

from typing import Any

import numpy as np

from denoise.errors import ImageError
from denoise.images.boxes import meta_of, without_links
from denoise.images.exif import of_turned
from denoise.images.metadata import Metadata
from denoise.images.named_colours import with_named_colours
from denoise.images.planes import Scan, check_size, extra, join_notes, note_of, stretch

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
    planes = stretch(planes.reshape(*planes.shape[:2], -1), bits)
    exif, xmp = (
        next((encoded[start:end] for start, end in found), None) for found in (meta.exif, meta.xmp)
    )
    metadata = Metadata(
        exif=of_turned(exif, planes.shape[1], planes.shape[0]),
        icc=image.info.get("icc_profile"),
        xmp=xmp,
    )
    metadata, words = with_named_colours(metadata, meta.colours, is_gray=mode[0] == "L")
    return Scan(np.array(planes), "HEIF", metadata, join_notes(note_of(lambda: len(file)), words))
