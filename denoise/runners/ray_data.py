"""Runs shards through Ray Data: a row for each shard, an actor for each core or GPU.

Only descriptions of shards cross Ray, and counts come back. A shard's part file is there or not: a
task that dies is done again from the start and writes the same file.
"""

import gc
import json
import os
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache, partial
from itertools import islice
from typing import Any

import pyarrow as pa
import ray
from ray.data import Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.util.metrics import Counter as Metric

from denoise.output.generations import Shard
from denoise.output.shard import Counts, ShardTask, task_of
from denoise.runners import GIVEN_UP, Allocation, Job, Runner, RunShards, crash_guard, ray_session
from denoise.runners.resources import Resources, actors, needs_of
from denoise.storage import uris

_AT_ONCE = 64_000  # shards that Ray Data's driver handles with ease
_DECODERS = 4  # threads of a GPU worker at least: a CPU or two would never feed it


@contextmanager
def opened(job: Job, output: str, *, verbose: bool) -> Iterator[Runner]:
    """Ray for the time of a job, and the runner of its shards.

    Raises SettingsError where Ray cannot be reached, or a node does not see what it needs.
    """
    with ray_session.connected(verbose=verbose) as resources:
        ray_session.check_shared((uris.join(output, "_run.json"), *job.needed))
        needs = needs_of(job.device, job.gpus_per_worker, resources)
        run = partial(_run, job, output, resources, needs, crash_guard.start_guard())
        yield Runner(run, on_gpus="GPU" in needs)


def _run(
    job: Job,
    output: str,
    there: Resources,
    needs: Mapping[str, float],
    guard: Any,
    shards: Iterable[Shard],
    retry_errors: bool,
) -> Generator[Counts, None, None]:
    """Work on shards and yield what each came to, in the order in which they end."""
    waiting = iter(shards)
    while some := list(islice(waiting, _AT_ONCE)):
        # The same resources for both, so that Ray Data fuses them: an actor reads its own row.
        # Apart, reading would wait for CPUs that the actors hold, and take processes of its own
        resources = {"num_cpus": needs.get("CPU", 0), "num_gpus": needs.get("GPU", 0)}
        rows = ray.data.read_datasource(_Shards(some), override_num_blocks=len(some), **resources)
        done = rows.map(
            _Worker,  # an actor: while it is busy, its next shards wait in its queue
            fn_constructor_args=(job, output, retry_errors, guard),
            compute=actors(job.workers, len(some), there, needs),
            **resources,
        )
        try:
            yield from _counts_of(done)
        except Exception as error:
            _free_workers_of(error)
            raise


def _free_workers_of(error: Exception) -> None:
    """Give back the CPUs of the workers of a job that failed, for what comes next in this session.

    Ray Data holds an actor with a task by a cycle of references and by the frames of the error's
    context: as long as that stays in memory, a training would wait for those CPUs.
    """
    error.__context__ = None
    gc.collect()


def _counts_of(done: Dataset) -> Iterator[Counts]:
    for batch in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for counts in batch["counts"].to_pylist():
            yield Counts(**json.loads(counts))


class _Worker:
    """An actor: one shard after the other, from its number to its part file."""

    def __init__(self, job: Job, output: str, retry_errors: bool, guard: Any) -> None:
        self._job, self._output = job, output
        self._retry_errors, self._guard = retry_errors, guard
        self._run_shards: dict[bool, RunShards] = {}  # by whether images are done one by one

    def __call__(self, shard: dict[str, Any]) -> dict[str, str]:
        if any(thread.name == GIVEN_UP for thread in threading.enumerate()):
            os._exit(1)  # Ray makes a new worker, with a core and memory for itself alone
        task = task_of(self._output, Shard(**shard), retry_errors=self._retry_errors)
        task = crash_guard.guarded(task, self._guard)
        (counts,) = self._function_for(task)([task])
        self._guard.end.remote(task.number)
        _meter(counts)
        return {"counts": json.dumps(asdict(counts))}

    def _function_for(self, task: ShardTask) -> RunShards:
        """Load what is needed; not in __init__, from which Ray does not hand on what is raised."""
        is_announced = task.announce is not None
        if is_announced not in self._run_shards:  # one network at a time is in memory
            self._run_shards.clear()
            allocation = _allocation(one_by_one=is_announced)
            self._run_shards[is_announced] = self._job.worker(allocation)
        return self._run_shards[is_announced]


def _allocation(*, one_by_one: bool) -> Allocation:
    """What Ray gave this worker. On a CPU it has one core: threads that share it slow it down."""
    assigned = ray.get_runtime_context().get_assigned_resources()
    if "GPU" not in assigned:
        return Allocation(one_by_one=one_by_one)
    threads = max(_DECODERS, int(assigned.get("CPU", 1)))
    return Allocation(threads=threads, gpu=True, one_by_one=one_by_one)


def _meter(counts: Counts) -> None:
    """Add to the counters that Prometheus finds at Ray's nodes: ray_denoise_images_total, ..."""
    for name, value in (
        ("images", counts.made),
        ("failed", counts.failed),
        ("megapixels", counts.pixels / 1e6),
        ("model_seconds", counts.seconds.get("network", 0.0)),
    ):
        if value > 0:  # Ray refuses a zero
            _counter(f"denoise_{name}").inc(value)


@lru_cache(maxsize=16)
def _counter(name: str) -> Metric:
    return Metric(name, description=f"{name.removeprefix('denoise_')} done by the denoise jobs")


class _Shards(Datasource):  # type: ignore[misc]  # ray is left out of type checking
    """A row for each shard."""

    def __init__(self, shards: list[Shard]) -> None:
        super().__init__()
        self._shards = shards

    def estimate_inmemory_data_size(self) -> int:
        return 64 * len(self._shards)

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        return [
            ReadTask(partial(_row, shard), BlockMetadata(1, 64, None, None))
            for shard in self._shards
        ]


def _row(shard: Shard) -> list[pa.Table]:
    return [pa.Table.from_pylist([asdict(shard)])]
