"""Connecting to Ray: to a cluster, or to a quiet and private session of this process."""

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import grpc
import ray
from ray.data import DataContext
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity

from denoise.errors import SettingsError
from denoise.runners import is_private
from denoise.runners.private_ray import (
    away_from_users_modules,
    in_own_group,
    none_left,
    own_signals,
    private_folder,
    silence,
    token,
)
from denoise.runners.resources import Resources, resources
from denoise.runners.waiting import reports_waiting
from denoise.storage import files, uris

_log = logging.getLogger(__name__)
_ANSWER = 10.0  # seconds within which a cluster answers
_QUIET = {
    "enable_progress_bars": False,
    "print_on_execution_start": False,
    "target_max_block_size": None,  # one shard is one block, however large its images
    "raise_original_map_exception": True,  # else none could tell a full disk from a bug
}
_T = TypeVar("_T")
_METRICS_PORTS = ("DASHBOARD_METRIC_PORT", "AUTOSCALER_METRIC_PORT")
_NO_PORT = "65536"  # one more than there are


@contextmanager
def connected(*, verbose: bool = False) -> Iterator[Resources]:
    """Ray for the time of a job: the cluster of `RAY_ADDRESS` (`ray job submit` sets it), a session
    that is there already, or a private local one that is gone afterwards.

    Raises SettingsError where the cluster cannot be reached or speaks another version. Where others
    may hold what the job needs, the log says so when it has waited for a minute.
    """
    mine = not ray.is_initialized()
    alone = mine and is_private()
    with _as_before(), private_folder() if alone else nullcontext() as folder:
        if mine:
            with own_signals():
                _connect(folder, verbose=verbose)
        _quieten(verbose=verbose)
        try:
            with nullcontext() if alone else reports_waiting():
                yield resources()
        finally:
            if mine:
                with none_left():
                    ray.shutdown()


session = connected  # its public name: around several calls, which share it then


def folder() -> str:
    """Ray's own on this machine, which goes with a session of ours."""
    return str(ray._private.worker._global_node.get_session_dir_path())


def check_shared(named: tuple[str, ...]) -> None:
    """Raise SettingsError where another node of the cluster does not see what this one does: a
    folder of the laptop's own, a model that only the head has."""
    if (nodes := len(_nodes())) < 2:
        return
    local = [uri for uri in named if uris.is_local(uri) and files.exists(uri)]

    def missing() -> set[str]:
        return {uri for uri in local if not files.exists(uri)}

    lacking = set[str]().union(*ask_every_node(missing))
    for uri in local:
        if uri in lacking:
            raise SettingsError(
                f"{uri} is on this machine only; the {nodes} nodes of the cluster need a "
                "URI that all of them reach, such as s3://... or a shared folder"
            )


def ask_every_node(question: Callable[[], _T]) -> list[_T]:
    """The answer of each node of the cluster, from a process there that takes no CPU and no GPU."""
    ask = ray.remote(num_cpus=0)(question)
    found: list[_T] = ray.get(
        [ask.options(scheduling_strategy=Affinity(node, soft=True)).remote() for node in _nodes()]
    )
    return found


def _nodes() -> list[str]:
    """The nodes of the cluster that are up."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def _as_before() -> Iterator[None]:
    """Puts back how Ray's data sets and connections are set up in this process, which may be a
    notebook with plans of its own."""
    context = DataContext.get_current()
    quiet = {name: getattr(context, name) for name in _QUIET}
    ours = (
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
        "PYTHONPATH",
        *_METRICS_PORTS,
    )
    environment = {name: os.environ.get(name) for name in ours}
    try:
        yield
    finally:
        for name, setting in quiet.items():
            setattr(context, name, setting)
        for name, value in environment.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}


def _connect(folder: str | None, *, verbose: bool) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS", "")
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": _level(verbose)}
    if not is_private():
        _check_answers(address)
        options["address"] = address
    else:
        # Nobody but us: Ray asks for a token on every port of a local session, unless this says not
        # to; ours is in this process's environment alone, where Ray would keep one in ~/.ray.
        os.environ.pop("RAY_AUTH_MODE", None)
        os.environ.setdefault("RAY_AUTH_TOKEN", token())
        # Prometheus's ports would answer everybody without a token: Ray goes on without them
        os.environ |= dict.fromkeys(_METRICS_PORTS, _NO_PORT)
        metrics = {"enable_metrics_collection": False}
        options |= {"address": "local", "include_dashboard": False, "_system_config": metrics}
        options |= {"_temp_dir": folder}
    try:
        with (
            in_own_group(),
            nullcontext() if folder is None else away_from_users_modules(folder),
            nullcontext() if verbose else silence(),
        ):
            ray.init(**options)
    except Exception as error:  # that is what Ray raises where its own processes are too slow
        where = "a local Ray" if is_private() else f"the Ray cluster at {address}"
        raise SettingsError(f"cannot start or reach {where}: {_reason(error)}") from error


def _check_answers(address: str) -> None:
    """Raises SettingsError where nobody answers there, or not to our token: Ray itself would try
    for minutes and then not say which."""
    if not re.fullmatch(r"[^/]+:\d+", address):
        return  # `auto`, or `ray://...`
    from ray._private.grpc_utils import init_grpc_channel

    try:
        with init_grpc_channel(address) as channel:
            ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
            ask(b"", timeout=_ANSWER, wait_for_ready=True)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise SettingsError(
                f"the Ray cluster at {address} refused the token: give the cluster's own in "
                "RAY_AUTH_TOKEN or ~/.ray/auth_token, with RAY_AUTH_MODE=token"
            ) from error
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise SettingsError(
                f"no Ray cluster answers at {address} (RAY_ADDRESS) within {_ANSWER:g} s: does it "
                "run, and is its port 6379 reachable from here?"
            ) from error
        _log.debug("what answers at %s says: %s", address, error)  # Ray will say it its own way


def _reason(error: BaseException) -> str:
    """What Ray says went wrong, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    versions = re.findall(r"Ray: (\S+) Python: (\S+)", text)
    if len(versions) != 2:
        return text
    (theirs, their_python), (ours, our_python) = versions
    return (
        f"it runs Ray {theirs} on Python {their_python}, this is Ray {ours} on Python {our_python};"
        " install the cluster's versions here, or send the job to it with `ray job submit`"
    )


def _quieten(*, verbose: bool) -> None:
    """Ray's own progress bars and log lines give way to ours."""
    context = DataContext.get_current()
    for name, setting in _QUIET.items():
        setattr(context, name, setting)
    context.enable_progress_bars = context.print_on_execution_start = verbose
    if not verbose:
        warnings.filterwarnings("ignore", module=r"ray\.data")  # of pools larger than their work
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error is raised as well
        logging.getLogger("ray.train").setLevel(logging.ERROR)


def _level(verbose: bool) -> int:
    return logging.INFO if verbose else logging.ERROR
