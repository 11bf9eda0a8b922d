"""The `train` job: images or pairs in, a model package out, on one CPU or many GPUs.

OUTPUT/model.safetensors, config.json, README.md   the package, see `package`; config.json is last
OUTPUT/metrics.jsonl                               one record every few steps
OUTPUT/tensorboard/                                the same for TensorBoard
OUTPUT/checkpoints/                                the latest state and the best one
OUTPUT/_run.json                                   the settings; with others, the folder is refused

With MLFLOW_TRACKING_URI or WANDB_PROJECT set, MLflow or Weights & Biases get the records too.
"""

import json
import logging
import math
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from denoise import inputs, storage
from denoise.inputs import Entry
from denoise.output import Output, versions
from denoise.patches import Recipe, held_out
from denoise.progress import words_of_time
from denoise.storage import SettingsError, join

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.train import Checkpoint, Result

    from denoise.learning import Learner, Record
    from denoise.runtime import Resources
    from denoise.supply import Supply

_log = logging.getLogger(__name__)
DEFAULT = "unet"
RETRIES = 8  # a run outlives so many dying workers


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """Train a model on clean images, or on the pairs that `noise` wrote."""

    images: str  # folder, glob, file, manifest or Parquet folder; any URI
    output: str  # becomes the model package; run again, it resumes
    validation: str | None = None  # images to validate on; else a tenth of them, by path
    architecture: str | None = None  # unet (the default), cae-s, cae-m, cae-l or classic
    init: str | None = None  # a model to start from: a shipped one's name or any URI
    workers: int | tuple[int, int] = 1  # N, or MIN MAX to go on with what there is
    memory: float = 4.0  # GiB for decoded photos; with more of them, they are streamed
    max_error_rate: float = 0.01  # refuse to train where a larger share does not decode
    compile: bool = False  # torch.compile: pays on GPUs in long runs

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("images", "output"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        low, high = self.worker_range
        if not 1 <= low <= high:
            raise ValueError(f"workers must be N or MIN MAX, at least 1, got {self.workers}")
        if self.memory <= 0:
            raise ValueError(f"memory must be above 0 GiB, got {self.memory}")
        if not 0 <= self.max_error_rate <= 1:
            raise ValueError(f"max-error-rate must lie in 0..1, got {self.max_error_rate}")
        together = math.lcm(*range(low, high + 1)) * self.accumulate
        if self.batch_size % together:
            raise ValueError(
                f"batch-size {self.batch_size} cannot be shared out evenly: it must be a multiple "
                f"of {together} with workers {self.workers} and accumulate {self.accumulate}"
            )

    @property
    def worker_range(self) -> tuple[int, int]:
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)

    def settings(self) -> dict[str, Any]:
        """What decides the weights: with anything else here, the output folder is another one."""
        free = ("output", "workers", "max_error_rate", "compile")
        settings = {key: value for key, value in asdict(self).items() if key not in free}
        places = {key: settings[key] for key in ("images", "validation") if settings[key]}
        absolute = {key: storage.shown(storage.absolute(uri)) for key, uri in places.items()}
        return settings | absolute | {"init": self.init and storage.shown(self.init)}


def train(config: TrainConfig) -> dict[str, Any]:
    """Trains, or goes on where an earlier run stopped, and returns what config.json records.

    Raises SettingsError before any work where flags or places are wrong, RuntimeError where
    training itself fails.
    """
    place = storage.absolute(config.output)
    _check_trackers()
    start = _start_of(config)
    with Output(place, "train", config.settings()) as output:
        if output.is_finished:
            return _record_of(place) | {"nothing_to_do": True}
        left_out: Counter[str] = Counter()
        entries = _entries(config, left_out)
        output.record(state="running", left_out=dict(left_out), workers=config.workers)
        began = time.monotonic()
        record = _work(config, place, start, entries)
        output.record(seconds=time.monotonic() - began)
        output.finish()
        return record | {"nothing_to_do": False}


