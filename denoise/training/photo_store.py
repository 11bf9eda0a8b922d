"""Decoded photos for training: all of them in memory, or one window of them after the other.

Who decodes is a parameter: threads of this process here, tasks of Ray in `ray_train`.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from denoise.errors import SettingsError
from denoise.images.pairs import WhiteLevel
from denoise.storage.entry import Entry
from denoise.training.photos import Decoded, DecodeStatistics, Photo, check, decode_photos
from denoise.training.samples import CROPS, order_of

_log = logging.getLogger(__name__)
_PART = 32  # photos decoded by one task
_PART_BYTES = 1 << 28  # decoded, by the sizes of their files, and no more
_PROBE = 32  # photos whose size stands for that of all
_ALIVE = 3  # windows in memory: the last, this and the next
_EXPANSION = 30  # decoded photos are rarely more times larger than their files
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How photos are decoded, and how much is too much."""

    patch: int  # smaller photos are mirrored at their borders up to this
    seed: int  # of the order of windows
    memory: float  # GiB
    max_error_rate: float
    reference: str | None = None  # the photos are noisy: where the clean ones lie
    white_level: WhiteLevel | None = None  # of photos of 16 bits


class Part(Protocol):
    """Some photos that are being decoded elsewhere; both methods wait for them."""

    def photos(self) -> list[Photo]: ...

    def statistics(self) -> DecodeStatistics: ...


# begins to decode some photos, or their middles
Decode = Callable[[Sequence[Entry], bool], Part]
MakeStream = Callable[[Sequence[Entry], Limits, int, DecodeStatistics], "Stream"]


class Stream(Protocol):
    """Gives the photos of one window after the other; see `WindowStream`."""

    def window(self, number: int) -> Sequence[Part]: ...

    def statistics(self) -> DecodeStatistics: ...

    def refusal(self) -> str | None: ...


@dataclass(frozen=True)
class PhotoStore:
    """Where a worker gets its photos from."""

    parts: Sequence[Part]  # of all photos, where they fit into memory
    decoded: DecodeStatistics  # before the first step
    stream: Stream | None = None
    photos_a_window: int = 0  # 0: one window holds them all

    @property
    def samples_a_window(self) -> int | None:
        return self.photos_a_window * CROPS or None

    def photos(self) -> list[Photo]:
        """All of them, in the order of their paths."""
        found = [photo for part in self.parts for photo in part.photos()]
        return sorted(found, key=lambda photo: photo.path)

    def window(self) -> Callable[[int], Sequence[Photo]]:
        """What gives the photos of window k, for a Sampler. It raises SettingsError where too many
        of them do not decode."""
        if self.stream is None:
            photos = self.photos()
            return lambda number: photos
        stream = self.stream
        seen: dict[int, list[Photo]] = {}

        def window(number: int) -> list[Photo]:
            if number not in seen:
                for old in [k for k in seen if k < number - 1]:  # a batch may lie across two
                    del seen[old]
                seen[number] = [one for part in stream.window(number) for one in part.photos()]
            return seen[number]

        return window

    def statistics(self) -> DecodeStatistics:
        """The statistics of what was decoded so far."""
        return self.stream.statistics() if self.stream else self.decoded

    def refusal(self) -> str | None:
        """Why no more photos come, where none do."""
        return self.stream.refusal() if self.stream else None


class WindowStream:
    """Decodes one window of photos after the other, the next one ahead of time."""

    def __init__(
        self,
        decode: Decode,
        entries: Sequence[Entry],
        limits: Limits,
        size: int,
        known: DecodeStatistics,
    ) -> None:
        self.entries, self.limits, self.size, self.known = entries, limits, size, known
        self.decode = decode
        self.windows: dict[int, list[Part]] = {}
        self.refused: str | None = None

    def window(self, number: int) -> list[Part]:
        """The photos of a window. All workers walk through the windows together.

        Raises SettingsError where more do not decode than may, or none do in this window.
        """
        self.windows = {k: parts for k, parts in self.windows.items() if k >= number - 1}
        for k in (number, number + 1):
            if k not in self.windows:
                self.windows[k] = self._start_window(k)
        statistics = [part.statistics() for part in self.windows[number]]
        self.known.merge(statistics)
        try:
            self._check(statistics)
        except SettingsError as error:
            self.refused = str(error)
            raise
        return self.windows[number]

    def statistics(self) -> DecodeStatistics:
        return self.known

    def refusal(self) -> str | None:
        return self.refused

    def _check(self, statistics: Sequence[DecodeStatistics]) -> None:
        check([self.known], self.limits.max_error_rate)
        listed = sum(one.listed for one in statistics)
        errors = [pair for one in statistics for pair in one.errors.items()]
        if not any(one.kinds for one in statistics):
            path, error = errors[0]
            raise SettingsError(
                f"none of {listed} images that come together decode, such as {path} ({error}); "
                "more --memory mixes them with others"
            )

    def _start_window(self, number: int) -> list[Part]:
        slots = range(number * self.size, (number + 1) * self.size)
        chosen = window_of(self.entries, self.limits.seed, slots)
        return [self.decode(part, False) for k in range(4) if (part := chosen[k::4])]


