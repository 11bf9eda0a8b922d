"""How often each shard was begun, so that an image that kills its workers ends as an error row.

A worker that dies is replaced, and the new one begins its shard again: without end, if it was an
image that killed it. So a shard that was begun in vain a few times is done one image after the
other, each announced first; who announced an image and never went on died on it.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity

_MOST = 3  # times that workers may die on a shard, and then on one image of it
_PAUSE = 2.0  # seconds, and longer with each death: another's need of memory may pass
KILLER = (
    "three workers died on it (out of memory, or a decoder that crashed); --retry-errors tries it"
    " again"
)
Key = tuple[int, str]  # a shard's number, and the stage of its way
_T = TypeVar("_T")
_R = TypeVar("_R")


class Attempts:
    """What is known of the shards that are being worked on."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self._begun: Counter[Key] = Counter()
        self._announced: dict[Key, str] = {}  # the path that is being worked on
        self._deaths: defaultdict[Key, Counter[str]] = defaultdict(Counter)  # by path

    def begin(self, key: Key) -> tuple[float | None, list[str]]:
        """How long to wait before one image after the other is done, None where all are done at
        once; and the paths of those that are not to be tried again."""
        deaths = self._deaths[key]
        if last := self._announced.pop(key, ""):
            deaths[last] += 1
        self._begun[key] += 1
        if self._begun[key] <= _MOST:
            return None, []
        killers = [path for path, times in deaths.items() if times >= _MOST]
        return 0.0 if last in killers else self._pause * 3 ** deaths[last], killers

    def announce(self, key: Key, path: str) -> None:
        self._announced[key] = path

    def end(self, shard: int) -> None:
        """Its part file is there."""
        for known in (self._begun, self._announced, self._deaths):
            for key in [key for key in known if key[0] == shard]:
                del known[key]


def counter(pause: float = _PAUSE) -> Any:
    """The actor that counts, beside the driver; it is there for as long as somebody holds it."""
    return (
        ray.remote(Attempts)
        .options(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=Affinity(ray.get_runtime_context().get_node_id(), soft=True),
        )
        .remote(pause)
    )


def carefully(
    attempts: Any,
    key: Key,
    items: Mapping[str, _T],
    make: Callable[[list[_T]], Iterator[_R]],
    killed: Callable[[str], _R],
) -> Iterator[_R]:
    """What is made of the items, by path: of all of them at once, or, where that went wrong too
    often, of one after the other. `killed` makes it of the path of one that workers die on.

    `attempts` is the actor that counts; None where nobody does.
    """
    wait, killers = (None, []) if attempts is None else ray.get(attempts.begin.remote(key))
    if wait is None:
        yield from make(list(items.values()))
        return
    time.sleep(wait)
    for path, item in items.items():
        if path in killers:
            yield killed(path)
        else:
            ray.get(attempts.announce.remote(key, path))
            yield from make([item])
