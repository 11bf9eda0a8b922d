"""How long a run takes to its first rows and to its end, a finished one to say so, and imports.

python -m tests.bench.startup IMAGES [--model unet] [--limit 8] [--rounds 3]

The last line compares the least of each: a job of a few images with what it cannot do without, a
Python that imports torch, Pillow and pyarrow. Rounds alternate, as others use the machine too.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.running import Job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images")
    parser.add_argument("--model", default="unet")
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    least = {"job": float("inf"), "imports": float("inf")}
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory(prefix="startup-") as folder:
            output = Path(folder) / "out"
            flags = ["--images", asked.images, "--output", str(output), "--model", asked.model]
            flags += ["--limit", str(asked.limit)]
            first, whole = timed(output, [*flags, "--add-noise", "0.1"])
            _, again = timed(output, [*flags, "--add-noise", "0.1"])
        least = {
            "job": min(least["job"], whole),
            "imports": min(least["imports"], imports()),
        }
        print(f"first rows {first:5.1f} s, all {whole:5.1f} s, again {again:5.1f} s", flush=True)
    ratio = least["job"] / least["imports"]
    print(f"{asked.limit} images: {least['job']:.2f} s, {ratio:.1f} times the imports alone")


def imports() -> float:
    """Seconds of a Python that imports what every job needs."""
    start = time.monotonic()
    code = "import torch, PIL.Image, pyarrow.parquet"
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.monotonic() - start


def timed(output: Path, flags: list[str]) -> tuple[float, float]:
    """Seconds until a part file is there, and until the end."""
    start = time.monotonic()
    job = Job("infer", *flags)
    while job.process.poll() is None and not any(output.glob("data/part-*.parquet")):
        time.sleep(0.02)
    first = time.monotonic() - start
    job.process.wait()
    whole = time.monotonic() - start
    done = job.done()
    assert done.code == 0, done.err
    return first, whole


if __name__ == "__main__":
    main()
