"""One training worker: photos in, checkpoints and records out; in this process or under Ray."""

import errno
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from denoise.errors import SettingsError
from denoise.nets.networks import device, is_out_of_memory
from denoise.storage import uris
from denoise.training.batches import Worker
from denoise.training.learner import Learner, load_checkpoint, save_checkpoint
from denoise.training.loop import Diverged, learn
from denoise.training.metrics_log import Record, Recorder
from denoise.training.packed import pack_for
from denoise.training.photo_store import PhotoStore
from denoise.training.recipe import Recipe
from denoise.training.samples import Sampler
from denoise.training.start import Start

_TOO_LARGE = (
    "a batch does not fit into memory; a smaller --batch-size or --patch, or a larger "
    "--accumulate, needs less"
)
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Job:
    """What each worker is given."""

    recipe: Recipe
    start: Start
    store: PhotoStore
    validation: PhotoStore
    output: str
    compiled: bool
    tracking: Mapping[str, str]


class Hopeless(RuntimeError):
    """What another try would end in too; the words are the user's."""


def train_worker(
    job: Job,
    worker: Worker,
    show: Callable[[Record], Any],
    is_leaving: Callable[[], bool] = lambda: False,
) -> None:
    """Train from the output's checkpoint, or from the start, to the last step.

    The first worker gives `show` each record. A checkpoint is written too where `is_leaving`, which
    all workers ask together, says that a machine will go soon. Raises Hopeless.
    """
    with _recorder(job, show) if worker.rank == 0 else nullcontext() as recorder:
        try:
            learn(
                job.recipe,
                job.start.network(job.recipe.seed),
                _sampler(job),
                job.validation.photos(),
                _saver(job, recorder),
                state=load_checkpoint(job.output),
                worker=worker,
                compiled=job.compiled,
                log=recorder.log if recorder else lambda record: None,
                is_leaving=is_leaving,
            )
        except (Diverged, SettingsError) as error:
            # what an actor of Ray's raised has Ray's traceback in its text
            raise Hopeless(str(getattr(error, "cause", error))) from error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise Hopeless(_TOO_LARGE) from error
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise Hopeless(f"no space left for {uris.redact(job.output)}") from error


def _sampler(job: Job) -> Sampler:
    """Samples, cut on the GPU where all photos fit into it; camera noise scales and compresses
    patches on the CPU."""
    window, is_streamed = job.store.window(), job.store.stream is not None
    is_cut_there = not is_streamed and job.recipe.kind == "gaussian"
    there = pack_for(window(0), device()) if is_cut_there else None
    return Sampler(job.recipe, window, job.store.samples_a_window, there)


def _recorder(job: Job, show: Callable[[Record], Any]) -> Recorder:
    return Recorder(job.output, job.recipe, show, job.tracking)


def _saver(job: Job, recorder: Recorder | None) -> Callable[[Learner], None]:
    """What writes a checkpoint, on the first worker; its first one is read back at once."""
    is_first = True

    def save(learner: Learner) -> None:
        nonlocal is_first
        if recorder is None:
            return
        recorder.write(learner.history)
        save_checkpoint(job.output, learner.state())
        if is_first:
            load_checkpoint(job.output)
        is_first = False

    return save
