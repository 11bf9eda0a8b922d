"""Decoded photos for the training workers: all of them in Ray's memory, or window after window.

The tables have PHOTO_SCHEMA; the workers of a node share them, without a copy.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import pyarrow as pa
import ray
from ray import ObjectRef

from denoise.errors import SettingsError
from denoise.storage.inputs import Entry
from denoise.storage.uris import from_bytes, to_bytes
from denoise.training.decode_statistics import Census, check
from denoise.training.photos import PHOTO_SCHEMA, Photo, photo_row, photos_in
from denoise.training.samples import CROPS, order_of

_log = logging.getLogger(__name__)
_BLOCK = 32  # photos a table
_BLOCK_BYTES = 1 << 28  # decoded, by the sizes of their files, and no more
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


@dataclass(frozen=True)
class Supply:
    """Where a worker gets its photos from: small enough to hand to each."""

    tables: list["ObjectRef[pa.Table]"]
    known: Census
    stream: Any = None  # the actor of _Stream where they do not all fit
    photos_a_window: int = 0  # 0: one window holds them all

    @property
    def samples_a_window(self) -> int | None:
        return self.photos_a_window * CROPS or None

    def photos(self) -> list[Photo]:
        """All of them, in the order of their paths."""
        found = [photo for table in ray.get(self.tables) for photo in photos_in(table)]
        return sorted(found, key=lambda photo: photo.path)

    def window(self) -> Callable[[int], Sequence[Photo]]:
        """What gives the photos of window k, for a Sampler. It raises SettingsError where too many
        of them do not decode."""
        if self.stream is None:
            photos = self.photos()
            return lambda number: photos
        seen: dict[int, list[Photo]] = {}

        def window(number: int) -> list[Photo]:
            if number not in seen:
                for old in [k for k in seen if k < number - 1]:  # a batch may lie across two
                    del seen[old]
                tables = ray.get(ray.get(self.stream.window.remote(number)))
                seen[number] = [photo for table in tables for photo in photos_in(table)]
            return seen[number]

        return window

    def census(self) -> Census:
        """What decoding has shown so far."""
        return ray.get(self.stream.census.remote()) if self.stream else self.known

    def refusal(self) -> str | None:
        """Why no more photos come, where none do."""
        return ray.get(self.stream.refusal.remote()) if self.stream else None


def supplies_of(
    chosen: Sequence[Entry], held: Sequence[Entry], limits: Limits, window: int | None = None
) -> tuple[Supply, Supply]:
    """The photos to train on, all decoded if they fit into memory, else to be streamed; and the
    middles of those to validate on. Raises SettingsError where too many do not decode.

    Of photos that are streamed, some are looked at now, and each window when its turn comes.
    `window` is what an earlier run had found, which the samples depend on: photos in a window, 0
    where all fit.
    """
    probe, fitting = (Census(0), 0) if window == 0 else _probed(chosen, limits)
    window = fitting if window is None else window
    if window == 0:
        supply, validation = decoded(chosen, held, limits)
        check([supply.known, validation.known], limits.max_error_rate)
        return supply, validation
    _, validation = decoded([], held, limits)
    known = replace(probe, listed=len(chosen))
    check([known, validation.known], limits.max_error_rate)
    _log.info("%d photos do not fit into %g GiB: streamed", len(chosen), limits.memory)
    # windows are what their numbers say: an actor that begins again goes on all the same
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Stream)
    stream = actor.remote(list(chosen), limits, window, known)
    return Supply([], known, stream, window), validation


def decoded(
    chosen: Sequence[Entry], held: Sequence[Entry], limits: Limits
) -> tuple[Supply, Supply]:
    """All photos, and the middles of those held out, decoded on all CPUs through Ray Data."""
    blocks = _blocks(chosen, middle=False)
    first = len(blocks)
    blocks += _blocks(held, middle=True)
    photos = ray.data.from_arrow(blocks).map_batches(
        _photo_table,
        fn_kwargs={"patch": limits.patch},
        batch_format="pyarrow",
        batch_size=None,
    )
    photos.context.execution_options.preserve_order = True  # so that each part finds its tables
    tables = list(photos.materialize().to_arrow_refs())
    said = ray.get([ray.remote(_said).remote(table) for table in tables])
    assert [[row["path"] for row in rows] for rows in said] == [
        block.column("path").to_pylist() for block in blocks
    ]
    one, other = Census(len(chosen)), Census(len(held))
    for number, rows in enumerate(said):
        (one if number < first else other).add(rows)
    return Supply(tables[:first], one), Supply(tables[first:], other)


def _probed(entries: Sequence[Entry], limits: Limits) -> tuple[Census, int]:
    """What a few photos from everywhere show, and how many may be in memory as one window: 0 where
    all of them fit, which the sizes of their files may show without a look."""
    room = limits.memory * _GIB
    if all(entry.size > 0 for entry in entries) and sum(map(_expanded, entries)) < room:
        return Census(0), 0
    few = entries[:: max(1, len(entries) // _PROBE)][:_PROBE]
    look = ray.remote(_looked_at)
    blocks = _blocks(few, middle=False)
    seen = [row for rows in ray.get([look.remote(b, limits.patch) for b in blocks]) for row in rows]
    census = Census(len(few))
    census.add(seen)
    check([census], max_error_rate=1.0)  # the share is judged on all of them
    mean = sum(prod(row["shape"]) for row in seen if not row["error"]) / census.photos
    fits = mean * len(entries) <= room
    return census, 0 if fits else max(1, int(room / _ALIVE / mean))


def _expanded(entry: Entry) -> int:
    """How many bytes a photo has when it is decoded, at most, as a rule."""
    return _EXPANSION * entry.likely_size


class _Stream:
    """Decodes one window of photos after the other, the next one ahead of time; an actor."""

    def __init__(self, entries: list[Entry], limits: Limits, size: int, known: Census) -> None:
        self.entries, self.limits, self.size, self.known = entries, limits, size, known
        self.windows: dict[int, list[tuple[ObjectRef[pa.Table], ObjectRef[Any]]]] = {}
        self.refused: str | None = None

    def window(self, number: int) -> list["ObjectRef[pa.Table]"]:
        """The tables of a window. All workers walk through the windows together.

        Raises SettingsError where more do not decode than may, or none do in this window.
        """
        self.windows = {k: parts for k, parts in self.windows.items() if k >= number - 1}
        for k in (number, number + 1):
            if k not in self.windows:
                self.windows[k] = self._begun(k)
        said = [row for rows in ray.get([ref for _, ref in self.windows[number]]) for row in rows]
        self.known.add(said)
        try:
            self._check(said)
        except SettingsError as error:
            self.refused = str(error)
            raise
        return [table for table, _ in self.windows[number]]

    def census(self) -> Census:
        return self.known

    def refusal(self) -> str | None:
        return self.refused

    def _check(self, said: list[dict[str, Any]]) -> None:
        check([self.known], self.limits.max_error_rate)
        if all(row["error"] for row in said):
            raise SettingsError(
                f"none of {len(said)} images that come together decode, such as "
                f"{said[0]['path']} ({said[0]['error']}); more --memory mixes them with others"
            )

    def _begun(self, number: int) -> list[tuple["ObjectRef[pa.Table]", "ObjectRef[Any]"]]:
        slots = range(number * self.size, (number + 1) * self.size)
        chosen = window_of(self.entries, self.limits.seed, slots)
        task = ray.remote(num_cpus=0, num_returns=2)(_photo_table_and_notes)  # workers hold CPUs
        parts = [part for k in range(4) if (part := chosen[k::4])]
        return [tuple(task.remote(_entry_table(part), self.limits.patch)) for part in parts]


def window_of(entries: Sequence[Entry], seed: int, slots: range) -> list[Entry]:
    """The entries in some slots of the endless row of epochs, each in an order of its own."""
    orders = {
        epoch: order_of(seed, epoch, len(entries)) for epoch in {k // len(entries) for k in slots}
    }
    return [entries[orders[k // len(entries)][k % len(entries)]] for k in slots]


def _blocks(entries: Sequence[Entry], *, middle: bool) -> list[pa.Table]:
    """Entries in tables for one worker at a time, which holds all of a table's pixels."""
    blocks: list[list[Entry]] = []
    size = 0
    for entry in entries:
        size += _expanded(entry)
        if not blocks or len(blocks[-1]) == _BLOCK or size > _BLOCK_BYTES:
            blocks.append([])
            size = _expanded(entry)
        blocks[-1].append(entry)
    return [_entry_table(block, middle=middle) for block in blocks]


