"""The inputs that a manifest knows, in memory, for every later listing to be compared with."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, islice

import numpy as np

from denoise.output.generations import (
    CHUNK,
    URI_BITS,
    Generation,
    Shard,
    beside_in,
    chunk_uri,
    entries_in,
    hashes_in,
    mark_hash,
    path_hash,
    write_chunk,
)
from denoise.output.redo import (
    READERS,
    finished_shards,
    note_to_redo,
    paths_to_redo,
    shards_to_redo,
)
from denoise.storage.entry import Entry
from denoise.storage.uris import to_bytes

_MOVED = 2 * CHUNK  # inputs that lie elsewhere are noted at a time: each may be in another file


@dataclass
class Listing:
    """What a listing found, against what the manifest knew."""

    inputs: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    new: Generation | None = None  # what the manifest did not know, not cut into shards yet


class KnownInputs:
    """The manifest as sorted hashes, 33 bytes an image, 49 while they are sorted: fit for a hundred
    million."""

    def __init__(self, uri: str, generations: list[Generation]) -> None:
        self._uri = uri
        ends = [0, *accumulate(made.rows for made in generations)]
        self._starts = dict(zip(generations, ends, strict=False))
        paths, self._marks = np.empty(ends[-1], "V16"), np.empty(ends[-1], "u8")
        for made, start in self._starts.items():
            for chunk in range(-(-made.rows // CHUNK)):
                first = start + chunk * CHUNK
                span = slice(first, min(first + CHUNK, start + made.rows))
                paths[span], self._marks[span] = hashes_in(chunk_uri(uri, made.number, chunk))
        self._order = np.argsort(paths.view("S16"), kind="stable")
        self._sorted = paths.view("S16")[self._order]
        self._seen = np.zeros(len(paths), bool)
        self._changed: dict[int, Entry] = {}

    def compare(
        self, entries: Iterator[Entry], listing: Listing, *, renew: bool = False
    ) -> Iterator[Entry]:
        """Yields the entries that the manifest does not know; keeps the changed ones in mind.

        With `renew` those that only lie elsewhere than before are noted in the manifest, so many at
        a time: a list whose every URI is signed anew never is in memory.
        """
        moved: dict[int, Entry] = {}
        while batch := list(islice(entries, CHUNK)):
            listing.inputs += len(batch)
            if not len(self._sorted):
                yield from batch
                continue
            keys = np.array([path_hash(entry.path) for entry in batch], "V16").view("S16")
            positions = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
            for entry, key, position in zip(batch, keys, positions, strict=True):
                if self._sorted[position] != key:
                    yield entry
                    continue
                index = int(self._order[position])
                self._seen[index] = True
                uri = to_bytes(entry.uri)
                mark = mark_hash(uri, entry.size, entry.mark, entry.row)
                differs = mark ^ int(self._marks[index])
                if differs & ~URI_BITS:
                    self._changed[index] = entry
                elif differs and renew:
                    moved[index] = entry
            if len(moved) >= _MOVED:
                self._write(moved)
                moved.clear()
        self._write(moved)
        listing.changed = len(self._changed)
        listing.removed = int(len(self._seen) - self._seen.sum())

    def listed_in(self, shard: Shard) -> int:
        """How many inputs of a shard were listed this time."""
        made = next(one for one in self._starts if one.number == shard.generation)
        start = self._starts[made]
        return int(self._seen[start + shard.start : start + shard.stop].sum())

    def changed_paths(self) -> defaultdict[int, set[str]]:
        """The changed inputs of each shard."""
        found: defaultdict[int, set[str]] = defaultdict(set)
        for made, start in self._starts.items():
            for index, entry in self._changed.items():
                if start <= index < start + made.rows:
                    found[made.first_shard + (index - start) // made.shard_rows].add(entry.path)
        return found

    def renew(self) -> None:
        """Notes what of finished shards is to be redone, then the new marks: in this order, so
        that a kill in between only repeats the work."""
        changed, redo = self.changed_paths(), shards_to_redo(self._uri)
        if not changed and not redo:
            return  # as nearly always: the part files need not be listed for it
        finished = finished_shards(self._uri)

        def note(shard: int) -> None:
            paths = changed[shard] | (paths_to_redo(self._uri, shard) if shard in redo else set())
            note_to_redo(self._uri, shard, paths if shard in finished else set())

        # of those that have no part file any more nothing needs to be known
        with ThreadPoolExecutor(READERS) as pool:
            list(pool.map(note, sorted((changed.keys() & finished) | (redo - finished))))
        self._write(self._changed)

    def _write(self, entries: Mapping[int, Entry]) -> None:
        """Replaces entries that the manifest holds."""
        for made, start in self._starts.items():
            chunks = {(i - start) // CHUNK for i in entries if start <= i < start + made.rows}
            for chunk in sorted(chunks):
                held = entries_in(name := chunk_uri(self._uri, made.number, chunk))
                first = start + chunk * CHUNK
                renewed = [
                    replace(entries.get(first + i, entry), stem=entry.stem)
                    for i, entry in enumerate(held)
                ]
                write_chunk(self._uri, made.number, chunk, renewed, beside_in(name))
