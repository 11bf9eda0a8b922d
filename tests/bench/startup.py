"""How long a run takes to its first rows, and a finished one to say so.

python -m tests.bench.startup IMAGES [--model unet] [--rounds 3]
"""

import argparse
import tempfile
import time
from pathlib import Path

from tests.running import Job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images")
    parser.add_argument("--model", default="unet")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory(prefix="startup-") as folder:
            output = Path(folder) / "out"
            flags = ["--images", asked.images, "--output", str(output), "--model", asked.model]
            first, whole = timed(output, [*flags, "--add-noise", "0.1"])
            _, again = timed(output, [*flags, "--add-noise", "0.1"])
        print(f"first rows {first:5.1f} s, all {whole:5.1f} s, again {again:5.1f} s", flush=True)


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
