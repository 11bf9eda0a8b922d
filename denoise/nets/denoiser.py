"""Takes the noise out of pixels: any size, gray or colour, integers or floats, with alpha or not.

Shapes: noisy, denoised [H, W] or [H, W, C], C 1 (gray), 2 (gray, alpha), 3 (RGB), 4 (RGB, alpha);
inside the network [N, 3, h, w], where h and w are those of a tile.
"""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch

from denoise.cores import cores
from denoise.images.tiles import Tile, tiles
from denoise.nets import Asked, Precision
from denoise.nets import networks as models
from denoise.nets import package as packages
from denoise.nets.picture_tiles import Array, PictureTile, Processor, assemble, exact_cudnn
from denoise.nets.precision import Run, check, resolve_precision, runnable

_log = logging.getLogger(__name__)

# By measurement, see tests/bench/tiles.py: what fits the caches of a CPU, and what fills a GPU
_CPU_TILE, _CPU_WHOLE = 1024, 1 << 20
_GPU_TILE, _GPU_WHOLE, _GPU_BATCH = 1024, 1 << 21, 1 << 20
_FAR = 8.0  # no noise on a picture of 0..1 goes further; numbers on 0..255 do


class Denoiser:
    """A model package, ready to use on this process's device."""

    notes: set[str]  # what a user should know of how it went, for the run's summary
    precision: Precision  # of the convolutions
    recomputed: int  # pictures of which half precision made NaN, recomputed in float32

    def __init__(
        self,
        package: packages.Package,
        *,
        tile: int | None = None,
        sigma: float | None = None,
        precision: Asked = "auto",
        strength: float = 1.0,
        device: torch.device | None = None,
        threads: int = 1,
    ) -> None:
        """See load."""
        if tile is not None and tile < 1:
            raise ValueError(f"tile must be at least 1 pixel, got {tile}")
        if sigma is not None and not 0 <= sigma <= 1:
            raise ValueError(f"sigma must lie in 0..1 (the pixel scale), got {sigma}")
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must lie in 0..1, got {strength}")
        self.package = package
        # a Module's attributes have no types
        self._reach = int(package.model.reach)  # type: ignore[arg-type]
        self._stride = int(package.model.stride)  # type: ignore[arg-type]
        self.notes = set()
        self.recomputed, self._counting = 0, threading.Lock()
        self._device = device or models.device()
        sigma = models.UNKNOWN_SIGMA if sigma is None else sigma
        on_cpu = self._device.type == "cpu"
        self._tile = tile or (_CPU_TILE if on_cpu else _GPU_TILE)
        self._whole = 0 if tile else (_CPU_WHOLE if on_cpu else _GPU_WHOLE)
        self._batch_pixels = 0 if on_cpu else _GPU_BATCH  # on a CPU, tiles go one by one
        self._memory = _Memory()
        self._processor = Processor(self._device, threads, sigma=sigma, strength=strength)
        self.precision = resolve_precision(precision, self._device)
        self._network = self._sound_network()

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] = "unet",
        *,
        tile: int | None = None,
        sigma: float | None = None,
        precision: Asked = "auto",
        strength: float = 1.0,
        device: torch.device | None = None,
        threads: int | None = None,
    ) -> Self:
        """The denoiser of a shipped model, by name, or of a package at a URI.

        The default is for Gaussian noise: for photographs as cameras store them, load "photo".
        tile is the side in pixels of the tiles that large pictures are cut into (the network sees
        its reach beyond them); chosen for the device where not given. precision is what the
        convolutions compute in: see resolve_precision. sigma is the noise's, 0..1; else
        the network's own estimate. strength mixes the result with the input: 0 leaves it as it was.
        device is a GPU where there is one, if not given. On a CPU `threads` compute, else all
        cores. None of these but precision, sigma and strength changes a result. Raises
        SettingsError.
        """
        return cls(
            packages.load(os.fspath(model)),
            tile=tile,
            sigma=sigma,
            precision=precision,
            strength=strength,
            device=device,
            threads=threads or cores(),
        )

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self._device.type == "cuda"

    def __call__(self, noisy: Array) -> Array:
        """The picture without its noise: the same shape, the same kind of numbers; alpha as it was.

        noisy is [H, W] or [H, W, C], uint8, uint16 or float32 on the scale 0..1. Raises ValueError
        for anything else.
        """
        return self.denoise([noisy])[0]

    def denoise(self, noisy: Sequence[Array]) -> list[Array]:
        """Denoise each as a call does. On a GPU, tiles of one size and kind go together.

        On a CPU the result of a picture does not depend on the others. On a GPU batches are made of
        the pictures of one call, so the same call gives the same results. Raises MemoryError where
        not even small tiles fit.
        """
        for picture in noisy:
            _check(picture)
        native = [picture.astype(_native(picture), copy=False) for picture in noisy]
        planes = [picture.reshape(*picture.shape[:2], -1) for picture in native]
        denoised = self._fitting(planes)
        return [
            result.reshape(picture.shape) for result, picture in zip(denoised, noisy, strict=True)
        ]

    def _sound_network(self) -> Run:
        """The network in the precision, or in float32 where a test tile shows it to be wrong."""
        model = self.package.model.eval()
        with torch.inference_mode(), exact_cudnn():
            for precision in dict.fromkeys((self.precision, "float32")):
                network = runnable(model, precision, self._device)
                wrong = "" if network is model else check(network, model, precision, self._device)
                if not wrong:
                    self.precision = precision
                    return network
                self._note(f"{wrong}: computed in float32")
        return model.to(self._device)

    @cached_property
    def _float32_network(self) -> Run:
        return runnable(self.package.model, "float32", self._device)

    def _fitting(self, pictures: Sequence[Array]) -> list[Array]:
        """Denoise beside what other threads compute; what does not fit, by itself, and in smaller
        tiles. Raises MemoryError where not even these fit."""
        with self._memory.beside_others(), suppress(MemoryError):
            return self._denoise(pictures)
        with self._memory.alone():
            while True:
                with suppress(MemoryError):
                    return self._denoise(pictures)
                if not self._use_less_memory():
                    raise MemoryError

    def _denoise(self, pictures: Sequence[Array]) -> list[Array]:
        """Denoise pictures [H, W, C] with tiles as they are. Raises MemoryError."""
        try:
            return self._repair(pictures, *self._compute(pictures, self._network))
        except RuntimeError as error:
            if not models.is_out_of_memory(error):
                raise
            raise MemoryError from error

    def _compute(self, pictures: Sequence[Array], network: Run) -> tuple[list[Array], set[int]]:
        """Send pictures [H, W, C] through a network; the indices of those that became numbers that
        are not finite."""
        return assemble(pictures, self._processor.answers(self._batches(pictures), network))

    def _repair(
        self, pictures: Sequence[Array], denoised: list[Array], failed: set[int]
    ) -> list[Array]:
        """Compute in float32 what half precision cannot do or made NaN of."""
        if self.precision == "float32":
            return denoised
        # A strided convolution to a width of 1 has a faulty kernel in oneDNN 3.12: it reads memory
        # that nobody wrote (2x2, bfloat16, AMX). Fused networks have none; others may
        tiny = {i for i, picture in enumerate(pictures) if min(picture.shape[:2]) <= self._stride}
        for index in sorted(tiny | failed):
            (denoised[index],), _ = self._compute([pictures[index]], self._float32_network)
        if failed - tiny:
            with self._counting:
                self.recomputed += len(failed - tiny)
            self._note(
                f"{self.precision} gave numbers that are not finite for some images; "
                "these were recomputed in float32"
            )
        return denoised

    def _batches(self, pictures: Sequence[Array]) -> Iterator[list[PictureTile]]:
        """Tiles of one size and kind, as many as fill the device."""
        alike: dict[tuple[Any, ...], list[PictureTile]] = {}
        for index, picture in enumerate(pictures):
            for tile in self._tiles(*picture.shape[:2]):
                one = PictureTile(index, picture, tile, self._stride)
                key = one.size, one.colours, picture.dtype
                alike.setdefault(key, []).append(one)
        for ((height, width), *_), same in alike.items():
            count = max(1, self._batch_pixels // (height * width))
            for start in range(0, len(same), count):
                yield same[start : start + count]

    def _tiles(self, height: int, width: int) -> list[Tile]:
        side = max(height, width) if height * width <= self._whole else self._tile
        return tiles(height, width, side=side, halo=self._reach, stride=self._stride)

    def _use_less_memory(self) -> bool:
        """Halves the batch, then the tile; False where nothing is left to halve."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if self._batch_pixels >= self._tile**2:
            self._batch_pixels //= 2
            words = f"batches of {self._batch_pixels} pixels"
        elif self._tile > 64:
            self._tile, self._whole, self._batch_pixels = self._tile // 2, 0, 0
            words = f"tiles of {self._tile} pixels"
        else:
            return False
        self._note(f"out of memory on the device: went on with {words}")
        return True

    def _note(self, words: str) -> None:
        if words not in self.notes:
            _log.warning("%s", words)
        self.notes.add(words)


class _Memory:
    """Where pictures are computed beside others, or one by itself."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = self._waiting = 0

    @contextmanager
    def beside_others(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting == 0)
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody else is there; whoever comes meanwhile waits."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._users == 0)
                yield
            finally:
                self._waiting -= 1
                self._changed.notify_all()


def _native(picture: Array) -> np.dtype[Any]:
    """The numbers of a picture in this machine's order of bytes; FITS files have the other."""
    return picture.dtype.newbyteorder("=")


def _check(picture: Array) -> None:
    """ValueError for what is no picture, with the value that is wrong."""
    if not isinstance(picture, np.ndarray) or _native(picture) not in (
        np.uint8,
        np.uint16,
        np.float32,
    ):
        kind = getattr(picture, "dtype", type(picture).__name__)
        raise ValueError(f"a picture is an array of uint8, uint16 or float32 (0..1), got {kind}")
    shape = picture.shape
    if len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] > 4):
        raise ValueError(f"a picture is [H, W] or [H, W, C] with C 1 to 4, got {list(shape)}")
    if picture.dtype == np.float32 and not np.isfinite(picture).all():
        wrong = picture[~np.isfinite(picture)][0]
        raise ValueError(f"a picture holds finite numbers, got {wrong}")
    if picture.dtype == np.float32 and np.abs(picture).max() > _FAR:
        wrong = picture.flat[np.abs(picture).argmax()]
        raise ValueError(f"floats are on the scale 0..1, got {wrong:g}; divide by 255, say")
