"""The `train` job: images or pairs in, a model package out, on one CPU or many GPUs.

OUTPUT/model.safetensors, config.json, README.md   the package, see `package`; config.json is last
OUTPUT/metrics.jsonl                               one record every few steps
OUTPUT/tensorboard/                                the same for TensorBoard
OUTPUT/checkpoint.pt                               the latest state and the best weights
OUTPUT/_run.json, _split.parquet                   the settings and the photos; others are refused

With MLFLOW_TRACKING_URI or WANDB_PROJECT set, MLflow or Weights & Biases get the records too.
"""

import logging
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from denoise.errors import SettingsError
from denoise.images.pairs import WhiteLevel, check_white_level
from denoise.nets import package
from denoise.output.folder import Output, run_of, versions
from denoise.output.manifest import Listing
from denoise.report.progress import Progress
from denoise.runners import gpus_are_made_up, is_private
from denoise.storage import files, references, uris
from denoise.storage.uris import join
from denoise.training import metrics_log
from denoise.training.recipe import RATES, Recipe
from denoise.training.split import Split, split_of
from denoise.verbs.bulk import (
    check_apart,
    check_is_folder,
    check_reference,
    flags_of,
    run_that_made,
    worker_counts,
)

if TYPE_CHECKING:
    from denoise.runners.resources import Resources
    from denoise.training.photo_store import Decode, MakeStream, PhotoStore
    from denoise.training.start import Start
    from denoise.training.worker import Job