class ThreadPart:
    """Some photos that a thread of this process decodes."""

    def __init__(self, future: "Future[Decoded]") -> None:
        self.future = future

    def photos(self) -> list[Photo]:
        return self.future.result()[0]

    def statistics(self) -> DecodeStatistics:
        return self.future.result()[1]


@contextmanager
def decode_in_threads(
    count: int,
    patch: int,
    reference: str | None = None,
    white_level: WhiteLevel | None = None,
) -> Iterator[Decode]:
    """Decode in threads of this process: what takes long in it lets other threads run."""
    pool = ThreadPoolExecutor(count)
    decode = partial(decode_photos, patch=patch, reference=reference, white_level=white_level)
    try:
        yield lambda entries, middle: ThreadPart(pool.submit(decode, entries, middle=middle))
    finally:
        pool.shutdown(cancel_futures=True)


def stores_of(
    training: Sequence[Entry],
    validation: Sequence[Entry],
    limits: Limits,
    decode: Decode,
    make_stream: MakeStream,
    window: int | None = None,
) -> tuple[PhotoStore, PhotoStore]:
    """The photos to train on, all decoded if they fit into memory, else to be streamed; and the
    middles of those to validate on. Raises SettingsError where too many do not decode.

    Of photos that are streamed, some are looked at now, and each window when it is due.
    `window` is what an earlier run had found, which the samples depend on: photos in a window, 0
    where all fit.
    """
    probe, fitting = (DecodeStatistics(0), 0) if window == 0 else _probe(training, limits, decode)
    window = fitting if window is None else window
    held = decode_all(validation, decode, middle=True)
    if window == 0:
        store = decode_all(training, decode, middle=False)
        check([store.decoded, held.decoded], limits.max_error_rate)
        return store, held
    known = replace(probe, listed=len(training))
    check([known, held.decoded], limits.max_error_rate)
    _log.info("%d photos do not fit into %g GiB: streamed", len(training), limits.memory)
    return PhotoStore([], known, make_stream(training, limits, window, known), window), held


def decode_all(entries: Sequence[Entry], decode: Decode, *, middle: bool) -> PhotoStore:
    """All photos, or their middles, decoded."""
    parts = [decode(part, middle) for part in parts_of(entries)]
    statistics = DecodeStatistics(len(entries))
    statistics.merge(part.statistics() for part in parts)
    return PhotoStore(parts, statistics)


def parts_of(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries in parts for one task at a time, which holds all of a part's pixels."""
    parts: list[list[Entry]] = []
    size = 0
    for entry in entries:
        size += _decoded_bytes(entry)
        if not parts or len(parts[-1]) == _PART or size > _PART_BYTES:
            parts.append([])
            size = _decoded_bytes(entry)
        parts[-1].append(entry)
    return parts


def window_of(entries: Sequence[Entry], seed: int, slots: range) -> list[Entry]:
    """The entries in some slots of the endless row of epochs, each in an order of its own."""
    orders = {
        epoch: order_of(seed, epoch, len(entries)) for epoch in {k // len(entries) for k in slots}
    }
    return [entries[orders[k // len(entries)][k % len(entries)]] for k in slots]


def _probe(
    entries: Sequence[Entry], limits: Limits, decode: Decode
) -> tuple[DecodeStatistics, int]:
    """What a few photos from everywhere show, and how many may be in memory as one window: 0 where
    all of them fit, which the sizes of their files may show without a look."""
    room = limits.memory * _GIB
    if all(entry.size > 0 for entry in entries) and sum(map(_decoded_bytes, entries)) < room:
        return DecodeStatistics(0), 0
    few = entries[:: max(1, len(entries) // _PROBE)][:_PROBE]
    store = decode_all(few, decode, middle=False)
    check([store.decoded], max_error_rate=1.0)  # the share of all counts, later
    mean = sum(photo.pixels.nbytes for photo in store.photos()) / store.decoded.photos
    fits = mean * len(entries) <= room
    return store.decoded, 0 if fits else max(1, int(room / _ALIVE / mean))


def _decoded_bytes(entry: Entry) -> int:
    """How many bytes a photo has when it is decoded, at most, as a rule."""
    return _EXPANSION * entry.likely_size
