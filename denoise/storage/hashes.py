"""Hashes of names in 64 bits, and what is known of a hundred million of them, in sorted arrays."""

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from denoise.storage import uris

_RUN = 1 << 16  # hashes that are in a dict or a set before they are sorted
_Column = NDArray[np.uint64]  # [n]
_Columns = list[_Column]  # the keys, and a value of each where there are such


def hash_of(name: str) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(blake2b(uris.to_bytes(name), digest_size=8).digest())


class HashMap:
    """A 64-bit value for each of many hashes: 16 bytes of each, in sorted runs."""

    def __init__(self) -> None:
        self._runs = _Runs()
        self._latest: dict[int, int] = {}

    def get(self, key: int) -> int | None:
        """The value of a key, None where it has none."""
        value = self.latest(key)
        return self.settled([key]).get(key) if value is None else value

    def latest(self, key: int) -> int | None:
        """The value of a key that was added since `settle`."""
        return self._latest.get(key)

    def settled(self, keys: list[int]) -> dict[int, int]:
        """The values of those of many keys that had one at the last `settle`: each by itself would
        take ten times longer."""
        found: dict[int, int] = {}
        for hits, values in self._runs.find(keys):
            found.update(zip(hits.tolist(), values.tolist(), strict=True))
        return found

    def add(self, key: int, value: int) -> None:
        """Give a value to a key that has none."""
        self._latest[key] = value

    def settle(self) -> None:
        """Put the latest into a run if they are many."""
        if len(self._latest) < _RUN:
            return
        size = len(self._latest)
        self._runs.add(
            np.fromiter(self._latest, np.uint64, size),
            np.fromiter(self._latest.values(), np.uint64, size),
        )
        self._latest.clear()


class HashSet:
    """Many hashes: 8 bytes of each, in sorted runs."""

    def __init__(self) -> None:
        self._runs = _Runs()
        self.latest: set[int] = set()  # those that were added since `settle`

    def __contains__(self, key: int) -> bool:
        return key in self.latest or bool(self.settled([key]))

    def settled(self, keys: list[int]) -> set[int]:
        """Those of many keys that were in the set at the last `settle`: each by itself would take
        ten times longer."""
        return {key for [hits] in self._runs.find(keys) for key in hits.tolist()}

    def settle(self) -> None:
        """Put the latest into a run if they are many."""
        if len(self.latest) < _RUN:
            return
        self._runs.add(np.fromiter(self.latest, np.uint64, len(self.latest)))
        self.latest.clear()


class _Runs:
    """Columns of 64-bit numbers, in runs that are sorted by the first and grow ever longer."""

    def __init__(self) -> None:
        self._runs: list[_Columns] = []  # each longer than the next

    def find(self, keys: list[int]) -> Iterator[_Columns]:
        """The rows with these keys, run by run."""
        wanted = np.array(keys, np.uint64)
        for known, *values in self._runs:
            there = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            hits = known[there] == wanted
            yield [wanted[hits], *(column[there[hits]] for column in values)]

    def add(self, *columns: _Column) -> None:
        """Add rows as a run, joined with those that are no longer than twice as long."""
        while self._runs and len(self._runs[-1][0]) < 2 * len(columns[0]):
            columns = tuple(map(_join, self._runs.pop(), columns))
        if len(columns) == 1:
            self._runs.append([np.sort(columns[0])])  # in half the memory
            return
        order = np.argsort(columns[0])
        self._runs.append([column[order] for column in columns])


def _join(one: _Column, other: _Column) -> _Column:
    return np.concatenate([one, other])
