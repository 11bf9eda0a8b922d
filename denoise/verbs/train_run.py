"""A training from its photographs to its package: in this process, or by Ray Train."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from denoise.errors import SettingsError
from denoise.nets import package
from denoise.output.folder import Output, run_of, versions
from denoise.reports.progress import Progress
from denoise.runners import gpus_are_made_up
from denoise.storage import files, uris
from denoise.storage.uris import join
from denoise.training import metrics_log
from denoise.training.split import Split

if TYPE_CHECKING:
    from denoise.runners.resources import Resources
    from denoise.training.metrics_log import Record
    from denoise.training.photo_store import Decode, MakeStream, PhotoStore
    from denoise.training.start import Start
    from denoise.training.worker import Job
    from denoise.verbs.train import TrainConfig

_log = logging.getLogger(__name__)
_CLIPPING = {"gaussian": "both", "camera": "clipped and rounded, as in a file"}
_FEW = 8  # validation pictures


@dataclass(frozen=True)
class Run:
    """A training from its photos to its package, whoever trains."""

    config: "TrainConfig"
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
        self._check_noise(store)
        _note(output, store, validation, goes_on=goes_on)
        _advise(validation, split)
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

    def _check_noise(self, store: "PhotoStore") -> None:
        """Raise SettingsError where pairs, which are noisy already, are asked for camera noise."""
        if not store.decoded.is_pairs:
            return
        if self.config.kind == "camera":
            raise SettingsError(
                f"{uris.redact(uris.absolute(self.config.images))} holds pairs, which bring noise "
                "of their own: leave --kind out"
            )
        if self.config.sigma is not None:
            _log.warning("the pairs bring noise of their own: --sigma is not for them")

    def pack(self, job: "Job") -> None:
        """Write the package."""
        if job.store.stream:  # all of them were seen by now
            _note(self.output, job.store, job.validation, goes_on=False)
        self.output.check()
        self.progress.begin("writing the model package")
        try:
            _pack(self.config, job, self.split)
        except SettingsError as error:  # no refusal: the work is done, and stays
            raise RuntimeError(str(error)) from error


def train_here(run: Run) -> None:
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

        def show(record: "Record") -> None:
            run.output.check()
            board.write(record)

        run.progress.begin("starting")
        with metrics_log.show_latest(board.read, run.progress):
            train_worker(job, Worker(), show)
        run.pack(job)


def train_with_ray(run: Run) -> None:
    """Train with Ray Train, on this machine or a cluster. Raises SettingsError, RuntimeError."""
    from denoise.runners import ray_session
    from denoise.training import ray_train

    config, split = run.config, run.split
    run.progress.begin("starting Ray")
    with ray_session.connected(verbose=_log.isEnabledFor(logging.DEBUG)) as resources:
        check_cluster(config, resources)
        ray_session.check_shared(
            (
                join(run.output.uri, "_run.json"),  # a shared folder will do, such as NFS
                *(some[0].uri for some in (split.training, split.validation) if some),
                *filter(None, [_reference_of(config)]),
            )
        )
        job = run.job(
            ray_train.decode_in_tasks(config.patch, _reference_of(config), config.white_level),
            ray_train.make_stream,
        )
        board = ray_train.RemoteBoard(run.output.check)
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


def _reference_of(config: "TrainConfig") -> str | None:
    return uris.absolute(config.reference) if config.reference else None


def _has_gpus(resources: "Resources") -> bool:
    """Whether workers train on GPUs: where a node has one that is not made up for a rehearsal."""
    return resources.gpus > 0 and not gpus_are_made_up()


def check_cluster(config: "TrainConfig", resources: "Resources") -> None:
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


def _advise(validation: "PhotoStore", split: Split) -> None:
    """Say where validation says too little."""
    if split.validation == split.training:
        _log.warning("there is one picture, to train on and to validate on: its PSNR says nothing")
    elif (count := validation.decoded.photos) < _FEW:
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


def _pack(config: "TrainConfig", job: "Job", split: Split) -> None:
    """Write the package of the best checkpoint."""
    from denoise.training import model_card
    from denoise.training.learner import load_checkpoint

    state = load_checkpoint(job.output)
    assert state is not None  # the last step wrote it
    best, history = state["best"], state["progress"]["history"]
    model = job.start.network(config.seed)
    model.load_state_dict(best["weights"])
    statistics, validated = job.store.statistics(), job.validation.decoded
    sigmas = None if config.kind == "camera" else config.sigmas
    fields = {
        "architecture": job.start.architecture,
        "kind": statistics.noise if statistics.is_pairs else config.kind,
        "sigma": statistics.sigmas if statistics.is_pairs else sigmas and list(sigmas),
        "clipping": model_card.OF_PAIRS if statistics.is_pairs else _CLIPPING[config.kind],
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
