"""What a training worker does in Ray's hands: photos in, checkpoints and records out."""

import errno
import os
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from tempfile import mkdtemp
from typing import Any

import ray
import torch
from ray import ObjectRef
from ray import train as ray_train
from ray.train import Checkpoint, CheckpointUploadMode

from denoise.nets.networks import hardware
from denoise.storage import uris
from denoise.training import checkpoints
from denoise.training.loop import Diverged, Learner, learn
from denoise.training.metrics_log import Record, Recorder
from denoise.training.photo_store import Supply
from denoise.training.recipe import Recipe
from denoise.training.samples import Sampler
from denoise.training.start import Start
from denoise.training.validation import Share

_TOO_LARGE = (
    "a batch does not fit into the GPU's memory; a smaller --batch-size or --patch, or a larger "
    "--accumulate, needs less"
)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOOK = 1.0  # seconds between two looks at whether Ray is there
_GRACE = 5.0  # seconds to end by oneself


@dataclass(frozen=True)
class Job:
    """What each worker is given."""

    recipe: Recipe
    start: "ObjectRef[Start]"
    supply: Supply
    validation: Supply
    place: str
    compiled: bool
    board: Any  # the actor of Board
    tracking: "ObjectRef[Mapping[str, str]]"  # a reference: Ray records what it is given itself


class Board:
    """Where the first worker writes how far it is, for the driver to show; an actor."""

    def __init__(self) -> None:
        self.record: Record = {}

    def write(self, record: Record) -> None:
        self.record = record

    def read(self) -> Record:
        return self.record


def work(setup: dict[str, Any]) -> dict[str, Any]:
    """What Ray Train runs in each worker. `failed` is what would only happen again."""
    _end_with_ray(os.getppid())
    job: Job = setup["job"]
    context = ray_train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    if refusal := job.supply.refusal():
        return {"failed": refusal}
    checkpoint = ray_train.get_checkpoint()
    with _recorder(job) if share.rank == 0 else nullcontext() as recorder:
        try:
            learner = learn(
                job.recipe,
                ray.get(job.start).network(job.recipe.seed),
                Sampler(job.recipe, job.supply.window(), job.supply.samples_a_window),
                job.validation.photos(),
                lambda learner: _save(learner, job, share, recorder),
                state=checkpoints.state_in(checkpoint) if checkpoint else None,
                share=share,
                compiled=job.compiled,
                tell=recorder.tell if recorder else lambda record: None,
            )
        except Diverged as error:
            return {"failed": str(error)}
        except torch.OutOfMemoryError as error:
            if share.world > 1:  # the others would wait for this one: Ray ends them all
                raise RuntimeError(_TOO_LARGE) from error
            return {"failed": _TOO_LARGE}
        except OSError as error:
            if error.errno not in _FULL or share.world > 1:  # as above
                raise
            return {"failed": f"no space left for {uris.shown(job.place)}, or for Ray's own files"}
    return {"steps": learner.step}


def _end_with_ray(raylet: int) -> None:
    """Watches the process that started this one: without Ray, after a kill -9 of the driver, say,
    an upload that nobody takes any more would hold this process for ever."""

    def watch() -> None:
        while os.getppid() == raylet:
            time.sleep(_LOOK)
        time.sleep(_GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _recorder(job: Job) -> Recorder:
    return Recorder(job.place, job.recipe, job.board.write.remote, ray.get(job.tracking))


def _save(learner: Learner, job: Job, share: Share, recorder: Recorder | None) -> None:
    """Hands a checkpoint over for upload, in the background; a barrier for all workers."""
    metrics: dict[str, Any] = {"psnr": learner.history[-1]["psnr"], "step": learner.step}
    if recorder is None:
        return ray_train.report(metrics)
    metrics |= {"hardware": hardware(), "workers": share.world}
    recorder.write(learner.history)
    checkpoints.keep_list(job.place)
    folder = mkdtemp(dir=os.getcwd())  # Ray's own folder; it removes what is uploaded
    torch.save(learner.state(), os.path.join(folder, "state.pt"))
    ray_train.report(
        metrics,
        checkpoint=Checkpoint.from_directory(folder),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
    )
