"""Ray Data over an output folder's shards: what is not there yet is read, worked on and written.

A shard's part file is there or not: a task that dies is done again from the start and writes the
same file, so that no row is lost and none doubled. What changed since is noted in the manifest.
"""

import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from heapq import merge
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray.data import Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.util.metrics import Counter as Metric

from denoise import errors
from denoise.errors import WriteError
from denoise.images.pairs import Pair, PairConfig, decode_pair
from denoise.output import manifest, tables
from denoise.output.manifest import Shard
from denoise.runners import crash_guard, ray_session
from denoise.storage import uris
from denoise.storage.fetch import fetch
from denoise.storage.inputs import Entry

_FETCHERS = 8  # threads of a worker that fetch ahead: enough to hide a store's latency
_AHEAD = 256 << 20  # bytes that they may hold
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Turn:
    """Some shards that go through Ray together."""

    size: int  # how many they are
    only_errors: bool = False  # keep the rows that are fine, do the others again
    attempts: Any = None  # the actor that counts them, see `attempts`


@dataclass(frozen=True)
class Work:
    """One shard as the workers see it."""

    output: str
    shard: int
    entries: list[Entry]  # in the order of their paths
    schema: pa.Schema
    turn: Turn
    again: frozenset[str] | None  # the paths of what changed, do these alone; None: all
    started: float  # seconds since the epoch

    @property
    def is_partial(self) -> bool:
        """Whether there is a part file, some of whose rows are kept."""
        return self.turn.only_errors or self.again is not None


@dataclass
class Done:
    """What is done so far."""

    images: int = 0
    failed: int = 0
    pixels: int = 0
    seconds: Counter[str] = field(default_factory=Counter)  # by stage, summed over workers


def dataset(output: str, shards: list[Shard], *, readers: int = 2) -> Dataset:
    """A row for each shard: its entries, read from the manifest when its turn comes."""
    return ray.data.read_datasource(
        _Shards(output, shards),
        override_num_blocks=max(1, len(shards)),
        compute=ray_session.tasks(readers),
        num_cpus=0,  # it reads a few kilobytes; a whole CPU for that could starve behind the actors
    )


def work_of(block: pa.Table, schema: pa.Schema, turn: Turn) -> Work:
    """A shard's work from its row: begun now, unless another worker began it."""
    found = json.loads(block.column("work")[0].as_py())
    entries = sorted((Entry(**entry) for entry in found["entries"]), key=lambda one: one.path)
    again = None if found.get("again") is None else frozenset(found["again"])
    is_begun = "started" in block.column_names
    started = block.column("started")[0].as_py() if is_begun else time.time()
    return Work(found["output"], found["shard"], entries, schema, turn, again, started)


def begun(block: pa.Table, work: Work) -> pa.Table:
    """A shard's row for the workers that go on with it: it tells when its work began."""
    return block.append_column("started", pa.array([work.started]))


def finish(
    work: Work,
    kept: Iterable[dict[str, Any]],
    done: Iterable[tuple[dict[str, Any], Mapping[str, float]]],
    notes: Iterable[str] = (),
) -> pa.Table:
    """Writes the part file of a shard from the rows that were kept and, as each comes, those that
    are done, with their seconds by stage; returns the one line that the driver counts.

    Both come in the order of paths. `notes` is read at the end. Raises WriteError.
    """
    counted: Counter[str] = Counter(images=0, failed=0, pixels=0)
    fresh: Counter[str] = Counter()  # of them those that were not kept
    seconds: dict[str, float] = defaultdict(float)
    before = tables.about(work.output, work.shard) if work.is_partial else {}
    about: dict[str, Any] = {}

    def rows() -> Iterator[dict[str, Any]]:
        for row in _merged(kept, _timed(done, seconds, fresh)):
            _count(row, counted)
            yield row
        stages = {stage: spent for stage, spent in seconds.items() if stage != "waited"}
        about.update(_about(work, before, set(notes), stages))

    start = time.perf_counter()
    try:
        tables.write_part(work.output, work.shard, rows(), work.schema, about)
        if work.again is not None:
            manifest.done_again(work.output, work.shard, work.again)
    except OSError as error:
        place = uris.shown(tables.part_uri(work.output, work.shard))
        raise WriteError(f"{place} could not be written: {errors.words_of(error)}") from error
    if work.turn.attempts is not None:
        work.turn.attempts.end.remote(work.shard)
    seconds["write"] = time.perf_counter() - start - seconds.pop("waited")
    _meter(fresh, seconds)
    told = {**counted, "seconds": seconds, "shard": work.shard}
    return pa.table({"counted": [json.dumps(told)]})


