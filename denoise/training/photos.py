"""Photos for training, decoded to 8 bits, alone or in pairs, and the statistics of decoding.

Shapes: pixels [H, W, C] uint8, C 3, or 6 where a clean picture brings its own noisy one along
(clean, then noisy).
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from denoise.errors import FAILURES, ImageError, SettingsError, why
from denoise.images.codec import Picture, decode, to_floats, to_pixels
from denoise.images.pairs import Source, WhiteLevel, kind_of, with_white_level
from denoise.images.tiles import middle_of
from denoise.storage.entry import Entry, source_of
from denoise.storage.references import reference_of

VALIDATION_SIDE = 256  # photos are validated on their middle
_NAMED = 20  # photos that are named one by one
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Photo:
    """A decoded picture, or a pair of them."""

    path: str
    pixels: NDArray[np.uint8]  # [H, W, C]


@dataclass
class DecodeStatistics:
    """Which photos do not decode, which are small, what noise pairs bring.

    Photos may be streamed more than once: each counts once.
    """

    listed: int  # photos, decoded already or not
    errors: dict[str, str] = field(default_factory=dict)  # path -> what was wrong
    mirrored: set[str] = field(default_factory=set)  # paths of photos smaller than a patch
    kinds: dict[str, str] = field(default_factory=dict)  # "alone", "in pairs" -> such a path
    sigmas: tuple[float, float] | None = None  # least and greatest of the pairs' noise, if known
    noise: str | None = None  # the kind of the pairs' noise, if known

    def add(self, photo: Photo, source: Source, *, is_mirrored: bool) -> None:
        """Count a photo; `source` says what is known of the noise that a pair brings along."""
        sigma = source.sigma
        self.kinds.setdefault("in pairs" if photo.pixels.shape[2] == 6 else "alone", photo.path)
        if is_mirrored:
            self.mirrored.add(photo.path)
        if sigma is not None:
            low, high = self.sigmas or (sigma, sigma)
            self.sigmas = (min(low, sigma), max(high, sigma))
        self.noise = self.noise or kind_of(source.noise)

    def merge(self, others: Iterable["DecodeStatistics"]) -> None:
        """Add the statistics of others of the photos listed here."""
        for other in others:
            self.errors |= other.errors
            self.mirrored |= other.mirrored
            self.kinds = other.kinds | self.kinds
            known = [*(self.sigmas or ()), *(other.sigmas or ())]
            self.sigmas = (min(known), max(known)) if known else None
            self.noise = self.noise or other.noise

    @property
    def photos(self) -> int:
        """How many there are, those left out that are known not to decode."""
        return self.listed - len(self.errors)

    @property
    def is_pairs(self) -> bool:
        return "in pairs" in self.kinds

    def counts(self) -> dict[str, int]:
        """As config.json records them."""
        return {
            "photos": self.photos,
            "undecodable": len(self.errors),
            "mirrored": len(self.mirrored),
        }

    def log(self) -> None:
        """Say what a user may not expect."""
        for path, error in list(self.errors.items())[:_NAMED]:
            _log.warning("left out %s: %s", path, error)
        if len(self.errors) > _NAMED:
            _log.warning("left out %d more", len(self.errors) - _NAMED)
        if self.mirrored:
            count = len(self.mirrored)
            _log.warning("%d images are smaller than the patch: mirrored at their borders", count)


Decoded = tuple[list[Photo], DecodeStatistics]


def check(all_statistics: Sequence[DecodeStatistics], max_error_rate: float) -> None:
    """Raises SettingsError where too many of all photos together do not decode, or none of some.

    Photos that were not looked at yet count as whole: who is refused now would be refused later.
    """
    errors = [pair for one in all_statistics for pair in one.errors.items()]
    listed = sum(one.listed for one in all_statistics)
    is_empty = any(one.listed and not one.photos for one in all_statistics)
    if is_empty or len(errors) > max_error_rate * listed:
        path, error = errors[0]
        raise SettingsError(
            f"{len(errors)} of {listed} images do not decode, such as {path} ({error}); "
            + (
                "some must be left to train on and to validate on"
                if is_empty
                else f"--max-error-rate allows a share of {max_error_rate:g}"
            )
        )
    for one in all_statistics:
        if len(one.kinds) > 1:
            alone, paired = one.kinds["alone"], one.kinds["in pairs"]
            raise SettingsError(
                f"{paired} comes with its noisy image and {alone} without; give either kind"
            )


def decode_photos(
    entries: Sequence[Entry],
    patch: int,
    *,
    middle: bool = False,
    reference: str | None = None,
    white_level: WhiteLevel | None = None,
) -> Decoded:
    """Decode photos, mirrored up to the size of a patch; with `middle` their middles alone.

    With `reference` the photos are noisy, and their clean selves lie there. `white_level` is that
    of photos of 16 bits, where their table does not say.

    Those that do not decode are errors in the statistics.
    """
    photos, statistics = [], DecodeStatistics(len(entries))
    for entry in entries:
        try:
            pixels, source = _pixels(entry, reference, white_level)
        except FAILURES as error:
            statistics.errors[entry.path] = why(error)
            continue
        height, width, _ = pixels.shape
        is_small = min(height, width) < patch and not middle
        if is_small:
            more = [(0, max(0, patch - height)), (0, max(0, patch - width)), (0, 0)]
            pixels = np.pad(pixels, more, "reflect")
        if middle:
            pixels = middle_of(pixels, VALIDATION_SIDE).copy()  # else all stays in memory
        photos.append(Photo(entry.path, pixels))
        statistics.add(photos[-1], source, is_mirrored=is_small)
    return photos, statistics


def _pixels(
    entry: Entry, reference: str | None, white_level: WhiteLevel | None
) -> tuple[NDArray[np.uint8], Source]:
    """[H, W, 3] of an image, or [H, W, 6] of a clean one and its noisy one, and where it is from.

    Raises ImageError.
    """
    source = source_of(entry)
    if source.error:
        raise ImageError(source.error)
    if source.is_noisy and source.clean is None and reference is None:
        raise ImageError("noisy, and its table brings no clean image along")
    picture = with_white_level(decode(source.encoded), source, white_level)
    noisy = _rgb(picture)
    encoded = source.clean
    if reference is not None:
        encoded = source_of(reference_of(reference, entry.path)).encoded
    if encoded is None:
        return noisy, source
    same = Source(b"", white_level=picture.white_level)
    clean = _rgb(with_white_level(decode(encoded), same, None))
    if clean.shape != noisy.shape:
        raise ImageError("the clean and the noisy image differ in size")
    return np.concatenate([clean, noisy], axis=2), source


def _rgb(picture: Picture) -> NDArray[np.uint8]:
    eight = picture.pixels
    if picture.bit_depth > 8:
        eight = to_pixels(to_floats(eight, picture.white_level), 8)
    return np.broadcast_to(eight, (*eight.shape[:2], 3)).astype(np.uint8, copy=False)
