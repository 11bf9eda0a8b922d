"""Grain: what is left of white noise after a camera's colour filters, smoothing and sharpening.

The finest of five octaves is white noise behind a Bayer pattern, demosaiced, smoothed or sharpened;
the others are white noise of 2, 4, 8 and 16 pixels. A camera that smooths fine grain away leaves
coarse grain, and colour is smoothed more than brightness, so that each octave has an amount of its
own for brightness (Y) and for colour (Cb and Cr, as in JPEG).

Shapes: white [h, w, 1 or 3], grain [h, w, 3], float32. All filters are linear and their variances
are known, so that the grain of brightness has variance 1.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from denoise.images.noise import normal

Floats = NDArray[np.float32]
Demosaic = Literal["bilinear", "gradients", "none"]

OCTAVES = 5  # grain of 1, 2, 4, 8 and 16 pixels
MARGIN = 3  # pixels beyond the image that the filters of the finest grain reach
# what 1 3 3 1 does to each axis when it doubles a size: a quadratic B-spline (Chaikin 1974)
_SPLINE = (0.25, 0.75, 0.75, 0.25)


@dataclass(frozen=True, kw_only=True)
class Grain:
    """The grain of one image; it is a function of these alone."""

    luma: tuple[float, ...]  # variance of brightness by octave, the finest first; in all 1
    chroma: tuple[float, ...]  # of Cb and of Cr
    demosaic: Demosaic = "gradients"
    smooth: float = 0.0  # share of a 3x3 mean in the finest grain; negative: sharpened
    shift: tuple[int, int] = (0, 0)  # 0..15: where the image lies in the grids of coarse grain
    seed: int = 0

    @property
    def phase(self) -> tuple[int, int]:
        """Which of the four pixels of the Bayer pattern the image begins with."""
        return self.shift[0] % 2, self.shift[1] % 2

    @property
    def deviates(self) -> int:
        """How many white deviates a pixel of the finest grain has."""
        return 3 if self.demosaic == "none" else 1

    def amplitudes(self) -> NDArray[np.float64]:
        """[OCTAVES, 3] what white noise of each octave is multiplied with, for Y, Cb and Cr."""
        variances = np.array([self.luma, self.chroma, self.chroma]).T
        units = [finest_variances(self.demosaic, self.smooth)]
        units += [np.full(3, enlarged_variance(octave)) for octave in range(1, OCTAVES)]
        amplitudes: NDArray[np.float64] = np.sqrt(variances / np.stack(units))
        return amplitudes


class GrainBands:
    """The grain of a whole image, handed out a band of rows at a time."""

    def __init__(self, height: int, width: int, grain: Grain) -> None:
        self._width, self._grain = width, grain
        self._finest, *amplitudes = grain.amplitudes().astype(np.float32)
        row, column = grain.phase
        size = height + 2 * MARGIN + row, width + 2 * MARGIN + column, grain.deviates
        self._white = normal(size, _seed(grain, 0)).astype(np.float16)  # half the memory
        _, *sizes = octave_sizes(height, width)
        coarse = np.zeros((*octave_sizes(*sizes[-1])[1], 3), np.float32)
        for octave in range(OCTAVES - 1, 0, -1):
            size = *sizes[octave - 1], 3
            coarse = _enlarge(coarse, grain, octave, sizes[octave - 1])
            coarse += amplitudes[octave - 1] * normal(size, _seed(grain, octave))
        self._coarse = coarse  # [~H/2, ~W/2, 3]

    def rows(self, top: int, bottom: int) -> Floats:
        """Y, Cb and Cr [bottom - top, W, 3] of some rows; top is even."""
        row, column = self._grain.phase
        white = self._white[top : bottom + row + 2 * MARGIN].astype(np.float32)
        finest = finest_grain(white, self._grain)[row:, column:]
        half = self._coarse[top // 2 : (bottom + row + 1) // 2 + 1]
        size = bottom - top, self._width
        return finest * self._finest + _enlarge(half, self._grain, 0, size)


def octave_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Rows and columns of white noise that each octave needs, the finest (the image's) first."""
    sizes = [(height, width)]
    for _ in range(1, OCTAVES):
        rows, columns = sizes[-1]
        sizes.append(((rows + 2) // 2 + 1, (columns + 2) // 2 + 1))
    return sizes


@lru_cache
def enlarged_variance(octave: int) -> float:
    """The variance of white noise enlarged `octave` times: the mean square of its filter."""
    weights = np.ones(1)
    for _ in range(octave):
        spread = np.zeros(2 * len(weights) + 2)
        for offset, share in enumerate(_SPLINE):
            spread[offset : offset + 2 * len(weights) : 2] += share * weights
        weights = spread
    return float(((weights**2).sum() / 2**octave) ** 2)  # rows and columns are alike


def finest_variances(demosaic: Demosaic, smooth: float) -> NDArray[np.float64]:
    """[3] variances of Y, Cb and Cr of the finest grain, from white noise of variance 1."""
    plain, mixed, mean = _responses(demosaic)
    return (1 - smooth) ** 2 * plain + 2 * (1 - smooth) * smooth * mixed + smooth**2 * mean


@lru_cache
def _responses(demosaic: Demosaic) -> tuple[NDArray[np.float64], ...]:
    """Variances of the finest grain as it is and after a 3x3 mean, and the covariance of the two:
    sums over what a single deviate at each of the four pixels of the pattern leaves behind."""
    sums = tuple(np.zeros(3) for _ in range(3))
    for row, column, channel in np.ndindex(2, 2, 3 if demosaic == "none" else 1):
        impulse = np.zeros((24, 24, 3 if demosaic == "none" else 1), np.float32)
        impulse[12 + row, 12 + column, channel] = 1
        grain = to_ycc(demosaiced(impulse, demosaic))
        mean, plain = _mean(grain), grain[1:-1, 1:-1]
        for total, product in zip(sums, (plain * plain, plain * mean, mean * mean), strict=True):
            total += product.sum((0, 1)) / 4
    return sums


def finest_grain(white: Floats, grain: Grain) -> Floats:
    """White deviates with a margin of 3 pixels -> Y, Cb and Cr [h, w, 3] of the finest octave."""
    colours = to_ycc(demosaiced(white, grain.demosaic))  # [h + 2, w + 2, 3]
    inner = colours[1:-1, 1:-1]
    if grain.smooth:
        inner = inner + np.float32(grain.smooth) * (_mean(colours) - inner)
    return inner


def demosaiced(white: Floats, demosaic: Demosaic) -> Floats:
    """[h + 4, w + 4, 1] behind a pattern that begins with red, or [h + 4, w + 4, 3] behind none, ->
    [h, w, 3] red, green and blue."""
    if demosaic == "none":
        return white[2:-2, 2:-2]
    height, width = white.shape[0] - 4, white.shape[1] - 4
    rgb = np.empty((height, width, 3), np.float32)
    for row, column, channel in np.ndindex(2, 2, 3):
        kernel = DEMOSAICS[demosaic][PATTERN[row][column][channel]]
        target = rgb[row::2, column::2, channel]
        target[:] = 0
        for down, right in np.argwhere(kernel):
            part = white[down + row : down + height : 2, right + column : right + width : 2, 0]
            target += kernel[down, right] * part
    return rgb


def to_ycc(rgb: Floats) -> Floats:
    """[..., 3] red, green, blue -> brightness and two differences of colour, by JPEG's weights.

    Without a matrix product: whose sums come in another order on another machine.
    """
    red, green, blue = (rgb[..., channel] for channel in range(3))
    y = np.float32(0.299) * red + np.float32(0.587) * green + np.float32(0.114) * blue
    return np.stack([y, np.float32(0.564) * (blue - y), np.float32(0.713) * (red - y)], -1)


def to_rgb(ycc: Floats) -> Floats:
    """The inverse of `to_ycc`."""
    y, cb, cr = (ycc[..., channel] for channel in range(3))
    red, blue = y + np.float32(1 / 0.713) * cr, y + np.float32(1 / 0.564) * cb
    green = (y - np.float32(0.299) * red - np.float32(0.114) * blue) * np.float32(1 / 0.587)
    return np.stack([red, green, blue], -1)


def _enlarge(coarse: Floats, grain: Grain, octave: int, size: tuple[int, int]) -> Floats:
    """Twice as large, from the row and column on that the image's shift asks for, cut to `size`."""
    for axis in (0, 1):
        coarse = np.moveaxis(coarse, axis, 0)
        larger = np.empty((2 * len(coarse) - 2, *coarse.shape[1:]), np.float32)
        step = (coarse[1:] - coarse[:-1]) * np.float32(_SPLINE[0])
        larger[0::2] = coarse[:-1] + step
        larger[1::2] = coarse[1:] - step
        first = grain.shift[axis] >> octave & 1
        coarse = np.moveaxis(larger[first : first + size[axis]], 0, axis)
    return coarse


def _mean(grain: Floats) -> Floats:
    """3x3 means, [h, w, C] -> [h - 2, w - 2, C]."""
    rows = grain[:-2] + grain[1:-1] + grain[2:]
    sums: Floats = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return sums * np.float32(1 / 9)


def _seed(grain: Grain, octave: int) -> int:
    """The seed of one octave's white noise."""
    return (grain.seed << 8) + octave + 1


def _kernel(rows: str, over: float) -> Floats:
    values = [[float(number) for number in row.split()] for row in rows.split("/")]
    return np.array(values, np.float32) / np.float32(over)


# Filters that give one colour at a pixel of another: its own; green at red or blue; red or blue at
# green with them in its row, and in its column; red at blue, or blue at red.
_OWN = _kernel("0 0 0 0 0/0 0 0 0 0/0 0 1 0 0/0 0 0 0 0/0 0 0 0 0", 1)
_IN_ROW = _kernel("0 0 1 0 0/0 -2 0 -2 0/-2 8 10 8 -2/0 -2 0 -2 0/0 0 1 0 0", 16)
DEMOSAICS = {
    "bilinear": (
        _OWN,
        _kernel("0 0 0 0 0/0 0 1 0 0/0 1 0 1 0/0 0 1 0 0/0 0 0 0 0", 4),
        _kernel("0 0 0 0 0/0 0 0 0 0/0 1 0 1 0/0 0 0 0 0/0 0 0 0 0", 2),
        _kernel("0 0 0 0 0/0 0 1 0 0/0 0 0 0 0/0 0 1 0 0/0 0 0 0 0", 2),
        _kernel("0 0 0 0 0/0 1 0 1 0/0 0 0 0 0/0 1 0 1 0/0 0 0 0 0", 4),
    ),
    # Malvar, He, Cutler: High-quality linear interpolation for demosaicing of Bayer-patterned
    # color images, 2004
    "gradients": (
        _OWN,
        _kernel("0 0 -1 0 0/0 0 2 0 0/-1 2 4 2 -1/0 0 2 0 0/0 0 -1 0 0", 8),
        _IN_ROW,
        _IN_ROW.T,
        _kernel("0 0 -3 0 0/0 4 0 4 0/-3 0 12 0 -3/0 4 0 4 0/0 0 -3 0 0", 16),
    ),
}
# [row][column][channel] of the pattern red green / green blue -> which of the five filters
PATTERN = (((0, 1, 4), (2, 0, 3)), ((3, 0, 2), (4, 1, 0)))
