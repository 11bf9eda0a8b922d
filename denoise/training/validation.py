"""How good a network is: its PSNR on the same noisy middles of the same photos every time.

Shapes: clean, noisy, denoised [1, 3, H, W] float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from denoise.images.camera import add_camera_noise
from denoise.images.codec import to_floats
from denoise.images.metrics import psnr
from denoise.images.noise import add_noise, seed_of
from denoise.nets.denoiser import to_network
from denoise.nets.networks import UNTOLD, device
from denoise.training.photos import Photo, middle_of
from denoise.training.recipe import Recipe

HIGHEST = 60.0  # dB of a photo: one that is all black must not outweigh the others


@dataclass(frozen=True)
class Share:
    """Which worker this is, of how many."""

    rank: int = 0
    world: int = 1


class Judge:
    """Measures a network on the same noisy middles of the same photos every time."""

    def __init__(self, recipe: Recipe, photos: Sequence[Photo], share: Share) -> None:
        sigma = sum(recipe.sigmas) / 2
        mine = photos[share.rank :: share.world]
        pair = self._camera_pair if recipe.kind == "camera" else self._pair
        self.pairs = [pair(photo, sigma, recipe.seed) for photo in mine]
        self.share = share

    @torch.no_grad()
    def psnr_of(self, model: nn.Module) -> float:
        """The mean PSNR in dB over all workers' photos, of integers as they would be stored; nan
        where the network gives no numbers. One that is restored perfectly counts as HIGHEST."""
        total = torch.zeros(2, dtype=torch.float64, device=device())
        untold = torch.tensor([UNTOLD], device=device())
        for noisy, clean in self.pairs:
            denoised = model(noisy.to(device()), untold).float().clamp(0, 1)
            stored = torch.round(denoised * 255) / 255
            error = F.mse_loss(stored.double(), clean.to(device()).double())
            total += torch.tensor([min(psnr(float(error)), HIGHEST), 1.0], device=device())
        summed, count = added(total, self.share).tolist()
        return summed / count if count else 0.0

    @staticmethod
    def _pair(photo: Photo, sigma: float, seed: int) -> tuple[Tensor, Tensor]:
        floats = middle_of(photo.pixels).astype(np.float32) / np.float32(255)
        if photo.pixels.shape[2] == 6:
            return to_batch(floats[..., 3:]), to_batch(floats[..., :3])
        noisy = add_noise(floats, sigma=sigma, seed=seed_of(photo.path, seed))
        stored = np.rint(np.clip(noisy, 0, 1) * 255) / 255
        return to_batch(stored), to_batch(floats)

    @classmethod
    def _camera_pair(cls, photo: Photo, sigma: float, seed: int) -> tuple[Tensor, Tensor]:
        if photo.pixels.shape[2] == 6:
            return cls._pair(photo, sigma, seed)
        clean = middle_of(photo.pixels)
        noisy, _ = add_camera_noise(clean, seed=seed_of(photo.path, seed))
        return to_batch(to_floats(noisy)), to_batch(to_floats(clean))


def to_batch(floats: Any) -> Tensor:
    """[H, W, C] -> [1, C, H, W]"""
    return to_network(np.asarray(floats, np.float32)[None])


def added(values: Tensor, share: Share) -> Tensor:
    """The sum over all workers."""
    if share.world > 1:
        dist.all_reduce(values)
    return values
