"""All photos of a training on one device, which cuts and turns the patches of a batch at once.

Shapes: pixels [K, C] uint8, one photo after the other, row by row; patches [N, P, P, C] uint8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denoise.training.photos import Photo
from denoise.training.samples import ORIENTATIONS, orient

_SHARE = 0.25  # of a GPU's free memory that photos may take; the network needs the rest


@dataclass(frozen=True)
class PackedPhotos:
    """Photos of any sizes in one buffer on a device."""

    pixels: Tensor  # [K, C] uint8
    first: NDArray[np.int64]  # [photos] the row of `pixels` with which each begins
    heights: NDArray[np.int64]  # [photos]
    widths: NDArray[np.int64]  # [photos]

    def crops(self, side: int, u: NDArray[np.float64]) -> Tensor:
        """The bytes that `samples.crop` cuts out of the photo that each row of `u` draws."""
        chosen = (u[:, 0] * len(self.first)).astype(np.int64)
        heights, widths = self.heights[chosen], self.widths[chosen]
        top = (u[:, 1] * (heights - side + 1)).astype(np.int64)
        left = (u[:, 2] * (widths - side + 1)).astype(np.int64)
        start = self.first[chosen] + top * widths + left
        orientation = (u[:, 3] * ORIENTATIONS).astype(np.int64)
        device = self.pixels.device
        sent = torch.from_numpy(np.stack([start, widths, orientation]))
        if device.type == "cuda":
            sent = sent.pin_memory()  # else the copy waits for all that was asked before
        start_, widths_, orientation_ = sent.to(device, non_blocking=True)
        row, column = _sources(side, device)[:, orientation_]  # [N, P, P] each
        return self.pixels[start_[:, None, None] + row * widths_[:, None, None] + column]


def pack(photos: Sequence[Photo], device: torch.device) -> PackedPhotos:
    """Copies of the photos on a device; all of them have as many channels."""
    sizes = [photo.pixels.shape[0] * photo.pixels.shape[1] for photo in photos]
    first = [0, *accumulate(sizes)]
    channels = photos[0].pixels.shape[2]
    pixels = torch.empty(first[-1], channels, dtype=torch.uint8, device=device)
    for photo, start, size in zip(photos, first, sizes, strict=False):
        flat = np.array(photo.pixels).reshape(size, channels)  # Ray's arrays cannot be written to
        pixels[start : start + size] = torch.from_numpy(flat).to(device)
    heights, widths = np.array([photo.pixels.shape[:2] for photo in photos], np.int64).T
    return PackedPhotos(pixels, np.array(first[:-1], np.int64), heights, widths)


def pack_for(photos: Sequence[Photo], device: torch.device) -> PackedPhotos | None:
    """The photos packed where the device is a GPU with room for them; a CPU has them already, and
    cuts a patch faster as a view than by index."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    size = sum(photo.pixels.nbytes for photo in photos)
    return pack(photos, device) if size <= _SHARE * free else None


@lru_cache(maxsize=2)
def _sources(side: int, device: torch.device) -> Tensor:
    """[2, 8, P, P]: from which row and column of a patch each pixel of it comes, once turned."""
    index = np.arange(side * side).reshape(side, side)
    grids = np.stack([orient(index, orientation) for orientation in range(ORIENTATIONS)])
    return torch.from_numpy(np.stack(np.divmod(grids, side))).to(device)
