"""What a worker of the infer job does with shards: images in, rows with denoised images out."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import chain, islice, tee
from math import isfinite, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoise.errors import SettingsError
from denoise.images.codec import Picture, to_floats, to_pixels
from denoise.images.metrics import estimate_noise, ssim
from denoise.images.pairs import Pair, PairConfig, errors_of
from denoise.output.shard import Counts, ShardTask, ShardWriter
from denoise.output.tables import INFER_SCHEMA, with_columns
from denoise.runners import Allocation, Work, gpus_are_made_up
from denoise.storage.columns import NO_COLUMNS, Columns
from denoise.verbs.save import encoders_of, save
from denoise.verbs.stages import decoded_pairs, in_order

if TYPE_CHECKING:
    from denoise.nets.denoiser import Denoiser, Submitted
    from denoise.verbs.infer import InferConfig

_GPU_BATCH = 1 << 24  # pixels
_CPU_AHEAD = 1 << 21  # pixels for each thread of a CPU: of two images of one window each


def worker(
    allocation: Allocation, config: "InferConfig", model: str, columns: Columns = NO_COLUMNS
) -> Work:
    """What a worker does with shards, its model loaded. Raises SettingsError."""
    denoiser = denoiser_of(config, model, allocation.compute)
    if allocation.gpu and not denoiser.on_gpu and not gpus_are_made_up():
        raise SettingsError(no_gpu())
    work = partial(
        infer_shards, denoiser=denoiser, config=config, allocation=allocation, columns=columns
    )
    if denoiser.on_gpu:  # batches are made of one shard's images, so that a retry makes the same
        return lambda tasks: chain.from_iterable(work([task]) for task in tasks)
    return work


def no_gpu() -> str:
    """Why a worker that was given a GPU cannot use it, as far as torch tells."""
    import torch

    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    driver = Path("/proc/driver/nvidia/version")
    found = driver.read_text().splitlines()[0] if driver.exists() else "none"
    return (
        f"no GPU that torch {torch.__version__} (built {built}) can use; the NVIDIA driver: "
        f"{found}; install a torch that fits the driver, or give --device cpu"
    )


def denoiser_of(config: "InferConfig", model: str, threads: int | None = None) -> "Denoiser":
    """The network, ready to run on so many threads of a CPU, or all, or on a GPU.

    `config` is as `prepare` returns it. Raises SettingsError where the package is not, or no more,
    the one of this name and digest, or this machine is wrong in the run's precision.
    """
    from denoise.nets import networks  # torch: only where the network runs
    from denoise.nets.denoiser import Denoiser

    denoiser = Denoiser.load(
        config.model,
        tile=config.tile,
        precision=config.precision,
        strength=config.strength,
        device=networks.device(cpu=config.device == "cpu"),
        threads=threads,
    )
    if config.precision not in ("auto", denoiser.precision):  # two never mix in one output
        raise SettingsError(f"{'; '.join(denoiser.notes)}: give --precision {denoiser.precision}")
    if denoiser.package.id != model:
        raise SettingsError(
            f"the model is {denoiser.package.id} now, and this run's is {model}: it was replaced; "
            "put the old one back, or begin with another --output"
        )
    return denoiser


def infer_shards(
    tasks: Iterable[ShardTask],
    denoiser: "Denoiser",
    config: "InferConfig",
    allocation: Allocation,
    columns: Columns = NO_COLUMNS,
) -> Iterator[Counts]:
    """Denoise the images of shards and write their part files, one after the other.

    While a shard is written, images of the next ones are on their way already.
    """
    schema = with_columns(INFER_SCHEMA, columns)
    pairing = replace(pairing_of(config), beside=columns.names)
    shards, ahead = tee((task, task.missing()) for task in tasks)
    pairs = decoded_pairs(ahead, pairing, allocation, config.max_seconds)
    denoised = denoised_pairs(pairs, denoiser, one_by_one=allocation.is_one_by_one)
    row = partial(row_of, config=config, model=denoiser.package.id)
    encoders = encoders_of(allocation, config)
    with closing(in_order(row, denoised, encoders, size=lambda made: made[0].nbytes)) as rows:
        for task, missing in shards:
            with ShardWriter(task, schema, to_tar=config.save == "tar") as out:
                for pair, made in islice(rows, len(missing)):
                    out.add(made, pair.seconds)
                out.notes |= denoiser.notes
            yield out.counts


def pairing_of(config: "InferConfig") -> PairConfig:
    """What an image is paired with before the network."""
    return PairConfig(
        sigma=config.add_noise,
        seed=config.seed,
        float_noise=config.float_noise,
        reference=config.reference,
        white_level=config.white_level,
        max_pixels=config.max_pixels,
        allow_elsewhere=config.allow_elsewhere,
    )


def denoised_pairs(
    pairs: Iterable[Pair], denoiser: "Denoiser", *, one_by_one: bool = False
) -> Iterator[tuple[Pair, Any]]:
    """Each pair with its denoised pixels, None where it failed.

    On a GPU small images go together, on a CPU each thread computes another one, and one that has
    none beside it is computed by all; `one_by_one`: none before the one before it is taken.
    """
    together = 0 if one_by_one or not denoiser.on_gpu else _GPU_BATCH
    if not (one_by_one or denoiser.on_gpu or denoiser.threads == 1):
        first_two = list(islice(pairs := iter(pairs), 2))
        pairs = chain(first_two, pairs)
        if len(first_two) == 2:
            yield from _denoise_ahead(pairs, denoiser, _CPU_AHEAD * denoiser.threads)
            return
    for batch in _batches(pairs, together):
        yield from zip(batch, _denoise_batch(batch, denoiser), strict=True)


def _denoise_ahead(
    pairs: Iterable[Pair], denoiser: "Denoiser", pixels: int
) -> Iterator[tuple[Pair, Any]]:
    """Denoise pairs in threads, those of so many pixels ahead of what is taken."""
    running: deque[tuple[Pair, Submitted | None]] = deque()
    try:
        for pair in pairs:
            running.append((pair, _submit(pair, denoiser)))
            while len(running) > 1 and sum(_pixels(one) for one, _ in running) > pixels:
                yield _result(*running.popleft(), denoiser)
        while running:
            yield _result(*running.popleft(), denoiser)
    finally:  # nobody waits for what nobody takes any more
        for _, submitted in running:
            if submitted is not None:
                submitted.cancel()


def _submit(pair: Pair, denoiser: "Denoiser") -> "Submitted | None":
    if pair.noisy is not None:
        with pair.stage("network"):
            return denoiser.submit(_for_network(pair))
    return None


def _result(pair: Pair, submitted: "Submitted | None", denoiser: "Denoiser") -> tuple[Pair, Any]:
    if submitted is None:
        return pair, None
    denoised = None
    with pair.stage("network"):
        denoised = denoiser.result(submitted)
    pair.seconds["network"] = submitted.seconds or pair.seconds["network"]  # not those of waiting
    return pair, denoised


def _pixels(pair: Pair) -> int:
    return 0 if pair.noisy is None else pair.noisy.shape[0] * pair.noisy.shape[1]


def _batches(pairs: Iterable[Pair], pixels: int) -> Iterator[list[Pair]]:
    """The pairs in their order, as many at a time as have so many pixels."""
    batch: list[Pair] = []
    size = 0
    for pair in pairs:
        batch.append(pair)
        size += _pixels(pair)
        if size >= pixels:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _denoise_batch(batch: list[Pair], denoiser: "Denoiser") -> list[Any]:
    """The denoised pixels of pairs, None where one failed, or does not fit the memory alone."""
    if len(batch) > 1:
        with suppress(MemoryError):  # only what does not fit by itself fails
            return _denoise_together(batch, denoiser)
    denoised: list[Any] = [None] * len(batch)
    for number, pair in enumerate(batch):
        if pair.noisy is not None:
            with pair.stage("network"):
                denoised[number] = denoiser.denoise([_for_network(pair)])[0]
    return denoised


def _denoise_together(batch: list[Pair], denoiser: "Denoiser") -> list[Any]:
    """The denoised pixels of pairs, which share the time that it took. Raises MemoryError."""
    noisy = [_for_network(pair) for pair in batch if pair.noisy is not None]
    start = time.perf_counter()
    denoised = iter(denoiser.denoise(noisy))
    spent = time.perf_counter() - start
    for pair in batch:
        if pair.noisy is not None:
            pair.seconds["network"] = spent / len(noisy)
    return [None if pair.noisy is None else next(denoised) for pair in batch]


def _for_network(pair: Pair) -> Any:
    """The noisy pixels; as floats where white is not the largest that their type holds."""
    if pair.white_level is None or pair.noisy is None or pair.noisy.dtype.kind == "f":
        return pair.noisy
    return to_floats(pair.noisy, pair.white_level)


def to_store(denoised: Any, picture: Picture) -> Any:
    """What the network has made, as integers of the picture's depth and white level."""
    if denoised.dtype.kind != "f":
        return denoised
    return to_pixels(denoised, picture.bit_depth, picture.white_level)


