"""Runs shards in this process, as one stream: small jobs are done before Ray would start."""

from collections.abc import Generator, Iterable

from denoise.cores import cores
from denoise.output.generations import Shard
from denoise.output.shard import Counts, task_of
from denoise.runners import Allocation, Job


def run(
    job: Job, output: str, shards: Iterable[Shard], retry_errors: bool
) -> Generator[Counts, None, None]:
    """Work on shards; an iterator of what each came to.

    Each core takes another image, from its bytes to its row.
    """
    run_shards = job.worker(Allocation(threads=cores(), gpu=job.device == "gpu"))
    return run_shards(task_of(output, shard, retry_errors=retry_errors) for shard in shards)
