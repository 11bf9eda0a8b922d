"""The `train` job: images or pairs in, a model package out, on one CPU or many GPUs.

OUTPUT/model.safetensors, config.json, README.md   the package, see `package`; config.json is last
OUTPUT/metrics.jsonl                               one record every few steps
OUTPUT/tensorboard/                                the same for TensorBoard
OUTPUT/checkpoints/                                the latest state and the best one
OUTPUT/_run.json                                   the settings; with others, the folder is refused
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from denoise import inputs, storage
from denoise.inputs import Entry
from denoise.output import Output, versions
from denoise.patches import CROPS, PHOTO_SCHEMA, Recipe, held_out, order_of
from denoise.storage import SettingsError, join

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.train import Checkpoint, Result

    from denoise.learning import Learner, Record
    from denoise.patches import Photo
    from denoise.runtime import Resources

_log = logging.getLogger(__name__)
DEFAULT = "unet"
RETRIES = 8  # a run outlives so many dying workers
GIB = 2**30


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
        return settings | absolute


def train(config: TrainConfig) -> dict[str, Any]:
    """Trains, or goes on where an earlier run stopped, and returns what config.json records.

    Raises SettingsError before any work where flags or places are wrong, RuntimeError where
    training itself fails.
    """
    place = storage.absolute(config.output)
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
    photos: list["ObjectRef[Any]"]  # tables of PHOTO_SCHEMA; none where they are streamed
    stream: Any  # the actor that streams them
    samples_a_window: int | None
    validation: list["ObjectRef[Any]"]
    place: str
    compiled: bool
    board: Any  # the actor that the driver reads progress from


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
        found = inputs.entries(storage.absolute(images), left_out, output=config.output)
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

    with runtime.connected() as resources:
        _check_cluster(config, place, resources)
        supply, counts = _supply(config, entries)
        board = ray.remote(num_cpus=0)(_Board).remote()
        job = Job(
            recipe=Recipe(**{name: getattr(config, name) for name in asdict(Recipe())}),
            start=ray.put(start),
            place=place,
            compiled=config.compile,
            board=board,
            **supply,
        )
        with _shown(board, config.steps):
            result = _trained(config, job, resources)
        return _packed(config, place, start, result, counts)


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


def _supply(
    config: TrainConfig, entries: tuple[list[Entry], list[Entry]]
) -> tuple[dict[str, Any], dict[str, int]]:
    """Where the workers get their photos from, and how many there are of each kind."""
    import ray

    chosen, held = entries
    validation, seen = _decoded(held, config)
    sample = chosen[:: max(1, len(chosen) // 32)][:32]
    mean = _mean_bytes(sample, config) if len(chosen) > len(sample) else 0
    fitting = int(config.memory * GIB / 3 / mean) if mean else 0
    if mean * len(chosen) <= config.memory * GIB:
        photos, counts = _decoded(chosen, config)
        stream, crops = None, None
    else:
        a_window = max(1, fitting)  # three windows are in memory: the last, this and the next
        _log.info("%d photos do not fit into %g GiB: streamed", len(chosen), config.memory)
        photos, counts = [], {"photos": len(chosen)}
        stream = ray.remote(num_cpus=0)(_Stream).remote(chosen, config.seed, config.patch, a_window)
        crops = a_window * CROPS
    supply = {
        "photos": photos,
        "stream": stream,
        "samples_a_window": crops,
        "validation": validation,
    }
    return supply, counts | {"validated_on": seen["photos"]}


def _decoded(
    entries: Sequence[Entry], config: TrainConfig
) -> tuple[list["ObjectRef[Any]"], dict[str, int]]:
    """Decodes on all CPUs, through Ray Data, into tables that every worker on a node shares.

    Raises SettingsError where too many do not decode.
    """
    import ray

    blocks = [_entry_table(entries[k : k + 32]) for k in range(0, len(entries), 32)]
    photos = ray.data.from_arrow(blocks).map_batches(
        _photo_table,
        fn_kwargs={"patch": config.patch},
        batch_format="pyarrow",
        batch_size=None,
    )
    photos = photos.materialize()
    said = photos.select_columns(["path", "padded", "error"]).take_all()
    errors = {row["path"]: row["error"] for row in said if row["error"]}
    padded = sum(row["padded"] for row in said)
    for path, error in list(errors.items())[:20]:
        _log.warning("left out %s: %s", path, error)
    if len(errors) > config.max_error_rate * len(entries) or len(errors) == len(entries):
        path, error = next(iter(errors.items()))
        raise SettingsError(
            f"{len(errors)} of {len(entries)} images do not decode, such as {path} ({error}); "
            f"--max-error-rate allows {config.max_error_rate:g}"
        )
    if padded:
        _log.warning("%d images are smaller than the patch: mirrored at their borders", padded)
    counts = {"photos": len(said) - len(errors), "undecodable": len(errors), "padded": padded}
    return list(photos.to_arrow_refs()), counts


def _entry_table(entries: Sequence[Entry]) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(entry) for entry in entries])


def _photo_table(entries: Any, patch: int) -> Any:
    """A block of entries -> a block of photos, on a Ray worker."""
    import pyarrow as pa

    from denoise.patches import photo_row

    rows = [photo_row(Entry(**row), patch) for row in entries.to_pylist()]
    return pa.Table.from_pylist(rows, schema=PHOTO_SCHEMA)


def _mean_bytes(entries: Sequence[Entry], config: TrainConfig) -> float:
    """How much memory a decoded photo takes, from a few of them."""
    import ray

    refs, counts = _decoded(entries, config)
    return sum(table.nbytes for table in ray.get(refs)) / counts["photos"]


class _Stream:
    """Decodes one window of photos after the other, the next one ahead of time; an actor."""

    def __init__(self, entries: list[Entry], seed: int, patch: int, size: int) -> None:
        self.entries, self.seed, self.patch, self.size = entries, seed, patch, size
        self.windows: dict[int, list[Any]] = {}

    def window(self, number: int) -> list[Any]:
        """References to the tables of a window. All workers walk through the windows together."""
        self.windows = {k: refs for k, refs in self.windows.items() if k >= number - 1}
        for k in (number, number + 1):
            if k not in self.windows:
                self.windows[k] = self._begun(k)
        return self.windows[number]

    def _begun(self, number: int) -> list[Any]:
        import ray

        count = len(self.entries)
        order: dict[int, Any] = {}
        chosen = []
        for slot in range(number * self.size, (number + 1) * self.size):
            epoch, place = divmod(slot, count)
            if epoch not in order:
                order = {epoch: order_of(self.seed, epoch, count)}
            chosen.append(self.entries[order[epoch][place]])
        task = ray.remote(num_cpus=0)(_photo_table)
        parts = [chosen[k::4] for k in range(4) if chosen[k::4]]
        return [task.remote(_entry_table(part), self.patch) for part in parts]


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
    from denoise.patches import Sampler, photos_in

    job: Job = setup["job"]
    context = ray_train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    recorder = _Recorder(job) if share.rank == 0 else None
    window = _streamed(job.stream) if job.stream else _kept(job.photos)
    validation = [photo for ref in job.validation for photo in photos_in(ray.get(ref))]
    try:
        learner = learn(
            job.recipe,
            _network(ray.get(job.start), job.recipe.seed),
            Sampler(job.recipe, window, job.samples_a_window),
            validation,
            lambda learner: _save(learner, recorder),
            state=_state_in(ray_train.get_checkpoint()),
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


def _kept(refs: Sequence["ObjectRef[Any]"]) -> Any:
    """The window of a run whose photos are all in memory."""
    import ray

    from denoise.patches import photos_in

    photos = sorted(
        (photo for table in ray.get(list(refs)) for photo in photos_in(table)),
        key=lambda photo: photo.path,
    )
    return lambda number: photos


def _streamed(stream: Any) -> Any:
    """The windows of a run whose photos are not; a batch may lie across two of them."""
    import ray

    from denoise.patches import photos_in

    seen: dict[int, list[Photo]] = {}

    def window(number: int) -> list["Photo"]:
        if number not in seen:
            for old in [k for k in seen if k < number - 1]:
                del seen[old]
            tables = ray.get(ray.get(stream.window.remote(number)))
            seen[number] = [photo for table in tables for photo in photos_in(table)]
        return seen[number]

    return window


def _state_in(checkpoint: "Checkpoint | None") -> dict[str, Any] | None:
    if checkpoint is None:
        return None
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

    def tell(self, record: "Record") -> None:
        for name, value in record.items():
            if name != "step":
                self.board.add_scalar(name, value, int(record["step"]))
        self.job.board.write.remote(record)

    def write(self, history: Sequence["Record"]) -> None:
        lines = "".join(json.dumps(record) + "\n" for record in history)
        storage.write(join(self.job.place, "metrics.jsonl"), lines.encode())
        self.board.flush()
        for name in os.listdir(self.folder):
            with open(os.path.join(self.folder, name), "rb") as file:
                storage.write(join(self.job.place, "tensorboard", name), file.read())


@contextmanager
def _shown(board: Any, steps: int) -> Iterator[None]:
    """A live line for as long as training lasts."""
    import ray

    over = threading.Event()
    live = sys.stderr.isatty()

    def show() -> None:
        said = 0.0
        began, first = time.monotonic(), None
        while not over.wait(1.0 if live else 10.0):
            record = ray.get(board.read.remote())
            if not record or record["step"] == said:
                continue
            said = record["step"]
            first = said if first is None else first
            left = (time.monotonic() - began) / max(1, said - first) * (steps - said)
            line = (
                f"train step {said}/{steps}, loss {record['loss']:.5f}, "
                + (f"{record['psnr']:.2f} dB, " if "psnr" in record else "")
                + f"{record['images_per_second']:.0f} images/s, {left / 60:.0f} min left"
            )
            sys.stderr.write(f"\r{line}\x1b[K" if live else f"{line}\n")
            sys.stderr.flush()

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if live:
            sys.stderr.write("\n")


def _packed(
    config: TrainConfig, place: str, start: Start, result: "Result", counts: dict[str, int]
) -> dict[str, Any]:
    """Writes the package of the best checkpoint, and returns what its config.json records."""
    from denoise import package

    kept = [pair for pair in result.best_checkpoints or [] if pair[1].get("psnr") is not None]
    checkpoint, metrics = max(kept, key=lambda pair: float(pair[1]["psnr"]))
    state = _state_in(checkpoint)
    assert state is not None
    model = _network(start, config.seed)
    model.load_state_dict(state["average"])
    fields = {
        "architecture": start.architecture,
        "sigma": list(config.sigmas),
        "clipping": "both",  # noise as files hold it (clipped, rounded), and as the literature's
        "training": config.settings()
        | counts
        | {
            "best_step": metrics["step"],
            "last_step": max(pair[1]["step"] for pair in kept),
            "workers": config.workers,
            "started_from": start.digest,
            "versions": versions(),
        },
        "metrics": {"validation_psnr": metrics["psnr"]},
    }
    package.save(place, model, fields)
    return _record_of(place)


def _record_of(place: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(storage.read(join(place, "config.json")))
    return record
