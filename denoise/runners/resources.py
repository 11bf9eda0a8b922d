"""What Ray has on all its nodes, what a worker takes of it, and how many workers there can be."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.state import state
from ray._private.utils import get_num_cpus
from ray.data import ActorPoolStrategy

from denoise.errors import SettingsError
from denoise.runners import Device

_log = logging.getLogger(__name__)
Node = Mapping[str, float]  # its "CPU" and "GPU"


@dataclass(frozen=True)
class NodeType:
    """A kind of node that the cluster's autoscaler may add."""

    has: Node
    most: int | None  # nodes of the kind; None: no limit


@dataclass(frozen=True)
class Resources:
    """What Ray has, and what it may get."""

    cpus: float
    gpus: float
    nodes: int
    is_own: bool = False  # a session of this process: nobody adds a node
    by_node: tuple[Node, ...] = ()
    node_types: tuple[NodeType, ...] = ()  # of an autoscaler; none where there is no such

    def room(self, needs: Node) -> int:
        """How many workers fit on the nodes that are up, each of them on one node."""
        return sum(_times(needs, node) for node in self.by_node)

    def most(self, needs: Node) -> int | None:
        """How many workers fit once the cluster is as large as it may become; None: no limit."""
        kinds = [(_times(needs, kind.has), kind.most) for kind in self.node_types]
        if any(times and count is None for times, count in kinds):
            return None
        return max(self.room(needs), sum(times * (count or 0) for times, count in kinds))

    def __str__(self) -> str:
        nodes = f" on {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs{nodes}"


def resources() -> Resources:
    """What the session has that this process is connected to."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(node.get(name, 0.0) for node in alive) for name in ("CPU", "GPU"))
    own = ray._private.worker._global_node
    is_own = own is not None and own.is_head()
    types = () if is_own else _node_types()
    return Resources(cpus, gpus, len(alive), is_own, tuple(alive), types)


def local() -> Resources:
    """What a private session would have on this machine; none is started."""
    manager = get_accelerator_manager_for_resource("GPU")
    gpus = manager.get_current_node_num_accelerators()
    visible = manager.get_current_process_visible_accelerator_ids()  # CUDA_VISIBLE_DEVICES
    gpus = gpus if visible is None else min(gpus, len(visible))
    has = {"CPU": float(get_num_cpus()), "GPU": float(gpus)}
    return Resources(has["CPU"], has["GPU"], 1, is_own=True, by_node=(has,))


def needs_of(device: Device, gpus_per_worker: float, there: Resources) -> dict[str, float]:
    """What a worker takes: a CPU, or a GPU (or a share of one) and its part of the node's CPUs.

    `auto` is a GPU where a node has one, or a node that may come. Raises SettingsError where GPUs
    are asked for, and neither has any.
    """
    nodes = [*there.by_node, *(kind.has for kind in there.node_types)]
    with_gpus = [node for node in nodes if node.get("GPU", 0) > 0]
    if device == "cpu" or (device == "auto" and not with_gpus):
        return {"CPU": 1}
    if not with_gpus:
        raise SettingsError(f"--device gpu: Ray has {there}, and no node type with a GPU")
    part = min(node.get("CPU", 0) / node["GPU"] for node in with_gpus) * gpus_per_worker
    # whole numbers: threads are counted by them
    return {"GPU": gpus_per_worker, "CPU": float(int(part))}


def actors(
    workers: tuple[int, ...], shards: int, there: Resources, needs: Node
) -> ActorPoolStrategy:
    """A pool of workers that take so much each, no more than there are shards.

    `workers` is N, MIN and MAX, or empty: as many as fit, or on a cluster that may grow, from what
    fits now to all that it may become. Raises SettingsError where not one of them can ever run.
    """
    room, most = there.room(needs), there.most(needs)
    if there.is_own and not room:
        raise SettingsError(f"a worker takes {in_words(needs)}; this machine has {there}")
    counts = workers or (max(1, room),)
    if not workers and most != room:
        low, high = 1, shards if most is None else min(most, shards)
        return ActorPoolStrategy(
            min_size=low, max_size=high, initial_size=max(low, min(room, high))
        )
    if there.is_own and min(shards, counts[-1]) > room:
        _log.warning(
            "asked for %d workers, each with %s; %s have room for %d: going on with those",
            counts[-1],
            in_words(needs),
            there,
            room,
        )
        counts = tuple(min(count, room) for count in counts)
    low, high = (min(count, shards) for count in (counts[0], counts[-1]))
    if len(counts) == 2:
        return ActorPoolStrategy(min_size=low, max_size=high, initial_size=low)
    return ActorPoolStrategy(size=low)


def in_words(bundle: Node) -> str:
    """Resources as a person says them: 2 CPUs and 0.5 GPU."""
    return " and ".join(
        f"{amount:g} {name}{'s' if amount > 1 else ''}" for name, amount in bundle.items() if amount
    )


def _times(needs: Node, node: Node) -> int:
    """How many workers a node holds; shares of a GPU are never put together from two."""
    return min(_fits(amount, node.get(name, 0.0)) for name, amount in needs.items() if amount)


def _fits(amount: float, there: float) -> int:
    """How often an amount fits into what is there."""
    return int(there / amount) if amount >= 1 else int(there) * int(1 / amount)


def _node_types() -> tuple[NodeType, ...]:
    """The kinds of nodes that the autoscaler of the cluster may add."""
    config = state.get_cluster_config()  # no public way tells it, and Ray Train asks it so too
    return tuple(
        NodeType(dict(group.resources), None if group.max_count < 0 else group.max_count)
        for group in (config.node_group_configs if config else ())
    )
