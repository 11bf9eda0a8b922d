"""Takes the noise out of pixels: any size, gray or colour, integers or floats, with alpha or not.

Shapes: noisy, denoised [H, W] or [H, W, C], C 1 (gray), 2 (gray, alpha), 3 (RGB), 4 (RGB, alpha);
inside the network [N, 3, h, w], where h and w are those of a tile.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from denoise.images.codec import to_floats, to_pixels
from denoise.images.tiles import Tile, tiles
from denoise.nets import networks as models
from denoise.nets import package as packages

_log = logging.getLogger(__name__)
Array = npt.NDArray[Any]  # uint8, uint16 or float32

# By measurement, see tests/bench/tiles.py: what fits the caches of a CPU, and what fills a GPU
_CPU_TILE, _CPU_WHOLE = 1024, 1 << 20
_GPU_TILE, _GPU_WHOLE, _GPU_BATCH = 1024, 1 << 21, 1 << 20
_FAR = 8.0  # no noise on a picture of 0..1 goes further; numbers on 0..255 do


class Denoiser:
    """A model package, ready to use on this process's device."""

    notes: set[str]  # what a user should know of how it went, for the run's summary

    def __init__(
        self, package: packages.Package, *, tile: int | None = None, level: float | None = None
    ) -> None:
        """tile: see load. level: the sigma of the noise, 0..1; the network judges without it."""
        if tile is not None and tile < 1:
            raise ValueError(f"tile must be at least 1 pixel, got {tile}")
        if level is not None and not 0 <= level <= 1:
            raise ValueError(f"level must lie in 0..1 (the pixel scale), got {level}")
        self.package = package
        self.notes = set()
        self._device = models.device()
        self._network = package.model.eval().to(self._device)
        # torch's annotations lack a memory format alone
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._sigma = models.UNTOLD if level is None else level
        on_cpu = self._device.type == "cpu"
        self._tile = tile or (_CPU_TILE if on_cpu else _GPU_TILE)
        self._whole = 0 if tile else (_CPU_WHOLE if on_cpu else _GPU_WHOLE)
        self._batch_pixels = 0 if on_cpu else _GPU_BATCH  # on a CPU, tiles go one by one

    @classmethod
    def load(
        cls, model: str = "unet", *, tile: int | None = None, level: float | None = None
    ) -> Self:
        """The denoiser of a shipped model, by name, or of a package at a URI.

        tile is the side in pixels of the windows that large pictures are cut into (the network sees
        its reach beyond them); chosen for the device where not given. Raises SettingsError.
        """
        return cls(packages.load(model), tile=tile, level=level)

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
        """As a call on each of them. On a GPU, tiles of equal size go together.

        Raises MemoryError where not even small tiles fit.
        """
        for picture in noisy:
            _check(picture)
        while True:
            try:
                return self._denoised(noisy)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                if not self._use_less_memory():
                    raise MemoryError from error

    def _denoised(self, noisy: Sequence[Array]) -> list[Array]:
        planes = [picture.reshape(*picture.shape[:2], -1) for picture in noisy]
        denoised = [picture.copy() for picture in planes]  # keeps alpha
        for batch in self._batches(planes):
            for window, answer in zip(batch, self._answers(batch), strict=True):
                inner = window.tile.inner
                colours = _colours(window.picture)
                kept = answer[inner.within(window.tile.outer)]
                target = denoised[window.index][inner.top : inner.bottom, inner.left : inner.right]
                target[..., :colours] = _like(window.picture, kept, colours)
        return [
            result.reshape(picture.shape) for result, picture in zip(denoised, noisy, strict=True)
        ]

    def _batches(self, pictures: Sequence[Array]) -> Iterator[list["_Window"]]:
        """Windows of equal size, as many as fill the device."""
        by_size: dict[tuple[int, int], list[_Window]] = {}
        for index, picture in enumerate(pictures):
            for tile in self._tiles(*picture.shape[:2]):
                size = tile.outer.height, tile.outer.width
                by_size.setdefault(size, []).append(_Window(index, picture, tile))
        for size, windows in by_size.items():
            count = self._batch_size(*size)
            for start in range(0, len(windows), count):
                yield windows[start : start + count]

    def _tiles(self, height: int, width: int) -> list[Tile]:
        side = max(height, width) if height * width <= self._whole else self._tile
        reach, stride = self._network.reach, self._network.stride
        # a Module's attributes have no types
        return tiles(height, width, side=side, halo=reach, stride=stride)  # type: ignore[arg-type]

    def _batch_size(self, height: int, width: int) -> int:
        return max(1, self._batch_pixels // (height * width))

    @torch.inference_mode()
    def _answers(self, batch: Sequence["_Window"]) -> Array:
        """float32 [N, h, w, 3] of windows of equal size."""
        shown = [window.shown() for window in batch]
        # A batch is always full, so that no picture depends on what goes with it: another size
        # of batch means other kernels, whose sums round differently
        missing = self._batch_size(*shown[0].shape[:2]) - len(shown)
        shown += [np.zeros_like(shown[0])] * missing
        noisy = to_network(np.stack(shown)).to(self._device)  # [N, 3, h, w], channels last
        sigma = torch.full((len(shown),), self._sigma, device=self._device)
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            return from_network(self._network(noisy, sigma))[: len(batch)]

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
        _log.warning("out of memory on the device: going on with %s", words)
        self.notes.add(f"out of memory on the device: went on with {words}")
        return True


@dataclass(frozen=True, eq=False)
class _Window:
    """A tile of one of the pictures."""

    index: int
    picture: Array  # [H, W, C]
    tile: Tile

    def shown(self) -> npt.NDArray[np.float32]:
        """What the network sees: [h, w, 3]."""
        box = self.tile.outer
        part = self.picture[box.top : box.bottom, box.left : box.right]
        part = part[..., : _colours(self.picture)]
        floats = part if part.dtype == np.float32 else to_floats(part)
        return np.broadcast_to(floats, (*floats.shape[:2], 3))


def _is_out_of_memory(error: RuntimeError) -> bool:
    """torch has an exception of its own for a GPU's memory; for the CPU's, only words."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def to_network(pictures: npt.NDArray[np.float32]) -> Tensor:
    """[N, H, W, C] -> [N, C, H, W]; the numbers stay where they lie, which is channels last."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)


def from_network(pictures: Tensor) -> npt.NDArray[np.float32]:
    """[N, C, H, W] on any device -> [N, H, W, C]."""
    array: npt.NDArray[np.float32] = pictures.permute(0, 2, 3, 1).cpu().numpy()
    return array


def _colours(picture: Array) -> int:
    """How many of the planes are colours: all but alpha."""
    return 1 if picture.shape[2] < 3 else 3


def _like(picture: Array, denoised: npt.NDArray[np.float32], colours: int) -> Array:
    """[h, w, 3] as the picture has it: gray or colours, integers or floats."""
    if colours == 1:
        denoised = denoised.mean(axis=2, keepdims=True)
    return denoised if picture.dtype == np.float32 else to_pixels(denoised, 8 * picture.itemsize)


def _check(picture: Array) -> None:
    """ValueError for what is no picture, with the value that is wrong."""
    if not isinstance(picture, np.ndarray) or picture.dtype not in (
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
