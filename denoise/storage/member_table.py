"""The members of an archive, found by hashes of their names: 60 bytes of memory for each."""

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from denoise.images.codec import IMAGE_SUFFIXES
from denoise.storage import uris
from denoise.storage.hashes import hash_of
from denoise.storage.spans import Member

_Hashes = NDArray[np.uint64]
_Order = NDArray[np.intp]


class MemberTable:
    """Members by the keys of their names; of those with one key the first counts."""

    def __init__(self, members: Iterable[Member]) -> None:
        numbers, names, bare = array("q"), array("Q"), array("Q")
        errors = {"": 0}
        for one in members:
            key = uris.key(one.name)
            names.append(hash_of(key))
            # only images are references by their stem
            bare.append(
                hash_of(uris.without_suffix(key)) if uris.suffix(key) in IMAGE_SUFFIXES else 0
            )
            error = errors.setdefault(one.error, len(errors))
            numbers.extend((one.offset, one.stored, one.size, error))
        self._errors = list(errors)
        # [n, 4] offset, stored and full size in bytes, number of the error
        self._numbers = np.frombuffer(numbers, np.int64).reshape(-1, 4)
        hashes = np.frombuffer(names, np.uint64)
        order = np.argsort(hashes, kind="stable")
        is_first = np.ones(len(order), bool)
        is_first[1:] = np.diff(hashes[order]) != 0
        self._order = order[is_first]
        self._names: _Hashes = hashes[self._order]
        stems = np.frombuffer(bare, np.uint64)[self._order]
        images = self._order[stems != 0]
        stems = stems[stems != 0]
        by_stem = np.argsort(stems, kind="stable")
        self._images, self._stems = images[by_stem], stems[by_stem]

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def get(self, name: str) -> Member | None:
        """The member of a name, None where there is none."""
        found = self._found(self._names, self._order, uris.key(name), name)
        return found[0] if found else None

    def alike(self, name: str) -> list[Member]:
        """The images whose names differ from this one by their suffix alone; named like it."""
        return self._found(self._stems, self._images, uris.without_suffix(uris.key(name)), name)

    def _found(self, hashes: _Hashes, order: _Order, text: str, name: str) -> list[Member]:
        wanted = np.uint64(hash_of(text))
        first, last = (int(np.searchsorted(hashes, wanted, side)) for side in ("left", "right"))
        rows = self._numbers[order[first:last]].tolist()
        return [
            Member(name, offset, stored, size, error=self._errors[error])
            for offset, stored, size, error in rows
        ]
