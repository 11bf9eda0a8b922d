"""Tiles of pictures as tensors, and the device that sends them through the network in batches.

Shapes: pictures [H, W, C], C 1 (gray), 2 (gray, alpha), 3 (RGB), 4 (RGB, alpha); tiles of them
[h, w, 1 or 3]; inside the network [N, C, h, w].
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from denoise.images.tiles import Tile
from denoise.nets import networks
from denoise.nets.precision import Run

Array = npt.NDArray[Any]  # uint8, uint16 or float32


@dataclass(frozen=True, eq=False)
class PictureTile:
    """A tile of one of the pictures."""

    index: int
    picture: Array  # [H, W, C]
    tile: Tile
    stride: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width up to the next stride, so that more tiles share a batch."""
        box = self.tile.outer
        return -(-box.height // self.stride) * self.stride, -(
            -box.width // self.stride
        ) * self.stride

    @property
    def colours(self) -> int:
        """How many of the planes are colours: all but alpha."""
        return 1 if self.picture.shape[2] < 3 else 3

    def stored(self) -> Array:
        """[h, w, 1 or 3] of what the network sees, as the picture stores it.

        Mirrored up to the size as the network itself does it.
        """
        box = self.tile.outer
        part = self.picture[box.top : box.bottom, box.left : box.right, : self.colours]
        for axis, size in enumerate(self.size):
            if size > part.shape[axis]:
                index = networks.folded(part.shape[axis], size - part.shape[axis])
                part = part.take(index.numpy(), axis)
        return part


@dataclass(frozen=True, eq=False)
class Answer:
    """What a batch became: on a GPU, once it is done."""

    pixels: Tensor  # [N, h, w, C], as the pictures store them
    is_finite: Tensor  # [N]
    done: torch.cuda.Event | None = None

    def on_host(self) -> tuple[Array, list[bool]]:
        if self.done is not None:
            self.done.synchronize()
        return self.pixels.numpy(), self.is_finite.tolist()


class Processor:
    """A device that sends tiles through a network: a CPU's threads, or a GPU's stream."""

    def __init__(
        self, device: torch.device, threads: int, *, sigma: float, strength: float
    ) -> None:
        """`sigma` is the noise level that the network is given, `strength` the share of its result
        in a mixture with the tile."""
        self._device, self._threads = device, threads
        self._sigma, self._strength = sigma, strength
        on_cpu = device.type == "cpu"
        self._stream = None if on_cpu else torch.cuda.Stream(device)
        # On a CPU each thread computes tiles of its own: none waits for another in a convolution
        self._pool: ThreadPoolExecutor | None = None
        if on_cpu and threads > 1:
            self._pool = ThreadPoolExecutor(threads, initializer=use_cores, initargs=(1,))

    def answers(
        self, batches: Iterator[list[PictureTile]], network: Run
    ) -> Iterator[tuple[list[PictureTile], Answer]]:
        """Each batch with its answer; a GPU computes one batch while the last is being used."""
        if self._stream is None:
            yield from self._answers_of_threads(batches, network)
            return
        pending: deque[tuple[list[PictureTile], Answer]] = deque()
        for batch in batches:
            pending.append((batch, self._compute(batch, network)))
            if len(pending) > 1:
                yield pending.popleft()
        yield from pending

    def _answers_of_threads(
        self, batches: Iterator[list[PictureTile]], network: Run
    ) -> Iterator[tuple[list[PictureTile], Answer]]:
        """Each batch with its answer, in order, a few computed ahead where there is a pool.

        A single batch is computed here, on all cores that torch may use.
        """
        first_two = list(islice(batches, 2))
        batches = chain(first_two, batches)
        if self._pool is None or len(first_two) < 2:
            for batch in batches:
                yield batch, self._compute(batch, network)
            return
        pending: deque[tuple[list[PictureTile], Future[Answer]]] = deque()
        try:
            for batch in batches:
                pending.append((batch, self._pool.submit(self._compute, batch, network)))
                if len(pending) > 2 * self._threads:
                    first, answer = pending.popleft()
                    yield first, answer.result()
            for batch, answer in pending:
                yield batch, answer.result()
        finally:  # where one does not fit the memory, nobody takes the others
            for _, answer in pending:
                answer.cancel()
            wait(answer for _, answer in pending)

    @torch.inference_mode()
    def _compute(self, batch: Sequence[PictureTile], network: Run) -> Answer:
        """Send tiles of one size and kind through the network. Returns before a GPU is done."""
        # cuDNN's settings are the whole process's
        exact = nullcontext() if self._stream is None else exact_cudnn()
        with torch.cuda.stream(self._stream), exact:  # None: no stream of its own
            stored = self._on_device([tile.stored() for tile in batch])  # [N, h, w, C]
            noisy = to_unit(stored).expand(-1, -1, -1, 3).permute(0, 3, 1, 2)
            noisy = noisy.contiguous(memory_format=torch.channels_last)
            sigma = torch.full((len(batch),), self._sigma, device=self._device)
            denoised = network(noisy, sigma)  # [N, 3, h, w]
            if self._strength < 1:
                denoised = torch.lerp(noisy, denoised, self._strength)
            is_finite = denoised.sum(dim=(1, 2, 3)).isfinite()
            denoised = denoised.permute(0, 2, 3, 1)
            if stored.shape[3] == 1:
                denoised = denoised.mean(dim=3, keepdim=True)
            pixels = to_stored(denoised, stored.dtype)
            if self._stream is None:
                return Answer(pixels, is_finite)
            host = torch.empty(pixels.shape, dtype=pixels.dtype, pin_memory=True)
            host.copy_(pixels, non_blocking=True)
            flags = torch.empty(len(batch), dtype=torch.bool, pin_memory=True)
            flags.copy_(is_finite, non_blocking=True)
            return Answer(host, flags, self._stream.record_event())

    def _on_device(self, parts: Sequence[Array]) -> Tensor:
        """Arrays [h, w, C] as one of [N, h, w, C]; for a GPU by way of pinned memory."""
        shape = len(parts), *parts[0].shape
        dtype = torch.from_numpy(np.empty(0, parts[0].dtype)).dtype
        host = torch.empty(shape, dtype=dtype, pin_memory=self._stream is not None)
        np.stack(parts, out=host.numpy())
        return host.to(self._device, non_blocking=True)


