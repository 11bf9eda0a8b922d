"""Peak memory of all processes of an infer job: few images, many images, one enormous image.

python -m tests.bench.memory [MANY] [MEGAPIXELS]      (10,000 images and 200 megapixels by default)

Memory is the proportional set size of the driver and of every process that Ray started for it (what
they share, Ray's object store too, is counted once), read ten times a second.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from denoise.images.codec import Picture, encode
from tests import running
from tests.running import Job


def main() -> None:
    many, megapixels = (*map(int, sys.argv[1:]), *(10_000, 200)[len(sys.argv) - 1 :])
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        home = Path(folder)
        model = running.tiny_model(home / "model")
        peaks = {}
        for count in (many // 10, many):
            running.pictures(home / str(count), count)
            peaks[count] = peak_of(f"{count:,} images of 0.01 MP", home / str(count), model)
        print(f"{many:,} against {many // 10:,} images: {peaks[many] / peaks[many // 10] - 1:+.1%}")
        if megapixels:
            enormous(home / "one.png", megapixels)
            peak = peak_of(f"one image of {megapixels} MP", home / "one.png", model)
            rest = peak - peaks[many // 10]
            print(
                f"beyond the small ones: {rest / megapixels:.1f} bytes a pixel, of which 3 decoded"
            )


def enormous(path: Path, megapixels: int) -> None:
    """An RGB PNG of soft shapes, so many megapixels large."""
    height, width = megapixels * 1000 // 20, 20_000
    wave = (np.arange(width) // 80 % 256).astype(np.uint8)
    pixels = np.broadcast_to(wave[None, :, None], (height, width, 3)).copy()
    picture = Picture(pixels)
    path.write_bytes(encode(picture))


def peak_of(what: str, images: Path, model: str) -> float:
    """Runs infer, with noise, on two workers; the peak in MiB (2**20 bytes)."""
    output = images.parent / f"{images.name}-out"
    flags = ["--images", str(images), "--output", str(output), "--model", model]
    more = ["--add-noise", "0.1", "--workers", "2", "--max-pixels", "300000000"]
    start = time.monotonic()
    job = Job("infer", *flags, *more)
    peak, at_peak = 0.0, {}
    while job.process.poll() is None:
        held = {pid: memory_of(pid) for pid in job.processes()}
        if sum(held.values()) > peak:
            peak, at_peak = sum(held.values()), held
        time.sleep(0.1)
    done = job.done()
    assert done.code == 0, done.err
    driver = at_peak.get(job.process.pid, 0.0)
    spent = time.monotonic() - start
    print(
        f"{what:28} {spent:6.0f} s, peak {peak:6.0f} MiB in {len(at_peak)} processes, "
        f"{driver:5.0f} of it the driver",
        flush=True,
    )
    return peak


def memory_of(process: int) -> float:
    """Proportional set size in MiB; 0 for a process that has ended."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    line = next((line for line in text.splitlines() if line.startswith("Pss:")), "Pss: 0")
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
