"""Listing a store of many images: how long, and how much memory the driver takes.

python -m tests.bench.listing [PATHS [IN_A_FOLDER]]   (1,000,000 empty files by default, of which
                                                       1,000 to a folder)

What is measured is what `infer` does before its first image: list, keep what looks like an image,
write the manifest, find out which shards are missing; then the same again over what is there.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from denoise.output import manifest
from denoise.storage import inputs, listing
from denoise.storage.found import LeftOut


def main() -> None:
    asked = [int(number) for number in sys.argv[1:]]
    paths, in_a_folder = asked + [1_000_000, 1_000][len(asked) :]
    with tempfile.TemporaryDirectory(prefix="listing-") as home:
        images, output = Path(home, "images"), str(Path(home, "output"))
        timed("make the files", paths, lambda: make(images, paths, in_a_folder))
        timed("list", paths, lambda: sum(not f.is_folder for f in listing.listing(str(images))))
        timed("list into a new manifest", paths, lambda: update(images, output))
        timed("find the missing shards", paths, lambda: len(manifest.shards_to_do(output)))
        timed("list and compare, nothing new", paths, lambda: update(images, output))


def make(images: Path, paths: int, in_a_folder: int) -> int:
    for folder in range(-(-paths // in_a_folder)):
        path = images / f"{folder:05d}"
        path.mkdir(parents=True)
        for number in range(min(in_a_folder, paths - folder * in_a_folder)):
            (path / f"{number:04d}.jpg").touch()
    return paths


def update(images: Path, output: str) -> int:
    """As a job does; a name that looks like an image's is enough, so that no byte is read."""
    found = inputs.entries(str(images), LeftOut(), output=output)
    return manifest.update(output, found).inputs


def timed(what: str, paths: int, call: Callable[[], int]) -> None:
    start, before = time.monotonic(), time.process_time()
    result = call()
    seconds, cpu = time.monotonic() - start, time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = paths / seconds
    line = f"{what:32} {result:>10,} {seconds:8.1f} s ({cpu:.1f} of a CPU) {rate:10,.0f} paths/s"
    print(f"{line}, peak memory {peak:6.0f} MiB; at 100 million: {1e8 / rate / 60:6.0f} min")


if __name__ == "__main__":
    main()
