"""How fast training is fed, and what more workers bring, beside a plain DataLoader with DDP.

python -m tests.bench.train IMAGES [--architecture unet] [--steps 120] [--batch-size 16]
    [--rounds 3] [--optimizer muon]

fed      a worker that draws its samples from decoded photos, as `denoise train` does
ready    the same worker, given one batch over and over: what the network alone can do
short    as ready, with `--precision bfloat16`, on a CPU that is made for it
apart    two workers that know nothing of each other, with half a batch each: what two CPUs can do
job      `denoise train` with 1 worker on one core, and with 2 on two; the time to its first step
peer     torch's DataLoader (two processes that decode, crop and add noise) with plain DDP

On a GPU: ready and fed, ready once compiled, and the job with 1 worker; with 2 where there are two.
The arithmetic done is beside the device's own matrix product: bfloat16 on a GPU, else float32.

Rates are patches a second, medians of the records after the first quarter of the steps. All take
turns, and the best round of each counts, so that a machine that others share disturbs little.
"""

import argparse
import json
import os
import socket
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from denoise.nets.networks import UNKNOWN_SIGMA, build
from denoise.storage.entry import source_of
from denoise.storage.found import LeftOut
from denoise.storage.inputs import entries
from denoise.storage.uris import absolute
from denoise.training.loop import learn
from denoise.training.metrics_log import Record
from denoise.training.optimizer import optimizers_for
from denoise.training.photos import Photo, decode_photos
from denoise.training.recipe import Recipe
from denoise.training.samples import Patches, Sampler
from denoise.verbs.train import TrainConfig, train
from tests.bench.quality import peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images")
    parser.add_argument("--architecture", default="unet")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--optimizer", default=Recipe().optimizer)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("RAY_worker_niceness", "0")  # else Ray's alone make way for all others
    recipe = recipe_of(asked, asked.batch_size)
    photos = decoded(asked.images, recipe.patch)
    print(f"{asked.architecture}, {len(photos)} photos, batches of {recipe.batch_size}")
    best: Counter[str] = Counter()
    firsts = []
    for _ in range(asked.rounds):
        rates, first = a_round(asked, recipe, photos)
        firsts.append(first)
        best |= rates  # the larger of each
        print(", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()), flush=True)
    shares = {
        "ready": arithmetic(asked.architecture, recipe, best["ready"]),
        "fed": f"{best['fed'] / best['ready']:.3f} of ready",
        "short": f"{best['short'] / best['ready']:.2f} of ready",
        "compiled": f"{best['compiled'] / best['ready']:.2f} of ready",
        "apart": f"{best['apart'] / best['ready']:.2f} of ready",
        "job, 2": f"{best['job, 2'] / best['job, 1']:.2f} of job, 1",
        "peer": f"job, 2 is {best['job, 2'] / best['peer']:.2f} of it" if best["peer"] else "",
    }
    for name, rate in best.items():
        print(f"{name:8}{rate:8.1f} patches/s   {shares.get(name, '')}".rstrip())
    print(f"the first step came after {min(firsts):.1f} s")


def a_round(
    asked: argparse.Namespace, recipe: Recipe, photos: list[Photo]
) -> tuple[dict[str, float], float]:
    """Every rate once, and the seconds to the first step."""
    sampler = Sampler(recipe, lambda window: photos)
    ready = Ready(recipe, sampler.window)
    rates = {
        "ready": rate_here(asked.architecture, recipe, ready, photos[:1]),
        "fed": rate_here(asked.architecture, recipe, sampler, photos[:1]),
    }
    gpus = torch.cuda.device_count()
    if gpus:
        rates["compiled"] = rate_here(asked.architecture, recipe, ready, photos[:1], compiled=True)
        rates["job, 1"], first = rate_of_job(asked, workers=1)
    else:
        made_for = torch.cpu.get_capabilities()
        if made_for.get("avx512_bf16") or made_for.get("amx_bf16"):
            short = replace(recipe, precision="bfloat16")
            rates["short"] = rate_here(asked.architecture, short, ready, photos[:1])
        rates["apart"], rates["peer"] = rate_apart(asked), rate_of_peer(asked)
        with on_one_core():
            rates["job, 1"], first = rate_of_job(asked, workers=1)
    if gpus != 1:
        rates["job, 2"], first = rate_of_job(asked, workers=2)
    return rates, first


def arithmetic(architecture: str, recipe: Recipe, rate: float) -> str:
    """What training does at a rate of patches a second, and what share that is of a matrix product.

    The backward pass does twice the work of the forward pass."""
    macs = 3 * build(architecture).macs_per_pixel * recipe.patch**2 * rate
    return f"{2 * macs / 1e12:.3f} TFLOP/s, {macs / 1e9 / ceiling():.0%} of a matrix product"


def ceiling(side: int = 8192) -> float:
    """GMAC/s of a large matrix product on the device that trains."""
    if not torch.cuda.is_available():
        return peak()
    a = torch.rand(side, side, device="cuda").bfloat16()
    times = []
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return side**3 / min(times) / 1e9


def decoded(images: str, patch: int) -> list[Photo]:
    photos, _ = decode_photos(list(entries(absolute(images), LeftOut())), patch)
    return photos


class Ready(Sampler):
    """A sampler that draws only once."""

    def patches(self, first: int, count: int) -> Patches:
        if not hasattr(self, "drawn"):
            object.__setattr__(self, "drawn", super().patches(first, count))
        return self.drawn


def rate_here(
    architecture: str, recipe: Recipe, sampler: Sampler, validation: list, *, compiled: bool = False
) -> float:
    records: list[Record] = []
    torch.manual_seed(0)
    learn(
        recipe,
        build(architecture),
        sampler,
        validation,
        lambda learner: None,
        log=records.append,
        compiled=compiled,
    )
    return settled(records)


def settled(records: list[Record]) -> float:
    later = records[len(records) // 4 : -1] or records  # the last one is slowed by a validation
    return statistics.median(record["images_per_second"] for record in later)


def rate_apart(asked: argparse.Namespace) -> float:
    results = mp.get_context("spawn").Queue()
    mp.spawn(alone, (asked, results), nprocs=2)
    return results.get() + results.get()


def recipe_of(asked: argparse.Namespace, batch_size: int) -> Recipe:
    return Recipe(
        steps=asked.steps,
        batch_size=batch_size,
        sigma=(0.0, 0.2),
        optimizer=asked.optimizer,
        save_every=asked.steps,
        precision="auto" if torch.cuda.is_available() else "float32",  # short: the other
    )


def alone(_: int, asked: argparse.Namespace, results: mp.Queue) -> None:
    torch.set_num_threads(1)
    recipe = recipe_of(asked, asked.batch_size // 2)
    photos = decoded(asked.images, recipe.patch)
    sampler = Sampler(recipe, lambda window: photos)
    results.put(rate_here(asked.architecture, recipe, sampler, photos[:1]))


@contextmanager
def on_one_core() -> Iterator[None]:
    """Keeps this process, and all that it starts, on one core: Ray and the sampler's thread too."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def rate_of_job(asked: argparse.Namespace, *, workers: int) -> tuple[float, float]:
    """The rate, and the seconds from the call to the end of the first step."""
    with tempfile.TemporaryDirectory() as output:
        config = TrainConfig(
            images=asked.images,
            output=output,
            architecture=asked.architecture,
            workers=workers,
            **vars(recipe_of(asked, asked.batch_size)),
        )
        began = time.time()
        train(config)
        lines = (Path(output) / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        events = EventAccumulator(str(Path(output) / "tensorboard")).Reload()
        first = records[0]
        written = events.Scalars("loss")[0].wall_time
    return settled(records), written - (first["step"] - 1) * first["seconds_per_step"] - began


class Photographs(Dataset):
    """What one writes at first: each item decodes a file, cuts a patch and adds noise."""

    def __init__(self, images: str, count: int, patch: int = 64) -> None:
        left_out = LeftOut()
        self.entries = list(entries(absolute(images), left_out))
        self.count, self.patch = count, patch

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng(item)
        encoded = source_of(self.entries[rng.integers(len(self.entries))]).encoded
        pixels = np.asarray(Image.open(BytesIO(encoded)).convert("RGB"))
        height, width, _ = pixels.shape
        top, left = rng.integers(height - self.patch + 1), rng.integers(width - self.patch + 1)
        patch = pixels[top : top + self.patch, left : left + self.patch]
        clean = torch.from_numpy(patch.copy()).permute(2, 0, 1).float() / 255
        return clean, clean + torch.randn_like(clean) * rng.uniform(0, 0.2)


def rate_of_peer(asked: argparse.Namespace) -> float:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = mp.get_context("spawn").Queue()
    mp.spawn(peer, (asked, port, results), nprocs=2)
    return results.get()


def peer(rank: int, asked: argparse.Namespace, port: int, results: mp.Queue) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    each = asked.batch_size // 2
    images = Photographs(asked.images, asked.steps * each)
    network = DistributedDataParallel(
        build(asked.architecture).to(memory_format=torch.channels_last)
    )
    optimizers = optimizers_for(recipe_of(asked, each), network.module)
    times = []
    for clean, noisy in DataLoader(images, each, num_workers=1, prefetch_factor=4):
        network.zero_grad()
        loss = (network(noisy, torch.full((each,), UNKNOWN_SIGMA)) - clean).abs().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        times.append(time.perf_counter())
    if rank == 0:
        later = np.diff(times[len(times) // 4 :])
        results.put(asked.batch_size / float(np.median(later)))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
