"""Pairs through the network: small images together, and what does not fit the memory by itself.

Shapes: denoised [H, W, C], as the pair's noisy pixels.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from denoise.images.pairs import Pair

if TYPE_CHECKING:
    from denoise.nets.denoiser import Denoiser


def each_denoised(
    pairs: Iterable[Pair], denoiser: "Denoiser", batch_pixels: int
) -> Iterator[tuple[Pair, Any]]:
    """Each pair with its denoised pixels, None where it failed; small images go together."""
    for batch in _batches(pairs, batch_pixels):
        yield from zip(batch, _denoised(batch, denoiser), strict=True)


def _batches(pairs: Iterable[Pair], pixels: int) -> Iterator[list[Pair]]:
    """The pairs in their order, as many at a time as have so many pixels."""
    batch: list[Pair] = []
    size = 0
    for pair in pairs:
        batch.append(pair)
        size += 0 if pair.noisy is None else pair.noisy.shape[0] * pair.noisy.shape[1]
        if size >= pixels:
            yield batch
            batch, size = [], 0
    yield batch


def _denoised(batch: list[Pair], denoiser: "Denoiser") -> list[Any]:
    if len(batch) > 1:
        with suppress(MemoryError):  # only what does not fit by itself fails
            return _together(batch, denoiser)
    return [denoised_of(pair, denoiser) for pair in batch]


def _together(batch: list[Pair], denoiser: "Denoiser") -> list[Any]:
    """The denoised pixels of pairs, which share the time that it took. Raises MemoryError."""
    noisy = [pair.noisy for pair in batch if pair.noisy is not None]
    start = time.perf_counter()
    denoised = iter(denoiser.denoise(noisy))
    spent = time.perf_counter() - start
    for pair in batch:
        if pair.noisy is not None:
            pair.seconds["network"] = spent / len(noisy)
    return [None if pair.noisy is None else next(denoised) for pair in batch]


def denoised_of(pair: Pair, denoiser: "Denoiser") -> Any:
    """The denoised pixels of one pair; None where it failed, or does not fit the memory."""
    denoised = None
    if pair.noisy is not None:
        with pair.stage("network"):
            denoised = denoiser.denoise([pair.noisy])[0]
    return denoised
