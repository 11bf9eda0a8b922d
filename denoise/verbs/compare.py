"""`denoise compare`: models side by side on the same images, by quality, speed and looks.

Pixels are [H, W, C] integers; noise and what was removed are printed in levels of 255.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from denoise.errors import SettingsError
from denoise.images.codec import Picture, encode, to_floats, to_pixels
from denoise.images.metrics import estimate_noise, mse, psnr
from denoise.images.noise import check_seed, check_sigma
from denoise.images.pairs import Pair, PairConfig, WhiteLevel, check_max_seconds, check_white_level
from denoise.reports.views import Labelled, sheet_of
from denoise.storage import files, inputs, uris
from denoise.storage.fetch import fetch
from denoise.storage.found import LeftOut
from denoise.verbs.checks import check_file_apart, normalize
from denoise.verbs.stages import decode_in_time

if TYPE_CHECKING:
    from denoise.nets.denoiser import Denoiser

_ON_SHEET = 6  # images of the contact sheet
_SIDE = 240  # pixels of one of its panels
_WARM_UP = 64  # side in pixels of a picture that nobody times


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Set models side by side: denoise compare photos --models photo unet"""

    images: str  # folder, glob, file, archive, list or table; any URI
    # shipped names (see `denoise models`) or URIs of packages
    models: tuple[str, ...] = ("photo", "unet")
    reference: str | None = None  # the images are noisy: the clean ones lie here, by path or stem
    add_noise: float | None = None  # the images are clean: add noise of this sigma first
    seed: int = 0  # of that noise: each image's own seed is made from this and its path
    limit: int = 24  # take only so many images, the first ones
    white_level: WhiteLevel | None = None  # level that is white in images of 16 bits: as for infer
    max_seconds: float = 120.0  # an image that takes longer to decode is left out and counted
    output: str = "comparison.png"  # the contact sheet; replaced where it is there

    def __post_init__(self) -> None:
        normalize(self)
        check_seed(self.seed)
        check_white_level(self.white_level)
        if not self.images or not self.models:
            raise ValueError("images and models must not be empty")
        if self.add_noise is not None:
            check_sigma("add-noise", self.add_noise)
        if self.add_noise is not None and self.reference is not None:
            raise ValueError("give add-noise (the images are clean) or reference (noisy), not both")
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")
        check_max_seconds(self.max_seconds)
        if uris.suffix(self.output) != ".png":
            raise ValueError(f"output must be a .png file, got {self.output}")
        twice = [name for name, count in Counter(self.models).items() if count > 1]
        if twice:
            raise ValueError(f"models must differ, got {twice[0]} twice")


class Score:
    """A method's quality and speed, image by image."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.images = 0
        self.megapixels = self.seconds = 0.0
        self._values: dict[str, list[float]] = {}

    def add(
        self,
        stored: NDArray[Any],
        clean: NDArray[Any] | None,
        *,
        noisy: NDArray[Any] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Count an image: `stored` is the result in integers, compared with what is known."""
        self.images += 1
        self.seconds += seconds
        self.megapixels += stored.shape[0] * stored.shape[1] / 1e6
        found = {"noise": estimate_noise(stored)}
        if clean is not None:
            found["psnr"] = psnr(mse(stored, clean))
        if noisy is not None:
            found["removed"] = mse(stored, noisy) ** 0.5
        for name, value in found.items():
            if isfinite(value):
                self._values.setdefault(name, []).append(value)

    def mean(self, name: str) -> float | None:
        """Mean over the images of `psnr` in dB, `removed` or `noise` on 0..1; None if unknown."""
        values = self._values.get(name)
        return float(np.mean(values)) if values else None

    @property
    def speed(self) -> float | None:
        """Megapixels a second."""
        return self.megapixels / self.seconds if self.seconds else None


