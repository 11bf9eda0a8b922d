"""One image decoded and paired with its noisy or its clean self.

Pixels are [H, W, C] integers; `noisy` is float32 on 0..1 where noise is asked for unrounded.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from denoise.errors import FAILURES, ImageError, why
from denoise.images.camera import add_camera_noise, check_iso
from denoise.images.codec import MAX_PIXELS, Picture, decode, to_floats, to_pixels
from denoise.images.metrics import mse, psnr
from denoise.images.noise import add_noise, noisy_bands, seed_of

Kind = Literal["gaussian", "camera"]  # of noise


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """What to pair an image with."""

    sigma: float | None = None  # Gaussian noise to add; None: the images are noisy as they are
    kind: Kind = "gaussian"  # camera noise is added without a sigma
    iso: float | None = None  # strength of camera noise; None: each image's is drawn
    seed: int = 0
    float_noise: bool = False
    reference: str | None = None  # where the clean images lie, if the images are noisy
    max_pixels: int = MAX_PIXELS
    allow_elsewhere: bool = False  # tables may name images that lie outside of their own folder
    # columns of an input table to carry along: their names there, and in the output
    beside: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "camera" and (self.sigma is not None or self.float_noise):
            raise ValueError(
                "camera noise has no sigma and is stored as a file would be: leave --sigma and "
                "--float-noise out, or use --kind gaussian"
            )
        if self.kind == "gaussian" and self.iso is not None:
            raise ValueError(
                f"iso is for --kind camera; Gaussian noise has a sigma, got {self.iso}"
            )
        check_iso(self.iso)

    @property
    def adds_noise(self) -> bool:
        return self.sigma is not None or self.kind == "camera"


@dataclass
class Pair:
    """A clean and a noisy image, or as much of them as there is."""

    path: str
    picture: Picture | None = None  # as decoded: its kind and what is carried along
    noisy: NDArray[Any] | None = None
    clean: NDArray[Any] | None = None  # None where no reference is known
    sigma: float | None = None  # of Gaussian noise
    seed: int | None = None
    noise: str | None = None  # kind and parameters of what was added
    error: str | None = None
    beside: dict[str, Any] = field(default_factory=dict)  # columns of its input table or list
    seconds: dict[str, float] = field(default_factory=dict)  # by stage

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage, and turns what goes wrong with this one image into its `error`."""
        start = time.perf_counter()
        try:
            yield
        except FAILURES as error:
            self._fail(why(error))
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + spent

    def about(self) -> dict[str, Any]:
        """The columns that every table begins with."""
        row: dict[str, Any] = {"path": self.path, "error": self.error}
        if self.picture is not None:
            row |= {
                "height": self.picture.height,
                "width": self.picture.width,
                "bit_depth": self.picture.bit_depth,
                "format": self.picture.format,
                "note": self.picture.note,
            }
        return self.beside | row | {"sigma": self.sigma, "seed": self.seed, "noise": self.noise}

    def _fail(self, error: str) -> None:
        self.error = error
        self.noisy = self.clean = None  # no later stage goes on with it


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of one input image, and what a table written by `noise` says of it."""

    encoded: bytes
    clean: bytes | None = None
    sigma: float | None = None
    seed: int | None = None
    noise: str | None = None
    error: str | None = None

    @property
    def is_noisy(self) -> bool:
        """Whether noise was added to it: with `noise --save files`, no clean image comes along."""
        return self.clean is not None or self.sigma is not None or self.noise is not None


@dataclass(frozen=True)
class Fetched:
    """The bytes of an image and of its reference, or in words what was wrong with that one."""

    pair: Pair
    source: Source
    reference: bytes | str | None = None  # no exception: it would hold on to the pixels


def decode_pair(fetched: Fetched, config: PairConfig) -> Pair:
    """Decode what was fetched of an image, and add its noise or find its clean self.

    What goes wrong with the image is the pair's `error`; nothing is raised for it.
    """
    pair, source = fetched.pair, fetched.source
    if pair.error is None:
        with pair.stage("decode"):
            _decode(pair, source, config)
    if pair.error is None and config.adds_noise:
        with pair.stage("noise"):
            _add_noise(pair, config)
    elif pair.error is None and fetched.reference is not None:
        with pair.stage("reference"):
            if isinstance(fetched.reference, str):
                raise ImageError(fetched.reference)
            pair.clean = _matching(_decoded_reference(fetched.reference, config), pair)
    return pair


def errors_of(
    pixels: NDArray[Any] | None, clean: NDArray[Any] | None
) -> tuple[float | None, float | None]:
    """MSE and PSNR against the clean image; None where there is none."""
    if pixels is None or clean is None:
        return None, None
    error = mse(pixels, to_floats(clean) if pixels.dtype == np.float32 else clean)
    return error, psnr(error)


def _decode(pair: Pair, source: Source, config: PairConfig) -> None:
    pair.picture = decode(source.encoded, max_pixels=config.max_pixels)
    pair.noisy = pair.picture.pixels
    if source.is_noisy and config.adds_noise:
        raise ImageError("noisy already, as its table says")
    pair.sigma, pair.seed, pair.noise = source.sigma, source.seed, source.noise
    if source.clean is not None:
        pair.clean = _matching(decode(source.clean, max_pixels=config.max_pixels), pair)


def _add_noise(pair: Pair, config: PairConfig) -> None:
    assert pair.picture is not None
    pair.clean = pair.picture.pixels
    pair.sigma, pair.seed = config.sigma, config.seed
    seed = seed_of(pair.path, config.seed)
    if config.sigma is None:
        pair.noisy, noise = add_camera_noise(pair.clean, seed=seed, iso=config.iso)
        pair.noise = str(noise)
        return
    pair.noise = f"gaussian sigma={config.sigma:g}" + " unclipped" * config.float_noise
    if config.float_noise:
        pair.noisy = add_noise(to_floats(pair.clean), sigma=config.sigma, seed=seed)
        return
    pair.noisy = np.empty_like(pair.clean)
    for band, noisy in noisy_bands(pair.clean, to_floats, sigma=config.sigma, seed=seed):
        pair.noisy[band] = to_pixels(noisy, pair.picture.bit_depth)


def _decoded_reference(encoded: bytes, config: PairConfig) -> Picture:
    try:
        return decode(encoded, max_pixels=config.max_pixels)
    except ImageError as error:
        raise ImageError(f"its reference: {error}") from error


def _matching(reference: Picture, pair: Pair) -> NDArray[Any]:
    """The reference's pixels. Raises ImageError where they cannot be compared with the image's."""
    assert pair.picture is not None
    pixels = pair.picture.pixels
    if reference.pixels.shape[:2] != pixels.shape[:2]:
        raise ImageError("its reference has another size")
    if reference.pixels.shape[2] != pixels.shape[2]:
        raise ImageError("one of image and reference is gray, the other in colour")
    if reference.pixels.dtype != pixels.dtype:
        raise ImageError("its reference has another bit depth")
    return reference.pixels
