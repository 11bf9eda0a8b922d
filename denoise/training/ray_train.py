"""Training by several workers or on a cluster: Ray Train runs them, Ray's tasks decode photos."""

import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from tempfile import mkdtemp
from typing import Any

import ray
import torch.distributed as dist
from ray import ObjectRef
from ray import train as ray_train
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _TorchBackend as TorchBackend
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from denoise.errors import WriteError
from denoise.images.pairs import WhiteLevel
from denoise.storage.entry import Entry
from denoise.training.batches import Worker
from denoise.training.loop import Diverged
from denoise.training.metrics_log import Board, Record
from denoise.training.photo_store import Decode, Limits, WindowStream
from denoise.training.photos import DecodeStatistics, Photo, decode_photos
from denoise.training.worker import Hopeless, Job, train_worker

_RETRIES = 8  # a run outlives so many dying workers; machines that are taken away do not count


# --- photos ---


@dataclass(frozen=True)
class RayPart:
    """Some photos that a task of Ray decodes; the workers of a node share them without a copy."""

    decoded: "ObjectRef[list[Photo]]"
    counted: "ObjectRef[DecodeStatistics]"

    def photos(self) -> list[Photo]:
        return ray.get(self.decoded)

    def statistics(self) -> DecodeStatistics:
        return ray.get(self.counted)


@dataclass(frozen=True)
class RayStream:
    """A WindowStream in an actor, from which all workers take the same windows."""

    actor: Any

    def window(self, number: int) -> Sequence[RayPart]:
        return ray.get(self.actor.window.remote(number))

    def statistics(self) -> DecodeStatistics:
        return ray.get(self.actor.statistics.remote())

    def refusal(self) -> str | None:
        return ray.get(self.actor.refusal.remote())


def decode_in_tasks(
    patch: int,
    reference: str | None = None,
    white_level: WhiteLevel | None = None,
    *,
    cpus: int = 1,
) -> Decode:
    """Decode in tasks on all nodes; with no `cpus` beside workers that hold them all."""
    task = ray.remote(num_cpus=cpus, num_returns=2, scheduling_strategy="SPREAD")(decode_photos)
    return lambda entries, middle: RayPart(
        *task.remote(entries, patch, middle=middle, reference=reference, white_level=white_level)
    )


def make_stream(
    entries: Sequence[Entry], limits: Limits, size: int, known: DecodeStatistics
) -> RayStream:
    """A stream of windows that begins again by itself: windows are what their numbers say."""
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(WindowStream)
    decode = decode_in_tasks(limits.patch, limits.reference, limits.white_level, cpus=0)
    return RayStream(actor.remote(decode, list(entries), limits, size, known))


# --- workers ---


class RemoteBoard:
    """A Board in an actor beside the driver: workers write there and ask, the driver reads.

    Training goes on when another node is lost, so the board must not be there; should it die all
    the same, a new and empty one takes over.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        """`check` raises WriteError once another run has the output folder."""
        self.check = check
        node = ray.get_runtime_context().get_node_id()
        options = {
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": -1,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True),
        }
        self.actor = ray.remote(**options)(Board).remote()

    def read(self) -> Record:
        """The latest record; nothing while the actor cannot be reached, as after a machine has
        slept or a node is lost: training itself does not depend on it. The workers hear of it where
        another run has the output folder."""
        try:
            self.check()
        except WriteError as error:
            self.actor.fail.remote(str(error))
        try:
            found: Record = ray.get(self.actor.read.remote())
        except RayActorError:
            return {}
        return found


class Trainer(TorchTrainer):  # type: ignore[misc]  # ray is left out of type checking
    def _register_sigint_handler(self, controller: Any) -> None:
        """Ours stays: Ray's would end the process without a word, and outlive the run."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """The workers that are wanted, and where."""

    workers: tuple[int, int]  # least and most
    has_gpus: bool  # each worker takes one
    folder: str  # of Ray's session on this machine
    is_alone: bool  # all workers are on this machine


