"""Gaussian noise that can be drawn again from an image's path and the run's seed.

Random words come from SFC64, whose raw stream numpy keeps stable across versions (NEP 19 promises
no such thing of `normal`), and are turned into a normal deviate by our own inverse of its
distribution, so that the same noise comes back for ever, on any machine, in any order.
"""

from functools import lru_cache
from hashlib import blake2b
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

_BINS = 1 << 16  # one of them for each value of a 16-bit word
_TAIL = 8  # bins at either end in which the deviate is drawn exactly, not from the table


def add_noise(clean: NDArray[np.float32], *, sigma: float, seed: int) -> NDArray[np.float32]:
    """Clean plus N(0, sigma) for an image of any shape, on the 0..1 scale, neither clipped nor
    rounded: `to_pixels` does both. The seed is the image's own, from `seed_of`."""
    noisy = normal(clean.shape, seed)
    noisy *= np.float32(sigma)
    noisy += clean
    return noisy


def seed_of(path: str, seed: int) -> int:
    """The seed of one image's noise: a 128-bit hash (BLAKE2b) of its path under the run's seed."""
    key = (seed % (1 << 64)).to_bytes(8, "little")
    return int.from_bytes(blake2b(path.encode(), digest_size=16, key=key).digest(), "little")


def normal(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Standard normal deviates, float32, a function of shape and seed alone.

    Each 16-bit word picks one of 65,536 bins of equal probability and gives the bin's mean; in the
    outermost bins, where one value would cut the tails off at 4.3, a further 64-bit word places the
    deviate inside the bin (inversion: Devroye, Non-Uniform Random Variate Generation, ch. II.2).
    """
    count = int(np.prod(shape, dtype=np.int64))
    stream = np.random.SFC64(seed)
    words = stream.random_raw((count + 3) // 4).astype("<u8", copy=False).view("<u2")[:count]
    deviates = _bin_means().take(words)
    tails = np.flatnonzero((words + np.uint16(_TAIL)) < 2 * _TAIL)
    for place, word in zip(tails, stream.random_raw(tails.size), strict=True):
        # the middle of one of 2**53 parts of the bin: never 0 or 1, where the inverse is infinite
        inside = ((int(word) >> 11) + 0.5) / (1 << 53)
        deviates[place] = _quantile(int(words[place]), inside)
    return deviates.reshape(shape)


def check_sigma(name: str, sigma: float) -> None:
    """Raises ValueError where a standard deviation is no share of the pixel scale."""
    if not 0 <= sigma <= 1:
        raise ValueError(f"{name} must lie in 0..1 (the pixel scale), got {sigma}")


def check_seed(seed: int) -> None:
    """Raises ValueError where a seed does not fit the tables' int64."""
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must fit in 64 bits, got {seed}")


def _quantile(word: int, inside: float) -> float:
    """The quantile at `inside` (0..1) of a bin; the upper half mirrors the exact lower one."""
    if word >= _BINS // 2:
        return -NormalDist().inv_cdf((_BINS - 1 - word + 1 - inside) / _BINS)
    return NormalDist().inv_cdf((word + inside) / _BINS)


@lru_cache(maxsize=1)
def _bin_means() -> NDArray[np.float32]:
    """[65536] the mean of a standard normal within each bin of equal probability, scaled so that
    the table together with the exact tails has variance 1."""
    standard = NormalDist()
    edges = [standard.inv_cdf(k / _BINS) for k in range(1, _BINS // 2)] + [0.0]
    density = np.array([0.0, *(standard.pdf(edge) for edge in edges)])
    lower = (density[:-1] - density[1:]) * _BINS  # the mean of bin k of the lower half
    # What bins cut from the variance, given back. E[z^2; z < a] = P(z < a) - a pdf(a).
    a = edges[_TAIL - 1]
    body = 0.5 - (_TAIL / _BINS - a * standard.pdf(a))
    lower[_TAIL:] *= np.sqrt(body / (np.square(lower[_TAIL:]).sum() / _BINS))
    return np.concatenate([lower, -lower[::-1]]).astype(np.float32)
