"""The two runners of shards, this process and Ray Data; the choice between them is made here, once.

Both call the same function of a job on shards, and neither knows what it does. This process is
chosen for a private job on this machine with at most one GPU, no number of workers asked for, and
less work than Ray takes to start; everything else goes through Ray.
"""

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:  # the crash guard, a process, starts sooner without tables and stores
    from denoise.output.generations import Shard
    from denoise.output.shard import Counts, ShardTask

Device = Literal["auto", "cpu", "gpu"]
DEVICES = get_args(Device)
GIVEN_UP = (
    "given up"  # the name of a thread that nobody waits for any more: its image took too long
)


@dataclass(frozen=True)
class Allocation:
    """What a runner gives a worker."""

    threads: int = 1  # each takes images from bytes to rows; for a GPU, so many decode and encode
    gpu: bool = False
    one_by_one: bool = False  # no image is started before the one before it is done


# what a worker does with shards; whoever leaves before the end closes it
RunShards = Callable[["Iterable[ShardTask]"], "Generator[Counts, None, None]"]


@dataclass(frozen=True)
class Job:
    """What a runner needs to know of a job."""

    worker: Callable[..., RunShards]  # called with an Allocation in each worker
    workers: tuple[int, ...] = ()  # N, or MIN MAX; empty: as many as there is room for
    device: Device = "cpu"  # what a worker computes on; auto: a GPU where there is one
    gpus_per_worker: float = 1.0
    needed: tuple[str, ...] = ()  # URIs that every node must see
    # raises SettingsError where this machine cannot do it; called once there is something to do
    check: Callable[[], None] | None = None


@dataclass(frozen=True)
class Runner:
    """The runner of a job's shards."""

    # given shards, and whether to retry errors
    run: "Callable[[Iterable[Shard], bool], Generator[Counts, None, None]]"
    on_gpus: bool = False


def is_private() -> bool:
    """Whether a job that needs Ray starts a private session of its own on this machine."""
    return os.environ.get("RAY_ADDRESS", "") in ("", "local")


def gpus_are_made_up() -> bool:
    """Whether this is a rehearsal (see cluster/local.sh): Ray counts GPUs that do not exist."""
    return os.environ.get("DENOISE_MADE_UP_GPUS") == "1"


def runs_here(job: Job, size: int, most: int) -> bool:
    """Whether a job of so many bytes runs in this process, which takes `most`."""
    return is_private() and not job.workers and size <= most and _gpus(job.device) <= 1


def open_runner(
    job: Job, output: str, *, here: bool, verbose: bool
) -> AbstractContextManager[Runner]:
    """The runner of an output folder's shards; a context manager.

    Raises SettingsError where the cluster cannot be reached, or a node does not see what it needs.
    """
    if here:
        from denoise.runners import local

        run = partial(local.run, job, output)
        return nullcontext(Runner(run, on_gpus=_gpus(job.device) > 0))
    from denoise.runners import ray_data

    return ray_data.opened(job, output, verbose=verbose)


def _gpus(device: Device) -> int:
    """The GPUs that a job in this process could use."""
    if device == "cpu":
        return 0
    import torch  # such a job needs it anyway

    return torch.cuda.device_count()
