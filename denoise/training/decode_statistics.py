"""What decoding photos has shown: which do not decode, which are small, what noise pairs bring."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from denoise.errors import SettingsError

_log = logging.getLogger(__name__)
_TOLD = 20  # photos that are named one by one


@dataclass
class Census:
    """Counts of photos, as far as they have been decoded."""

    listed: int
    errors: dict[str, str] = field(default_factory=dict)  # path -> what was wrong
    mirrored: set[str] = field(default_factory=set)  # paths of photos smaller than a patch
    kinds: dict[str, str] = field(default_factory=dict)  # "alone", "in pairs" -> such a path
    sigmas: tuple[float, float] | None = None  # least and greatest of the pairs' noise, if known

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Counts rows of PHOTO_SCHEMA without their pixels; the same photo may come again."""
        for row in rows:
            if row["error"]:
                self.errors[row["path"]] = row["error"]
                continue
            self.kinds.setdefault("in pairs" if row["shape"][2] == 6 else "alone", row["path"])
            if row["padded"]:
                self.mirrored.add(row["path"])
            if row["sigma"] is not None:
                low, high = self.sigmas or (row["sigma"], row["sigma"])
                self.sigmas = (min(low, row["sigma"]), max(high, row["sigma"]))

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

    def tell(self) -> None:
        """Says what a user may not expect."""
        for path, error in list(self.errors.items())[:_TOLD]:
            _log.warning("left out %s: %s", path, error)
        if len(self.errors) > _TOLD:
            _log.warning("left out %d more", len(self.errors) - _TOLD)
        if self.mirrored:
            count = len(self.mirrored)
            _log.warning("%d images are smaller than the patch: mirrored at their borders", count)


def check(censuses: Sequence[Census], max_error_rate: float) -> None:
    """Raises SettingsError where too many of all photos together do not decode, or none of some.

    Photos that were not looked at yet count as whole: who is refused now would be refused later.
    """
    errors = [pair for census in censuses for pair in census.errors.items()]
    listed = sum(census.listed for census in censuses)
    is_empty = any(census.listed and not census.photos for census in censuses)
    if is_empty or len(errors) > max_error_rate * listed:
        path, error = errors[0]
        raise SettingsError(
            f"{len(errors)} of {listed} images do not decode, such as {path} ({error}); "
            f"--max-error-rate allows a share of {max_error_rate:g}"
            + (", and some must be left to train on and to validate on" if is_empty else "")
        )
    for census in censuses:
        if len(census.kinds) > 1:
            alone, paired = census.kinds["alone"], census.kinds["in pairs"]
            raise SettingsError(
                f"{paired} comes with its noisy image and {alone} without; give either kind"
            )
