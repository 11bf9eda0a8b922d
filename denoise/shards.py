"""Ray Data over an output folder's shards: what is not there yet is read, worked on and written.

A shard's part file is its only state: a task that dies is done again from the start and writes the
same file, so that no row is lost, none doubled, and nothing has to be remembered.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray.data import Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.util.metrics import Counter as Metric

from denoise import runtime, tables
from denoise.inputs import Entry
from denoise.manifest import Shard

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Work:
    """One shard as the workers see it."""

    output: str
    shard: int
    entries: list[Entry]
    schema: pa.Schema
    only_errors: bool  # keep the rows that are fine, do the others again
    started: float  # seconds since the epoch


@dataclass
class Tally:
    """What is done so far."""

    images: int = 0
    failed: int = 0
    pixels: int = 0
    seconds: Counter[str] = field(default_factory=Counter)  # by stage, summed over workers


def dataset(output: str, shards: list[Shard], *, readers: int = 1) -> Dataset:
    """A row for each shard: its entries, read from the manifest when its turn comes."""
    return ray.data.read_datasource(
        _Shards(output, shards),
        override_num_blocks=max(1, len(shards)),
        compute=runtime.tasks(readers),
        num_cpus=0,  # it reads a few kilobytes; a whole CPU for that could starve behind the actors
    )


def work_of(block: pa.Table, schema: pa.Schema, *, only_errors: bool) -> Work:
    """A shard's work from its row."""
    (row,) = block.column("work").to_pylist()
    found = json.loads(row)
    entries = [Entry(**entry) for entry in found["entries"]]
    return Work(found["output"], found["shard"], entries, schema, only_errors, time.time())


def finish(
    work: Work,
    kept: list[dict[str, Any]],
    done: Iterable[tuple[dict[str, Any], Mapping[str, float]]],
    notes: Iterable[str] = (),
) -> pa.Table:
    """Takes each row that is done, with its seconds by stage, and writes the part file of a shard
    with those that were kept; returns the one line that the driver counts."""
    rows, seconds = list(kept), Counter[str]()
    for row, spent in done:
        rows.append(row)
        seconds.update(spent)
    about = {"started": work.started, "ended": time.time(), "seconds": dict(seconds)}
    about["notes"] = sorted(notes)
    start = time.perf_counter()
    tables.write_part(work.output, work.shard, rows, work.schema, about)
    counted = {
        "images": len(rows),
        "failed": sum(row["error"] is not None for row in rows),
        "pixels": sum((row.get("height") or 0) * (row.get("width") or 0) for row in rows),
        "seconds": dict(seconds) | {"write": time.perf_counter() - start},
        "shard": work.shard,
    }
    _meter(counted)
    return pa.table({"counted": [json.dumps(counted)]})


def kept(work: Work) -> tuple[list[Entry], list[dict[str, Any]]]:
    """The entries to work on, and the rows of an earlier try that are to stay as they are."""
    if not work.only_errors:
        return work.entries, []
    fine = [row for row in tables.part(work.output, work.shard) if row["error"] is None]
    done = {row["path"] for row in fine}
    return [entry for entry in work.entries if entry.path not in done], fine


def ahead(call: Callable[[_T], _R], items: Iterable[_T], *, threads: int = 2) -> Iterator[_R]:
    """Calls a function in threads, a few items ahead of what is taken, in order."""
    waiting = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(call, item) for item in islice(waiting, threads)]
        while running:
            result = running.pop(0).result()
            running += [pool.submit(call, item) for item in islice(waiting, 1)]
            yield result


def counted(done: Dataset, show: Callable[[Tally], None]) -> Tally:
    """Runs a dataset to its end, counting the lines that `finish` returned."""
    tally = Tally()
    for batch in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for line in batch.column("counted").to_pylist():
            found = json.loads(line)
            tally.images += found["images"]
            tally.failed += found["failed"]
            tally.pixels += found["pixels"]
            tally.seconds.update(found["seconds"])
        show(tally)
    return tally


def _meter(counted: Mapping[str, Any]) -> None:
    """Adds to the counters that Ray's Prometheus endpoints show: ray_denoise_images and so on."""
    for name, value in (
        ("images", counted["images"]),
        ("failed", counted["failed"]),
        ("megapixels", counted["pixels"] / 1e6),
        ("model_seconds", counted["seconds"].get("network", 0.0)),
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
    work = {"output": output, "shard": shard.number, "entries": entries}
    return [pa.table({"work": [json.dumps(work)]})]
