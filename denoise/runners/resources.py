"""What Ray has on all its nodes, what a worker takes of it, and how many workers there can be."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray._private.utils import get_num_cpus
from ray.data import ActorPoolStrategy

from denoise.errors import SettingsError
from denoise.runners import Device

_log = logging.getLogger(__name__)
Node = Mapping[str, float]  # its "CPU" and "GPU"


@dataclass(frozen=True)
class Resources:
    """What Ray has."""

    cpus: float
    gpus: float
    nodes: int
    is_own: bool = False  # a session of this process: nobody adds a node
    by_node: tuple[Node, ...] = ()

    def room(self, needs: Node) -> int:
        """How many workers fit on the nodes that are up, each of them on one node."""
        return sum(_times(needs, node) for node in self.by_node)

    def __str__(self) -> str:
        nodes = f" on {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs{nodes}"


def resources() -> Resources:
    """What the session has that this process is connected to."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(node.get(name, 0.0) for node in alive) for name in ("CPU", "GPU"))
    own = ray._private.worker._global_node
    return Resources(cpus, gpus, len(alive), own is not None and own.is_head(), tuple(alive))


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

    `auto` is a GPU where a node has one. Ray does not tell which nodes may come to a cluster:
    `gpu` waits for one. Raises SettingsError where a GPU is asked for, and this machine has none.
    """
    with_gpus = [node for node in there.by_node if node.get("GPU", 0) > 0]
    if device == "cpu" or (device == "auto" and not with_gpus):
        return {"CPU": 1}
    if not with_gpus and there.is_own:
        raise SettingsError(f"--device gpu: this machine has {there}")
    parts = (node.get("CPU", 0) / node["GPU"] for node in with_gpus)
    # whole numbers: threads are counted by them
    return {"GPU": gpus_per_worker, "CPU": float(int(min(parts, default=1) * gpus_per_worker))}


def actors(
    workers: tuple[int, ...], shards: int, there: Resources, needs: Node
) -> ActorPoolStrategy:
    """A pool of workers that take so much each, no more than there are shards.

    `workers` is N, MIN and MAX, or empty: as many as fit on this machine; on a cluster, which may
    grow, what fits now and as many more as nodes come for. Raises SettingsError where not one of
    them can ever run.
    """
    room = there.room(needs)
    if not there.is_own and not workers:
        initial = max(1, min(room, shards))
        return ActorPoolStrategy(min_size=1, max_size=shards, initial_size=initial)
    if there.is_own and not room:
        raise SettingsError(f"a worker takes {in_words(needs)}; this machine has {there}")
    counts = workers or (room,)
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
