"""TIFF pages whose pixels share their colours, other than inside of a JPEG: read by libtiff."""

import numpy as np
from PIL import Image

from denoise.errors import ImageError
from denoise.images.planes import extra
from denoise.images.writers import Planes

# TIFF's tags, by number
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_SAMPLES, _PLANAR, _SUBSAMPLING = 277, 284, 530
_STRIP_STARTS, _ROWS_PER_STRIP = 273, 278
_TILE_WIDTH, _TILE_HEIGHT, _TILE_STARTS = 322, 323, 324
_YCBCR = 6
_OF_JPEG = {6, 7, 33003, 33004, 33005, 34712}  # which know subsampled colours, JPEG 2000 included
_CODECS = {  # of imagecodecs, by TIFF's compression
    5: "lzw_decode",
    8: "zlib_decode",
    32946: "zlib_decode",
    32773: "packbits_decode",
}
_DAMAGED = "truncated or damaged TIFF"


def is_subsampled(tags: Image.Exif) -> bool:
    """Whether two or more pixels share their colours, other than inside of a JPEG."""
    is_ycbcr = tags.get(_PHOTOMETRIC) == _YCBCR and tags.get(_COMPRESSION, 1) not in _OF_JPEG
    return is_ycbcr and tuple(tags.get(_SUBSAMPLING, (2, 2))) != (1, 1)


def subsampled_planes(encoded: bytes, number: int, lengths: list[int], tags: Image.Exif) -> Planes:
    """RGB of a page of 8 bits as libtiff makes it of subsampled colours."""
    is_plain = tags.get(_SAMPLES, 1) == 3 and tags.get(_PLANAR, 1) == 1
    if np.max(tags.get(_BITS, 1)) != 8 or not is_plain:
        raise ImageError(
            "unsupported variant of TIFF: subsampled colours not of three times 8 bits"
        )
    _check_subsampled(encoded, lengths, tags)
    words = "TIFF files of subsampled colours need"
    planes = extra("imagecodecs", "TIFF", words).tiff_decode(encoded, index=number, asrgb=True)
    # libtiff has mirrored it already, and not turned it: as the file has it, for those who do both
    mirrored = (tags.get(_ORIENTATION, 1) - 1) % 4
    planes = planes[:: -1 if mirrored > 1 else 1, :: -1 if mirrored in (1, 2) else 1, :3]
    return np.ascontiguousarray(planes)


def _check_subsampled(encoded: bytes, lengths: list[int], tags: Image.Exif) -> None:
    """ImageError where a strip or tile holds too little, which libtiff says on a terminal only."""
    reader = _CODECS.get(compression := tags.get(_COMPRESSION, 1))
    if reader is None and compression != 1:
        raise ImageError("unsupported variant of TIFF: subsampled colours, unusually compressed")
    is_tiled = _TILE_WIDTH in tags
    height = tags[_HEIGHT]
    columns = tags[_TILE_WIDTH] if is_tiled else tags[_WIDTH]
    rows = tags[_TILE_HEIGHT] if is_tiled else min(tags.get(_ROWS_PER_STRIP, height), height)
    across, down = tags.get(_SUBSAMPLING, (2, 2))
    if across not in (1, 2, 4) or down not in (1, 2, 4):
        raise ImageError(_DAMAGED)
    starts = np.atleast_1d(tags[_TILE_STARTS if is_tiled else _STRIP_STARTS])
    for number, (start, length) in enumerate(zip(starts, lengths, strict=False)):
        left = rows if is_tiled else min(rows, height - number * rows)
        needed = -(-columns // across) * -(-left // down) * (across * down + 2)
        found = len(encoded) - int(start)
        if reader is not None:
            content = encoded[int(start) : int(start) + length]
            found = len(getattr(extra("imagecodecs", "TIFF"), reader)(content, out=needed))
        if found < needed:
            raise ImageError(_DAMAGED)
