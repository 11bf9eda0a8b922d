"""The `train` job: images or pairs in, a model package out, on one CPU or many GPUs.

OUTPUT/model.safetensors, config.json, README.md   the package, see `package`; config.json is last
OUTPUT/metrics.jsonl                               one record every few steps
OUTPUT/tensorboard/                                the same for TensorBoard
OUTPUT/checkpoints/                                the latest state and the best one
OUTPUT/_run.json, _roster.parquet                  the settings and the photos; others are refused

With MLFLOW_TRACKING_URI or WANDB_PROJECT set, MLflow or Weights & Biases get the records too.
"""

import logging
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from denoise.errors import SettingsError
from denoise.nets import package
from denoise.output.folder import Output, run_of, versions
from denoise.output.manifest import Listing
from denoise.storage import files, uris
from denoise.storage.uris import join
from denoise.training import checkpoints, metrics_log
from denoise.training.recipe import RATES, Recipe
from denoise.training.split import Roster, roster_of
from denoise.verbs.bulk import check_apart, flags_of, worker_counts

if TYPE_CHECKING:
    from ray.train import Result
    from ray.train.v2.api.exceptions import TrainingFailedError

    from denoise.runners.resources import Resources
    from denoise.training.photo_store import Supply
    from denoise.training.start import Start
    from denoise.training.worker import Job

_log = logging.getLogger(__name__)
RETRIES = 8  # a run outlives so many dying workers


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """Train a model on clean images, or on the pairs that `noise` wrote."""

    images: str  # folder, glob, file, manifest or Parquet folder; any URI
    output: str  # becomes the model package; run again, it resumes
    validation: str | None = None  # images to validate on; else a tenth of them, by path
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
        places = {key: settings[key] for key in ("images", "validation") if settings[key]}
        absolute = {key: uris.shown(uris.absolute(uri)) for key, uri in places.items()}
        init = self.init and uris.shown(package.absolute(self.init))
        return settings | absolute | {"init": init}


def train(config: TrainConfig) -> dict[str, Any]:
    """Trains, or goes on where an earlier run stopped, and returns what config.json records.

    Raises SettingsError before any work where flags or places are wrong, RuntimeError where
    training itself fails.
    """
    from denoise.training.start import start_of

    place = uris.absolute(config.output)
    _check_apart(config, place)
    tracking = metrics_log.tracking()
    start = start_of(config.architecture, config.init)
    begun = {
        "architecture": start.architecture,
        "network": start.arguments,
        "init_digest": start.digest,
    }
    with Output(place, "train", config.settings() | begun) as output:
        left_out: Counter[str] = Counter()
        roster = roster_of(config.images, config.validation, place, left_out)
        roster.check(place)
        if output.is_finished:
            return _result(place, nothing_to_do=True)
        output.begin(Listing(len(roster.chosen), left_out=left_out), flags_of(config))
        output.record(workers=config.workers, inputs_digest=roster.digest)
        _work(config, output, start, roster, tracking)
        output.end()
        output.finish()
        return _result(place, nothing_to_do=False)


def _check_apart(config: TrainConfig, place: str) -> None:
    """Raises SettingsError where something that is read lies inside the output folder."""
    given = [uris.absolute(uri) for uri in (config.images, config.validation) if uri]
    check_apart(place, *given, *([package.uri_of(config.init)] if config.init else []))


def _work(
    config: TrainConfig, output: Output, start: "Start", roster: Roster, tracking: dict[str, str]
) -> None:
    """Decodes the photos, trains, and writes the package."""
    import ray

    from denoise.runners import ray_session
    from denoise.training.photo_store import Limits, supplies_of
    from denoise.training.worker import Board, Job

    with ray_session.connected(verbose=_log.isEnabledFor(logging.DEBUG)) as resources:
        _check_cluster(config, output.uri, resources)
        ray_session.check_shared(
            tuple(some[0].uri for some in (roster.chosen, roster.held) if some)
        )
        limits = Limits(
            patch=config.patch,
            seed=config.seed,
            memory=config.memory,
            max_error_rate=config.max_error_rate,
        )
        goes_on = roster.is_kept(output.uri)
        window = (run_of(output.uri) or {}).get("window") if goes_on else None
        supply, validation = supplies_of(roster.chosen, roster.held, limits, window)
        _note(output, supply, validation, goes_on=goes_on)
        roster.keep(output.uri)
        board = ray.remote(num_cpus=0)(Board).remote()
        job = Job(
            recipe=config.recipe(),
            start=ray.put(start),
            supply=supply,
            validation=validation,
            place=output.uri,
            compiled=config.compile,
            board=board,
            tracking=ray.put(tracking),
        )
        with metrics_log.shown(lambda: _latest(board), config.steps):
            result = _trained(config, job, resources)
        if supply.stream:  # all of them were seen by now
            _note(output, supply, validation, goes_on=False)
        output.check()
        _pack(config, job, start, roster, result)


def _latest(board: Any) -> metrics_log.Record:
    """What is known of the training's progress; nothing while its board cannot be reached, as after
    a machine has slept or a node is lost: training itself does not depend on it."""
    import ray
    from ray.exceptions import RayActorError

    try:
        found: metrics_log.Record = ray.get(board.read.remote())
    except RayActorError:
        return {}
    return found