def assemble(
    pictures: Sequence[Array], answers: Iterable[tuple[Sequence[PictureTile], Answer]]
) -> tuple[list[Array], set[int]]:
    """Pictures [H, W, C] made of what became of their tiles, and the indices of those with
    numbers that are not finite."""
    denoised = [picture.copy() for picture in pictures]  # keeps alpha
    failed: set[int] = set()
    for batch, answer in answers:
        for of_picture, pixels, is_finite in zip(batch, *answer.on_host(), strict=True):
            inner = of_picture.tile.inner
            target = denoised[of_picture.index][inner.top : inner.bottom, inner.left : inner.right]
            target[..., : of_picture.colours] = pixels[inner.within(of_picture.tile.outer)]
            if not is_finite:
                failed.add(of_picture.index)
    return denoised, failed


def use_cores(count: int) -> None:
    """Let convolutions that this thread calls take so many cores; with one, this thread alone."""
    torch.set_num_threads(count)


def exact_cudnn() -> Any:
    """cuDNN without TF32, so that float32 is float32, and with the same kernels each time."""
    return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)


def to_network(pictures: npt.NDArray[np.float32]) -> Tensor:
    """[N, H, W, C] -> [N, C, H, W]; the numbers stay where they lie, which is channels last."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)


def from_network(pictures: Tensor) -> npt.NDArray[np.float32]:
    """[N, C, H, W] on any device -> [N, H, W, C]."""
    array: npt.NDArray[np.float32] = pictures.permute(0, 2, 3, 1).cpu().numpy()
    return array


def to_unit(stored: Tensor) -> Tensor:
    """uint8, uint16 or float32, on any device -> float32, nominal 0..1."""
    if stored.dtype == torch.float32:
        return stored
    return stored.to(torch.float32) / torch.iinfo(stored.dtype).max


def to_stored(unit: Tensor, dtype: torch.dtype) -> Tensor:
    """float32, nominal 0..1 -> the same if that is the dtype, else the nearest integers of it."""
    if dtype == torch.float32:
        return unit
    scaled = unit.clamp(0, 1) * torch.iinfo(dtype).max
    return scaled.round().to(torch.int32).to(dtype)  # int32: by way of it, each device can
