"""One image decoded and paired with its noisy or its clean self, and with its denoised one.

Pixels are [H, W, C] integers; `noisy` is float32 on 0..1 where noise is asked for unrounded.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from denoise.errors import FAILURES, ImageError, why
from denoise.images.camera import add_camera_noise, check_iso
from denoise.images.codec import MAX_PIXELS, Picture, decode, to_floats, to_pixels
from denoise.images.metrics import mse, psnr
from denoise.images.noise import add_noise, noisy_bands, seed_of
from denoise.images.planes import join_notes

Kind = Literal["gaussian", "camera"]  # of noise
WhiteLevel = int | Literal["auto"]
_USUAL_WHITES = (1023, 4095, 16383)  # of 10, 12 and 14 bits, which auto chooses among
_LARGEST = 65535
_LONGEST = 1_000_000  # seconds, 11 days: the clocks of some systems go no further
_DIM = 4095  # the brightest level of 16 bits below which a user is asked
DIM_NOTE = "16 bits, with no level above 4095: see --white-level"


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """What to pair an image with."""

    sigma: float | None = None  # Gaussian noise to add; None: the images are noisy as they are
    kind: Kind = "gaussian"  # camera noise is added without a sigma
    iso: float | None = None  # strength of camera noise; None: each image's is drawn
    seed: int = 0
    float_noise: bool = False
    reference: str | None = None  # where the clean images lie, if the images are noisy
    white_level: WhiteLevel | None = None  # of images of 16 bits; None: 65535
    max_pixels: int = MAX_PIXELS
    max_seconds: float = 120.0  # that decoding and pairing it may take
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
        check_white_level(self.white_level)

    @property
    def adds_noise(self) -> bool:
        return self.sigma is not None or self.kind == "camera"


@dataclass
class Pair:
    """A clean and a noisy image, or as much of them as there is."""

    path: str
    stem: str = ""  # of its file's name, where another input has the usual name
    picture: Picture | None = None  # as decoded: its kind and what is carried along
    noisy: NDArray[Any] | None = None
    clean: NDArray[Any] | None = None  # None where no reference is known
    denoised: NDArray[Any] | None = None  # as the network made it of `noisy`
    sigma: float | None = None  # of Gaussian noise
    seed: int | None = None
    noise: str | None = None  # kind and parameters of what was added
    error: str | None = None
    beside: dict[str, Any] = field(default_factory=dict)  # columns of its input table or list
    seconds: dict[str, float] = field(default_factory=dict)  # by stage

    @property
    def white_level(self) -> int | None:
        """What 1 of the 0..1 scale is in its pixels; None: the largest of their type."""
        return self.picture.white_level if self.picture else None

    @property
    def nbytes(self) -> int:
        """Bytes of its pixels."""
        held = (self.noisy, self.clean, self.denoised)
        return sum(pixels.nbytes for pixels in held if pixels is not None)

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
                "white_level": self.picture.white_level,
                "format": self.picture.format,
                "note": self.picture.note,
            }
        return self.beside | row | {"sigma": self.sigma, "seed": self.seed, "noise": self.noise}

    def _fail(self, error: str) -> None:
        self.error = error
        self.noisy = self.clean = self.denoised = None  # no later stage goes on with it


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of one input image, and what a table written by `noise` says of it."""

    encoded: bytes
    clean: bytes | None = None
    sigma: float | None = None
    seed: int | None = None
    noise: str | None = None
    error: str | None = None
    white_level: int | None = None

    @property
    def is_noisy(self) -> bool:
        """Whether noise was added to it: with `noise --save files`, no clean image comes along."""
        return self.clean is not None or self.sigma is not None or self.noise is not None


def kind_of(noise: object) -> str | None:
    """The kind, "gaussian" or "camera", that the text in a table's column `noise` begins with; None
    where it is no text, as in the table of somebody else."""
    return noise.partition(" ")[0] if isinstance(noise, str) else None


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
            pair.clean = _match(_decode_reference(fetched.reference, config), pair)
    return pair


def check_white_level(level: WhiteLevel | None) -> None:
    """Raises ValueError where 16 bits cannot have such a white level."""
    if level not in (None, "auto") and not (isinstance(level, int) and 1 <= level <= _LARGEST):
        raise ValueError(f"white-level must be auto or lie in 1..{_LARGEST}, got {level}")


