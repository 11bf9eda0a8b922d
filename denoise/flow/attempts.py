"""How often each shard was begun, so that an image that kills its workers ends as an error row.

A worker that dies is replaced, and the new one begins its shard again: without end, if it was an
image that killed it. So a shard that was begun in vain a few times is done one image after the
other, each announced first; who announced an image and never said that it was done died on it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity

from denoise.flow.pairs import Pair
from denoise.places.inputs import Entry

_MOST = 3  # times that workers may die on a shard, and then on one image of it
_NAME = "denoise attempts"
KILLER = "its worker died on it three times (out of memory, or a decoder that crashed)"
_T = TypeVar("_T")


class Attempts:
    """What is known of the shards that are being worked on; an actor beside the driver."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()
        self._deaths: dict[str, Counter[str]] = {}  # by shard and path
        self._at: dict[str, str] = {}  # shard -> the path that is being worked on

    def begin(self, shard: str) -> tuple[bool, list[str]]:
        """Whether to announce every image, and the paths of those that are not to be tried."""
        self._begun[shard] += 1
        if path := self._at.pop(shard, None):
            self._deaths.setdefault(shard, Counter())[path] += 1
        deaths = self._deaths.get(shard, Counter())
        killers = [path for path, times in deaths.items() if times >= _MOST]
        return self._begun[shard] > _MOST, killers

    def announce(self, shard: str, path: str) -> None:
        self._at[shard] = path

    def end(self, shard: str) -> None:
        for known in (self._begun, self._deaths, self._at):
            known.pop(shard, None)


def counted() -> Any:
    """The actor, which is there for as long as whoever asked for it first."""
    return (
        ray.remote(Attempts)
        .options(
            name=_NAME,
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=Affinity(ray.get_runtime_context().get_node_id(), soft=True),
        )
        .remote()
    )


def carefully(
    shard: str,
    entries: list[Entry],
    load: Callable[[list[Entry]], Iterator[Pair]],
    work: Callable[[Iterable[Pair]], Iterator[_T]],
) -> Iterator[_T]:
    """What becomes of a shard's pairs: of all at once, or, where that went wrong too often, of one
    after the other."""
    attempts = counted()
    is_slow, killers = ray.get(attempts.begin.remote(shard))
    if not is_slow:
        yield from work(load(entries))
    for entry in entries if is_slow else ():
        if entry.path in killers:
            yield from work([Pair(entry.path, error=KILLER)])
        else:
            ray.get(attempts.announce.remote(shard, entry.path))
            yield from work(load([entry]))
    attempts.end.remote(shard)