def fit(job: Job, board: RemoteBoard, group: Group) -> None:
    """Run the workers until they are done, through whatever dies. Raises RuntimeError."""
    # Ray sees that the workers have ended when it looks at them
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    if group.is_alone:  # nobody takes this machine away by way of a Ray of our own
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    low, high = group.workers
    kind = "nccl" if group.has_gpus else "gloo"  # torch would ask what it was built for
    trainer = Trainer(
        work,
        torch_config=OnOneMachine(backend=kind, folder=group.folder) if group.is_alone else None,
        # a reference: Ray records what it is given itself, and there may be secrets in it
        train_loop_config={"job": [ray.put(job)], "board": board.actor},
        scaling_config=ScalingConfig(
            num_workers=low if low == high else (low, high),
            use_gpu=group.has_gpus,
            resources_per_worker={"CPU": 1, "GPU": 1} if group.has_gpus else {"CPU": 1},
        ),
        run_config=RunConfig(
            failure_config=FailureConfig(max_failures=_RETRIES, max_preemption_failures=-1),
            storage_path=mkdtemp(dir=group.folder),  # Ray's own notes, which nobody reads
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise RuntimeError(f"training failed: {cause_of(error)}") from error
    if result.return_value and "failed" in result.return_value:
        raise RuntimeError(result.return_value["failed"])


def work(setup: dict[str, Any]) -> dict[str, str]:
    """Run a worker of Ray Train. `failed` holds an error that a retry would only repeat."""
    job: Job = ray.get(setup["job"][0])
    context = ray_train.get_context()
    worker = Worker(context.get_world_rank(), context.get_world_size())
    board = setup["board"]
    if refusal := job.store.refusal() or ray.get(board.read_failure.remote()):
        return {"failed": refusal}
    try:
        train_worker(job, worker, partial(_show, board), _preemption())
    except Hopeless as error:
        if worker.world > 1 and not isinstance(error.__cause__, Diverged):
            # The others would wait for this one: Ray ends them all, and those that it starts next
            # find the words on the board instead of failing of the same eight times
            ray.get(board.fail.remote(str(error)))
            raise
        return {"failed": str(error)}
    return {}


def _show(board: Any, record: Record) -> None:
    """Give the driver a record. Raises Hopeless where it says that all should end."""
    try:
        failure = ray.get(board.write.remote(record))
    except RayActorError:  # as after a node is lost: training itself does not depend on it
        return
    if failure:
        raise Hopeless(failure)


def _preemption() -> Callable[[], bool]:
    """What says once that a machine is about to be taken away; all workers ask it together."""
    is_known = False

    def is_new() -> bool:
        nonlocal is_known
        before, is_known = is_known, ray_train.get_preemption_info() is not None
        return is_known and not before

    return is_new


def cause_of(error: TrainingFailedError) -> str:
    """What went wrong first, without the traceback around it."""
    failures = getattr(error, "worker_failures", {})  # by rank
    text = str(failures[min(failures)] if failures else error)
    named = r"^[\w.]*(?:Error|Exception|Interrupt)\w*: .+|(?<=Hopeless: ).+"
    raised = re.findall(named, text, re.MULTILINE)
    return raised[-1] if raised else " ".join(text.split())[:500]


# --- how workers of one machine find each other ---


@dataclass
class OnOneMachine(TorchConfig):  # type: ignore[misc]  # ray is left out of type checking
    """Ray Train's configuration of workers that are all on this machine: they meet by a file.

    Ray's own way opens a port that answers whoever asks; across machines there is no other.
    """

    folder: str = ""  # Ray's own, gone with its session

    @property
    def backend_cls(self) -> type[TorchBackend]:
        return _OnOneMachine


class _OnOneMachine(TorchBackend):  # type: ignore[misc]  # likewise
    """Ray makes and ends the group as ever, only its beginning is another."""

    def on_start(self, worker_group, backend_config):  # type: ignore[no-untyped-def]  # as Ray's
        count = len(worker_group)
        if count == 1:
            return
        path = os.path.join(mkdtemp(dir=backend_config.folder), "group")
        kind, timeout = backend_config.backend, timedelta(seconds=backend_config.timeout_s)
        joins = [
            worker_group.execute_single_async(rank, join_group, kind, path, rank, count, timeout)
            for rank in range(count)
        ]
        ray.get(joins)


def join_group(kind: str, path: str, rank: int, count: int, timeout: timedelta) -> None:
    """Join the other workers over loopback, in each of them."""
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ |= {"GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    dist.init_process_group(
        kind, init_method=f"file://{path}", rank=rank, world_size=count, timeout=timeout
    )
