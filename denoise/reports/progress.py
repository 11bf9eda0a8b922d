"""The progress of a job on stderr: a bar on a terminal, elsewhere a line at times."""

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from shutil import get_terminal_size
from types import TracebackType
from typing import Self, TextIO, TypeVar

from denoise.errors import printable
from denoise.output.run_log import RunLog

_LIVE = 0.2  # seconds between drawings on a terminal
_PLAIN = 30.0  # and between lines elsewhere
_NAMED = 20  # failures of a run; a list of a million dead links names no more
_LEAST_BAR = 12  # columns of it on a terminal
_TICK = 1.0  # seconds of the clock that runs while nothing can be counted
_CLEAR = "\r\x1b[K"  # to the line's beginning, and what a longer one left behind goes
_T = TypeVar("_T")
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} {unit}{postfix}"


@dataclass
class Progress:
    """Count a job's images: on a terminal a bar, elsewhere a line a phase, then one every 30 s.

    `log` gets the lines in any case. Rates are from the first count on: starting is no work.
    `total` is of the whole job; `before` of them an earlier run did, and `show` counts this run's.
    The clock stops with `end`, at the end of a `with` block, or when nobody holds the object.
    """

    verb: str
    total: int = 0  # 0: not known yet
    unit: str = "images"
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic  # seconds, from anywhere
    before: int = 0
    log: RunLog | None = None
    _phase: tuple[str, float] | None = None  # what takes a while, and since when
    _found: int = 0  # images, while they are listed
    _text: str = ""  # what there is to say besides the counts
    _done: int = 0
    _first: tuple[float, int, int] | None = None  # when the first count came, and what it was
    _drawn: float | None = None  # when the bar was
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
        with self._lock:
            if self._phase is not None and is_live(self.stream):
                self._put(_CLEAR)

    def begin(self, phase: str) -> None:
        """Say what takes a while and is not counted, such as "starting Ray"."""
        with self._lock:
            self._phase = phase, self.clock()
            self._write(f"{self.verb}: {phase}")
            if is_live(self.stream):
                self._draw()
        self._start_clock()

    def count_found(self, entries: Iterable[_T]) -> Iterator[_T]:
        """The same entries; how many there were so far is shown."""
        for self._found, entry in enumerate(entries, 1):
            yield entry

    def expect(self, total: int, *, before: int) -> None:
        """Set how many there are, of which an earlier run did some."""
        with self._lock:
            self.total, self.before = total, before
            if before:
                self._say(f"{before:,} of {total:,} were done before")

    def show(self, done: int, failed: int, pixels: int, seconds: Mapping[str, float]) -> None:
        """Count this run's images (`done` includes the failed), if it is time to say so."""
        with self._lock:
            self.update(done, self._rates(done, failed, pixels, seconds))

    def update(self, done: int, text: str) -> None:
        """Count, and say a text besides that begins with a comma, if it is time to."""
        with self._lock:
            is_first, live = self._phase is not None or not self._text, is_live(self.stream)
            if self._phase is not None and done:
                self._write(f"{self.verb}: the first {self.unit} are done")
            self._phase, self._done, self._text = None, done, text
            if self._written is None:
                self._written = self.clock()
            is_last = self.before + done >= self.total
            if live and (is_first or is_last or self._is_time_to_draw()):
                self._draw()
            if self._is_time_to_write():
                self._write(self._line())

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
            self._put("\n")

    def line(self, done: int, failed: int, pixels: int, seconds: Mapping[str, float]) -> str:
        """The counts in words, for what is no terminal."""
        text = self._rates(done, failed, pixels, seconds)
        return f"{self.verb} {self.before + done}/{self.total} {self.unit}{text}"

    def tick(self) -> None:
        """Redraw what goes on while nothing is counted; write a line, if it is time to."""
        with self._lock:
            # what is counted `update` draws
            if self._phase is not None and is_live(self.stream) and self._is_time_to_draw():
                self._draw()
            if self._is_time_to_write():
                self._write(self._line())

    def _rates(self, done: int, failed: int, pixels: int, seconds: Mapping[str, float]) -> str:
        """Failures, time left, rates, and the stage that takes the most time: the most wanted
        first, each with a comma."""
        self._first = self._first or (self.clock(), done, pixels)
        start, first_done, first_pixels = self._first
        spent = self.clock() - start
        parts = [""]
        if failed:
            parts.append(f"{failed} failed")
        if done > first_done and spent > 0:
            rate = (done - first_done) / spent
            parts.append(f"{words_of_time((self.total - self.before - done) / rate)} left")
            parts.append(f"{rate:.1f} {self.unit}/s")
            parts.append(f"{(pixels - first_pixels) / spent / 1e6:.2f} megapixels/s")
        if seconds:
            slowest = max(seconds, key=lambda stage: seconds[stage])
            share = seconds[slowest] / max(1e-9, sum(seconds.values()))
            parts.append(f"{slowest} takes {share:.0%}")
        return ", ".join(parts)

    def _is_time_to_draw(self) -> bool:
        return self._drawn is None or self.clock() - self._drawn >= _LIVE

    def _is_time_to_write(self) -> bool:
        return self._written is None or self.clock() - self._written >= _PLAIN

    def _line(self) -> str:
        """How far it is, on one line."""
        if self._phase is not None and not self.total:
            return f"{self.verb}: {self._text_now().removeprefix(', ')}"
        done = self.before + self._done
        return f"{self.verb} {done}/{self.total} {self.unit}{self._text_now()}"

    def _text_now(self) -> str:
        """What there is to say besides the counts; in a phase, how long it has taken."""
        if self._phase is None:
            return self._text
        phase, since = self._phase
        found = "" if self.total or not self._found else f", {self._found:,} {self.unit}"
        return f", {phase}{found}, {words_of_time(max(0.0, round(self.clock() - since)))}"

    def _draw(self) -> None:
        """The bar on a terminal; a line where there is nothing to count against."""
        self._drawn = self.clock()
        done = self.before + self._done
        bar = _bar(self.verb, done, self.total, self.unit, self._text_now())
        self._put(_CLEAR + (bar if self.total else self._line()))

    def _write(self, line: str) -> None:
        """A line for the log, and for what is no terminal."""
        self._written = self.clock()
        if self.log is not None:
            self.log.line(line)
        if not is_live(self.stream):
            self._put(f"{line}\n")

    def _say(self, words: str) -> None:
        """A line that stays, on a terminal above the bar."""
        with self._lock:
            line = f"{self.verb}: {words}"
            if self.log is not None:
                self.log.line(line)
            if not is_live(self.stream):
                self._put(f"{line}\n")
                return
            self._put(f"{_CLEAR}{line}\n")
            self._draw()

    def _put(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

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
    """A line as wide as the terminal, drawn by tqdm; of the text what leaves room for a bar."""
    from tqdm import tqdm

    width, parts = get_terminal_size().columns - 1, text.removeprefix(", ").split(", ")
    room = width - len(f"{verb}: 100%|| {total}/{total} {unit}, ") - _LEAST_BAR
    while len(parts) > 1 and len(", ".join(parts)) > room:
        parts.pop()
    return str(
        tqdm.format_meter(
            n=done,
            total=max(1, total),
            elapsed=0,
            prefix=verb,
            unit=unit,
            ncols=width,
            bar_format=_BAR,
            postfix=", ".join(parts),
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