_log = logging.getLogger(__name__)
_CLIPPING = {"gaussian": "both", "camera": "clipped and rounded, as in a file"}
_FEW = 8  # validation pictures


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """Train a model on clean images, or on the pairs that `noise` wrote."""

    images: str  # folder, glob, file, archive, list or table; any URI
    output: str  # becomes the model package; run again, it resumes
    reference: str | None = None  # the images are noisy: the clean ones lie here, by path or stem
    white_level: WhiteLevel | None = None  # as for noise: what is white in images of 16 bits
    validation: str | None = None  # images to validate on; else a tenth of them, by path
    column: str | None = None  # of a table the one of the images, of a list the one that names them
    architecture: str | None = None  # unet, cae-s, cae-m, cae-l or classic; else --init's or unet
    init: str | None = None  # a model to start, or to grow, from: a shipped one's name or any URI
    workers: int | tuple[int, int] = 1  # N, or MIN MAX to go on with what there is
    memory: float = 4.0  # GiB for decoded photos; with more of them, they are streamed
    max_error_rate: float = 0.01  # refuse to train where a larger share does not decode
    compile: bool = False  # torch.compile: pays on GPUs in long runs

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("images", "output"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        check_white_level(self.white_level)
        if self.reference is not None and (self.sigma is not None or self.kind != "gaussian"):
            raise ValueError("the images are noisy with reference: leave sigma and kind out")
        _, high = self.worker_range
        if not self.memory > 0:
            raise ValueError(f"memory must be above 0 GiB, got {self.memory}")
        if not 0 <= self.max_error_rate <= 1:
            raise ValueError(f"max-error-rate must lie in 0..1, got {self.max_error_rate}")
        if self.batch_size < high * self.accumulate:
            raise ValueError(
                f"batch-size {self.batch_size} is too small for workers {self.workers} and "
                f"accumulate {self.accumulate}: it must be at least {high * self.accumulate}"
            )

    @property
    def rate(self) -> float:
        """As in Recipe, but gentler with weights that are trained already."""
        _, trained = RATES[self.optimizer]
        return trained if self.init and self.learning_rate is None else super().rate

    @property
    def worker_range(self) -> tuple[int, int]:
        counts = worker_counts(self.workers)
        return counts[0], counts[-1]

    def recipe(self) -> Recipe:
        """What of it decides the weights, with nothing left open."""
        given = {name: getattr(self, name) for name in asdict(Recipe())}
        return Recipe(**given | {"learning_rate": self.rate})

    def settings(self) -> dict[str, Any]:
        """What decides the weights: with anything else here, the output folder is another one."""
        free = ("output", "workers", "max_error_rate", "compile")
        settings = {key: value for key, value in asdict(self).items() if key not in free}
        low, high = self.sigmas
        settings["sigma"] = None if self.kind == "camera" else low if low == high else (low, high)
        settings["learning_rate"] = self.rate
        uris_of = {
            key: settings[key] for key in ("images", "reference", "validation") if settings[key]
        }
        absolute = {key: uris.recorded(uris.absolute(uri)) for key, uri in uris_of.items()}
        init = self.init and uris.recorded(package.absolute(self.init))
        return settings | absolute | {"init": init}


def train(config: TrainConfig) -> dict[str, Any]:
    """Trains, or goes on where an earlier run stopped, and returns what config.json records.

    Raises SettingsError before any work where flags or URIs are wrong, RuntimeError where
    training itself fails.
    """
    from denoise.training.start import start_of

    clock = time.monotonic()
    check_is_folder(config.output)
    uri = uris.absolute(config.output)
    _check_apart(config, uri)
    references.forget()
    if config.reference:
        check_reference(config.images, config.reference)
    _warn_of_denoised(config.images)
    tracking = metrics_log.tracking()
    start = start_of(config.architecture, config.init)
    of_start = {
        "architecture": start.architecture,
        "network": start.arguments,
        "init_digest": start.digest,
    }
    with (
        Output(uri, "train", config.settings() | of_start) as output,
        Progress("train", config.steps, "steps", log=output.log) as progress,
    ):
        left_out: Counter[str] = Counter()
        progress.begin("listing")
        split = split_of(config.images, config.validation, uri, left_out, config.column)
        split.check(uri)
        if output.is_finished:
            return _result(uri, nothing_to_do=True)
        output.begin(Listing(len(split.training), left_out=left_out), flags_of(config))
        output.record(workers=config.workers, inputs_digest=split.digest)
        work = _train_here if _is_for_this_process(config) else _train_with_ray
        work(_Run(config, output, progress, start, split, tracking))
        output.end()
        output.finish()
        spent = {"elapsed_seconds": time.monotonic() - clock}
        return _result(uri, nothing_to_do=False) | spent


def _reference_of(config: TrainConfig) -> str | None:
    return uris.absolute(config.reference) if config.reference else None


def _warn_of_denoised(images: str) -> None:
    """Say so where the images are denoised ones: a network learns their faults from them."""
    made_by = run_that_made(images)
    if made_by is not None and made_by.get("verb") == "infer":
        _log.warning(
            "%s is the output of `infer`: a model trained on denoised images learns to blur",
            uris.redact(images),
        )


def _check_apart(config: TrainConfig, uri: str) -> None:
    """Raises SettingsError where something that is read lies inside the output folder."""
    given = [
        uris.absolute(uri) for uri in (config.images, config.reference, config.validation) if uri
    ]
    check_apart(uri, *given, *([package.uri_of(config.init)] if config.init else []))


def _is_for_this_process(config: TrainConfig) -> bool:
    """Whether one worker trains on this machine; several, and other machines, need Ray."""
    return config.worker_range == (1, 1) and is_private()


@dataclass(frozen=True)
class _Run:
    """A training from its photos to its package, whoever trains."""

    config: TrainConfig
    output: Output
    progress: Progress  # of steps
    start: "Start"
    split: Split
    tracking: dict[str, str]

    def job(self, decode: "Decode", make_stream: "MakeStream") -> "Job":
        """What the workers are given, the photos decoded. Raises SettingsError, RuntimeError."""
        from denoise.training.photo_store import Limits, stores_of
        from denoise.training.worker import Job

        config, output, split = self.config, self.output, self.split
        limits = Limits(
            patch=config.patch,
            seed=config.seed,
            memory=config.memory,
            max_error_rate=config.max_error_rate,
            reference=_reference_of(config),
            white_level=config.white_level,
        )
        self.progress.begin(f"decoding {len(split.training) + len(split.validation):,} photographs")
        goes_on = split.is_recorded(output.uri)
        window = (run_of(output.uri) or {}).get("window") if goes_on else None
        store, validation = stores_of(
            split.training, split.validation, limits, decode, make_stream, window
        )
        self._note_sigma(store)
        _note(output, store, validation, goes_on=goes_on)
        _advise(validation)
        split.record(output.uri)
        return Job(
            recipe=config.recipe(),
            start=self.start,
            store=store,
            validation=validation,
            output=output.uri,
            compiled=config.compile,
            tracking=self.tracking,
        )

    def _note_sigma(self, store: "PhotoStore") -> None:
        if store.decoded.is_pairs and self.config.sigma is not None:
            _log.info("the pairs bring noise of their own: --sigma is not for them")

    def pack(self, job: "Job") -> None:
        """Write the package."""
        if job.store.stream:  # all of them were seen by now
            self._note_sigma(job.store)
            _note(self.output, job.store, job.validation, goes_on=False)
        self.output.check()
        self.progress.begin("writing the model package")
        _pack(self.config, job, self.split)


def _train_here(run: _Run) -> None:
    """Train in this process, with threads. Raises RuntimeError."""
    import torch

    from denoise.training.batches import Worker
    from denoise.training.photo_store import WindowStream, decode_in_threads
    from denoise.training.worker import train_worker

    with decode_in_threads(
        torch.get_num_threads(),
        run.config.patch,
        _reference_of(run.config),
        run.config.white_level,
    ) as decode:
        job = run.job(decode, partial(WindowStream, decode))
        board = metrics_log.Board()
        run.progress.begin("starting")
        with metrics_log.show_latest(board.read, run.progress):
            train_worker(job, Worker(), board.write)
        run.pack(job)


def _train_with_ray(run: _Run) -> None:
    """Train with Ray Train, on this machine or a cluster. Raises SettingsError, RuntimeError."""
    from denoise.runners import ray_session
    from denoise.training import ray_train

    config, split = run.config, run.split
    run.progress.begin("starting Ray")
    with ray_session.connected(verbose=_log.isEnabledFor(logging.DEBUG)) as resources:
        _check_cluster(config, resources)
        ray_session.check_shared(
            (
                join(run.output.uri, "_run.json"),  # a shared folder will do, such as NFS
                *(some[0].uri for some in (split.training, split.validation) if some),
            )
        )
        job = run.job(
            ray_train.decode_in_tasks(config.patch, _reference_of(config), config.white_level),
            ray_train.make_stream,
        )
        board = ray_train.RemoteBoard()
        group = ray_train.Group(
            workers=config.worker_range,
            has_gpus=_has_gpus(resources),
            folder=ray_session.folder(),
            is_alone=resources.is_own,
        )
        run.progress.begin("starting workers")
        with metrics_log.show_latest(board.read, run.progress):
            ray_train.fit(job, board, group)
        run.pack(job)


def _has_gpus(resources: "Resources") -> bool:
    """Whether workers train on GPUs: where a node has one that is not made up for a rehearsal."""
    return resources.gpus > 0 and not gpus_are_made_up()


def _check_cluster(config: TrainConfig, resources: "Resources") -> None:
    """Raise SettingsError where this machine has no room for the workers.

    A cluster may grow: there Ray waits for nodes, and the log says so after a minute.
    """
    kind = "GPU" if _has_gpus(resources) else "CPU"
    room = resources.room({kind: 1})
    if resources.is_own and config.worker_range[0] > room:
        raise SettingsError(
            f"asked for {config.worker_range[0]} workers, each with a {kind} of its own, but this "
            f"machine has {resources}, room for {room}"
        )


def _advise(validation: "PhotoStore") -> None:
    """Say where validation says too little."""
    if (count := validation.decoded.photos) < _FEW:
        _log.warning(
            "validation has %s: below %d its PSNR says little of others; --validation names more",
            f"{count} {'picture' if count == 1 else 'pictures'}",
            _FEW,
        )


def _note(output: Output, store: "PhotoStore", validation: "PhotoStore", *, goes_on: bool) -> None:
    """Says and records what of the photos a user may not expect.

    Raises RuntimeError where a resumed run would lack a photo that it started with; of
    photos that are streamed, which are fetched again and again, nobody knows.
    """
    for statistics in (store.statistics(), validation.decoded):
        statistics.log()
    errors = store.statistics().errors | validation.decoded.errors
    is_known = goes_on and store.stream is None
    before = (run_of(output.uri) or {}).get("undecodable") if is_known else None
    if before is not None and before.keys() != errors.keys():
        path = min(before.keys() ^ errors.keys())
        how = f"cannot be read now ({errors[path]})" if path in errors else "could not be read then"
        raise RuntimeError(
            f"the run would go on with other photos than it started with: {path} {how}"
        )
    output.record(undecodable=errors, window=store.photos_a_window)


def _pack(config: TrainConfig, job: "Job", split: Split) -> None:
    """Write the package of the best checkpoint."""
    from denoise.training import checkpoint, model_card

    state = checkpoint.load(job.output)
    assert state is not None  # the last step wrote it
    best, history = state["best"], state["progress"]["history"]
    model = job.start.network(config.seed)
    model.load_state_dict(best["weights"])
    statistics, validated = job.store.statistics(), job.validation.decoded
    is_camera = config.kind == "camera"
    sigmas = None if is_camera else config.sigmas
    fields = {
        "architecture": job.start.architecture,
        "kind": config.kind,
        "sigma": statistics.sigmas if statistics.is_pairs else sigmas and list(sigmas),
        "clipping": "as the pairs have it" if statistics.is_pairs else _CLIPPING[config.kind],
        "training": config.settings()
        | statistics.counts()
        | {
            "inputs_digest": split.digest,
            "validated_on": validated.photos,
            "validation_listed": split.validation_listed,
            "best_step": best["step"],
            "last_step": history[-1]["step"],
            "workers": best["workers"],
            "started_from": job.start.digest,
            "hardware": best["hardware"],
            "computed_in": state["progress"]["precision"],
            "versions": versions(),
        },
        "metrics": {
            "validation_psnr": best["psnr"],
            "validation_psnr_noisy": state["progress"]["baseline"]["psnr_noisy"],
            "validation_psnr_start": state["progress"]["baseline"]["psnr_start"],
            "validation_sigma": validated.sigmas
            if validated.is_pairs
            else sigmas and sum(sigmas) / 2,
        },
    }
    name = uris.name_of(job.output)
    pictures = model_card.pictures(job.recipe, model.eval(), job.validation.photos(), history)
    for file, content in pictures.items():
        files.write(join(job.output, file), content)
    package.save(
        job.output, model, fields | {"card": model_card.text(name, fields, model, history)}
    )


def _result(uri: str, *, nothing_to_do: bool) -> dict[str, Any]:
    """What config.json records, and where it lies."""
    record = files.object_in(join(uri, "config.json"))
    return record | {"output": uris.redact(uri), "nothing_to_do": nothing_to_do}
