"""How far two images are apart: mean squared error, PSNR, structural similarity.

Images are [H, W, C], of integers (any bit depth, scaled by their maximum) or floats on 0..1; every
pixel and colour channel counts, no border is cut off.
"""

from collections.abc import Iterator
from math import inf, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BAND = 1 << 22  # values at a time


def mse(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Mean squared error on the 0..1 scale, in float64; exact sums where the pixels are integers.

    Raises ValueError where the shapes or kinds differ.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(f"cannot compare {a.dtype} {a.shape} with {b.dtype} {b.shape}")
    if a.dtype.kind == "u":
        peak = int(np.iinfo(a.dtype).max)
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


def ssim(a: NDArray[Any], b: NDArray[Any]) -> float:
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
        data_range=1.0 if a.dtype.kind == "f" else float(np.iinfo(a.dtype).max),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(value)
