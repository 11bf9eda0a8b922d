"""What each part of a GPU worker takes for a photograph, and what bounds a node of 8 GPUs.

python -m tests.bench.gpu [--images FOLDER] [--model unet] [--cores 12] [--seconds 60]

Runs the function that a worker calls for each shard, with the threads of a worker of a GPU, on the
GPU where torch finds one, else on the CPU (which shows the parts beside the network alone). Without
a folder, photographs of 0.36 megapixels are made. Sizes of shards follow `--seconds`.
"""

import argparse
import os
import tempfile
import time
from itertools import count
from pathlib import Path

import numpy as np
import torch

from denoise import InferConfig
from denoise.cores import cores
from denoise.images.codec import Picture, encode
from denoise.nets import networks
from denoise.output.shard import Counts, ShardTask
from denoise.runners import Allocation
from denoise.storage.entry import Entry
from denoise.storage.found import LeftOut
from denoise.storage.inputs import entries
from denoise.verbs import infer
from denoise.verbs.infer_shard import worker

NODE_GPUS, NODE_CORES = 8, 96


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images")
    parser.add_argument("--model", default="unet")
    parser.add_argument("--cores", type=int, default=min(12, cores()))
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as home:
        folder = given.images or made(Path(home) / "images", 64)
        listed = sorted(entries(folder, LeftOut()), key=lambda entry: entry.path)
        measure(given, folder, home, listed)


def made(folder: Path, count: int) -> str:
    """Photographs of 600 x 600 pixels, as JPEG: soft shapes under a little grain."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:600, 0:600] / 600
    for number in range(count):
        a, b, c = rng.uniform(2, 30, 3)
        planes = np.stack([np.sin(a * x + b * y), np.cos(b * x * y * 9), np.sin(c * (x + y))], 2)
        grain = rng.normal(0, 3, planes.shape)
        pixels = (128 + 90 * planes + grain).clip(0, 255).astype(np.uint8)
        encoded = encode(Picture(pixels), format="jpeg", quality=90)
        (folder / f"{number:03d}.jpg").write_bytes(encoded)
    return str(folder)


def measure(given: argparse.Namespace, folder: str, home: str, listed: list[Entry]) -> None:
    on_gpu = networks.device().type == "cuda"
    flags = InferConfig(images=folder, output=home, model=given.model, add_noise=0.1)
    config, model, _ = infer.prepare(flags)
    if not on_gpu:
        os.environ["DENOISE_MADE_UP_GPUS"] = "1"  # the same way, on the CPU
    for words, allocation in (
        ("one thread, as a worker of a CPU", Allocation()),
        (f"{given.cores} threads, as a worker of a GPU", Allocation(threads=given.cores, gpu=True)),
    ):
        if not on_gpu:
            torch.set_num_threads(1)
        work = worker(allocation, config, model)
        list(work([ShardTask(home, 0, listed[:4])]))  # warms up
        counts, start = Counts(), time.perf_counter()
        for one in work(ShardTask(home, number, listed) for number in count(1)):
            counts.add(one)
            if time.perf_counter() - start > given.seconds / 2:
                break
        show(words, counts, time.perf_counter() - start)
    bound(counts, given.cores, on_gpu)


def show(words: str, counts: Counts, spent: float) -> None:
    print(f"{networks.hardware()}: {words}: {counts.images / spent:.1f} images/s, "
          f"{counts.pixels / 1e6 / spent:.2f} megapixels/s")  # fmt: skip
    for stage, seconds in sorted(counts.seconds.items(), key=lambda one: -one[1]):
        print(f"  {stage:10}{1000 * seconds / counts.images:8.2f} ms an image")


def bound(counts: Counts, cores: int, on_gpu: bool) -> None:
    """What bounds a node: the codecs of its cores, or the networks of its GPUs."""
    network = counts.seconds["network"] / counts.images
    codecs = (sum(counts.seconds.values()) - counts.seconds["network"]) / counts.images
    by_cores = NODE_CORES / codecs
    print(
        f"a node of {NODE_GPUS} GPUs and {NODE_CORES} cores: {by_cores:,.0f} images/s by its codecs"
    )
    if on_gpu:
        by_gpus = NODE_GPUS / network
        words = "the codecs" if by_cores < by_gpus else "the networks"
        print(f"  {by_gpus:,.0f} images/s by its GPUs: {words} bound it")
    else:
        print("  (no GPU here: what its networks can do was not measured)")


if __name__ == "__main__":
    main()
