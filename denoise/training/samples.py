"""What a training sample is: a patch of a picture, turned, and the noise to put on it.

Sample i is a function of the run's seed and i alone, so training can stop and go on anywhere.

Shapes: photo [H, W, C] uint8, C 3, or 6 where a clean picture brings its own noisy one along
(clean, then noisy); patches [N, P, P, C] uint8.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from denoise.training.photos import Photo
from denoise.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from denoise.training.packed import PackedPhotos

UNCLIPPED = 0.4  # share of samples whose noise is neither clipped nor rounded, as the literature's
LEVEL_GIVEN = 0.3  # share of samples whose noise level the network gets as an input
GRAY = 0.1  # share of samples made gray, with the same noise in all three channels
# With camera noise: share of samples with it, and with Gaussian noise; the others are clean or
# merely compressed, and must come back as they were.
CAMERA, GAUSSIAN = 0.90, 0.03
GAUSSIAN_SIGMA = (0.002, 0.1)
AS_IT_IS, ENLARGED = 0.35, 0.45  # share of patches at the photo's own scale, and enlarged
DIMMED = 0.3  # share of patches that get less light
ORIENTATIONS = 8
CROPS = 32  # taken of a photo before the next window of them, where not all fit into memory


@dataclass(frozen=True)
class Patches:
    """Samples whose noise is still to be drawn, on the device."""

    paths: list[str]
    pixels: "NDArray[np.uint8] | Tensor"  # [N, P, P, C]; on the device where it cuts them
    sigma: NDArray[np.float32]  # [N]
    seeds: NDArray[np.int64]  # [N] of the noise
    clipped: NDArray[np.bool_]  # [N]
    level_given: NDArray[np.bool_]  # [N]
    gray: NDArray[np.bool_]  # [N]
    light: NDArray[np.float64] | None = None  # [N] with camera noise: what pixels are dimmed by
    source: NDArray[np.float64] | None = None  # [N] in 0..1: camera, Gaussian or no noise


Window = Callable[[int], Sequence[Photo]]  # the photos of window k


@dataclass(frozen=True)
class Sampler:
    """Draws samples from windows of photos: one window where all fit into memory."""

    recipe: Recipe
    window: Window
    samples_a_window: int | None = None  # None: the only window never ends
    packed: "PackedPhotos | None" = None  # the only window, where the device cuts the patches

    def patches(self, first: int, count: int) -> Patches:
        """Samples first, first + 1, ... first + count - 1."""
        low, high = self.recipe.sigmas
        is_camera = self.recipe.kind == "camera"
        u = draws(self.recipe.seed, first, count)
        photos = [self._photo(first + k, row[0]) for k, row in enumerate(u)]
        return Patches(
            paths=[photo.path for photo in photos],
            pixels=self._cut(photos, u),
            sigma=(low + (high - low) * u[:, 4]).astype(np.float32),
            seeds=(u[:, 5] * 2**53).astype(np.int64),
            clipped=u[:, 6] >= UNCLIPPED,
            level_given=u[:, 7] < LEVEL_GIVEN,
            gray=u[:, 8] < GRAY,
            light=_light_of(u[:, 10]) if is_camera else None,
            source=u[:, 11] if is_camera else None,
        )

    def _cut(self, photos: Sequence[Photo], u: NDArray[np.float64]) -> "NDArray[np.uint8] | Tensor":
        side = self.recipe.patch
        if self.packed is not None:
            return self.packed.crops(side, u)
        cut = scaled_crop if self.recipe.kind == "camera" else crop
        return np.stack([cut(p.pixels, side, row) for p, row in zip(photos, u, strict=True)])

    def _photo(self, sample: int, u: float) -> Photo:
        photos = self.window(sample // self.samples_a_window if self.samples_a_window else 0)
        return photos[int(u * len(photos))]


def draws(seed: int, first: int, count: int) -> NDArray[np.float64]:
    """[count, 12] uniform in 0..1, row k belonging to sample first + k: 3 blocks of Philox each.

    Philox is a counter put through a cipher, so that any position of its stream is reached at once
    (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3; 2011).
    """
    stream = np.random.Philox(key=seed % 2**64, counter=3 * first)
    words = stream.random_raw(12 * count).reshape(count, 12) >> np.uint64(11)
    return words.astype(np.float64) * 2.0**-53


def crop(pixels: NDArray[np.uint8], side: int, u: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A patch [side, side, C] at a drawn position in one of the eight orientations, as a view."""
    height, width, _ = pixels.shape
    top, left = int(u[1] * (height - side + 1)), int(u[2] * (width - side + 1))
    return orient(pixels[top : top + side, left : left + side], int(u[3] * ORIENTATIONS))


def orient(patch: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A square [P, P, ...] in one of the eight orientations, as a view."""
    turns, mirrored = divmod(orientation, 2)
    return np.rot90(patch[:, ::-1] if mirrored else patch, turns)


def scaled_crop(pixels: NDArray[np.uint8], side: int, u: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A patch as from `crop`, of a photo that may be enlarged up to 2.2 times or made smaller down
    to half: a camera's own pixels are softer than those of a photo that was scaled down."""
    if u[9] < AS_IT_IS:
        part = side
    elif u[9] < AS_IT_IS + ENLARGED:
        part = int(side / (1 + 1.2 * (u[9] - AS_IT_IS) / ENLARGED))
    else:
        part = int(side * (1 + (u[9] - AS_IT_IS - ENLARGED) / (1 - AS_IT_IS - ENLARGED)))
    part = max(1, min(part, *pixels.shape[:2]))
    patch = crop(pixels, part, u)
    if part == side or patch.shape[2] != 3:  # pairs bring their own noise along
        return crop(pixels, side, u)
    image = Image.fromarray(np.ascontiguousarray(patch))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))


def _light_of(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """By what pixels are multiplied: most by 1, some by 0.3 to 1."""
    return np.where(u < DIMMED, 0.3 + 0.7 * u / DIMMED, 1.0)


def order_of(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """In which order the photos come in an epoch, where not all fit into memory."""
    key = np.array([seed % 2**64, 1], np.uint64)  # another stream than that of `draws`
    return np.argsort(np.random.Philox(key=key, counter=epoch << 128).random_raw(count))
