"""What a running job says of itself: a live line on a terminal, a plain one now and then else."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

_LIVE = 0.2  # seconds between lines on a terminal
_PLAIN = 30.0  # and elsewhere


@dataclass
class Progress:
    """Counts towards a total, to stderr. Rates are from the first count on: starting is no work."""

    verb: str
    total: int
    unit: str = "images"
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic  # seconds, from anywhere
    _first: tuple[float, int, int] | None = None  # when the first count came, and what it was
    _said: float = -1.0

    def begin(self, what: str) -> None:
        """Says on a terminal what takes a while before there is anything to count."""
        if is_live(self.stream):
            self.stream.write(f"\r{self.verb} 0/{self.total} {self.unit}, {what}\x1b[K")
            self.stream.flush()

    def show(self, done: int, failed: int, pixels: int, seconds: Mapping[str, float]) -> None:
        """Says how far it is, if it is time to."""
        live = is_live(self.stream)
        now = self.clock()
        if self._said < 0:
            self._said = now
        if now - self._said < (_LIVE if live else _PLAIN) and (done < self.total or not live):
            return
        self._said = now
        line = self.line(done, failed, pixels, seconds)
        # \x1b[K clears what a longer line before it left behind
        self.stream.write(f"\r{line}\x1b[K" if live else f"{line}\n")
        self.stream.flush()

    def end(self) -> None:
        """Leaves the live line standing."""
        if is_live(self.stream):
            self.stream.write("\n")
            self.stream.flush()

    def line(self, done: int, failed: int, pixels: int, seconds: Mapping[str, float]) -> str:
        """The line itself: counts, rates, time left, and the stage that takes the most time."""
        self._first = self._first or (self.clock(), done, pixels)
        start, first_done, first_pixels = self._first
        spent = self.clock() - start
        parts = [f"{self.verb} {done}/{self.total} {self.unit}"]
        if failed:
            parts.append(f"{failed} failed")
        if done > first_done and spent > 0:
            rate = (done - first_done) / spent
            parts.append(f"{rate:.1f} {self.unit}/s")
            parts.append(f"{(pixels - first_pixels) / spent / 1e6:.2f} megapixels/s")
            parts.append(f"{words_of_time((self.total - done) / rate)} left")
        if seconds:
            slowest = max(seconds, key=lambda stage: seconds[stage])
            share = seconds[slowest] / max(1e-9, sum(seconds.values()))
            parts.append(f"{slowest} takes {share:.0%}")
        return ", ".join(parts)


def is_live(stream: TextIO) -> bool:
    """Whether lines may be written over on it."""
    return stream.isatty() and "NO_COLOR" not in os.environ


def words_of_time(seconds: float) -> str:
    """A time in the two units that matter."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
