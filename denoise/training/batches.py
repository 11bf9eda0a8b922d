"""The batches of one worker: its slice of each, made ahead, and on the device as pairs.

Shapes: clean, noisy [N, 3, P, P] float32 on the device; sigma [N].
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from denoise.nets.networks import UNKNOWN_SIGMA, device
from denoise.training.camera import with_camera_noise
from denoise.training.recipe import Recipe
from denoise.training.samples import Patches, Sampler

SLICE = 4  # samples that one thread computes at a time: with 2 of 64x64 a core is a quarter slower
SLICE_PIXELS = 2 * 128**2  # ... of large patches so many pixels, where 4 samples are no faster


@dataclass(frozen=True)
class Worker:
    """Which training worker this is, of how many."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Slice:
    """Some samples of a batch, and their share of it."""

    patches: Patches
    weight: float  # the sum over all slices of their weighted losses is the batch's loss


def batches(recipe: Recipe, sampler: Sampler, worker: Worker, first: int) -> Iterator[list[Slice]]:
    """This worker's slices of each batch from step `first` on.

    A batch is cut where it falls into slices of equal size, give or take one sample.
    """
    size, each = recipe.batch_size, slices_of(recipe, worker)
    count, mine = worker.world * each, range(worker.rank * each, (worker.rank + 1) * each)
    for step in range(first, recipe.steps):
        spans = [(k * size // count, (k + 1) * size // count) for k in mine]
        yield [
            Slice(with_camera_noise(patches), (stop - start) / size)
            for start, stop in spans
            for patches in [sampler.patches(step * size + start, stop - start)]
        ]


def slices_of(recipe: Recipe, worker: Worker) -> int:
    """How many slices a worker's part of a batch has: on a CPU as many as there are for one worker,
    shared out.

    Neither threads nor cores decide it, for it decides the last bits of the weights: where a batch
    has the same slices for any number of workers, these compute the same gradients.
    """
    if device().type != "cpu":
        return recipe.accumulate
    samples = min(SLICE, max(1, SLICE_PIXELS // recipe.patch**2))
    return max(recipe.accumulate, recipe.batch_size // samples // worker.world)


def prefetch(steps: Iterator[list[Slice]], depth: int = 4) -> Iterator[list[Slice]]:
    """The same batches, made by a thread while the network computes."""
    # which GPU is a thread's own affair, and workers of Ray's on one node see all of them
    gpu = (torch.cuda.current_device(),) if device().type == "cuda" else ()
    with ThreadPoolExecutor(1, initializer=_use, initargs=gpu) as thread:
        ready = deque(thread.submit(next, steps, None) for _ in range(depth))
        while (batch := ready.popleft().result()) is not None:
            ready.append(thread.submit(next, steps, None))
            yield batch


def _use(gpu: int | None = None) -> None:
    """Let this thread compute on a GPU, if there is one."""
    if gpu is not None:
        torch.cuda.set_device(gpu)


def pairs_of(patches: Patches) -> tuple[Tensor, Tensor, Tensor]:
    """Clean and noisy patches and the level the network is given, on the device."""
    cut = patches.pixels
    pixels = cut if isinstance(cut, Tensor) else on_device(cut)  # [N, P, P, C]
    floats = pixels.permute(0, 3, 1, 2).float() / 255  # [N, C, P, P], channels last in memory
    if floats.shape[1] == 6:  # the pairs are fixed
        return (
            floats[:, :3],
            floats[:, 3:],
            torch.full((len(floats),), UNKNOWN_SIGMA, device=device()),
        )
    gray, clipped, level_given, sigma = (
        on_device(one)
        for one in (patches.gray, patches.clipped, patches.level_given, patches.sigma)
    )
    clean = torch.where(each(gray), floats.mean(1, keepdim=True), floats)
    noisy = clean + each(sigma) * noise_of(patches)
    stored = torch.round(noisy.clamp(0, 1) * 255) / 255
    return (
        clean,
        torch.where(each(clipped), stored, noisy),
        torch.where(level_given, sigma, UNKNOWN_SIGMA),
    )


def noise_of(patches: Patches) -> Tensor:
    """[N, 3, P, P] standard normal, each sample from its own seed; channels alike where gray."""
    side = patches.pixels.shape[1]
    generator = torch.Generator(device())
    drawn = [
        torch.randn(
            (1 if gray else 3, side, side), generator=generator.manual_seed(seed), device=device()
        ).expand(3, side, side)
        for seed, gray in zip(patches.seeds.tolist(), patches.gray.tolist(), strict=True)
    ]
    return torch.stack(drawn).contiguous(memory_format=torch.channels_last)


def on_device(array: NDArray[Any]) -> Tensor:
    """A copy on the device; a GPU does not stop for it."""
    tensor = torch.from_numpy(array)
    if device().type == "cuda":
        tensor = tensor.pin_memory()  # else the copy waits for all that was asked before
    return tensor.to(device(), non_blocking=True)


def each(values: Tensor) -> Tensor:
    """[N] -> [N, 1, 1, 1]."""
    return values[:, None, None, None]
