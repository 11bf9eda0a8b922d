"""Runs shards in this process, as one stream: small jobs are done before Ray would start."""

from collections.abc import Iterable, Iterator

from denoise.output.generations import Shard
from denoise.output.shard import Counts, task_of
from denoise.runners import Allocation, Job, cores


def run(job: Job, output: str, shards: Iterable[Shard], retry_errors: bool) -> Iterator[Counts]:
    """Work on shards; an iterator of what each came to.

    The network has all cores. Threads decode ahead of it and encode behind it.
    """
    count = cores()
    work = job.worker(
        Allocation(compute=count, decode=count, encode=count, gpu=job.device == "gpu")
    )
    return work(task_of(output, shard, retry_errors=retry_errors) for shard in shards)
