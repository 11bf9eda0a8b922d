"""How far two images are apart (mean squared error, PSNR, structural similarity), and the noise
of one alone.

Images are [H, W, C], of integers (any bit depth, scaled by their white level, else by the largest
of their type) or floats on 0..1; every pixel and colour channel counts, no border is cut off.
"""

from collections.abc import Iterator
from math import inf, log10
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

_BAND = 1 << 22  # values at a time
_BLOCK, _BLOCKS = 16, 20  # side of a block in pixels; blocks along each side of an image
_DISTANCES = (1, 4)  # pixels between what is compared: white noise shows at 1, a camera's at 4
_FLAT = 5  # percent of the blocks: those with the least of everything have noise alone
_SATURATED = 0.1  # a block with more of its values black or white has its noise cut off


def mse(a: NDArray[Any], b: NDArray[Any], white_level: int | None = None) -> float:
    """Mean squared error on the 0..1 scale, in float64; exact sums where the pixels are integers.

    Raises ValueError where the shapes or kinds differ.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(f"cannot compare {a.dtype} {a.shape} with {b.dtype} {b.shape}")
    if a.dtype.kind == "u":
        peak = _peak(a, white_level)
        return sum(_squares(*bands) for bands in _bands(a, b)) / (a.size * peak**2)
    gap = np.subtract(a, b, dtype=np.float64).ravel()
    return float(gap @ gap) / a.size


def _bands(a: NDArray[Any], b: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """A few rows of both at a time: what is computed from them is larger than they are."""
    rows = max(1, _BAND // max(1, a[:1].size))
    for top in range(0, len(a), rows):
        yield a[top : top + rows], b[top : top + rows]


def _squares(a: NDArray[Any], b: NDArray[Any]) -> int:
    """The exact sum of squared differences."""
    if a.dtype == np.uint8:
        step = np.subtract(a, b, dtype=np.int16)
        squares = np.multiply(step, step, out=step).view(np.uint16)  # at most 65,025
        return int(squares.sum(dtype=np.uint64))
    step = np.subtract(a, b, dtype=np.int32).astype(np.int64).ravel()
    return int(step @ step)


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio of an error on the 0..1 scale: 10 log10(1 / mse) dB; inf for 0,
    nan for nan."""
    return inf if mse == 0 else 10 * log10(1 / mse)


def ssim(a: NDArray[Any], b: NDArray[Any], white_level: int | None = None) -> float:
    """Structural similarity as Wang, Bovik, Sheikh and Simoncelli (2004) define it: a Gaussian
    window of sigma 1.5, population covariance, the mean over the colour channels (scikit-image).

    Raises ModuleNotFoundError without the extra `ssim`. Under 11 pixels a side, where the window
    does not fit, it is nan.
    """
    from skimage.metrics import structural_similarity  # an extra, and slow to import

    if min(a.shape[:2]) < 11:
        return float("nan")
    value = structural_similarity(
        a,
        b,
        channel_axis=2,
        data_range=_peak(a, white_level),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(value)


def estimate_noise(pixels: NDArray[Any], white_level: int | None = None) -> float:
    """Estimate the standard deviation of an image's noise, on the 0..1 scale, from it alone.

    pixels are [H, W, C]; nan under 20 pixels a side. In blocks of 16 by 16 (at most 400, spread
    over the image) the mixed difference of four pixels at the corners of a square, which a flat
    area and a slope leave at 0, has the standard deviation of the noise; the blocks with the least
    of it count (the smoothest blocks: Olsen, "Estimation of noise in images", 1993; differences:
    Immerkaer, "Fast noise variance estimation", 1996). The greater result of squares of 1 and of 4
    pixels is taken, as a camera's noise is alike in neighbouring pixels.

    White noise of 25 levels of 255 reads 25 (5 levels: 6, as texture adds to it), a camera's about
    a third of what it is: it is lowest where a photograph is flattest. So compare the figure before
    denoising with that after it; do not take it for `--sigma`.
    """
    size = _BLOCK + max(_DISTANCES)
    height, width, channels = pixels.shape
    if min(height, width) < size:
        return float("nan")
    rows, columns = (
        np.linspace(0, side - size, min(_BLOCKS, side // size)).astype(int)
        for side in (height, width)
    )
    windows = np.moveaxis(sliding_window_view(pixels, (size, size), (0, 1)), 2, -1)
    blocks = windows[rows[:, None], columns].reshape(-1, size, size * channels)
    peak = _peak(pixels, white_level)
    flat = blocks.reshape(len(blocks), -1)
    cut_off = ((flat <= 0) | (flat >= peak)).view(np.uint8).sum(1, dtype=np.uint32)
    is_whole = cut_off <= _SATURATED * flat.shape[1]
    blocks = blocks[is_whole] if is_whole.any() else blocks
    signed = blocks.astype(np.int16 if pixels.dtype == np.uint8 else np.float32)
    return max(_noise_at(signed, distance, channels) for distance in _DISTANCES) / peak


def _peak(pixels: NDArray[Any], white_level: int | None) -> int:
    """What 1 of the 0..1 scale is in these pixels."""
    return 1 if pixels.dtype.kind == "f" else white_level or int(np.iinfo(pixels.dtype).max)


def _noise_at(blocks: NDArray[Any], distance: int, channels: int) -> float:
    """Root mean square over the channels of what the flattest of the blocks [n, h, w * C] have."""
    wide, apart = _BLOCK * channels, distance * channels
    down = blocks[:, :_BLOCK] - blocks[:, distance : distance + _BLOCK]
    mixed = np.subtract(down[..., :wide], down[..., apart : apart + wide], dtype=np.float32)
    energy = np.einsum("nhw,nhw->nw", mixed, mixed)  # of columns; then of blocks [n, C]
    energy = energy.reshape(-1, _BLOCK, channels).sum(1) / (4 * _BLOCK**2)
    return float(np.sqrt(np.percentile(energy, _FLAT, axis=0).mean()))
