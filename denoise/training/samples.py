"""What a training sample is: a patch of a picture, turned, and the noise to put on it.

Sample i is a function of the run's seed and i alone, so training can stop and go on anywhere.

Shapes: photo [H, W, C] uint8, C 3, or 6 where a clean picture brings its own noisy one along
(clean, then noisy); patches [N, P, P, C] uint8.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from denoise.errors import FAILURES, ImageError, why
from denoise.images.codec import decode, to_floats, to_pixels
from denoise.images.noise import check_seed, check_sigma
from denoise.storage.inputs import Entry, source_of

UNCLIPPED = 0.4  # share of samples whose noise is neither clipped nor rounded, as the literature's
TOLD = 0.3  # share of samples whose noise level the network is told
GRAY = 0.1  # share of samples made gray, with the same noise in all three channels
# With camera noise: share of samples with it, and with Gaussian noise; the others are clean or
# merely compressed, and must come back as they were.
CAMERA, GAUSSIAN = 0.85, 0.08
GAUSSIAN_SIGMA = (0.002, 0.1)
AS_IT_IS, ENLARGED = 0.35, 0.45  # share of patches at the photo's own scale, and enlarged
DIMMED = 0.3  # share of patches that get less light
CROPS = 32  # taken of a photo before the next window of them, where not all fit into memory
_LARGEST_PATCH = 4096  # smaller photos are made as large
VALIDATION_SIDE = 256  # photos are validated on their middle
Loss = Literal["l1", "charbonnier", "mse", "rmse"]
Optimizer = Literal["muon", "adamw"]
Kind = Literal["gaussian", "camera"]
Precision = Literal["auto", "float32", "bfloat16"]
_CHOICES = {
    "kind": get_args(Kind),
    "loss": get_args(Loss),
    "optimizer": get_args(Optimizer),
    "precision": get_args(Precision),
}
# optimizer -> the usual learning rates of fresh weights and of trained ones
RATES = {"muon": (3e-3, 3e-4), "adamw": (1e-3, 1e-4)}

PHOTO_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("shape", pa.list_(pa.int32(), 3)),
        ("pixels", pa.large_binary()),  # null where it did not decode
        ("padded", pa.bool_()),
        ("sigma", pa.float64()),  # of the noise that a pair brings along, null where not known
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the weights, beside the images."""

    kind: Kind = "gaussian"  # of noise: Gaussian, or what cameras make, of all strengths
    # of Gaussian noise: S, or MIN MAX for a blind model; else 0.1
    sigma: float | tuple[float, float] | None = None
    steps: int = 2000  # batches to train on
    batch_size: int = 16  # patches a step, over all workers together
    patch: int = 64  # side of a training patch in pixels
    seed: int = 0  # sample i is a function of this and i
    # at its height; else 0.003, or 0.0003 from --init on (with adamw 0.001, or 0.0001)
    learning_rate: float | None = None
    loss: Loss = "l1"  # what training makes small
    optimizer: Optimizer = "muon"  # how: Muon, or AdamW for all
    precision: Precision = "auto"  # of convolutions: bfloat16 on GPUs made for it, else float32
    accumulate: int = 1  # parts that a worker's share of a batch is cut into, to save memory
    save_every: int = 500  # steps between validations; each one is a checkpoint to resume from
    patience: int = 0  # stop after so many validations without a better PSNR; 0: never

    def __post_init__(self) -> None:
        if self.kind == "camera" and self.sigma is not None:
            raise ValueError(
                "camera noise has no sigma: its strength is drawn for each sample; leave --sigma "
                f"out, or use --kind gaussian, got sigma {self.sigma}"
            )
        low, high = self.sigmas
        check_sigma("sigma", low)
        check_sigma("sigma", high)
        check_seed(self.seed)
        if low > high:
            raise ValueError(f"sigma must be S or MIN MAX, ascending, got {low} {high}")
        self._check_counts()
        for name, words in _CHOICES.items():
            if getattr(self, name) not in words:
                choices, chosen = ", ".join(words), getattr(self, name)
                raise ValueError(f"{name} must be one of {choices}, got {chosen}")
        if self.patience < 0:
            raise ValueError(f"patience must be at least 0, got {self.patience}")
        if not 0 < self.rate <= 1:
            raise ValueError(f"learning-rate must lie in 0..1, got {self.rate}")

    def _check_counts(self) -> None:
        for name in ("steps", "batch_size", "patch", "accumulate", "save_every"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"{flag} must be at least 1, got {getattr(self, name)}")
        if self.patch > _LARGEST_PATCH:
            raise ValueError(f"patch must be at most {_LARGEST_PATCH}, got {self.patch}")

    @property
    def rate(self) -> float:
        """The learning rate, after the warm-up and before the cosine."""
        fresh, _ = RATES[self.optimizer]
        return fresh if self.learning_rate is None else self.learning_rate

    @property
    def sigmas(self) -> tuple[float, float]:
        """The least and the greatest sigma of Gaussian noise."""
        if isinstance(self.sigma, tuple):
            return self.sigma
        sigma = 0.1 if self.sigma is None else self.sigma
        return sigma, sigma


@dataclass(frozen=True)
class Photo:
    """A decoded picture: a view into a table that processes share."""

    path: str
    pixels: NDArray[np.uint8]  # [H, W, C]


