"""Ray: connecting to it, how many workers it has room for, and a quiet, private local session."""

import logging
import os
import secrets
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity

from denoise import storage
from denoise.storage import SettingsError


@dataclass(frozen=True)
class Resources:
    """What Ray has, on all its nodes."""

    cpus: float
    gpus: float
    nodes: int

    @property
    def hands(self) -> int | None:
        """How many tasks, of a CPU each, run at once; on a cluster, which may grow, what fits."""
        return max(1, int(self.cpus)) if self.nodes == 1 else None


@contextmanager
def connected(*, verbose: bool = False) -> Iterator[Resources]:
    """Ray for the time of a job: the cluster of `RAY_ADDRESS` (`ray job submit` sets it), a session
    that is there already, or a private local one that is gone afterwards.

    Raises SettingsError where the cluster cannot be reached or speaks another version.
    """
    mine = not ray.is_initialized()
    if mine:
        with _own_signals():
            _connect(verbose=verbose)
    _quieten(verbose=verbose)
    try:
        yield resources()
    finally:
        if mine:
            ray.shutdown()


def resources() -> Resources:
    """What the session that we are connected to has."""
    found = ray.cluster_resources()
    alive = [node for node in ray.nodes() if node["Alive"]]
    return Resources(found.get("CPU", 0.0), found.get("GPU", 0.0), len(alive))


def actors(workers: tuple[int, ...], default: int, shards: int) -> ActorPoolStrategy:
    """A pool of so many actors, no more than there are shards: started together, or growing and
    shrinking between two numbers."""
    if len(workers) == 2:
        low, high = (min(count, shards) for count in workers)
        return ActorPoolStrategy(min_size=low, max_size=high, initial_size=low)
    return ActorPoolStrategy(size=min(workers[0] if workers else default, shards))


def tasks(size: int | None) -> TaskPoolStrategy:
    """At most so many tasks at a time; without a number, as many as there is room for."""
    return TaskPoolStrategy(size=size)


def check_shared(uris: tuple[str, ...]) -> None:
    """Raises SettingsError where another node of the cluster does not see what this one does: a
    folder of the laptop's own, a model that only the head has."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    if len(nodes) < 2:
        return
    local = [uri for uri in uris if storage.is_local(uri)]
    looks = [
        (uri, _is_there.options(scheduling_strategy=Affinity(node, soft=True)).remote(uri))
        for uri in local
        for node in nodes
    ]
    for uri, look in looks:
        if not ray.get(look):
            raise SettingsError(
                f"{uri} is on this machine only; the {len(nodes)} nodes of the cluster need a "
                "place that all of them reach, such as s3://... or a shared folder"
            )


@ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]  # ray is left out of type checking
def _is_there(uri: str) -> bool:
    """Runs on a node of the cluster."""
    return storage.exists(uri)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray puts handlers of its own in place, which abort at SIGTERM: ours come back afterwards."""
    ours = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for sign, handler in ours.items():
                signal.signal(sign, handler)


def _connect(*, verbose: bool) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": _level(verbose)}
    if address:
        options["address"] = address
    else:
        # Nobody but us: Ray asks for a token on every port of a local session, unless this says not
        # to; ours is in this process's environment alone, where Ray would keep one in ~/.ray.
        os.environ.pop("RAY_AUTH_MODE", None)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        options |= {"address": "local", "include_dashboard": False}
    try:
        with nullcontext() if verbose else _silence():
            ray.init(**options)
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        where = f"the Ray cluster at {address}" if address else "a local Ray"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SettingsError(f"cannot start or reach {where}: {reason}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps Ray's C++ side off the terminal: its word on every actor of Ray Data's own making, and
    the line that says that it was told to be silent. What goes wrong is raised all the same."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _quieten(*, verbose: bool) -> None:
    """Ray's own progress bars and log lines give way to ours."""
    context = DataContext.get_current()
    context.enable_progress_bars = verbose
    context.target_max_block_size = None  # one shard is one block, however large its images
    context.print_on_execution_start = verbose
    if not verbose:
        warnings.filterwarnings("ignore", module=r"ray\.data")  # of pools larger than their work
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        logging.getLogger("ray.train").setLevel(logging.ERROR)


def _level(verbose: bool) -> int:
    return logging.INFO if verbose else logging.ERROR
