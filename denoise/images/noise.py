"""Gaussian noise that can be drawn again from an image's path and the run's seed.

Random words come from SFC64, whose raw stream numpy keeps stable across versions (NEP 19 promises
no such thing of `normal`), and are turned into a normal deviate by our own inverse of its
distribution, so that the same noise comes back for ever, on any machine, in any order.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import blake2b
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 1 << 16  # one of them for each value of a 16-bit word
_BAND = 1 << 17  # values at a time: they fit the cache
_TAIL = 8  # bins at either end in which the deviate is drawn exactly, not from the table


def add_noise(clean: NDArray[np.float32], *, sigma: float, seed: int) -> NDArray[np.float32]:
    """Clean plus N(0, sigma) for an image of any shape, on the 0..1 scale, neither clipped nor
    rounded: `to_pixels` does both. The seed is the image's own, from `seed_of`."""
    return _add(clean, normal(clean.shape, seed), sigma)


def noisy_bands(
    clean: NDArray[Any],
    to_floats: Callable[[NDArray[Any]], NDArray[np.float32]],
    *,
    sigma: float,
    seed: int,
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """What `add_noise` gives for `to_floats(clean)`, a band of rows after the other, so that no
    more than two bytes a value of a large image's noise are in memory at once."""
    values = int(np.prod(clean.shape[1:], dtype=np.int64))
    rows = max(1, _BAND // max(1, values))
    drawn = _Drawn(clean.size, seed)
    for top in range(0, len(clean), rows):
        band = slice(top, min(top + rows, len(clean)))
        floats = to_floats(clean[band])
        deviates = drawn.deviates(band.start * values, band.stop * values)
        yield band, _add(floats, deviates.reshape(floats.shape), sigma)


def seed_of(path: str, seed: int) -> int:
    """The seed of one image's noise: a 128-bit hash (BLAKE2b) of its path under the run's seed."""
    key = (seed % (1 << 64)).to_bytes(8, "little")
    return int.from_bytes(blake2b(path.encode(), digest_size=16, key=key).digest(), "little")


def normal(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Standard normal deviates, float32, a function of shape and seed alone.

    Each 16-bit word picks one of 65,536 bins of equal probability and gives the bin's mean; in the
    outermost bins, where one value would cut the tails off at 4.3, a further 64-bit word puts the
    deviate inside the bin (inversion: Devroye, Non-Uniform Random Variate Generation, ch. II.2).
    """
    count = int(np.prod(shape, dtype=np.int64))
    return _Drawn(count, seed).deviates(0, count).reshape(shape)


def check_sigma(name: str, sigma: float) -> None:
    """Raises ValueError where a standard deviation is no share of the pixel scale."""
    if not 0 <= sigma <= 1:
        levels = f"; {sigma:g} levels of 255 are {sigma:g}/255" if 1 < sigma <= 255 else ""
        raise ValueError(f"{name} must lie in 0..1 (the pixel scale), got {sigma}{levels}")


def check_seed(seed: int) -> None:
    """Raises ValueError where a seed does not fit the tables' int64."""
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must fit in 64 bits, got {seed}")


class _Drawn:
    """The words of an image's noise, and its deviates in the tails, which come after all words."""

    def __init__(self, count: int, seed: int) -> None:
        stream = np.random.SFC64(seed)
        self._words = np.empty((count + 3) // 4 * 4, "<u2")
        found = []
        for start in range(0, count, _BAND):
            part = self._words[start : start + _BAND]  # _BAND is a multiple of four words
            part[:] = stream.random_raw(len(part) // 4).astype("<u8", copy=False).view("<u2")
            found.append(start + np.flatnonzero((part + np.uint16(_TAIL)) < 2 * _TAIL))
        positions = np.concatenate([*found, np.empty(0, np.int64)])
        self._positions = positions[positions < count]
        self._tails = np.array(
            [
                # the middle of one of 2**53 parts of the bin: never 0 or 1, where it is infinite
                _quantile(int(self._words[position]), ((int(word) >> 11) + 0.5) / (1 << 53))
                for position, word in zip(
                    self._positions, stream.random_raw(self._positions.size), strict=True
                )
            ],
            np.float32,
        )

    def deviates(self, start: int, stop: int) -> NDArray[np.float32]:
        deviates: NDArray[np.float32] = _bin_means().take(self._words[start:stop])
        first, last = np.searchsorted(self._positions, [start, stop])
        deviates[self._positions[first:last] - start] = self._tails[first:last]
        return deviates


def _add(
    clean: NDArray[np.float32], deviates: NDArray[np.float32], sigma: float
) -> NDArray[np.float32]:
    deviates *= np.float32(sigma)
    deviates += clean
    return deviates


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