@dataclass(frozen=True)
class Start:
    """The network that training begins with."""

    architecture: str
    arguments: dict[str, Any]
    weights: bytes | None = None  # a package's model.safetensors
    digest: str | None = None


@dataclass(frozen=True)
class Job:
    """What each worker is given."""

    recipe: Recipe
    start: "ObjectRef[Start]"
    supply: "Supply"
    validation: "Supply"
    place: str
    compiled: bool
    board: Any  # the actor of _Board


def _start_of(config: TrainConfig) -> Start:
    """Raises SettingsError where the package to start from is not there, not whole or another."""
    from denoise import model, package

    asked = config.architecture
    if config.init is None:
        try:
            return Start(asked or DEFAULT, dict(model.build(asked or DEFAULT).arguments))  # type: ignore[arg-type]
        except ValueError as error:
            raise SettingsError(str(error)) from error
    found = package.load(config.init)
    architecture = found.config["architecture"]
    if asked not in (None, architecture):
        raise SettingsError(
            f"model {storage.shown(config.init)} is of architecture {architecture}, not {asked}; "
            "leave --architecture out to fine-tune it"
        )
    encoded = storage.read(join(package.uri_of(config.init), "model.safetensors"))
    return Start(architecture, found.config["arguments"], encoded, found.digest)


def _entries(config: TrainConfig, left_out: Counter[str]) -> tuple[list[Entry], list[Entry]]:
    """The images to train on and those to validate on, each in the order of their paths."""

    def listed(images: str) -> list[Entry]:
        place = storage.absolute(config.output)
        found = inputs.entries(storage.absolute(images), left_out, output=place)
        return sorted(found, key=lambda entry: entry.path)

    entries = listed(config.images)
    if config.validation:
        return entries, listed(config.validation)
    chosen = set(held_out([entry.path for entry in entries]))
    kept = [entry for entry in entries if entry.path not in chosen]
    return kept or entries, [entry for entry in entries if entry.path in chosen]


def _work(
    config: TrainConfig, place: str, start: Start, entries: tuple[list[Entry], list[Entry]]
) -> dict[str, Any]:
    """Decodes the photos, trains, and writes the package."""
    import ray

    from denoise import runtime
    from denoise.supply import Limits, supplies_of

    with runtime.connected() as resources:
        _check_cluster(config, place, resources)
        limits = Limits(
            patch=config.patch,
            seed=config.seed,
            memory=config.memory,
            max_error_rate=config.max_error_rate,
        )
        supply, validation = supplies_of(*entries, limits)
        job = Job(
            recipe=Recipe(**{name: getattr(config, name) for name in asdict(Recipe())}),
            start=ray.put(start),
            supply=supply,
            validation=validation,
            place=place,
            compiled=config.compile,
            board=ray.remote(num_cpus=0)(_Board).remote(),
        )
        with _shown(job.board, config.steps):
            result = _trained(config, job, resources)
        return _packed(config, job, start, result)


def _check_cluster(config: TrainConfig, place: str, resources: "Resources") -> None:
    kind, room = ("GPU", resources.gpus) if resources.gpus else ("CPU", resources.cpus)
    if config.worker_range[0] > room:
        raise SettingsError(
            f"asked for {config.worker_range[0]} workers, each with a {kind} of its own, but Ray "
            f"has {resources.cpus:g} CPUs and {resources.gpus:g} GPUs on {resources.nodes} nodes"
        )
    if resources.nodes > 1 and storage.is_local(place):
        raise SettingsError(
            f"--output {storage.shown(place)} is a local folder, and the cluster has "
            f"{resources.nodes} nodes; give a place that all of them reach, such as s3://..."
        )


class _Board:
    """Where the first worker writes how far it is, for the driver to show; an actor."""

    def __init__(self) -> None:
        self.record: Record = {}

    def write(self, record: "Record") -> None:
        self.record = record

    def read(self) -> "Record":
        return self.record


