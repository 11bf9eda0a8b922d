"""Hashes of names in 64 bits, and what is known of a hundred million of them, in sorted arrays."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from denoise.storage import uris

_RUN = 1 << 16  # hashes that are in a dict before they are sorted
_Run = tuple[NDArray[np.uint64], NDArray[np.uint64]]  # [n] sorted keys, [n] their values


def hash_of(name: str) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(blake2b(uris.to_bytes(name), digest_size=8).digest())


class HashMap:
    """A 64-bit value for each of many hashes: 16 bytes of each, in sorted runs."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []  # each longer than the next
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
        wanted, values = np.array(keys, np.uint64), dict[int, int]()
        for known, value in self._runs:
            there = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            hits = known[there] == wanted
            values.update(zip(wanted[hits].tolist(), value[there[hits]].tolist(), strict=True))
        return values

    def add(self, key: int, value: int) -> None:
        """Give a value to a key that has none."""
        self._latest[key] = value

    def settle(self) -> None:
        """Put the latest into a run if they are many, and runs of similar length into one."""
        if len(self._latest) < _RUN:
            return
        keys = np.fromiter(self._latest, np.uint64, len(self._latest))
        values = np.fromiter(self._latest.values(), np.uint64, len(keys))
        self._latest.clear()
        while self._runs and len(self._runs[-1][0]) < 2 * len(keys):
            more, their = self._runs.pop()
            keys, values = np.concatenate([more, keys]), np.concatenate([their, values])
        order = np.argsort(keys)
        self._runs.append((keys[order], values[order]))
