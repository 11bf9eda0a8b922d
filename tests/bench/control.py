"""The control plane alone: how many shards a second one driver hands out, on workers without work.

python -m tests.bench.control [IMAGES] [ROWS ...]    (100,000 in shards of 1,000, 500 and 100)

The images exist in the manifest only. A worker reads its shard's entries there, as always, and
reports them as done: what is left is Ray Data, its actors, and the driver. Times the images of a
shard, this is how many images a second a cluster of any size can do. The workers share the cores of
this machine with the driver, so the figure is a lower bound.
"""

import os
import sys
import tempfile
import time

from denoise.cores import cores
from denoise.output import manifest
from denoise.output.shard import Counts, ShardTask
from denoise.runners import Allocation, Job, ray_data
from denoise.storage.inputs import Entry

_SIZE = 60_000  # bytes of an image: a JPEG of a third of a megapixel


def main() -> None:
    given = [int(argument) for argument in sys.argv[1:]]
    images, sizes = (given or [100_000])[0], given[1:] or [1000, 500, 100]
    for rows in sizes:
        with tempfile.TemporaryDirectory(prefix="control-") as output:
            measure(output, images, rows)


def measure(output: str, images: int, rows: int) -> None:
    start = time.process_time()
    entries = (Entry(f"{n:08d}.jpg", f"s3://b/{n:08d}.jpg", _SIZE, "1") for n in range(images))
    new = manifest.update(output, entries).new
    assert new is not None
    listed = time.process_time() - start
    manifest.shard_rows = lambda *_: rows
    shards = manifest.cut(output, new)
    with open(os.path.join(output, "_run.json"), "w") as file:  # which every node must see
        file.write("{}")
    job = Job(worker=_idle, workers=(cores(),))
    with ray_data.opened(job, output, verbose=False) as runner:
        start, cpu = time.monotonic(), time.process_time()
        first = None
        done = 0
        for counts in runner.run(shards, False):
            first = first or time.monotonic()
            done += counts.images
        spent, cpu = time.monotonic() - (first or start), time.process_time() - cpu
    if done != images:
        raise SystemExit(f"{done:,} of {images:,} images came back")
    print(
        f"{images:,} images in {len(shards):,} shards of {rows}: {len(shards) / spent:,.1f} shards "
        f"or {images / spent:,.0f} images a second after the first one ({spent:.1f} s); the driver "
        f"took {1000 * cpu / len(shards):.1f} ms of CPU a shard, and {1e6 * listed / images:.0f} "
        "us an image to write the manifest",
        flush=True,
    )


def _idle(allocation: Allocation) -> "_Idle":
    return _Idle()


class _Idle:
    """A worker's function of a shard that does nothing."""

    def __call__(self, task: ShardTask) -> Counts:
        return Counts(images=len(task.entries), made=len(task.entries))


if __name__ == "__main__":
    main()
