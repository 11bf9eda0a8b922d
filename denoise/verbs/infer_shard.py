"""What a worker of the infer job does with shards: images in, rows with denoised images out."""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from itertools import tee
from math import isfinite, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoise.errors import SettingsError
from denoise.images.codec import Picture, to_floats, to_pixels
from denoise.images.metrics import estimate_noise, ssim
from denoise.images.pairs import Fetched, Pair, PairConfig, errors_of
from denoise.output.shard import Counts, ShardTask, write_shards
from denoise.output.tables import INFER_SCHEMA, with_columns
from denoise.runners import Allocation, RunShards, gpus_are_made_up
from denoise.storage.columns import NO_COLUMNS, Columns
from denoise.verbs.save import save, waits_for_a_store
from denoise.verbs.stages import as_it_is, decoded, fetched_images, finished, rows_of

if TYPE_CHECKING:
    from denoise.nets.denoiser import Denoiser
    from denoise.verbs.infer import InferConfig

_GPU_BATCH = 1 << 24  # pixels


def worker(
    allocation: Allocation, config: "InferConfig", model: str, columns: Columns = NO_COLUMNS
) -> RunShards:
    """What a worker does with shards, its model loaded. Raises SettingsError."""
    denoiser = denoiser_of(config, model, 1 if allocation.gpu else allocation.threads)
    if allocation.gpu and not denoiser.on_gpu and not gpus_are_made_up():
        raise SettingsError(no_gpu())
    run_shards = partial(
        infer_shards, denoiser=denoiser, config=config, allocation=allocation, columns=columns
    )
    if denoiser.on_gpu:  # batches are made of one shard's images, so that a retry makes the same
        return partial(_each_by_itself, run_shards)
    return run_shards


def _each_by_itself(
    run_shards: RunShards, tasks: Iterable[ShardTask]
) -> Generator[Counts, None, None]:
    for task in tasks:
        yield from run_shards([task])


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
) -> Generator[Counts, None, None]:
    """Denoise the images of shards and write their part files, one after the other.

    While a shard is written, images of the next ones are on their way already.
    """
    schema = with_columns(INFER_SCHEMA, columns)
    pairing = replace(pairing_of(config), beside=columns.names)
    shards, ahead = tee((task, task.missing()) for task in tasks)
    images = fetched_images(ahead, pairing, allocation)
    rows = _rows(images, pairing, denoiser, config, allocation)
    with closing(images), closing(rows):
        to_tar, notes = config.save == "tar", denoiser.notes
        yield from write_shards(shards, rows, schema, to_tar=to_tar, notes=notes)


def _rows(
    images: Iterable[Fetched],
    pairing: PairConfig,
    denoiser: "Denoiser",
    config: "InferConfig",
    allocation: Allocation,
) -> Generator[tuple[dict[str, Any], dict[str, float]], None, None]:
    """The rows of images and the seconds that they took, in order.

    Each thread of a CPU takes a whole image. For a GPU threads decode, batches are denoised, and
    threads encode.
    """
    from denoise.nets.picture_tiles import use_cores

    row = partial(row_of, config=config, model=denoiser.package.id)
    if allocation.one_by_one or not (allocation.gpu or denoiser.on_gpu):
        return rows_of(
            images,
            pairing,
            row,
            allocation,
            waits=waits_for_a_store(config),
            compute=partial(denoise_pair, denoiser=denoiser),
            begin=use_cores,
        )
    pairs = decoded(images, pairing, allocation, as_it_is)
    batches = _batches(pairs, _GPU_BATCH if denoiser.on_gpu else 0)
    denoised = (pair for batch in batches for pair in _denoise_batch(batch, denoiser))
    return finished(denoised, row, allocation)


def pairing_of(config: "InferConfig") -> PairConfig:
    """What an image is paired with before the network."""
    return PairConfig(
        sigma=config.add_noise,
        seed=config.seed,
        float_noise=config.float_noise,
        reference=config.reference,
        white_level=config.white_level,
        max_pixels=config.max_pixels,
        max_seconds=config.max_seconds,
        allow_elsewhere=config.allow_elsewhere,
    )


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


def _denoise_batch(batch: list[Pair], denoiser: "Denoiser") -> list[Pair]:
    """The pairs denoised, together or, where they do not fit the memory, one after the other."""
    if len(batch) > 1:
        with suppress(MemoryError):  # only what does not fit by itself fails
            return _denoise_together(batch, denoiser)
    return [denoise_pair(pair, denoiser) for pair in batch]


def denoise_pair(pair: Pair, denoiser: "Denoiser") -> Pair:
    """The pair with its denoised pixels; what goes wrong is its error."""
    if pair.noisy is not None:
        with pair.stage("network"):
            pair.denoised = denoiser(_for_network(pair))
    return pair


def _denoise_together(batch: list[Pair], denoiser: "Denoiser") -> list[Pair]:
    """The pairs denoised, which share the time that it took. Raises MemoryError."""
    pairs = [pair for pair in batch if pair.noisy is not None]
    start = time.perf_counter()
    denoised = denoiser.denoise([_for_network(pair) for pair in pairs])
    spent = time.perf_counter() - start
    for pair, pixels in zip(pairs, denoised, strict=True):
        pair.denoised = pixels
        pair.seconds["network"] = spent / len(pairs)
    return batch


def _for_network(pair: Pair) -> Any:
    """The noisy pixels; as floats where white is not the largest that their type holds."""
    if pair.white_level is None or pair.noisy is None or pair.noisy.dtype.kind == "f":
        return pair.noisy
    return to_floats(pair.noisy, pair.white_level)


def denoised_picture(pair: Pair) -> Picture:
    """The picture of a denoised pair, with integers of its depth and white level."""
    picture, pixels = pair.picture, pair.denoised
    assert picture is not None and pixels is not None
    if pixels.dtype.kind == "f":
        pixels = to_pixels(pixels, picture.bit_depth, picture.white_level)
    return replace(picture, pixels=pixels)


def row_of(
    pair: Pair, config: "InferConfig", model: str
) -> tuple[dict[str, Any], dict[str, float]]:
    """The row of a denoised pair: the image as stored, and how far it is from the clean. And the
    seconds that each stage of it took."""
    columns: dict[str, Any] = {}
    if pair.error is None:
        with pair.stage("encode"):
            saved = save(denoised_picture(pair), pair.path, config, stem=pair.stem)
            columns = {"image": saved.image, "file": saved.file}
    if pair.error is None:
        with pair.stage("measure"):
            columns |= metrics_of(pair, saved.pixels, config)
    row = (columns if pair.error is None else {}) | pair.about() | {"model": model}
    return row, pair.seconds


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
