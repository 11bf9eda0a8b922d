"""The control plane alone: tiny images, next to no network; where does the driver saturate?

python -m tests.bench.control [IMAGES] [ROWS ...]    (100,000 images in shards of 1,000, 100 and 20)

The driver's CPU time a shard says how many shards a second one driver can hand out and count; times
the images of a shard, how many images a second a cluster of any size can do.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from denoise import InferConfig, infer
from denoise.output import manifest
from denoise.runners import ray_session
from tests import running
from tests.conftest import encoded, photo


def main() -> None:
    given = [int(argument) for argument in sys.argv[1:]]
    images, sizes = (given or [100_000])[0], given[1:] or [1000, 100, 20]
    with tempfile.TemporaryDirectory(prefix="control-") as folder:
        home = Path(folder)
        model = running.tiny_model(home / "model")
        make(home / "images", images)
        with ray_session.connected():
            for rows in sizes:
                manifest.shard_rows = lambda *_, rows=rows: rows
                measure(
                    InferConfig(
                        images=str(home / "images"),
                        output=str(home / str(rows)),
                        model=model,
                        save="none",
                        workers=os.cpu_count(),  # by Ray: so little would be done in this process
                    ),
                    images,
                    rows,
                )


def make(folder: Path, images: int) -> None:
    """So many names of one picture of 8 by 8 pixels; a thousand of them share a file, no more: file
    systems do not take a hundred thousand."""
    picture = encoded(photo(8, 8))
    for number in range(images):
        place = folder / f"{number // 1000:04d}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
            (place / "000.png").write_bytes(picture)
        else:
            os.link(place / "000.png", place / f"{number % 1000:03d}.png")


def measure(config: InferConfig, images: int, rows: int) -> None:
    start, cpu = time.monotonic(), time.process_time()
    infer(config)
    spent, cpu = time.monotonic() - start, time.process_time() - cpu
    shards = -(-images // rows)
    print(
        f"{images:,} images in {shards:,} shards of {rows}: {spent:.0f} s, {images / spent:,.0f} "
        f"images/s; the driver took {cpu:.1f} s of CPU, {1000 * cpu / shards:.1f} ms a shard: "
        f"one driver saturates at {images / cpu:,.0f} images/s",
        flush=True,
    )


if __name__ == "__main__":
    main()
