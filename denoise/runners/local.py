"""Runs shards in this process, one after the other: small jobs are done before Ray would start."""

import os
from collections.abc import Iterable, Iterator

from denoise.output.generations import Shard
from denoise.output.shard import Counts, task_of
from denoise.runners import Allocation, Job


def run(job: Job, output: str, shards: Iterable[Shard], retry_errors: bool) -> Iterator[Counts]:
    """Work on shards and yield what each came to.

    The network has all cores. Threads decode ahead of it and encode behind it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    work = job.worker(
        Allocation(
            compute=cores or 1, decode=cores or 1, encode=cores or 1, gpu=job.device == "gpu"
        )
    )
    for shard in shards:
        yield work(task_of(output, shard, retry_errors=retry_errors))
