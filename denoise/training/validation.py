"""How good a network is: its PSNR on the same noisy middles of the same photos every time.

Shapes: clean, noisy, denoised [1, 3, H, W] float32.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from denoise.images.camera import add_camera_noise
from denoise.images.codec import to_floats
from denoise.images.metrics import mse, psnr
from denoise.images.noise import add_noise, seed_of
from denoise.images.tiles import middle_of
from denoise.nets.networks import UNKNOWN_SIGMA, device
from denoise.nets.picture_tiles import to_network
from denoise.training.batches import Worker
from denoise.training.photos import VALIDATION_SIDE, Photo
from denoise.training.recipe import Recipe

HIGHEST = 60.0  # dB of a photo: one that is all black must not outweigh the others


class Validator:
    """Measures a network on this worker's part of the photos; the result is that of all."""

    def __init__(
        self, recipe: Recipe, photos: Sequence[Photo], worker: Worker, pool: ThreadPoolExecutor
    ) -> None:
        self.mine = range(worker.rank, len(photos), worker.world)
        self.pairs = [validation_pair(photos[k], recipe) for k in self.mine]
        self.count, self.worker, self.pool = len(photos), worker, pool

    def psnr_of(self, model: nn.Module) -> float:
        """The mean PSNR in dB over all workers' photos, of integers as they would be stored; nan
        where the network gives no numbers. One that is restored perfectly counts as HIGHEST."""
        each = self.pool.map if device().type == "cpu" else map  # a GPU has one queue
        return self._mean(list(each(lambda pair: psnr_of(model, *pair), self.pairs)))

    def psnr_of_noisy(self) -> float:
        """The mean PSNR in dB of the pictures as the network gets them."""
        found = [psnr(mse(noisy.numpy(), clean.numpy())) for noisy, clean in self.pairs]
        return self._mean([min(one, HIGHEST) for one in found])

    def _mean(self, found: list[float]) -> float:
        """Over the photos of all workers, in one order, so that their number changes no bit."""
        each = torch.zeros(self.count, dtype=torch.float64, device=device())
        each[self.mine] = torch.tensor(found, dtype=torch.float64, device=device())
        return sum(total(each, self.worker).tolist()) / max(1, self.count)


@torch.no_grad()
def psnr_of(model: nn.Module, noisy: Tensor, clean: Tensor) -> float:
    """The PSNR in dB of one denoised picture against the clean one, at most HIGHEST."""
    no_level = torch.tensor([UNKNOWN_SIGMA], device=device())
    denoised = model(noisy.to(device()), no_level).float().clamp(0, 1)
    stored = torch.round(denoised * 255) / 255
    error = F.mse_loss(stored.double(), clean.to(device()).double())
    return min(psnr(float(error)), HIGHEST)


def validation_pair(photo: Photo, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """The noisy and the clean middle of a photo, [1, 3, H, W] each."""
    middle = middle_of(photo.pixels, VALIDATION_SIDE)
    floats = middle.astype(np.float32) / np.float32(255)
    if photo.pixels.shape[2] == 6:
        return to_batch(floats[..., 3:]), to_batch(floats[..., :3])
    if recipe.kind == "camera":
        stored, _ = add_camera_noise(middle, seed=seed_of(photo.path, recipe.seed))
        return to_batch(to_floats(stored)), to_batch(floats)
    sigma = sum(recipe.sigmas) / 2
    noisy = add_noise(floats, sigma=sigma, seed=seed_of(photo.path, recipe.seed))
    stored = np.rint(np.clip(noisy, 0, 1) * 255) / 255
    return to_batch(stored), to_batch(floats)


def to_batch(floats: Any) -> Tensor:
    """[H, W, C] -> [1, C, H, W]"""
    return to_network(np.asarray(floats, np.float32)[None])


def total(values: Tensor, worker: Worker) -> Tensor:
    """The sum over all workers, in place."""
    if worker.world > 1:
        dist.all_reduce(values)
    return values
