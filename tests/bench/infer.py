"""How much of the machine `denoise infer` and `noise` use: beside bare loops and the usual recipes.

    python -m tests.bench.infer --images FOLDER [--model unet] [--limit 500] [--only bare ours ...]
        [--rounds 2]

Every contender does the same work on the same photographs (fetch, decode, noise, network, metrics,
encode) with the same number of processes of one thread each. Rates are those of the steady state:
what comes before a job's first shards are done, its start-up, is left out. Contenders take turns,
and the best round of each counts, as others use this machine too. Ratios are to the bare loop.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from denoise import InferConfig, infer
from denoise.cores import cores
from denoise.images.pairs import PairConfig
from denoise.nets.denoiser import Denoiser
from denoise.output import tables
from denoise.storage import files, uris
from denoise.storage.entry import Entry
from denoise.storage.fetch import load_pair
from denoise.storage.found import LeftOut
from denoise.storage.inputs import entries
from denoise.verbs.infer_shard import denoise_pair, pairing_of, row_of
from denoise.verbs.noise import NoiseConfig, noise
from denoise.verbs.noise import pairing_of as noise_pairing_of
from denoise.verbs.noise import row_of as noise_row_of
from tests.running import footer_of, write_part

WORKERS = cores()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--model", default="unet")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--only", nargs="*", default=[*INFER, *NOISE], choices=[*INFER, *NOISE])
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-infer-"))
    try:
        listed = list(entries(uris.absolute(given.images), LeftOut()))[: given.limit]
        photos = folder / "photos.txt"
        photos.write_text("\n".join(entry.uri for entry in listed))
        print(f"{len(listed)} photographs, {WORKERS} processes of one thread, model {given.model}")
        images, output = str(photos), str(folder / "out")
        config = InferConfig(images=images, output=output, model=given.model, add_noise=0.1)
        in_turns(given, config, listed, INFER)
        in_turns(given, NoiseConfig(images=images, output=output), listed, NOISE)
    finally:
        shutil.rmtree(folder)


def in_turns(given: argparse.Namespace, config: Any, listed: list[Entry], contenders: Any) -> None:
    """Prints the best rate of each contender, and where the time of the job went."""
    rates: dict[str, list[float]] = {name: [] for name in contenders if name in given.only}
    spent: list[str] = []
    for _ in range(given.rounds):
        for name, measured in rates.items():
            measured.append(contenders[name](config, listed))
            if os.path.isdir(config.output):
                spent = stages(config.output)
                shutil.rmtree(config.output)
    for name, measured in rates.items():
        share = max(measured) / max(rates[next(iter(rates))])
        rounds = " ".join(f"{rate:.2f}" for rate in measured)
        print(f"{name:12}{max(measured):8.2f} images/s {share:6.2f}   ({rounds})")
    print(*spent, sep="\n", flush=True)


def bare(config: InferConfig, listed: list[Entry]) -> float:
    """Two processes, each a plain loop over its half."""
    return together(bare_half, config, listed)


def bare_half(config: InferConfig, mine: list[Entry], ready: Any) -> tuple[float, float]:
    import torch

    torch.set_num_threads(1)
    denoiser, pairing = Denoiser.load(config.model), pairing_of(config)

    def row(entry: Entry) -> dict[str, Any]:
        pair = load_pair(entry, pairing)
        return row_of(denoise_pair(pair, denoiser), config, config.model)[0]

    return half(row, tables.INFER_SCHEMA, mine, ready)


def half(row: Any, schema: Any, mine: list[Entry], ready: Any) -> tuple[float, float]:
    """Does the images of one process, after one that is not counted: when it began and ended."""
    with tempfile.TemporaryDirectory() as output:
        row(mine[0])
        ready.wait()
        start = time.time()
        rows = [row(entry) for entry in sorted(mine, key=lambda entry: entry.path)]
        write_part(output, 0, rows, schema, {})
        return start, time.time()


def together(half: Any, config: Any, listed: list[Entry]) -> float:
    """Images a second of several processes that begin at the same moment, loaded and ready."""
    with multiprocessing.Manager() as shared:
        ready = shared.Barrier(WORKERS)
        with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as processes:
            halves = [
                processes.submit(aborting, half, config, listed[number::WORKERS], ready)
                for number in range(WORKERS)
            ]
            starts, ends = zip(*(one.result() for one in halves), strict=True)
    return len(listed) / (max(ends) - min(starts))


def aborting(half: Any, config: Any, mine: list[Entry], ready: Any) -> tuple[float, float]:
    """What a half does; where it fails, the other does not wait for it."""
    try:
        result: tuple[float, float] = half(config, mine, ready)
        return result
    except BaseException:
        ready.abort()
        raise


def ours(config: InferConfig, listed: list[Entry]) -> float:
    """The job itself."""
    infer(config)
    return rate_of(config.output)


def rate_of(output: str) -> float:
    """Images a second from the moment when each worker could have done a shard to the last one."""
    done = sorted((footer_of(uri)["ended"], rows_in(uri)) for uri in tables.parts(output))
    start, _ = done[WORKERS - 1]
    return sum(count for _, count in done[WORKERS:]) / (done[-1][0] - start)


def rows_in(uri: str) -> int:
    with files.open_input(uri) as file:
        return int(pq.ParquetFile(file).metadata.num_rows)


def stages(output: str) -> list[str]:
    """Where the time of the workers went."""
    seconds: Counter[str] = Counter()
    for uri in tables.parts(output):
        seconds.update(footer_of(uri)["seconds"])
    whole = sum(seconds.values())
    return [
        f"  {name:10}{spent / whole:6.1%} of the workers' time"
        for name, spent in seconds.most_common()
    ]


def textbook(config: InferConfig, listed: list[Entry]) -> float:
    """ray.data.read_images -> map_batches(an actor) -> write_parquet, as tutorials have it."""
    import ray

    from denoise.runners import ray_session

    with ray_session.connected(), tempfile.TemporaryDirectory() as folder:
        found = ray.data.read_images(
            [entry.uri for entry in listed], mode="RGB", include_paths=True, override_num_blocks=64
        ).map_batches(
            Textbook,
            fn_constructor_args=(config,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=WORKERS),
            num_cpus=0.5,
        )
        found.write_parquet(folder)
        times = [json.loads(row["times"]) for row in ray.data.read_parquet(folder).take_all()]
    return len(times) / (max(end for _, end in times) - min(start for start, _ in times))


class Textbook:
    """The network, the metrics and the encoding of one image a batch, each by the usual call."""

    def __init__(self, config: InferConfig) -> None:
        import torch

        torch.set_num_threads(1)
        self.denoiser = Denoiser.load(config.model)
        self.chance = np.random.default_rng(config.seed)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        start = time.time()
        (clean,), (path,) = batch["image"], batch["path"]
        noisy = clean / 255 + self.chance.normal(0, 0.1, clean.shape)
        noisy = (noisy.clip(0, 1) * 255).round().astype(np.uint8)
        denoised = self.denoiser(noisy)
        errors = [((one / 255 - clean / 255) ** 2).mean() for one in (noisy, denoised)]
        encoded = BytesIO()
        Image.fromarray(denoised).save(encoded, "png")
        found = {
            "path": path,
            "psnr_noisy": -10 * np.log10(errors[0]),
            "psnr": -10 * np.log10(errors[1]),
            "image": encoded.getvalue(),
            "times": json.dumps([start, time.time()]),
        }
        return {name: np.array([value]) for name, value in found.items()}


def loader(config: InferConfig, listed: list[Entry]) -> float:
    """A torch DataLoader with as many workers, the network and the rest in the main process."""
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    pairing = pairing_of(config)
    denoiser = Denoiser.load(config.model)
    loading = DataLoader(
        [(entry, pairing) for entry in listed],
        batch_size=None,
        num_workers=WORKERS,
        collate_fn=loaded,
    )
    with tempfile.TemporaryDirectory() as output:
        waiting = iter(loading)
        first = next(waiting)
        start = time.perf_counter()
        rows = []
        for pair in [first, *waiting]:
            rows.append(row_of(denoise_pair(pair, denoiser), config, config.model)[0])
        write_part(output, 0, rows, tables.INFER_SCHEMA, {})
        return len(listed) / (time.perf_counter() - start)


def loaded(item: tuple[Entry, PairConfig]) -> Any:
    return load_pair(*item)


def noise_bare(config: NoiseConfig, listed: list[Entry]) -> float:
    return together(noise_half, config, listed)


def noise_half(config: NoiseConfig, mine: list[Entry], ready: Any) -> tuple[float, float]:
    pairing = noise_pairing_of(config)

    def row(entry: Entry) -> dict[str, Any]:
        return noise_row_of(load_pair(entry, pairing), config)[0]

    return half(row, tables.NOISE_SCHEMA, mine, ready)


def noise_ours(config: NoiseConfig, listed: list[Entry]) -> float:
    noise(config)
    return rate_of(config.output)


INFER = {"bare": bare, "ours": ours, "textbook": textbook, "loader": loader}
NOISE = {"noise-bare": noise_bare, "noise-ours": noise_ours}

if __name__ == "__main__":
    main()
