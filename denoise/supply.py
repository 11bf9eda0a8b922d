"""Decoded photos for the training workers: all of them in Ray's memory, or window after window.

The tables have PHOTO_SCHEMA; the workers of a node share them, without a copy.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import ray
from ray import ObjectRef

from denoise.inputs import Entry
from denoise.patches import CROPS, PHOTO_SCHEMA, Photo, order_of, photo_row, photos_in
from denoise.storage import SettingsError

_log = logging.getLogger(__name__)
_BLOCK = 32  # photos a table
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
    counts: dict[str, int] = field(default_factory=dict)
    stream: Any = None  # the actor of _Stream where they do not all fit
    samples_a_window: int | None = None

    def photos(self) -> list[Photo]:
        """All of them, in the order of their paths."""
        found = [photo for table in ray.get(self.tables) for photo in photos_in(table)]
        return sorted(found, key=lambda photo: photo.path)

    def window(self) -> Callable[[int], Sequence[Photo]]:
        """What gives the photos of window k, for a Sampler."""
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


def supplies_of(
    chosen: Sequence[Entry], held: Sequence[Entry], limits: Limits
) -> tuple[Supply, Supply]:
    """The photos to train on, all decoded if they fit into memory, else to be streamed; and those
    to validate on. Raises SettingsError where too many do not decode.
    """
    mean = 0.0
    if _may_be_large(chosen, limits):
        probe, _ = decoded(chosen[:: len(chosen) // _PROBE][:_PROBE], [], limits)
        mean = sum(table.nbytes for table in ray.get(probe.tables)) / probe.counts["photos"]
    if mean * len(chosen) > limits.memory * _GIB:
        size = max(1, int(limits.memory * _GIB / _ALIVE / mean))
        return _streamed(chosen, limits, size), decoded([], held, limits)[1]
    return decoded(chosen, held, limits)


def _may_be_large(entries: Sequence[Entry], limits: Limits) -> bool:
    """Whether the files' sizes, where they are known, leave it open that their photos fit."""
    known = all(entry.size > 0 for entry in entries)
    total = sum(entry.size for entry in entries)
    return len(entries) > _PROBE and not (known and total * _EXPANSION < limits.memory * _GIB)


def decoded(
    chosen: Sequence[Entry], held: Sequence[Entry], limits: Limits
) -> tuple[Supply, Supply]:
    """All photos, decoded on all CPUs through Ray Data. Raises SettingsError as supplies_of."""
    blocks = [*_blocks(chosen), *_blocks(held)]
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
    first = len(_blocks(chosen))
    parts = ((tables[:first], said[:first]), (tables[first:], said[first:]))
    one, other = (Supply(refs, _counts(notes, limits)) for refs, notes in parts)
    return one, other


def _said(table: pa.Table) -> list[dict[str, Any]]:
    """What is to be said of each photo, without its pixels."""
    rows: list[dict[str, Any]] = table.select(["path", "padded", "error"]).to_pylist()
    return rows


def _counts(notes: Sequence[list[dict[str, Any]]], limits: Limits) -> dict[str, int]:
    """How many photos there are. Raises SettingsError where too many do not decode."""
    rows = [row for table in notes for row in table]
    errors = {row["path"]: row["error"] for row in rows if row["error"]}
    mirrored = sum(row["padded"] for row in rows)
    _tell(errors, mirrored)
    if errors and (len(errors) == len(rows) or len(errors) > limits.max_error_rate * len(rows)):
        path, error = next(iter(errors.items()))
        raise SettingsError(
            f"{len(errors)} of {len(rows)} images do not decode, such as {path} ({error}); "
            f"--max-error-rate allows a share of {limits.max_error_rate:g}"
        )
    return {"photos": len(rows) - len(errors), "undecodable": len(errors), "mirrored": mirrored}


def _tell(errors: dict[str, str], mirrored: int) -> None:
    for path, error in list(errors.items())[:20]:
        _log.warning("left out %s: %s", path, error)
    if len(errors) > 20:
        _log.warning("left out %d more", len(errors) - 20)
    if mirrored:
        _log.warning("%d images are smaller than the patch: mirrored at their borders", mirrored)


def _streamed(entries: Sequence[Entry], limits: Limits, size: int) -> Supply:
    _log.info("%d photos do not fit into %g GiB: streamed", len(entries), limits.memory)
    stream = ray.remote(num_cpus=0)(_Stream).remote(list(entries), limits, size)
    return Supply([], {"photos": len(entries)}, stream, size * CROPS)


class _Stream:
    """Decodes one window of photos after the other, the next one ahead of time; an actor."""

    def __init__(self, entries: list[Entry], limits: Limits, size: int) -> None:
        self.entries, self.limits, self.size = entries, limits, size
        self.windows: dict[int, list[ObjectRef[pa.Table]]] = {}

    def window(self, number: int) -> list["ObjectRef[pa.Table]"]:
        """The tables of a window. All workers walk through the windows together."""
        self.windows = {k: refs for k, refs in self.windows.items() if k >= number - 1}
        for k in (number, number + 1):
            if k not in self.windows:
                self.windows[k] = self._begun(k)
        return self.windows[number]

    def _begun(self, number: int) -> list["ObjectRef[pa.Table]"]:
        slots = range(number * self.size, (number + 1) * self.size)
        chosen = window_of(self.entries, self.limits.seed, slots)
        task = ray.remote(num_cpus=0)(_photo_table)  # the workers hold the CPUs
        parts = [part for k in range(4) if (part := chosen[k::4])]
        return [task.remote(_entry_table(part), self.limits.patch) for part in parts]


def window_of(entries: Sequence[Entry], seed: int, slots: range) -> list[Entry]:
    """The entries in some slots of the endless row of epochs, each in an order of its own."""
    orders = {
        epoch: order_of(seed, epoch, len(entries)) for epoch in {k // len(entries) for k in slots}
    }
    return [entries[orders[k // len(entries)][k % len(entries)]] for k in slots]


def _blocks(entries: Sequence[Entry]) -> list[pa.Table]:
    return [_entry_table(entries[k : k + _BLOCK]) for k in range(0, len(entries), _BLOCK)]


def _entry_table(entries: Sequence[Entry]) -> pa.Table:
    return pa.Table.from_pylist([asdict(entry) for entry in entries])


def _photo_table(entries: pa.Table, patch: int) -> pa.Table:
    """A block of entries -> a block of photos, on a Ray worker."""
    rows = [photo_row(Entry(**row), patch) for row in entries.to_pylist()]
    return pa.Table.from_pylist(rows, schema=PHOTO_SCHEMA)