@dataclass(frozen=True)
class Patches:
    """Samples whose noise is still to be drawn, on the device."""

    paths: list[str]
    pixels: NDArray[np.uint8]  # [N, P, P, C]
    sigma: NDArray[np.float32]  # [N]
    seeds: NDArray[np.int64]  # [N] of the noise
    clipped: NDArray[np.bool_]  # [N]
    told: NDArray[np.bool_]  # [N]
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

    def patches(self, first: int, count: int) -> Patches:
        """Samples first, first + 1, ... first + count - 1."""
        u = draws(self.recipe.seed, first, count)
        photos = [self._photo(first + k, row[0]) for k, row in enumerate(u)]
        is_camera = self.recipe.kind == "camera"
        cut = scaled_crop if is_camera else crop
        crops = [cut(p.pixels, self.recipe.patch, row) for p, row in zip(photos, u, strict=True)]
        low, high = self.recipe.sigmas
        return Patches(
            paths=[photo.path for photo in photos],
            pixels=np.stack(crops),
            sigma=(low + (high - low) * u[:, 4]).astype(np.float32),
            seeds=(u[:, 5] * 2**53).astype(np.int64),
            clipped=u[:, 6] >= UNCLIPPED,
            told=u[:, 7] < TOLD,
            gray=u[:, 8] < GRAY,
            light=_light_of(u[:, 10]) if is_camera else None,
            source=u[:, 11] if is_camera else None,
        )

    def _photo(self, sample: int, u: float) -> Photo:
        photos = self.window(sample // self.samples_a_window if self.samples_a_window else 0)
        return photos[int(u * len(photos))]


def draws(seed: int, first: int, count: int) -> NDArray[np.float64]:
    """[count, 12] uniform in 0..1, row k belonging to sample first + k: 3 blocks of Philox each.

    Philox is a counter put through a cipher, so that any place of its stream is reached at once
    (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3; 2011).
    """
    stream = np.random.Philox(key=seed % 2**64, counter=3 * first)
    words = stream.random_raw(12 * count).reshape(count, 12) >> np.uint64(11)
    return words.astype(np.float64) * 2.0**-53


def crop(pixels: NDArray[np.uint8], side: int, u: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A patch [side, side, C] at a drawn place in one of the eight orientations, as a view."""
    height, width, _ = pixels.shape
    top, left = int(u[1] * (height - side + 1)), int(u[2] * (width - side + 1))
    patch = pixels[top : top + side, left : left + side]
    turns, mirrored = divmod(int(u[3] * 8), 2)
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


def photo_row(entry: Entry, patch: int, *, middle: bool = False) -> dict[str, Any]:
    """A row of PHOTO_SCHEMA: the entry decoded, or only its middle, or what was wrong with it."""
    row = dict.fromkeys(PHOTO_SCHEMA.names) | {"path": entry.path, "padded": False}
    try:
        pixels, sigma = _pixels(entry)
    except FAILURES as error:
        return row | {"error": why(error)}
    height, width, _ = pixels.shape
    more = [(0, max(0, patch - height)), (0, max(0, patch - width)), (0, 0)]
    is_small = min(height, width) < patch
    if is_small:
        pixels = np.pad(pixels, more, "reflect")
    if middle:
        pixels = middle_of(pixels)
    flat = np.ascontiguousarray(pixels).tobytes()
    return row | {"shape": pixels.shape, "pixels": flat, "padded": is_small, "sigma": sigma}


def middle_of(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[H, W, C] -> what validation looks at, as a view."""
    top, left = (max(0, (side - VALIDATION_SIDE) // 2) for side in pixels.shape[:2])
    return pixels[top : top + VALIDATION_SIDE, left : left + VALIDATION_SIDE]


def photos_in(table: pa.Table) -> list[Photo]:
    """The photos of a table, without a copy."""
    photos = []
    for batch in table.to_batches():
        paths, shapes = batch.column("path").to_pylist(), batch.column("shape").to_pylist()
        for row, pixels in enumerate(batch.column("pixels")):
            if pixels.is_valid:
                flat = np.frombuffer(pixels.as_buffer(), np.uint8)
                photos.append(Photo(paths[row], flat.reshape(shapes[row])))
    return photos


def _pixels(entry: Entry) -> tuple[NDArray[np.uint8], float | None]:
    """[H, W, 3] of an image, or [H, W, 6] of a clean one and its noisy one, with the sigma between.

    Raises ImageError.
    """
    source = source_of(entry)
    if source.error:
        raise ImageError(source.error)
    if source.is_noisy and source.clean is None:
        raise ImageError("noisy, and its table brings no clean image along")
    noisy = _rgb(source.encoded)
    if source.clean is None:
        return noisy, None
    clean = _rgb(source.clean)
    if clean.shape != noisy.shape:
        raise ImageError("the clean and the noisy image differ in size")
    return np.concatenate([clean, noisy], axis=2), source.sigma


def _rgb(encoded: bytes) -> NDArray[np.uint8]:
    pixels = decode(encoded).pixels
    eight = pixels if pixels.dtype == np.uint8 else to_pixels(to_floats(pixels), 8)
    return np.broadcast_to(eight, (*eight.shape[:2], 3)).astype(np.uint8, copy=False)
