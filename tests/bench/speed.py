"""How fast `infer` is on this machine, start-up left out: each shipped model, saving or not.

python -m tests.bench.speed [IMAGES]    (64 images, made of the sample photographs)
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from denoise import package

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = sorted((ROOT / "denoise" / "samples").glob("*.jpg"))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    print(f"{'model':10}{'save':10}{'images/s':>10}{'megapixels/s':>14}{'of which network':>18}")
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        for number in range(count):
            photograph = PHOTOGRAPHS[number % len(PHOTOGRAPHS)]
            (images / f"{number:05d}.jpg").write_bytes(photograph.read_bytes())
        for model in package.shipped_names():
            for save in ("none", "parquet"):
                found = measured(images, Path(folder) / f"{model}-{save}", model, save)
                share = found["stages"].get("network", 0) / sum(found["stages"].values())
                print(
                    f"{model:10}{save:10}{found['images_per_second']:10.2f}"
                    f"{found['megapixels_per_second']:14.2f}{share:18.0%}"
                )


def measured(images: Path, output: Path, model: str, save: str) -> dict:
    """The summary of one run."""
    command = [sys.executable, "-m", "jobs.infer", "--json", "--add-noise", "0.1"]
    flags = ["--images", str(images), "--output", str(output), "--model", model, "--save", save]
    done = subprocess.run([*command, *flags], cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