def row_of(
    denoised_pair: tuple[Pair, Any], config: "InferConfig", model: str
) -> tuple[Pair, dict[str, Any]]:
    """A pair and its row of the table: the image as stored, and how far it is from the clean."""
    pair, denoised = denoised_pair
    columns: dict[str, Any] = {}
    if pair.error is None:
        assert pair.picture is not None
        with pair.stage("encode"):
            picture = replace(pair.picture, pixels=to_store(denoised, pair.picture))
            saved = save(picture, pair.path, config, stem=pair.stem)
            columns = {"image": saved.image, "file": saved.file}
    if pair.error is None:
        with pair.stage("measure"):
            columns |= metrics_of(pair, saved.pixels, config)
    return pair, (columns if pair.error is None else {}) | pair.about() | {"model": model}


def metrics_of(pair: Pair, stored: Any, config: "InferConfig") -> dict[str, Any]:
    """The columns that say how far the noisy and the stored pixels are from the clean ones, and
    from each other."""
    assert pair.noisy is not None
    columns: dict[str, Any] = {}
    level = pair.white_level
    columns["mse_noisy"], columns["psnr_noisy"] = errors_of(pair.noisy, pair.clean, level)
    columns["mse"], columns["psnr"] = errors_of(stored, pair.clean, level)
    removed, _ = errors_of(pair.noisy, stored, level)
    columns["removed"] = None if removed is None else sqrt(removed)
    for name, pixels in (("noise_before", pair.noisy), ("noise_after", stored)):
        estimated = estimate_noise(pixels, level)
        columns[name] = estimated if isfinite(estimated) else None
    if config.ssim and pair.clean is not None:
        if not config.float_noise:
            columns["ssim_noisy"] = ssim(pair.noisy, pair.clean, level)
        columns["ssim"] = ssim(stored, pair.clean, level)
    return columns
