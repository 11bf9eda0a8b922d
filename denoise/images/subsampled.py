"""TIFF pages whose pixels share their colours, other than inside of a JPEG: read by libtiff."""

import numpy as np
from PIL import Image

from denoise.errors import ImageError
from denoise.images import tiff_tags as tag
from denoise.images.planes import Planes, extra

_OF_JPEG = {6, 7, 33003, 33004, 33005, 34712}  # which know subsampled colours, JPEG 2000 included
_CODECS = {  # of imagecodecs, by TIFF's compression
    5: "lzw_decode",
    8: "zlib_decode",
    32946: "zlib_decode",
    32773: "packbits_decode",
}


def is_subsampled(tags: Image.Exif) -> bool:
    """Whether two or more pixels share their colours, other than inside of a JPEG."""
    if tags.get(tag.PHOTOMETRIC) != tag.YCBCR or tags.get(tag.COMPRESSION, 1) in _OF_JPEG:
        return False
    return tuple(tags.get(tag.SUBSAMPLING, (2, 2))) != (1, 1)


def subsampled_planes(encoded: bytes, number: int, lengths: list[int], tags: Image.Exif) -> Planes:
    """RGB of a page of 8 bits as libtiff makes it of subsampled colours."""
    is_plain = tags.get(tag.SAMPLES, 1) == 3 and tags.get(tag.PLANAR, 1) == 1
    if np.max(tags.get(tag.BITS, 1)) != 8 or not is_plain:
        raise ImageError(
            "unsupported variant of TIFF: subsampled colours not of three times 8 bits"
        )
    _check_subsampled(encoded, lengths, tags)
    words = "TIFF files of subsampled colours need"
    planes = extra("imagecodecs", "TIFF", words).tiff_decode(encoded, index=number, asrgb=True)
    # libtiff has mirrored it already, and not turned it: as the file has it, for those who do both
    mirrored = (tags.get(tag.ORIENTATION, 1) - 1) % 4
    planes = planes[:: -1 if mirrored > 1 else 1, :: -1 if mirrored in (1, 2) else 1, :3]
    return np.ascontiguousarray(planes)


def _check_subsampled(encoded: bytes, lengths: list[int], tags: Image.Exif) -> None:
    """ImageError where a strip or tile holds too little, which libtiff says on a terminal only."""
    reader = _CODECS.get(compression := tags.get(tag.COMPRESSION, 1))
    if reader is None and compression != 1:
        raise ImageError("unsupported variant of TIFF: subsampled colours, unusually compressed")
    is_tiled, columns, rows, starts = tag.pieces_of(tags)
    height = tags[tag.HEIGHT]
    across, down = tags.get(tag.SUBSAMPLING, (2, 2))
    if across not in (1, 2, 4) or down not in (1, 2, 4):
        raise ImageError(tag.DAMAGED)
    for number, (start, length) in enumerate(zip(starts, lengths, strict=False)):
        left = rows if is_tiled else min(rows, height - number * rows)
        needed = -(-columns // across) * -(-left // down) * (across * down + 2)
        found = len(encoded) - int(start)
        if reader is not None:
            content = encoded[int(start) : int(start) + length]
            found = len(getattr(extra("imagecodecs", "TIFF"), reader)(content, out=needed))
        if found < needed:
            raise ImageError(tag.DAMAGED)
