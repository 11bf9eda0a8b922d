"""Messages about what a job on a cluster waits for, after a minute; Ray would wait in silence."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import RayError

from denoise.runners.resources import in_words

_log = logging.getLogger(__name__)
PATIENCE = 60.0  # seconds that a job waits for room before the message
_AGAIN = 10  # times as long until the next message


@contextmanager
def reports_waiting(patience: float | None = None) -> Iterator[None]:
    """Lets the log say what is asked for and what is free, where work has waited for room for so
    many seconds: a cluster may be full, or have no node that is large enough."""
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(over, patience or PATIENCE), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _watch(over: threading.Event, patience: float) -> None:
    """Looks several times a minute; logs what fits at neither of two looks."""
    looks, wait = 0, patience / 4
    while not over.wait(wait):
        try:
            missing = _missing()
        except RayError as error:
            _log.debug("the cluster does not say what it waits for: %s", error)
            missing = ""
        looks = looks + 1 if missing else 0
        if looks % (4 * _AGAIN) == 4:
            _log.warning("%s", missing)


def _missing() -> str:
    """What is asked for and fits nowhere at this moment, in words; nothing where all of it runs."""
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    nodes = [*status.active_nodes, *status.idle_nodes]
    whole = [node.total_resources() for node in nodes]
    free = [node.available_resources() for node in nodes]
    gangs, others = (
        [group for demand in demands for group in demand.bundles_by_count]
        for demands in (
            status.resource_demands.placement_group_demand,
            status.resource_demands.ray_task_actor_demand,
        )
    )
    unmet = [*gangs, *(group for group in others if not _fits(group.bundle, free))]
    if not unmet:
        return ""
    asked: Counter[str] = Counter()
    for group in unmet:
        asked[in_words(group.bundle)] += group.count
    wanted = ", ".join(f"{count} x {words}" for words, count in asked.items())
    there, left = (_cpus_and_gpus(each) for each in (whole, free))
    on = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
    if coming := len(status.pending_launches) + len(status.pending_nodes):
        way_out = f"{coming} nodes are on their way"
    elif all(_fits(group.bundle, whole) for group in unmet):
        way_out = "it goes on when others end or nodes are added"
    else:
        way_out = "no node is large enough: ask for less, or add one that is"
    return f"waiting for {wanted}: Ray has {there}{on}, of which {left} are free; {way_out}"


def _cpus_and_gpus(nodes: list[dict[str, float]]) -> str:
    cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    return f"{cpus:g} CPUs and {gpus:g} GPUs"


def _fits(bundle: Mapping[str, float], nodes: list[dict[str, float]]) -> bool:
    return any(
        all(node.get(name, 0.0) >= amount for name, amount in bundle.items()) for node in nodes
    )