def _trained(config: TrainConfig, job: Job, resources: "Resources") -> "Result":
    """Runs the workers until they are done, through whatever dies. Raises RuntimeError."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    low, high = config.worker_range
    filesystem, path = storage.arrow_filesystem(job.place)
    trainer = TorchTrainer(
        _work_as_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=low if low == high else (low, high),
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": 1, "GPU": 1} if resources.gpus else {"CPU": 1},
        ),
        run_config=RunConfig(
            name="checkpoints",  # a stable name: a new driver goes on where the last one died
            failure_config=FailureConfig(max_failures=RETRIES),
            checkpoint_config=CheckpointConfig(
                num_to_keep=2,  # the best one and, always, the latest
                checkpoint_score_attribute="psnr",
                checkpoint_score_order="max",
            ),
            storage_path=path,
            storage_filesystem=filesystem,
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise RuntimeError(f"training failed: {error}") from error
    if result.return_value and result.return_value.get("diverged"):
        raise RuntimeError(result.return_value["diverged"])
    return result


def _work_as_worker(setup: dict[str, Any]) -> dict[str, Any]:
    """What each worker of Ray Train runs."""
    import ray
    from ray import train as ray_train

    from denoise.learning import Diverged, Share, learn
    from denoise.patches import Sampler

    job: Job = setup["job"]
    context = ray_train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    recorder = _Recorder(job) if share.rank == 0 else None
    checkpoint = ray_train.get_checkpoint()
    try:
        learner = learn(
            job.recipe,
            _network(ray.get(job.start), job.recipe.seed),
            Sampler(job.recipe, job.supply.window(), job.supply.samples_a_window),
            job.validation.photos(),
            lambda learner: _save(learner, recorder),
            state=_state_in(checkpoint) if checkpoint else None,
            share=share,
            compiled=job.compiled,
            tell=recorder.tell if recorder else lambda record: None,
        )
    except Diverged as error:
        return {"diverged": str(error)}  # it would only happen again
    return {"steps": learner.step}


def _network(start: Start, seed: int) -> Any:
    """The network to begin with: a package's weights, or fresh ones drawn from the seed."""
    import torch
    from safetensors.torch import load

    from denoise.model import build

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(start.architecture, start.arguments)
    if start.weights:
        model.load_state_dict({name: value.float() for name, value in load(start.weights).items()})
    return model


def _state_in(checkpoint: "Checkpoint") -> dict[str, Any]:
    """What _save saved; nothing is unpickled but tensors and plain values."""
    import torch

    from denoise.model import device

    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(
            os.path.join(folder, "state.pt"), map_location=device(), weights_only=True
        )
    return state


def _save(learner: "Learner", recorder: "_Recorder | None") -> None:
    """Hands a checkpoint over for upload, in the background; a barrier for all workers."""
    import torch
    from ray import train as ray_train
    from ray.train import Checkpoint, CheckpointUploadMode

    metrics = {"psnr": learner.history[-1]["psnr"], "step": learner.step}
    if recorder is None:
        return ray_train.report(metrics)
    recorder.write(learner.history)
    folder = tempfile.mkdtemp()
    torch.save(learner.state(), os.path.join(folder, "state.pt"))
    ray_train.report(
        metrics,
        checkpoint=Checkpoint.from_directory(folder),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
    )


class _Recorder:
    """The first worker's record of the run: the driver's live line, a JSONL file, TensorBoard."""

    def __init__(self, job: Job) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.job = job
        self.folder = tempfile.mkdtemp()  # TensorBoard writes to disks only
        self.board = SummaryWriter(self.folder)
        self.track = _trackers(job)

    def tell(self, record: "Record") -> None:
        values = {name: value for name, value in record.items() if name != "step"}
        for name, value in values.items():
            self.board.add_scalar(name, value, int(record["step"]))
        for track in self.track:
            track(values, step=int(record["step"]))
        self.job.board.write.remote(record)

    def write(self, history: Sequence["Record"]) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in history)
        storage.write(join(self.job.place, "metrics.jsonl"), lines.encode())
        self.board.flush()
        for name in os.listdir(self.folder):
            with open(os.path.join(self.folder, name), "rb") as file:
                storage.write(join(self.job.place, "tensorboard", name), file.read())


