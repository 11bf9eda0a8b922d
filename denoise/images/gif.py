"""GIF files by their blocks: how many pictures there are. Pillow would set up each of them."""

from collections.abc import Iterator
from itertools import islice

from denoise.errors import ImageError
from denoise.images.planes import MANY_FRAMES

_MOST_EXTENSIONS = 1000
_PICTURE, _EXTENSION = 0x2C, 0x21


def frames_of_gif(encoded: bytes) -> int:
    """How many pictures a GIF has; one too many where there are more than are counted.

    Raises ImageError where too much lies in front of the first, which Pillow would read.
    """
    return sum(1 for _ in islice(_pictures(encoded), MANY_FRAMES + 1))


def _pictures(encoded: bytes) -> Iterator[int]:
    """Where each picture begins, to the file's end or to where it was cut.

    GIF89a specification, appendix A.
    """
    extensions = 0  # in front of the first picture
    at = 13 + _bytes_of_palette(encoded[10])
    while at + 10 < len(encoded):
        if encoded[at] == _PICTURE:
            yield at
            extensions = -len(encoded)
            at += 11 + _bytes_of_palette(encoded[at + 9])
        elif encoded[at] == _EXTENSION:
            at += 2
            extensions += 1
            if extensions > _MOST_EXTENSIONS:
                raise ImageError("unsupported variant of GIF: too many extensions")
        else:
            return
        while at < len(encoded) and encoded[at]:  # blocks of up to 255 bytes, an empty one last
            at += 1 + encoded[at]
        at += 1


def _bytes_of_palette(flags: int) -> int:
    return 3 << 1 + (flags & 7) if flags & 0x80 else 0
