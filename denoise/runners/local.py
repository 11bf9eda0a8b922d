"""Runs shards in this process, as one stream: small jobs are done before Ray would start."""

from collections.abc import Iterable, Iterator

from denoise.output.generations import Shard
from denoise.output.shard import Counts, task_of
from denoise.runners import Allocation, Job, cores


def run(job: Job, output: str, shards: Iterable[Shard], retry_errors: bool) -> Iterator[Counts]:
    """Work on shards; an iterator of what each came to.

    Each core takes another image, from its bytes to its row.
    """
    work = job.worker(Allocation(threads=cores(), gpu=job.device == "gpu"))
    return work(task_of(output, shard, retry_errors=retry_errors) for shard in shards)
