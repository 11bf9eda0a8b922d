"""The infer job: images and a model -> a table of denoised images, each with its metrics."""

from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from denoise.errors import SettingsError
from denoise.images.noise import check_sigma
from denoise.nets import package
from denoise.runners import DEVICES, Device, Job
from denoise.storage import files, uris
from denoise.verbs import bulk
from denoise.verbs.bulk import BulkConfig, worker_counts
from denoise.verbs.infer_file import infer_file, is_one_file
from denoise.verbs.infer_shard import worker

HERE = 64 << 20  # bytes of images that are done sooner in this process than Ray starts


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
        reference = uris.recorded(self.reference) if self.reference else None
        own = {name: getattr(self, name) for name in named} | {"reference": reference}
        return super().settings() | own


def infer(config: InferConfig) -> dict[str, Any]:
    """Write a denoised image for every input, with its MSE and PSNR where a reference is known.

    Resumes where it was interrupted, and returns the summary. Raises SettingsError before any work
    where flags, locations or the model are wrong.
    """
    is_one = is_one_file(config.output)
    config, model, needed = prepared(config)
    if is_one:
        return infer_file(config, model)
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
