"""One shard on its way to its part file: what is to do, which rows stay, and what it took."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self

import pyarrow as pa

from denoise.errors import ReadError, WriteError, words_of
from denoise.output import tables
from denoise.output.generations import Shard
from denoise.output.redo import note_redone, paths_to_redo
from denoise.output.tar_shard import TarShard
from denoise.storage import uris
from denoise.storage.entry import Entry

_NAMED = 5  # failures of a shard that are named while the job runs


@dataclass(frozen=True)
class ShardTask:
    """What a worker is to do: one shard of an output folder."""

    output: str
    number: int
    entries: list[Entry]  # its inputs, in the order of their paths
    redo: frozenset[str] | None = None  # redo the rows of these paths; None: of all
    retry_errors: bool = False  # redo the rows that hold an error
    # Where workers died on the shard, its images are done one by one, each announced first
    announce: Callable[[str], None] | None = None
    crashed: frozenset[str] = frozenset()  # paths of images that workers die on: error rows

    @property
    def has_rows(self) -> bool:
        """Whether there is a part file, some of whose rows stay."""
        return self.retry_errors or self.redo is not None

    def missing(self) -> list[Entry]:
        """The inputs whose rows are to be made. Raises ReadError."""
        if not self.has_rows:
            return self.entries
        with _reading(uris.redact(tables.part_uri(self.output, self.number))):
            rows = tables.part(self.output, self.number, ["path", "error"])
            to_keep = {row["path"] for row in rows if self.keeps(row)}
        return [entry for entry in self.entries if entry.path not in to_keep]

    def keeps(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of its part file stays as it is."""
        if self.redo is not None:
            return row["path"] not in self.redo
        return row["error"] is None


def task_of(output: str, shard: Shard, *, retry_errors: bool = False) -> ShardTask:
    """The task of a shard, its inputs read from the manifest. Raises ReadError."""
    with _reading(f"{uris.redact(output)}: its list of inputs"):
        redo = frozenset(paths_to_redo(output, shard.number)) if shard.has_redo else None
        entries = sorted(shard.entries(output), key=lambda entry: entry.path)
    return ShardTask(output, shard.number, entries, redo, retry_errors)


@dataclass
class Counts:
    """What was done: by one shard, or by all so far."""

    images: int = 0  # rows
    made: int = 0  # of them those that are not of an earlier run
    failed: int = 0  # of all
    pixels: int = 0  # of those that were made
    seconds: dict[str, float] = field(default_factory=dict)  # by stage, summed over workers
    failures: dict[str, str] = field(default_factory=dict)  # some of one shard's: path -> error

    def add(self, other: "Counts") -> None:
        """Add what another shard did."""
        self.images += other.images
        self.made += other.made
        self.failed += other.failed
        self.pixels += other.pixels
        _add(self.seconds, other.seconds)


def write_shards(
    shards: Iterable[tuple[ShardTask, list[Entry]]],
    rows: Iterator[tuple[dict[str, Any], dict[str, float]]],
    schema: pa.Schema,
    *,
    to_tar: bool,
    notes: Set[str] = frozenset(),
) -> Iterator[Counts]:
    """Write the part file of each shard, and yield what was done.

    `rows` are those of the shards' missing inputs, in their order, with the seconds that they took
    by stage; `notes` what a user should know of how it went, as it is when a shard is done. Raises
    as ShardWriter does.
    """
    for task, missing in shards:
        with ShardWriter(task, schema, to_tar=to_tar) as out:
            for row, seconds in islice(rows, len(missing)):
                out.add(row, seconds)
            out.notes |= notes
        yield out.counts


class ShardWriter:
    """Writes the part file of a shard; a context manager that leaves it whole, or not at all.

    Rows of an earlier run that stay as they are come along by themselves. Rows are added in the
    order of their paths. With `to_tar` their images go to a tar, which is there
    before the part file. Raises WriteError where one of them cannot be written, ReadError where the
    rows of the earlier run cannot be read.
    """

    def __init__(self, task: ShardTask, schema: pa.Schema, *, to_tar: bool = False) -> None:
        self.counts = Counts()
        self.notes: set[str] = set()  # what a user should know of how it went
        self._task = task
        self._started, self._writing = time.time(), 0.0
        self._old: deque[dict[str, Any]] = deque()  # in the order of their paths
        self._earlier: dict[str, Any] = {}  # the footer of the part file that is there
        self._part = tables.PartFile(task.output, task.number, schema)
        self._tar = TarShard(task.output, task.number, schema.names) if to_tar else None

    def __enter__(self) -> Self:
        task = self._task
        if task.has_rows:
            with _reading(uris.redact(tables.part_uri(task.output, task.number))):
                rows = tables.part(task.output, task.number)
                self._old.extend(row for row in rows if task.keeps(row))
                self._earlier = tables.footer_of(task.output, task.number)
        with self._failing_in_words():
            self._part.__enter__()
            if self._tar is not None:
                self._tar.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is not None:
            if self._tar is not None:
                self._tar.__exit__(*raised)
            self._part.__exit__(*raised)
            return
        with self._timed(), self._failing_in_words():
            self._write_old(before=None)
            if self._tar is not None:  # before the part file, by which the shard is done
                self._tar.__exit__(None, None, None)
            self._part.footer = self._footer()
            self._part.__exit__(None, None, None)
            if self._task.redo is not None:
                note_redone(self._task.output, self._task.number, self._task.redo)
        self.counts.seconds["write"] = self._writing

    def add(self, row: dict[str, Any], seconds: Mapping[str, float]) -> None:
        """Write the row of an image, which took so many seconds by stage."""
        with self._timed(), self._failing_in_words():
            self._write_old(before=row["path"])
            self._write(row if self._tar is None else self._tar.pack(row))
            if self._task.announce is not None:
                self._part.flush()  # whoever dies of it dies now, and not at a later image
        self.counts.made += 1
        if row["error"] is not None and len(self.counts.failures) < _NAMED:
            self.counts.failures[row["path"]] = row["error"]
        self.counts.pixels += (row.get("height") or 0) * (row.get("width") or 0)
        _add(self.counts.seconds, seconds)

    def _write_old(self, *, before: str | None) -> None:
        """Write the old rows whose paths come before one; all of them before None."""
        while self._old and (before is None or self._old[0]["path"] < before):
            row = self._old.popleft()
            if self._tar is not None:
                self._tar.copy(row)
            self._write(row)

    def _write(self, row: dict[str, Any]) -> None:
        self.counts.images += 1
        self.counts.failed += row["error"] is not None
        self._part.add(row)

    def _footer(self) -> dict[str, Any]:
        """The footer of the part file. Where old rows stay, so does what they took: as if made just
        before these."""
        took = self._earlier.get("ended", 0.0) - self._earlier.get("started", 0.0)
        seconds = dict(self._earlier.get("seconds", {}))
        _add(seconds, self.counts.seconds)
        return {
            "started": self._started - took,
            "ended": time.time(),
            "notes": sorted(self.notes.union(self._earlier.get("notes", []))),
            "seconds": seconds,
        }

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._writing += time.perf_counter() - start

    @contextmanager
    def _failing_in_words(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            uri = uris.redact(tables.part_uri(self._task.output, self._task.number))
            raise WriteError(f"{uri} could not be written: {words_of(error)}") from error


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Raise ReadError where it cannot be read."""
    try:
        yield
    except OSError as error:
        raise ReadError(f"{what} could not be read: {words_of(error)}") from error


def _add(total: dict[str, float], seconds: Mapping[str, float]) -> None:
    for stage, spent in seconds.items():
        total[stage] = total.get(stage, 0.0) + spent