def _entry_table(entries: Sequence[Entry], *, middle: bool = False) -> pa.Table:
    """`middle`: whether only the photos' middles are wanted."""
    rows = [asdict(entry) | {"uri": to_bytes(entry.uri), "middle": middle} for entry in entries]
    return pa.Table.from_pylist(rows)


def _photo_table(entries: pa.Table, patch: int) -> pa.Table:
    """A block of entries -> a block of photos, on a Ray worker."""
    rows = []
    for row in entries.to_pylist():
        middle, uri = row.pop("middle"), from_bytes(row.pop("uri"))
        rows.append(photo_row(Entry(**row, uri=uri), patch, middle=middle))
    return pa.Table.from_pylist(rows, schema=PHOTO_SCHEMA)


def _said(photos: pa.Table) -> list[dict[str, Any]]:
    """What is to be said of each photo, without its pixels."""
    rows: list[dict[str, Any]] = photos.drop_columns("pixels").to_pylist()
    return rows


def _looked_at(entries: pa.Table, patch: int) -> list[dict[str, Any]]:
    return _said(_photo_table(entries, patch))


def _photo_table_and_notes(entries: pa.Table, patch: int) -> tuple[pa.Table, list[dict[str, Any]]]:
    photos = _photo_table(entries, patch)
    return photos, _said(photos)