def compare(config: CompareConfig) -> dict[str, Any]:
    """Denoise the images with each model; return scores and write a contact sheet.

    One image after the other goes through all models in this process, so that they meet the same
    conditions. Raises SettingsError where a model or the images are not there.
    """
    from denoise.nets.denoiser import Denoiser  # torch: only where a network runs

    output = uris.absolute(config.output)
    files.check_writable(files.nearest_folder(uris.folder_of(output)))
    denoisers = {name: Denoiser.load(name) for name in config.models}
    for denoiser in denoisers.values():
        denoiser(np.zeros((_WARM_UP, _WARM_UP, 3), np.uint8))  # the first one takes longer
    before, scores = Score("input"), {name: Score(name) for name in denoisers}
    sheet: list[list[Labelled]] = []
    errors: Counter[str] = Counter()
    for pair in _pairs(config):
        if pair.noisy is None:
            errors[str(pair.error)] += 1
            continue
        before.add(pair.noisy, pair.clean)
        results = {
            name: _denoise(pair, denoiser, scores[name]) for name, denoiser in denoisers.items()
        }
        if len(sheet) < _ON_SHEET:
            sheet.append(list(_panels(pair, results)))
    if not sheet:
        raise SettingsError(f"none of the images can be used: {'; '.join(errors)}")
    files.write(output, encode(Picture(sheet_of(sheet, side=_SIDE))))
    done = [before, *scores.values()]
    return {
        "images": before.images + sum(errors.values()),
        "failed": sum(errors.values()),
        "errors": dict(errors.most_common()),
        "megapixels": before.megapixels,
        "models": [_record(one) for one in done],
        "contact_sheet": output,
        "table": _table(done),
    }


def _pairs(config: CompareConfig) -> Iterator[Pair]:
    """The first images, each with its clean self where that is known."""
    reference = uris.absolute(config.reference) if config.reference else None
    if reference and not files.exists(reference):
        raise SettingsError(f"no references under {uris.redact(reference)}")
    pairing = PairConfig(
        sigma=config.add_noise,
        seed=config.seed,
        reference=reference,
        white_level=config.white_level,
        max_seconds=config.max_seconds,
    )
    listed = inputs.entries(uris.absolute(config.images), LeftOut())
    chosen = list(islice(listed, config.limit))
    for entry in chosen:
        check_file_apart(uris.absolute(config.output), entry.uri, reference)
    return (_full_scale(decode_in_time(fetch(entry, pairing), pairing)) for entry in chosen)


def _full_scale(pair: Pair) -> Pair:
    """The pair with white at 65535: nothing behind it needs to know the image's white level."""
    level = pair.white_level
    if level is None:
        return pair
    for name in ("noisy", "clean"):
        pixels = getattr(pair, name)
        if pixels is not None:
            setattr(pair, name, to_pixels(to_floats(pixels, level), 16))
    return pair


def _denoise(pair: Pair, denoiser: "Denoiser", score: Score) -> NDArray[Any]:
    """The pixels that a model makes of an image; its score counts them."""
    assert pair.noisy is not None
    start = time.perf_counter()
    denoised = denoiser(pair.noisy)
    spent = time.perf_counter() - start
    score.add(denoised, pair.clean, noisy=pair.noisy, seconds=spent)
    return denoised


def _panels(pair: Pair, results: Mapping[str, NDArray[Any]]) -> Iterator[Labelled]:
    """A line of the contact sheet: the image as it was, by each model, and clean."""
    assert pair.noisy is not None
    yield f"{pair.path}{_quality(pair.noisy, pair.clean)}", pair.noisy
    for name, pixels in results.items():
        removed = 255 * mse(pixels, pair.noisy) ** 0.5
        known = _quality(pixels, pair.clean) or f", {removed:.1f} removed"
        yield f"{uris.name_of(name)}{known}", pixels
    if pair.clean is not None:
        yield "clean", pair.clean


def _quality(pixels: NDArray[Any], clean: NDArray[Any] | None) -> str:
    return "" if clean is None else f", {psnr(mse(pixels, clean)):.2f} dB"


def _record(score: Score) -> dict[str, Any]:
    return {
        "name": score.name,
        "psnr": score.mean("psnr"),
        "removed": score.mean("removed"),
        "noise": score.mean("noise"),
        "megapixels_per_second": score.speed,
    }


def _table(scores: Sequence[Score]) -> list[str]:
    """Lines of text, one a model."""
    width = max(12, *(len(score.name) for score in scores))
    has_psnr = any(score.mean("psnr") is not None for score in scores)
    return [
        f"{'':{width}}{'  PSNR, dB' if has_psnr else ''}   removed  noise left  megapixels/s",
        *(_line(score, width, has_psnr=has_psnr) for score in scores),
        "Means over the images; removed (root mean square) and noise left (estimated) are in"
        " levels of 255.",
    ]


def _line(score: Score, width: int, *, has_psnr: bool) -> str:
    quality = f"  {_number(score.mean('psnr'), 1):>8}" if has_psnr else ""
    removed, noise = (_number(score.mean(name), 255) for name in ("removed", "noise"))
    return (
        f"{score.name:{width}}{quality}  {removed:>8}  {noise:>10}  {_number(score.speed, 1):>12}"
    )


def _number(value: float | None, factor: float) -> str:
    return "-" if value is None else f"{factor * value:.2f}"
