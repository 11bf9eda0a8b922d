"""The infer job: images and a model -> a table of denoised images, each with its metrics."""

from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any, get_args

from denoise.errors import SettingsError
from denoise.images.noise import check_sigma
from denoise.nets import Asked, Precision, package
from denoise.output import folder
from denoise.output.tables import INFER_SCHEMA
from denoise.runners import DEVICES, Device, Job, gpus_are_made_up, is_private
from denoise.storage import uris
from denoise.storage.found import LeftOut
from denoise.verbs import bulk
from denoise.verbs.bulk import BulkConfig
from denoise.verbs.checks import check_reference, kind_of_noise, worker_counts
from denoise.verbs.infer_file import infer_file, is_one_file
from denoise.verbs.infer_shard import no_gpu, worker
from denoise.verbs.job_inputs import inputs_of

GAUSSIAN_MODEL, CAMERA_MODEL = "unet", "photo"  # what `auto` chooses between
HERE = 64 << 20  # bytes of images that are done sooner in this process than Ray starts


@dataclass(frozen=True, kw_only=True)
class InferConfig(BulkConfig):
    """Denoise images: denoise infer --images photos --output denoised"""

    # a shipped model's name (see `denoise models`), or the URI of a package; auto: `photo` for
    # images that are noisy as they are, `unet` where Gaussian noise is added or was, by `noise`
    model: str = "auto"
    strength: float = 1.0  # share of the noise to remove, 0..1: 0.5 keeps half of it
    # what the network computes in; auto: half precision on hardware made for it
    precision: Asked = "auto"
    add_noise: float | None = None  # the images are clean: add noise of this sigma first
    # leave the noisy image unclipped and unrounded, as the literature does
    float_noise: bool = False
    reference: str | None = None  # the images are noisy: the clean ones lie here, by path or stem
    ssim: bool = False  # measure structural similarity too (extra `ssim`)
    tile: int | None = None  # side in pixels of the tiles of large images; else by device
    device: Device = "auto"  # what workers compute on; auto: GPUs where there are any
    gpus_per_worker: float = 1.0  # share of a GPU a worker takes, where there are GPUs

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.add_noise is not None:
            check_sigma("add-noise", self.add_noise)
        if self.add_noise is not None and self.reference is not None:
            raise ValueError("give add-noise (the images are clean) or reference (noisy), not both")
        if self.float_noise and self.add_noise is None:
            raise ValueError("float-noise needs add-noise: there is no noise to leave unrounded")
        if self.tile is not None and self.tile < 16:
            raise ValueError(f"tile must be at least 16 pixels, got {self.tile}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must lie in 0..1, got {self.strength}")
        if self.precision not in get_args(Asked):
            choices = ", ".join(get_args(Asked))
            raise ValueError(f"precision must be one of {choices}, got {self.precision}")
        if self.device not in DEVICES:
            raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {self.device}")
        share = self.gpus_per_worker
        if not share > 0 or (share > 1 and share % 1):
            raise ValueError(f"gpus-per-worker must lie in 0..1 or be a whole number, got {share}")

    def settings(self) -> dict[str, Any]:
        named = ("add_noise", "float_noise", "strength", "precision", "ssim", "tile")
        reference = uris.to_record(self.reference) if self.reference else None
        own = {name: getattr(self, name) for name in named} | {"reference": reference}
        return super().settings() | own


def infer(config: InferConfig) -> dict[str, Any]:
    """Write a denoised image for every input, with its MSE and PSNR where a reference is known.

    Resumes where it was interrupted, and returns the summary. Raises SettingsError before any work
    where flags, locations or the model are wrong.
    """
    if is_one_file(config.output):
        config, model, _ = _locate(config)
        return infer_file(replace(config, precision=_precision_here(config)), model)
    config, model, needed = prepare(config)
    settings = config.settings() | {"model": model}
    job = job_of(config, model, needed)
    return bulk.run(config, "infer", settings, job, bulk.Sizes(here=HERE), INFER_SCHEMA)


