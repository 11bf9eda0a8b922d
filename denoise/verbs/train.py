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
from dataclasses import asdict, dataclass
from typing import Any

from denoise.images.pairs import WhiteLevel, check_white_level
from denoise.nets import package
from denoise.output.folder import Output
from denoise.reports.progress import Progress
from denoise.runners import is_private
from denoise.storage import files, references, uris
from denoise.storage.found import LeftOut
from denoise.storage.uris import join
from denoise.training import metrics_log
from denoise.training.recipe import RATES, Recipe
from denoise.training.split import split_of
from denoise.verbs.checks import (
    check_apart,
    check_is_folder,
    check_reference,
    flags_of,
    normalize,
    run_that_made,
    worker_counts,
)
from denoise.verbs.train_run import Run, train_here, train_with_ray

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Recipe):
    """Train a model on clean images, or on the pairs that `noise` wrote."""

    images: str  # folder, glob, file, archive, list or table; any URI
    output: str  # folder that becomes the model package; run again, it resumes
    reference: str | None = None  # the images are noisy: the clean ones lie here, by path or stem
    white_level: WhiteLevel | None = None  # level that is white in images of 16 bits: as for noise
    validation: str | None = None  # other images to validate on; else a tenth of IMAGES
    # the column that holds the images (of a table) or their names (of a list); else it is guessed
    column: str | None = None
    # unet, cae-s, cae-m, cae-l, classic, or MODULE:CLASS of your own network; else --init's or unet
    architecture: str | None = None
    # a model whose weights training begins with: a shipped one's name, or the URI of a package
    init: str | None = None
    workers: int | tuple[int, int] = 1  # processes that train: N, or MIN MAX as there is room
    memory: float = 4.0  # GiB for decoded photographs; where they need more, they are streamed
    max_error_rate: float = 0.01  # refuse to train where a larger share does not decode
    compile: bool = False  # compile the network first (torch.compile); pays on GPUs in long runs

    def __post_init__(self) -> None:
        normalize(self)
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
        free = ("output", "workers", "max_error_rate", "memory")
        settings = {key: value for key, value in asdict(self).items() if key not in free}
        low, high = self.sigmas
        settings["sigma"] = None if self.kind == "camera" else low if low == high else (low, high)
        settings["learning_rate"] = self.rate
        uris_of = {
            key: settings[key] for key in ("images", "reference", "validation") if settings[key]
        }
        absolute = {key: uris.to_record(uris.absolute(uri)) for key, uri in uris_of.items()}
        init = self.init and uris.to_record(package.absolute(self.init))
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
    tracking = metrics_log.tracking_variables()
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
        left_out = LeftOut()
        progress.begin("listing")
        reference = config.reference and uris.absolute(config.reference)
        split = split_of(config.images, config.validation, uri, left_out, config.column, reference)
        split.check(uri)
        if output.is_finished:
            return _result(uri, nothing_to_do=True)
        output.begin(len(split.training), left_out.counts, flags_of(config))
        output.record(workers=config.workers, inputs_digest=split.digest)
        work = train_here if _is_for_this_process(config) else train_with_ray
        work(Run(config, output, progress, start, split, tracking))
        output.end()
        output.finish()
        spent = {"elapsed_seconds": time.monotonic() - clock}
        return _result(uri, nothing_to_do=False) | spent


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


def _result(uri: str, *, nothing_to_do: bool) -> dict[str, Any]:
    """What config.json records, and where it lies."""
    record = files.object_in(join(uri, "config.json"))
    return record | {"output": uris.redact(uri), "nothing_to_do": nothing_to_do}
