"""The infer job: images and a model -> a table of denoised images, each with its metrics."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from math import isfinite, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoise.errors import SettingsError
from denoise.images.codec import to_pixels
from denoise.images.metrics import estimate_noise, ssim
from denoise.images.noise import check_sigma
from denoise.images.pairs import Pair, PairConfig, errors_of
from denoise.nets import package
from denoise.output.shard import Counts, ShardTask, ShardWriter
from denoise.output.tables import INFER_SCHEMA
from denoise.runners import DEVICES, Allocation, Device, Job
from denoise.storage import files, uris
from denoise.verbs import bulk
from denoise.verbs.bulk import BulkConfig, worker_counts
from denoise.verbs.save import save, uploaders
from denoise.verbs.stages import decoded_pairs, in_order

if TYPE_CHECKING:
    from denoise.nets.denoiser import Denoiser

HERE = 64 << 20  # bytes of images that are done sooner in this process than Ray starts
_CPU_BATCH = 1 << 16  # pixels that go through the network together: they fit the cache
_GPU_BATCH = 1 << 24


@dataclass(frozen=True, kw_only=True)
class InferConfig(BulkConfig):
    """Denoise images: denoise infer --images photos --output denoised"""

    model: str = "unet"  # a shipped model's name (see `denoise models`), or the URI of a package
    add_noise: float | None = None  # the images are clean: add noise of this sigma first
    float_noise: bool = False  # leave that noise unclipped and unrounded, as the literature does
    reference: str | None = None  # the images are noisy: the clean ones lie here, by path or stem
    level: float | None = None  # sigma of the noise to remove, 0..1; estimated where not given
    ssim: bool = False  # measure structural similarity too (extra `ssim`)
    tile: int | None = None  # side of inference tiles in pixels; by device where not given
    device: Device = "auto"  # what workers compute on; auto: GPUs where there are any
    gpus_per_worker: float = 1.0  # share of a GPU a worker takes, where there are GPUs

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("add_noise", "level"):
            if getattr(self, name) is not None:
                check_sigma(name.replace("_", "-"), getattr(self, name))
        if self.add_noise is not None and self.reference is not None:
            raise ValueError("give add-noise (the images are clean) or reference (noisy), not both")
        if self.float_noise and self.add_noise is None:
            raise ValueError("float-noise needs add-noise: there is no noise to leave unrounded")
        if self.tile is not None and self.tile < 16:
            raise ValueError(f"tile must be at least 16 pixels, got {self.tile}")
        if self.device not in DEVICES:
            raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {self.device}")
        share = self.gpus_per_worker
        if not share > 0 or (share > 1 and share % 1):
            raise ValueError(f"gpus-per-worker must lie in 0..1 or be a whole number, got {share}")

    def settings(self) -> dict[str, Any]:
        named = ("add_noise", "float_noise", "level", "ssim", "tile")
        reference = uris.shown(self.reference) if self.reference else None
        own = {name: getattr(self, name) for name in named} | {"reference": reference}
        return super().settings() | own


def infer(config: InferConfig) -> dict[str, Any]:
    """Write a denoised image for every input, with its MSE and PSNR where a reference is known.

    Resumes where it was interrupted, and returns the summary. Raises SettingsError before any work
    where flags, locations or the model are wrong.
    """
    config, model, needed = prepared(config)
    settings = config.settings() | {"model": model}
    job = job_of(config, model, needed)
    return bulk.run(config, "infer", settings, job, bulk.Sizes(here=HERE))


def job_of(config: InferConfig, model: str, needed: tuple[str, ...]) -> Job:
    """What a runner needs to know; `config`, `model` and `needed` as `prepared` returns them."""
    return Job(
        partial(worker, config=config, model=model),
        workers=worker_counts(config.workers),
        device=config.device,
        gpus_per_worker=config.gpus_per_worker,
        needed=needed,
    )


def prepared(config: InferConfig) -> tuple[InferConfig, str, tuple[str, ...]]:
    """The config with absolute URIs, the model's name and digest, and the URIs that every worker
    needs. Raises SettingsError where one of them is not there."""
    needed = []
    if config.reference:
        reference = uris.absolute(config.reference)
        if not files.exists(reference):
            raise SettingsError(f"no references under {uris.shown(reference)}")
        config = replace(config, reference=reference)
        needed.append(reference)
    if config.ssim and find_spec("skimage") is None:
        raise SettingsError("--ssim needs a package more: pip install 'denoise[ssim]'")
    model = package.id_of(config.model)
    config = replace(config, model=package.absolute(config.model))
    if config.model not in package.shipped_names():
        needed.append(uris.join(config.model, "config.json"))
    return config, model, tuple(needed)


def worker(
    allocation: Allocation, config: InferConfig, model: str
) -> Callable[[ShardTask], Counts]:
    """What a worker does with each shard, its model loaded. Raises SettingsError."""
    denoiser = denoiser_of(config, model)
    if allocation.gpu and not denoiser.on_gpu:
        raise SettingsError(_no_gpu())
    return partial(infer_shard, denoiser=denoiser, config=config, allocation=allocation)


def _no_gpu() -> str:
    """Why a worker that was given a GPU cannot use it, as far as torch tells."""
    import torch

    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    driver = Path("/proc/driver/nvidia/version")
    found = driver.read_text().splitlines()[0] if driver.exists() else "none"
    return (
        f"no GPU that torch {torch.__version__} (built {built}) can use; the NVIDIA driver: "
        f"{found}; install a torch that fits the driver, or give --device cpu"
    )


def denoiser_of(config: InferConfig, model: str) -> "Denoiser":
    """The network, ready to run. Raises SettingsError where the package is not, or no more, the one
    of this name and digest."""
    from denoise.nets.denoiser import Denoiser  # torch: only where the network runs

    denoiser = Denoiser.load(config.model, tile=config.tile, level=config.level)
    if denoiser.package.id != model:
        raise SettingsError(
            f"the model is {denoiser.package.id} now, and this run's is {model}: it was replaced; "
            "put the old one back, or begin with another --output"
        )
    return denoiser


def infer_shard(
    task: ShardTask, denoiser: "Denoiser", config: InferConfig, allocation: Allocation
) -> Counts:
    """Denoise the images of a shard and write its part file."""
    batch_pixels = _GPU_BATCH if denoiser.on_gpu else _CPU_BATCH
    with ShardWriter(task, INFER_SCHEMA) as out:
        pairs = decoded_pairs(task, out.missing, pairing_of(config), allocation, config.max_seconds)
        denoised = denoised_pairs(pairs, denoiser, 0 if task.announce else batch_pixels)
        row = partial(row_of, config=config, model=denoiser.package.id, output=task.output)
        encoders = 0 if task.announce else allocation.encode or uploaders(config, task.output)
        for pair, columns in in_order(row, denoised, encoders):
            out.add(columns, pair.seconds)
        out.notes |= denoiser.notes
    return out.counts


def pairing_of(config: InferConfig) -> PairConfig:
    """What an image is paired with before the network."""
    return PairConfig(
        sigma=config.add_noise,
        seed=config.seed,
        float_noise=config.float_noise,
        reference=config.reference,
        max_pixels=config.max_pixels,
    )


def denoised_pairs(
    pairs: Iterable[Pair], denoiser: "Denoiser", batch_pixels: int
) -> Iterator[tuple[Pair, Any]]:
    """Each pair with its denoised pixels, None where it failed; small images go together."""
    for batch in _batches(pairs, batch_pixels):
        yield from zip(batch, _denoise_batch(batch, denoiser), strict=True)


def _batches(pairs: Iterable[Pair], pixels: int) -> Iterator[list[Pair]]:
    """The pairs in their order, as many at a time as have so many pixels."""
    batch: list[Pair] = []
    size = 0
    for pair in pairs:
        batch.append(pair)
        size += 0 if pair.noisy is None else pair.noisy.shape[0] * pair.noisy.shape[1]
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
                denoised[number] = denoiser.denoise([pair.noisy])[0]
    return denoised


def _denoise_together(batch: list[Pair], denoiser: "Denoiser") -> list[Any]:
    """The denoised pixels of pairs, which share the time that it took. Raises MemoryError."""
    noisy = [pair.noisy for pair in batch if pair.noisy is not None]
    start = time.perf_counter()
    denoised = iter(denoiser.denoise(noisy))
    spent = time.perf_counter() - start
    for pair in batch:
        if pair.noisy is not None:
            pair.seconds["network"] = spent / len(noisy)
    return [None if pair.noisy is None else next(denoised) for pair in batch]


def row_of(
    denoised_pair: tuple[Pair, Any], config: InferConfig, model: str, output: str
) -> tuple[Pair, dict[str, Any]]:
    """A pair and its row of the table: the image as stored, and how far it is from the clean."""
    pair, denoised = denoised_pair
    columns: dict[str, Any] = {}
    if pair.error is None:
        assert pair.picture is not None
        with pair.stage("encode"):
            pixels = to_pixels(denoised, pair.picture.bit_depth) if config.float_noise else denoised
            saved = save(replace(pair.picture, pixels=pixels), pair.path, config, output)
            columns = {"image": saved.image, "file": saved.file}
    if pair.error is None:
        with pair.stage("measure"):
            columns |= _metrics(pair, saved.pixels, config)
    return pair, (columns if pair.error is None else {}) | pair.about() | {"model": model}


def _metrics(pair: Pair, stored: Any, config: InferConfig) -> dict[str, Any]:
    """The columns that say how far the noisy and the stored pixels are from the clean ones, and
    from each other."""
    assert pair.noisy is not None
    columns: dict[str, Any] = {}
    columns["mse_noisy"], columns["psnr_noisy"] = errors_of(pair.noisy, pair.clean)
    columns["mse"], columns["psnr"] = errors_of(stored, pair.clean)
    removed, _ = errors_of(pair.noisy, stored)
    columns["removed"] = None if removed is None else sqrt(removed)
    for name, pixels in (("noise_before", pair.noisy), ("noise_after", stored)):
        estimated = estimate_noise(pixels)
        columns[name] = estimated if isfinite(estimated) else None
    if config.ssim and pair.clean is not None:
        if not config.float_noise:
            columns["ssim_noisy"] = ssim(pair.noisy, pair.clean)
        columns["ssim"] = ssim(stored, pair.clean)
    return columns
