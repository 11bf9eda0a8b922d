"""How often each shard was started, so that an image that workers die on ends as an error row.

A worker that dies is replaced, and the new one starts its shard again: without end, if an image
killed it. So a shard that was started in vain three times is done one image after the other, each
announced first. A worker that announced an image and never went on died on it.
"""

import time
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity

if TYPE_CHECKING:  # its process starts sooner without tables and stores
    from denoise.output.shard import ShardTask

_MOST = 3  # times that workers may die on a shard, and then on one image of it
_PAUSE = 2.0  # seconds, and longer with each death: another's need of memory may pass


class CrashGuard:
    """What is known of the shards in progress; an actor."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._started: Counter[int] = Counter()  # by shard
        self._announced: dict[int, str] = {}  # the path in progress
        self._deaths: defaultdict[int, Counter[str]] = defaultdict(Counter)  # by shard and path

    def begin(self, shard: int) -> tuple[float | None, list[str]]:
        """How long to wait before its images are done one by one; None: all of them at once.

        And the paths of the images that are not to be tried again.
        """
        deaths = self._deaths[shard]
        if last := self._announced.pop(shard, ""):
            deaths[last] += 1
        self._started[shard] += 1
        if self._started[shard] <= _MOST:
            return None, []
        crashed = [path for path, times in deaths.items() if times >= _MOST]
        return 0.0 if last in crashed else self._pause * 3 ** deaths[last], crashed

    def announce(self, shard: int, path: str) -> None:
        """Note that an image of a shard is in progress."""
        self._announced[shard] = path

    def end(self, shard: int) -> None:
        """Forget a shard: its part file is there."""
        for known in (self._started, self._announced, self._deaths):
            known.pop(shard, None)


def start_guard(pause: float = _PAUSE) -> Any:
    """Start the actor, beside the driver; it is there for as long as somebody holds it."""
    return (
        ray.remote(CrashGuard)
        .options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=Affinity(ray.get_runtime_context().get_node_id(), soft=True),
        )
        .remote(pause)
    )


def guarded(task: "ShardTask", guard: Any) -> "ShardTask":
    """The task as a worker should do it: with each image announced where workers died on it."""
    wait, crashed = ray.get(guard.begin.remote(task.number))
    if wait is None:
        return task
    time.sleep(wait)

    def announce(path: str) -> None:
        ray.get(guard.announce.remote(task.number, path))

    return replace(task, announce=announce, crashed=frozenset(crashed))
