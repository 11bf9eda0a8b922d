"""Tiles that cover a picture, each with a halo so wide that no seam is seen, and its middle.

A network that sees no further than its reach computes the same pixels from a tile as from the
whole picture, if the tile begins where its pooling cells begin (on the stride) and shows the
reach beyond every pixel that is used.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True)
class Box:
    """Rows top to bottom and columns left to right, the ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def within(self, outer: "Box") -> tuple[slice, slice]:
        """Where it lies in an array that holds the outer box."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


@dataclass(frozen=True)
class Tile:
    """What the network gets, and which part of its answer is used."""

    outer: Box
    inner: Box


def tiles(height: int, width: int, *, side: int, halo: int, stride: int) -> list[Tile]:
    """Tiles whose inner boxes cover the picture, each pixel once, row by row.

    No inner box is larger than side (rounded up to the stride), and all are about equally large.
    The halo is rounded up to the stride too, and ends at the picture's borders.
    """
    halo = _rounded_up(halo, stride)
    return [
        Tile(
            outer=Box(
                max(0, top - halo),
                max(0, left - halo),
                min(height, bottom + halo),
                min(width, right + halo),
            ),
            inner=Box(top, left, bottom, right),
        )
        for top, bottom in _spans(height, side, stride)
        for left, right in _spans(width, side, stride)
    ]


def _spans(length: int, side: int, stride: int) -> list[tuple[int, int]]:
    """Equal pieces of a length that begin on the stride; the last may be shorter."""
    count = -(-length // _rounded_up(side, stride))
    piece = _rounded_up(-(-length // count), stride)
    return [(start, min(start + piece, length)) for start in range(0, length, piece)]


def middle_of(pixels: NDArray[_T], side: int) -> NDArray[_T]:
    """The middle of [H, W, C], at most `side` high and wide, as a view."""
    top, left = (max(0, size - side) // 2 for size in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _rounded_up(number: int, stride: int) -> int:
    return -(-number // stride) * stride