def _about(
    work: Work, before: Mapping[str, Any], notes: set[str], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """What a part file says of its making. Where rows were kept, so is what they took: as if they
    had been made just before the others."""
    took = before.get("ended", 0.0) - before.get("started", 0.0)
    earlier = before.get("seconds", {})
    stages = earlier.keys() | seconds.keys()
    return {
        "started": work.started - took,
        "ended": time.time(),
        "notes": sorted(notes.union(before.get("notes", []))),
        "seconds": {name: earlier.get(name, 0.0) + seconds.get(name, 0.0) for name in stages},
    }


def _count(row: Mapping[str, Any], counted: Counter[str]) -> None:
    counted["images"] += 1
    counted["failed"] += row["error"] is not None
    counted["pixels"] += (row.get("height") or 0) * (row.get("width") or 0)


def _merged(
    kept: Iterable[dict[str, Any]], done: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """All of them in the order of paths, each path once.

    A task that Ray runs again finds what it has done itself among what was kept: that is left out.
    """
    waiting: dict[str, Any] | None = None  # a row that was kept, if the next is of another path
    for row, is_kept in merge(
        ((row, True) for row in kept),
        ((row, False) for row in done),
        key=lambda one: str(one[0]["path"]),
    ):
        if waiting is not None and waiting["path"] != row["path"]:
            yield waiting
        waiting = row if is_kept else None
        if not is_kept:
            yield row
    if waiting is not None:
        yield waiting


def _timed(
    done: Iterable[tuple[dict[str, Any], Mapping[str, float]]],
    seconds: dict[str, float],
    counted: Counter[str],
) -> Iterator[dict[str, Any]]:
    """The rows alone, counted; adds up what each stage took, and the time `waited` for a row."""
    coming = iter(done)
    while True:
        start = time.perf_counter()
        found = next(coming, None)
        seconds["waited"] += time.perf_counter() - start
        if found is None:
            return
        row, spent = found
        for stage, one in spent.items():
            seconds[stage] += one
        _count(row, counted)
        yield row


def kept(work: Work) -> tuple[dict[str, Entry], Iterable[dict[str, Any]]]:
    """The entries to work on, by path, and the rows of an earlier try that stay as they are."""
    if not work.is_partial:
        return {entry.path: entry for entry in work.entries}, []
    named = tables.part(work.output, work.shard, ["path", "error"])
    if work.again is not None:
        stay = {row["path"] for row in named} - work.again
    else:
        stay = {row["path"] for row in named if row["error"] is None}
    rows = (row for row in tables.part(work.output, work.shard) if row["path"] in stay)
    return {entry.path: entry for entry in work.entries if entry.path not in stay}, rows


def worked(
    work: Work,
    stage: str,
    items: Mapping[str, _T],
    make: Callable[[list[_T]], Iterator[_R]],
    killed: Callable[[Pair], _R],
) -> Iterator[_R]:
    """What a stage makes of a shard's items, by path; `killed` makes it of a pair whose error is
    that workers die on it."""
    return crash_guard.carefully(
        work.turn.attempts,
        (work.shard, stage),
        items,
        make,
        lambda path: killed(Pair(path, error=crash_guard.KILLER)),
    )


def pairs(entries: list[Entry], config: PairConfig) -> Iterator[Pair]:
    """The pairs of a shard, their bytes fetched ahead: by fewer threads where they are large."""
    largest = max((entry.size for entry in entries), default=0)
    threads = max(1, min(_FETCHERS, _AHEAD // max(1, largest)))
    ready = ahead(partial(fetch, config=config), entries, threads=threads)
    return (decode_pair(one, config) for one in ready)


def ahead(call: Callable[[_T], _R], items: Iterable[_T], *, threads: int) -> Iterator[_R]:
    """Calls a function in threads, a few items ahead of what is taken, in order.

    For what waits, for a disk or a store. What computes belongs where its result is taken: a worker
    has one core, and threads that share it slow each other down. Hence no threads at all with 0.
    """
    if threads == 0:
        yield from map(call, items)
        return
    waiting = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        running = deque(pool.submit(call, item) for item in islice(waiting, threads))
        while running:
            result = running.popleft().result()
            running.extend(pool.submit(call, item) for item in islice(waiting, 1))
            yield result


def count(staged: Dataset, done: Done, show: Callable[[Done], None]) -> None:
    """Runs a dataset to its end, adding up the lines that `finish` returned."""
    for batch in staged.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for line in batch.column("counted").to_pylist():
            found = json.loads(line)
            done.images += found["images"]
            done.failed += found["failed"]
            done.pixels += found["pixels"]
            done.seconds.update(found["seconds"])
        show(done)


def _meter(counted: Mapping[str, int], seconds: Mapping[str, float]) -> None:
    """Adds to the counters that Prometheus finds at Ray's nodes: ray_denoise_images_total, ..."""
    for name, value in (
        ("images", counted["images"]),
        ("failed", counted["failed"]),
        ("megapixels", counted["pixels"] / 1e6),
        ("model_seconds", seconds.get("network", 0.0)),
    ):
        if value > 0:  # Ray refuses a zero
            _counter(f"denoise_{name}").inc(value)


@lru_cache(maxsize=16)
def _counter(name: str) -> Metric:
    return Metric(name, description=f"{name.removeprefix('denoise_')} done by the denoise jobs")


class _Shards(Datasource):  # type: ignore[misc]  # ray is left out of type checking
    """One read task a shard."""

    def __init__(self, output: str, shards: list[Shard]) -> None:
        super().__init__()
        self._output = output
        self._shards = shards

    def estimate_inmemory_data_size(self) -> int:
        return 200 * sum(len(shard.span) for shard in self._shards)

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        return [
            ReadTask(
                partial(_read, self._output, shard),
                BlockMetadata(1, 200 * len(shard.span), None, None),
            )
            for shard in self._shards
        ]


def _read(output: str, shard: Shard) -> list[pa.Table]:
    entries = [asdict(entry) for entry in shard.entries(output)]
    again = sorted(manifest.paths_again(output, shard.number)) if shard.is_again else None
    work = {"output": output, "shard": shard.number, "entries": entries, "again": again}
    return [pa.table({"work": [json.dumps(work)]})]