def _check_cluster(config: TrainConfig, place: str, resources: "Resources") -> None:
    kind, room = ("GPU", resources.gpus) if resources.gpus else ("CPU", resources.cpus)
    if config.worker_range[0] > room:
        raise SettingsError(
            f"asked for {config.worker_range[0]} workers, each with a {kind} of its own, but Ray "
            f"has {resources.cpus:g} CPUs and {resources.gpus:g} GPUs on {resources.nodes} nodes"
        )
    if resources.nodes > 1 and uris.is_local(place):
        raise SettingsError(
            f"--output {uris.shown(place)} is a local folder, and the cluster has "
            f"{resources.nodes} nodes; give a place that all of them reach, such as s3://..."
        )


def _note(output: Output, supply: "Supply", validation: "Supply", *, goes_on: bool) -> None:
    """Says and records what of the photos a user may not expect.

    Raises RuntimeError where a run that goes on would do so without a photo that it began with; of
    photos that are streamed, which are fetched again and again, nobody knows.
    """
    for census in (supply.census(), validation.known):
        census.tell()
    if supply.known.is_pairs:
        _log.info("the pairs bring noise of their own: --sigma is not for them")
    errors = supply.census().errors | validation.known.errors
    is_known = goes_on and supply.stream is None
    before = (run_of(output.uri) or {}).get("undecodable") if is_known else None
    if before is not None and before.keys() != errors.keys():
        path = min(before.keys() ^ errors.keys())
        how = f"cannot be read now ({errors[path]})" if path in errors else "could not be read then"
        raise RuntimeError(
            f"the run would go on with other photos than it began with: {path} {how}"
        )
    output.record(undecodable=errors, window=supply.photos_a_window)


def _trained(config: TrainConfig, job: "Job", resources: "Resources") -> "Result":
    """Runs the workers until they are done, through whatever dies. Raises RuntimeError."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from denoise.runners import ray_session
    from denoise.training.process_group import OnOneMachine
    from denoise.training.worker import work

    class Trainer(TorchTrainer):  # type: ignore[misc]  # ray is left out of type checking
        def _register_sigint_handler(self, controller: Any) -> None:
            """Ours stays: Ray's would end the process without a word, and outlive the run."""

    # Ray takes one checkpoint at each look at its workers, and lets the next one wait for it
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    low, high = config.worker_range
    kind = "nccl" if resources.gpus else "gloo"  # torch would ask what it was built for
    filesystem, path = files.arrow_filesystem(job.place)
    checkpoints.mend_list(job.place)
    trainer = Trainer(
        work,
        torch_config=OnOneMachine(backend=kind, folder=ray_session.folder())
        if resources.is_own
        else None,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=low if low == high else (low, high),
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": 1, "GPU": 1} if resources.gpus else {"CPU": 1},
        ),
        run_config=RunConfig(
            name=checkpoints.NAME,
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
        raise RuntimeError(f"training failed: {_cause_of(error)}") from error
    if result.return_value and "failed" in result.return_value:
        raise RuntimeError(result.return_value["failed"])
    return result


def _cause_of(error: "TrainingFailedError") -> str:
    """What went wrong first, without the traceback around it."""
    failures = getattr(error, "worker_failures", {})  # by rank
    text = str(failures[min(failures)] if failures else error)
    raised = re.findall(r"^[\w.]*(?:Error|Exception|Interrupt)\w*: .+", text, re.MULTILINE)
    return raised[-1] if raised else " ".join(text.split())[:500]


def _pack(
    config: TrainConfig, job: "Job", start: "Start", roster: Roster, result: "Result"
) -> None:
    """Writes the package of the best checkpoint."""
    from denoise.training import model_card

    checkpoint, best, last = checkpoints.best_and_last(result)
    model = start.network(config.seed)
    model.load_state_dict(checkpoints.state_in(checkpoint)["average"])
    history = checkpoints.state_in(last)["rest"]["history"]
    census, judged = job.supply.census(), job.validation.known
    is_camera = config.kind == "camera"
    sigmas = None if is_camera else config.sigmas
    fields = {
        "architecture": start.architecture,
        "kind": config.kind,
        "sigma": census.sigmas if census.is_pairs else sigmas and list(sigmas),
        "clipping": "as the pairs have it" if census.is_pairs or is_camera else "both",
        "training": config.settings()
        | census.counts()
        | {
            "inputs_digest": roster.digest,
            "validated_on": judged.photos,
            "validation_listed": roster.held_listed,
            "best_step": best["step"],
            "last_step": history[-1]["step"],
            "workers": best["workers"],
            "started_from": start.digest,
            "hardware": best["hardware"],
            "versions": versions(),
        },
        "metrics": {
            "validation_psnr": best["psnr"],
            "validation_sigma": judged.sigmas if judged.is_pairs else sigmas and sum(sigmas) / 2,
        },
    }
    name = job.place.rstrip("/").rsplit("/", 1)[-1]
    pictures = model_card.pictures(job.recipe, model.eval(), job.validation.photos(), history)
    for file, content in pictures.items():
        files.write(join(job.place, file), content)
    package.save(job.place, model, fields | {"card": model_card.text(name, fields, model, history)})


def _result(place: str, *, nothing_to_do: bool) -> dict[str, Any]:
    """What config.json records, and where it lies."""
    record = files.object_in(join(place, "config.json"))
    return record | {"output": uris.shown(place), "nothing_to_do": nothing_to_do}