def job_of(config: InferConfig, model: str, needed: tuple[str, ...]) -> Job:
    """What a runner needs to know; `config`, `model` and `needed` as `prepare` returns them."""
    return Job(
        partial(worker, model=model),
        workers=worker_counts(config.workers),
        device=config.device,
        gpus_per_worker=config.gpus_per_worker,
        needed=needed,
        check=partial(check_precision, config),
    )


def prepare(config: InferConfig) -> tuple[InferConfig, str, tuple[str, ...]]:
    """The config with absolute URIs and nothing left to choose, the model's name and digest, and
    the URIs that every worker needs. Raises SettingsError where one of them is not there."""
    config, model, needed = _locate(config)
    return replace(config, precision=_precision_for(config)), model, needed


def _locate(config: InferConfig) -> tuple[InferConfig, str, tuple[str, ...]]:
    """As `prepare`, with the precision still open."""
    needed = []
    config = replace(config, model=_model_for(config))
    if config.reference:
        reference = uris.absolute(config.reference)
        check_reference(config.images, reference)
        config = replace(config, reference=reference)
        needed.append(reference)
    if config.ssim and find_spec("skimage") is None:
        raise SettingsError("--ssim needs a package more: pip install 'bulk-denoise[ssim]'")
    model = package.id_of(config.model)
    config = replace(config, model=package.absolute(config.model))
    if config.model not in package.shipped_names():
        needed.append(uris.join(config.model, "config.json"))
    return config, model, tuple(needed)


def _model_for(config: InferConfig) -> str:
    """The model that was asked for; for `auto`, the one for the noise that the images have."""
    if config.model != "auto":
        return config.model
    if config.add_noise is not None:
        return GAUSSIAN_MODEL
    kind = kind_of_noise(config.images, inputs_of(config, LeftOut()))
    return GAUSSIAN_MODEL if kind == "gaussian" else CAMERA_MODEL


def _precision_for(config: InferConfig) -> Asked:
    """The precision of a run: what was asked for, what it started with, or what suits the workers.

    Raises SettingsError where the workers cannot do what was asked for.
    """
    run = folder.run_of(uris.absolute(config.output)) if not config.overwrite else None
    before: Precision | None = run.get("settings", {}).get("precision") if run else None
    if run and config.precision == "auto" and before is not None:
        if run.get("state") != "done":  # a finished one needs no network, and no torch to say so
            check_precision(replace(config, precision=before))
        return before
    if not is_private():
        # what the workers of a cluster can do, each of them checks
        return config.precision if config.precision != "auto" else _precision_of_cluster(config)
    return _precision_here(config)


def check_precision(config: InferConfig) -> None:
    """Raise SettingsError where this machine lacks the precision that a run started with."""
    from denoise.nets import networks  # torch
    from denoise.nets.precision import can_do

    if config.precision == "auto" or not is_private():  # each worker of a cluster checks
        return
    if not can_do(config.precision, networks.device(cpu=config.device == "cpu")):
        raise SettingsError(
            f"{uris.redact(uris.absolute(config.output))} was started in {config.precision}, which "
            "this machine cannot compute in: go on where it was started, or give another --output"
        )


def _precision_here(config: InferConfig) -> Asked:
    """The precision of this machine. Raises SettingsError where it lacks what was asked for."""
    from denoise.nets import networks  # torch
    from denoise.nets.precision import resolve_precision

    device = networks.device(cpu=config.device == "cpu")
    if config.device == "gpu" and device.type == "cpu" and not gpus_are_made_up():
        raise SettingsError(no_gpu())
    return resolve_precision(config.precision, device)


def _precision_of_cluster(config: InferConfig) -> Asked:
    """The fastest precision that all of a cluster's nodes were made for."""
    from denoise.nets.precision import best_on_cpu
    from denoise.runners import ray_session, resources

    with ray_session.connected() as there:
        if "GPU" in resources.needs_of(config.device, config.gpus_per_worker, there):
            return "float32" if gpus_are_made_up() else "float16"
        found = set(ray_session.ask_every_node(best_on_cpu))
    return found.pop() if len(found) == 1 else "float32"
