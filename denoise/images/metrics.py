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
        peak = white_level or int(np.iinfo(a.dtype).max)
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
        step = np.subtract(a, b, dtype=np.int16).ravel()  # at most 255, so squares fit in int32
        return int(np.einsum("i,i->", step, step, dtype=np.int64, casting="unsafe"))
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
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        return float("nan")
    rows, columns = (
        np.linspace(0, side - size, min(_BLOCKS, side // size)).astype(int)
        for side in (height, width)
    )
    windows = sliding_window_view(pixels, (size, size), (0, 1))[rows[:, None], columns]
    blocks = windows.reshape(-1, *windows.shape[2:])  # [n, C, 20, 20]
    peak = _peak(pixels, white_level)
    is_cut = ((blocks <= 0) | (blocks >= peak)).mean((1, 2, 3)) > _SATURATED
    blocks = blocks[~is_cut] if not is_cut.all() else blocks
    scaled = np.divide(blocks, peak, dtype=np.float32)
    return max(_noise_at(scaled, distance) for distance in _DISTANCES)


def _peak(pixels: NDArray[Any], white_level: int | None) -> float:
    """What 1 of the 0..1 scale is in these pixels."""
    return 1.0 if pixels.dtype.kind == "f" else float(white_level or np.iinfo(pixels.dtype).max)


def _noise_at(blocks: NDArray[np.float32], distance: int) -> float:
    """Root mean square over the channels of what the flattest of the blocks [n, C, h, w] have."""
    near, far = slice(0, _BLOCK), slice(distance, distance + _BLOCK)
    mixed = blocks[..., near, near] - blocks[..., far, near]
    mixed -= blocks[..., near, far]
    mixed += blocks[..., far, far]
    energy = np.einsum("nchw,nchw->nc", mixed, mixed) / (4 * _BLOCK**2)  # [n, C]
    return float(np.sqrt(np.percentile(energy, _FLAT, axis=0).mean()))
