"""How much of the machine `denoise infer` and `noise` use: beside bare loops and the usual recipes.

    python -m tests.bench.infer --images FOLDER [--model unet] [--limit 500] [--only bare ours ...]

Every contender does the same work on the same photographs (fetch, decode, noise, network, metrics,
encode) with the same number of processes of one thread each; rates are without start-up. Ratios are
to the bare loop of the same run.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from denoise import InferConfig, infer, storage, tables
from denoise.inference import denoiser_of, pairing_of, row_of
from denoise.inputs import Entry, entries
from denoise.noising import NoisingConfig, noise
from denoise.noising import row_of as noise_row_of
from denoise.pairs import PairConfig, load

WORKERS = os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True)
    parser.add_argument("--model", default="unet")
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument(
        "--only", nargs="*", default=["bare", "ours", "textbook", "loader", "noise"]
    )
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="bench-infer-"))
    try:
        listed = list(entries(storage.absolute(given.images), Counter()))[: given.limit]
        photos = place / "photos.txt"
        photos.write_text("\n".join(entry.uri for entry in listed))
        config = InferConfig(
            images=str(photos), output=str(place / "out"), model=given.model, add_noise=0.1
        )
        print(f"{len(listed)} photographs, {WORKERS} processes of one thread, model {given.model}")
        contenders = {"bare": bare, "ours": ours, "textbook": textbook, "loader": loader}
        rates = {
            name: run(config, listed) for name, run in contenders.items() if name in given.only
        }
        for name, rate in rates.items():
            print(f"infer {name:10}{rate:8.2f} images/s {rate / rates.get('bare', rate):6.2f}")
        if "ours" in rates:
            stages(str(place / "out"))
        if "noise" in given.only:
            compare_noise(place, photos, listed)
    finally:
        shutil.rmtree(place)


def bare(config: InferConfig, listed: list[Entry]) -> float:
    """Two processes, each a plain loop over its half."""
    return together(bare_half, config, listed)


def bare_half(config: InferConfig, mine: list[Entry], ready: Any, place: str) -> None:
    import torch

    torch.set_num_threads(1)
    denoiser, pairing = denoiser_of(config), pairing_of(config)
    ready.wait()
    rows = []
    for entry in mine:
        pair = load(entry, pairing)
        denoised = None if pair.noisy is None else denoiser.denoise([pair.noisy])[0]
        rows.append(row_of(pair, denoised, config, place))
    tables.write_part(place, os.getpid(), rows, tables.INFER_SCHEMA, {})


def together(half: Any, config: Any, listed: list[Entry]) -> float:
    """Images a second of several processes that begin at the same moment, loaded and ready."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(WORKERS + 1)
    with tempfile.TemporaryDirectory() as place:
        running = [
            context.Process(target=half, args=(config, listed[number::WORKERS], ready, place))
            for number in range(WORKERS)
        ]
        for process in running:
            process.start()
        ready.wait()
        start = time.perf_counter()
        for process in running:
            process.join()
        return len(listed) / (time.perf_counter() - start)


def ours(config: InferConfig, listed: list[Entry]) -> float:
    """The job itself; from the start of its first shard to the end of its last."""
    infer(config)
    return rate_of(config.output, len(listed))


def rate_of(output: str, images: int) -> float:
    found = [tables.about(uri) for uri in tables.parts(output)]
    start = min(about["started"] for about in found)
    return images / (max(about["ended"] for about in found) - start)


def stages(output: str) -> None:
    """Where the time of the workers goes."""
    seconds: Counter[str] = Counter()
    for uri in tables.parts(output):
        seconds.update(tables.about(uri)["seconds"])
    for name, spent in seconds.most_common():
        print(f"  {name:10}{spent / sum(seconds.values()):6.1%} of the workers' time")


def textbook(config: InferConfig, listed: list[Entry]) -> float:
    """ray.data.read_images -> map_batches(an actor) -> write_parquet, as tutorials have it."""
    import ray

    from denoise import runtime

    with runtime.connected(), tempfile.TemporaryDirectory() as place:
        found = ray.data.read_images(
            [entry.uri for entry in listed], mode="RGB", include_paths=True, override_num_blocks=64
        ).map_batches(
            Textbook,
            fn_constructor_args=(config,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=WORKERS),
            num_cpus=0.5,
        )
        found.write_parquet(place)
        times = [json.loads(row["times"]) for row in ray.data.read_parquet(place).take_all()]
    return len(times) / (max(end for _, end in times) - min(start for start, _ in times))


class Textbook:
    """The network, the metrics and the encoding of one image a batch."""

    def __init__(self, config: InferConfig) -> None:
        import torch

        torch.set_num_threads(1)
        self.denoiser = denoiser_of(config)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        from denoise.image import Picture, encode, to_floats, to_pixels
        from denoise.metrics import mse, psnr
        from denoise.noise import add_noise, seed_of

        start = time.time()
        (clean,), (path,) = batch["image"], batch["path"]
        noisy = to_pixels(add_noise(to_floats(clean), sigma=0.1, seed=seed_of(path, 0)), 8)
        denoised = self.denoiser.denoise([noisy])[0]
        found = {
            "path": path,
            "psnr_noisy": psnr(mse(noisy, clean)),
            "psnr": psnr(mse(denoised, clean)),
            "image": encode(Picture(denoised)),
            "times": json.dumps([start, time.time()]),
        }
        return {name: np.array([value]) for name, value in found.items()}


def loader(config: InferConfig, listed: list[Entry]) -> float:
    """A torch DataLoader with as many workers, the network and the rest in the main process."""
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    pairing = pairing_of(config)
    denoiser = denoiser_of(config)
    loading = DataLoader(
        [(entry, pairing) for entry in listed],  # type: ignore[arg-type]  # it takes any sequence
        batch_size=None,
        num_workers=WORKERS,
        collate_fn=loaded,
    )
    with tempfile.TemporaryDirectory() as place:
        waiting = iter(loading)
        first = next(waiting)
        start = time.perf_counter()
        rows = []
        for pair in [first, *waiting]:
            denoised = None if pair.noisy is None else denoiser.denoise([pair.noisy])[0]
            rows.append(row_of(pair, denoised, config, place))
        tables.write_part(place, 0, rows, tables.INFER_SCHEMA, {})
        return len(listed) / (time.perf_counter() - start)


def loaded(item: tuple[Entry, PairConfig]) -> Any:
    return load(*item)


def compare_noise(place: Path, photos: Path, listed: list[Entry]) -> None:
    """The noise job beside its own bare loop."""
    config = NoisingConfig(images=str(photos), output=str(place / "pairs"))
    plain = together(noise_half, config, listed)
    noise(config)
    job = rate_of(config.output, len(listed))
    print(f"noise bare      {plain:8.2f} images/s {1:6.2f}")
    print(f"noise ours      {job:8.2f} images/s {job / plain:6.2f}")
    stages(config.output)


def noise_half(config: NoisingConfig, mine: list[Entry], ready: Any, place: str) -> None:
    pairing = PairConfig(sigma=config.sigma, seed=config.seed)
    ready.wait()
    rows = [noise_row_of(load(entry, pairing), config, place) for entry in mine]
    tables.write_part(place, os.getpid(), rows, tables.NOISE_SCHEMA, {})


if __name__ == "__main__":
    main()
