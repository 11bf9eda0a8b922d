"""What the network sees: windows of pictures as tensors, and what they became; batch by batch.

Shapes: pictures [H, W, C], C 1 (gray), 2 (gray, alpha), 3 (RGB), 4 (RGB, alpha); windows of them
[h, w, 1 or 3]; inside the network [N, C, h, w].
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from denoise.images.tiles import Tile
from denoise.nets import networks

Array = npt.NDArray[Any]  # uint8, uint16 or float32


@dataclass(frozen=True, eq=False)
class Window:
    """A tile of one of the pictures."""

    index: int
    picture: Array  # [H, W, C]
    tile: Tile
    stride: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width up to the next stride, so that more windows share a batch."""
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


def compute_in_threads(
    submit: Callable[[list[Window]], Answer],
    batches: Iterator[list[Window]],
    pool: ThreadPoolExecutor | None,
    threads: int,
) -> Iterator[tuple[list[Window], Answer]]:
    """Each batch with its answer, in order, a few computed ahead where there is a pool.

    A single batch is computed here, on all cores that torch may use.
    """
    first_two = list(islice(batches, 2))
    batches = chain(first_two, batches)
    if pool is None or len(first_two) < 2:
        for batch in batches:
            yield batch, submit(batch)
        return
    pending: deque[tuple[list[Window], Future[Answer]]] = deque()
    for batch in batches:
        pending.append((batch, pool.submit(submit, batch)))
        if len(pending) > 2 * threads:
            first, answer = pending.popleft()
            yield first, answer.result()
    for batch, answer in pending:
        yield batch, answer.result()


def compute_alone() -> None:
    """In each thread of a CPU's pool: convolutions take this thread and no other."""
    torch.set_num_threads(1)


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
