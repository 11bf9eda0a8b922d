"""The progress of a job on stderr: a bar on a terminal, elsewhere a line at times."""

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from shutil import get_terminal_size
from types import TracebackType
from typing import Self, TextIO

from denoise.errors import printable

_LIVE = 0.2  # seconds between drawings on a terminal
_PLAIN = 30.0  # and between lines elsewhere
_NAMED = 20  # failures of a run; a list of a million dead links names no more
_TICK = 1.0  # seconds of the clock that runs while nothing can be counted
_CLEAR = "\r\x1b[K"  # to the line's beginning, and what a longer one left behind goes
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} {unit}{postfix}"


@dataclass
class Progress:
    """Count a job's images: on a terminal a bar, elsewhere a line a phase, then one every 30 s.

    Rates are from the first count on: starting is no work.
    `total` is of the whole job; `before` of them an earlier run did, and `show` counts this run's.
    The clock stops with `end`, at the end of a `with` block, or when nobody holds the object.
    """

    verb: str
    total: int
    unit: str = "images"
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic  # seconds, from anywhere
    before: int = 0
    _phase: tuple[str, float] | None = None  # what takes a while, and since when
    _text: str = ""  # what there is to say besides the counts
    _done: int = 0
    _first: tuple[float, int, int] | None = None  # when the first count came, and what it was
    _written: float | None = None  # when a line was
    _failures: int = 0  # that were named
    _stop: threading.Event | None = None  # of the clock
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._stop_clock()

    def begin(self, phase: str) -> None:
        """Say what takes a while before there is anything to count, such as "starting Ray"."""
        with self._lock:
            if self._phase is None and self.before and not self._done:
                self._say(f"{self.before:,} of {self.total:,} were done before")
            self._phase = phase, self.clock()
            if is_live(self.stream):
                self._draw()
            else:
                self._say(phase)
        self._start_clock()

    def show(self, done: int, failed: int, pixels: int, seconds: Mapping[str, float]) -> None:
        """Count this run's images (`done` includes the failed), if it is time to say so."""
        with self._lock:
            is_first, live = self._first is None, is_live(self.stream)
            if is_first and self._phase is not None and done and not live:
                self._say("the first images are done")
            self._phase, self._done = None, done
            self._text = self._rates(done, failed, pixels, seconds)
            if self._written is None:
                self._written = self.clock()
            if (live and is_first) or self._is_time(live, is_last=self.before + done >= self.total):
                self._draw()

    def failed(self, path: str, error: str) -> None:
        """Name an image that failed, as it happens."""
        self._failures += 1
        if self._failures <= _NAMED:
            self._say(printable(f"failed: {path}: {error}"))
        elif self._failures == _NAMED + 1:
            self._say("more failed; the table names them all")

    def end(self) -> None:
        """Leave the bar standing and stop the clock."""
        self._stop_clock()
        if is_live(self.stream):
            self.stream.write("\n")
            self.stream.flush()

    def line(self, done: int, failed: int, pixels: int, seconds: Mapping[str, float]) -> str:
        """The counts in words, for what is no terminal."""
        text = self._rates(done, failed, pixels, seconds)
        return f"{self.verb} {self.before + done}/{self.total} {self.unit}{text}"

    def tick(self) -> None:
        """Draw again what goes on while nothing is counted; a line elsewhere, if it is time to."""
        with self._lock:
            live = is_live(self.stream)
            if live and self._phase is None:
                return  # `show` draws
            if self._is_time(live):
                self._draw()

    def _rates(self, done: int, failed: int, pixels: int, seconds: Mapping[str, float]) -> str:
        """Failures, rates, time left, and the stage that takes the most time; each with a comma."""
        self._first = self._first or (self.clock(), done, pixels)
        start, first_done, first_pixels = self._first
        spent = self.clock() - start
        parts = [""]
        if failed:
            parts.append(f"{failed} failed")
        if done > first_done and spent > 0:
            rate = (done - first_done) / spent
            parts.append(f"{rate:.1f} {self.unit}/s")
            parts.append(f"{(pixels - first_pixels) / spent / 1e6:.2f} megapixels/s")
            parts.append(f"{words_of_time((self.total - self.before - done) / rate)} left")
        if seconds:
            slowest = max(seconds, key=lambda stage: seconds[stage])
            share = seconds[slowest] / max(1e-9, sum(seconds.values()))
            parts.append(f"{slowest} takes {share:.0%}")
        return ", ".join(parts)

    def _is_time(self, live: bool, *, is_last: bool = False) -> bool:
        if self._written is None or (live and is_last):
            return True
        return self.clock() - self._written >= (_LIVE if live else _PLAIN)

    def _draw(self) -> None:
        """The bar on a terminal, a line elsewhere."""
        self._written = self.clock()
        text = self._text
        if self._phase is not None:
            phase, since = self._phase
            text = f", {phase}, {words_of_time(max(0.0, round(self.clock() - since)))}"
        done = self.before + self._done
        if not is_live(self.stream):
            self.stream.write(f"{self.verb} {done}/{self.total} {self.unit}{text}\n")
        else:
            self.stream.write(_CLEAR + _bar(self.verb, done, self.total, self.unit, text))
        self.stream.flush()

    def _say(self, words: str) -> None:
        """A line that stays."""
        with self._lock:
            start = _CLEAR if is_live(self.stream) else ""
            self.stream.write(f"{start}{self.verb}: {words}\n")
            self.stream.flush()
            if start:
                self._draw()
            elif self._written is None:
                self._written = self.clock()

    def _start_clock(self) -> None:
        if self._stop is None:
            self._stop = threading.Event()
            threading.Thread(
                target=_run_clock, args=(weakref.ref(self), self._stop), daemon=True
            ).start()

    def _stop_clock(self) -> None:
        if self._stop is not None:
            self._stop.set()
            self._stop = None


def _run_clock(progress: "weakref.ref[Progress]", stop: threading.Event) -> None:
    """Ticks until it is stopped or nobody holds the progress any more, as after an exception."""
    while not stop.wait(_TICK):
        held = progress()
        if held is None:
            return
        held.tick()
        del held


def _bar(verb: str, done: int, total: int, unit: str, text: str) -> str:
    """A line as wide as the terminal, drawn by tqdm."""
    from tqdm import tqdm

    return str(
        tqdm.format_meter(
            n=done,
            total=max(1, total),
            elapsed=0,
            prefix=verb,
            unit=unit,
            ncols=get_terminal_size().columns - 1,
            bar_format=_BAR,
            postfix=text.removeprefix(", "),
        )
    )


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