def check_max_seconds(seconds: float) -> None:
    """Raises ValueError where an image cannot have such a time limit."""
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"max-seconds must be above 0 and at most {_LONGEST:,}, got {seconds:g}")


def errors_of(
    pixels: NDArray[Any] | None, clean: NDArray[Any] | None, white_level: int | None = None
) -> tuple[float | None, float | None]:
    """MSE and PSNR against the clean image; None where there is none."""
    if pixels is None or clean is None:
        return None, None
    if pixels.dtype == np.float32:
        clean = to_floats(clean, white_level)
    error = mse(pixels, clean, white_level)
    return error, psnr(error)


def _decode(pair: Pair, source: Source, config: PairConfig) -> None:
    picture = decode(source.encoded, max_pixels=config.max_pixels)
    pair.picture = with_white_level(picture, source, config.white_level)
    pair.noisy = pair.picture.pixels
    if source.is_noisy and config.adds_noise:
        raise ImageError("noisy already, as its table says")
    pair.sigma, pair.seed, pair.noise = source.sigma, source.seed, source.noise
    if source.clean is not None:
        pair.clean = _match(decode(source.clean, max_pixels=config.max_pixels), pair)


def with_white_level(picture: Picture, source: Source, asked: WhiteLevel | None) -> Picture:
    """The picture with what counts as white in it: what its table says, else what was asked for.

    Raises ImageError where it has levels above that, which would be cut off.
    """
    if picture.bit_depth == 8:
        return picture
    brightest = int(picture.pixels.max())
    level = source.white_level
    if level is not None and not (type(level) is int and 1 <= level <= _LARGEST):
        raise ImageError("the white level of its table must be a number in 1..65535")
    if level is None and not source.is_noisy:  # `noise` has added it on the scale of its table
        if asked is None and 0 < brightest <= _DIM:
            return replace(picture, note=join_notes(picture.note, DIM_NOTE))
        fitting = next((one for one in _USUAL_WHITES if brightest <= one), _LARGEST)
        level = fitting if isinstance(asked, str) else asked  # auto is the only word
    if level is None or level == _LARGEST:
        return picture
    if brightest > level:
        raise ImageError(f"levels above the white level {level}: give a higher one, or auto")
    return replace(picture, white_level=level)


def _add_noise(pair: Pair, config: PairConfig) -> None:
    assert pair.picture is not None
    pair.clean = pair.picture.pixels
    pair.sigma, pair.seed = config.sigma, config.seed
    seed, level = seed_of(pair.path, config.seed), pair.white_level
    floats_of = partial(to_floats, white_level=level)
    if config.sigma is None:
        # cameras store what fills the type: for the time of it the pixels do
        full = pair.clean if level is None else to_pixels(floats_of(pair.clean), 16)
        pair.noisy, noise = add_camera_noise(full, seed=seed, iso=config.iso)
        if level is not None:
            pair.noisy = to_pixels(to_floats(pair.noisy), 16, level)
        pair.noise = str(noise)
        return
    pair.noise = f"gaussian sigma={config.sigma:g}" + " unclipped" * config.float_noise
    if config.float_noise:
        pair.noisy = add_noise(floats_of(pair.clean), sigma=config.sigma, seed=seed)
        return
    pair.noisy = np.empty_like(pair.clean)
    for band, noisy in noisy_bands(pair.clean, floats_of, sigma=config.sigma, seed=seed):
        pair.noisy[band] = to_pixels(noisy, pair.picture.bit_depth, level)


def _decode_reference(encoded: bytes, config: PairConfig) -> Picture:
    try:
        return decode(encoded, max_pixels=config.max_pixels)
    except ImageError as error:
        raise ImageError(f"its reference: {error}") from error


def _match(reference: Picture, pair: Pair) -> NDArray[Any]:
    """The reference's pixels. Raises ImageError where they cannot be compared with the image's."""
    assert pair.picture is not None
    pixels = pair.picture.pixels
    if reference.pixels.shape[:2] != pixels.shape[:2]:
        raise ImageError("its reference has another size")
    if reference.pixels.shape[2] != pixels.shape[2]:
        raise ImageError("one of image and reference is gray, the other in colour")
    if reference.pixels.dtype != pixels.dtype:
        raise ImageError("its reference has another bit depth")
    if pair.white_level is not None and int(reference.pixels.max()) > pair.white_level:
        raise ImageError(f"its reference has levels above the white level {pair.white_level}")
    return reference.pixels