def _trackers(job: Job) -> list[Callable[..., Any]]:
    """MLflow and Weights & Biases, where their own variables of the environment ask for them."""
    name = job.place.rstrip("/").rsplit("/", 1)[-1]
    found: list[Callable[..., Any]] = []
    if "MLFLOW_TRACKING_URI" in os.environ:
        import mlflow

        mlflow.start_run(run_name=name)
        mlflow.log_params(asdict(job.recipe))
        found.append(mlflow.log_metrics)
    if "WANDB_PROJECT" in os.environ:
        import wandb

        run = wandb.init(name=name, id=name, resume="allow", config=asdict(job.recipe))
        found.append(run.log)
    return found


def _check_trackers() -> None:
    """Raises SettingsError where a tracker is asked for that is not installed."""
    for variable, library in (("MLFLOW_TRACKING_URI", "mlflow"), ("WANDB_PROJECT", "wandb")):
        if variable in os.environ and find_spec(library) is None:
            raise SettingsError(
                f"{variable} is set, but {library} is not installed: pip install 'denoise[track]'"
            )


@contextmanager
def _shown(board: Any, steps: int) -> Iterator[None]:
    """A live line for as long as training lasts; elsewhere than on a terminal, a line at times."""
    import ray

    over = threading.Event()
    live = sys.stderr.isatty() and "NO_COLOR" not in os.environ

    def show() -> None:
        shown = 0.0
        while not over.wait(1.0 if live else 10.0):
            record = ray.get(board.read.remote())
            if record and record["step"] != shown:
                shown = record["step"]
                line = _line_of(record, steps)
                sys.stderr.write(f"\r{line}\x1b[K" if live else f"{line}\n")
                sys.stderr.flush()

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sys.stderr.write("\n" if live else "")


def _line_of(record: "Record", steps: int) -> str:
    step = int(record["step"])
    quality = f", {record['psnr']:.2f} dB" if "psnr" in record else ""
    left = (steps - step) * record["seconds_per_step"]
    return (
        f"train step {step}/{steps}, loss {record['loss']:.5f}{quality}, "
        f"{record['images_per_second']:.0f} images/s, {words_of_time(left)} left"
    )


def _packed(config: TrainConfig, job: Job, start: Start, result: "Result") -> dict[str, Any]:
    """Writes the package of the best checkpoint, and returns what its config.json records."""
    from denoise import card, package

    kept = [pair for pair in result.best_checkpoints or [] if pair[1].get("psnr") is not None]
    checkpoint, best = max(kept, key=lambda pair: float(pair[1]["psnr"]))
    last, _ = max(kept, key=lambda pair: int(pair[1]["step"]))
    model = _network(start, config.seed)
    model.load_state_dict(_state_in(checkpoint)["average"])
    history = _state_in(last)["rest"]["history"]
    fields = {
        "architecture": start.architecture,
        "sigma": list(config.sigmas),
        "clipping": "both",  # noise as files hold it (clipped and rounded), and as papers add it
        "training": config.settings()
        | job.supply.counts
        | {
            "architecture": start.architecture,
            "validated_on": job.validation.counts["photos"],
            "best_step": best["step"],
            "last_step": history[-1]["step"],
            "workers": config.workers,
            "started_from": start.digest,
            "hardware": card.hardware(),
            "versions": versions(),
        },
        "metrics": {"validation_psnr": best["psnr"]},
    }
    name = job.place.rstrip("/").rsplit("/", 1)[-1]
    pictures = card.pictures(job.recipe, model.eval(), job.validation.photos(), history)
    for file, content in pictures.items():
        storage.write(join(job.place, file), content)
    package.save(job.place, model, fields | {"card": card.text(name, fields, model, history)})
    return _record_of(job.place)


def _record_of(place: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(storage.read(join(place, "config.json")))
    return record
