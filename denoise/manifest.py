"""What an output folder's inputs are, cut into shards; every later listing is compared with it.

OUTPUT/_manifest/rows-*.parquet      the inputs of one listing, in order
OUTPUT/_manifest/generation-*.json   how it is cut into shards; written last
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from denoise import storage, tables
from denoise.inputs import Entry
from denoise.storage import join

_CHUNK = 65_536  # rows of a manifest file
_GROUP = 4_096  # rows of a row group in it: what a worker reads to learn one shard
_UNKNOWN = 2 << 20  # bytes that an image of unknown size counts as: an ordinary photograph
SHARD_BYTES = 1 << 20  # of encoded images: a kill costs the work on so much, for each worker
_MOST_SHARDS = 64_000  # a generation: what Ray Data's driver handles with ease
_MANIFEST = pa.schema(
    [
        ("path", pa.string()),
        ("uri", pa.binary()),  # a file's name need not be valid text
        ("size", pa.int64()),
        ("mark", pa.string()),
        ("row", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Generation:
    """Inputs that one listing found new, cut into shards of equal numbers of rows."""

    number: int
    rows: int
    size: int  # bytes of all its images
    shard_rows: int
    first_shard: int

    @property
    def shards(self) -> range:
        return range(self.first_shard, self.first_shard - (-self.rows // self.shard_rows))


@dataclass
class Listing:
    """What a listing found, against what the manifest knew."""

    inputs: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Shard:
    """One unit of work: a run of inputs that ends up in one part file."""

    number: int
    generation: Generation

    @property
    def span(self) -> range:
        """Its rows within the generation."""
        start = (self.number - self.generation.first_shard) * self.generation.shard_rows
        return range(start, min(start + self.generation.shard_rows, self.generation.rows))

    def entries(self, uri: str) -> list[Entry]:
        """Its inputs, from the manifest of the output folder `uri`. Raises OSError."""
        start, stop = self.span.start, self.span.stop
        found: list[Entry] = []
        for chunk in range(start // _CHUNK, (stop - 1) // _CHUNK + 1):
            first = chunk * _CHUNK
            place = _chunk_uri(uri, self.generation.number, chunk)
            found += _entries_in(place, max(start - first, 0), min(stop - first, _CHUNK))
        return found


def update(
    uri: str, entries: Iterator[Entry], left_out: Counter[str], shard_bytes: int = SHARD_BYTES
) -> Listing:
    """Compares a listing with the manifest: what is new becomes a new generation of shards, a shard
    with a changed input is to be done again, rows of inputs that are gone are kept."""
    listing = Listing(left_out=left_out)
    known = _Known(uri)
    generations = generations_of(uri)
    number = len(generations)
    rows = size = chunk = 0
    fresh = known.sift(entries, listing)
    while batch := list(islice(fresh, _CHUNK)):
        _write_chunk(uri, number, chunk, batch)
        chunk, rows, size = chunk + 1, rows + len(batch), size + sum(map(_size_of, batch))
    if rows or listing.changed:  # before anything is taken back: a kill must not leave it finished
        storage.remove(join(uri, "_SUCCESS"))
    if rows:
        first = generations[-1].shards.stop if generations else 0
        made = Generation(number, rows, size, shard_rows(rows, size, shard_bytes), first)
        place = join(uri, "_manifest", f"generation-{number:05d}.json")
        storage.write(place, json.dumps(asdict(made)).encode())
    known.renew(generations)
    listing.added = rows if generations else 0
    return listing


def pending(uri: str) -> list[Shard]:
    """The shards of an output folder that have no part file yet."""
    done = {tables.shard_of(name) for name in storage.names(join(uri, "data"))}
    return [
        Shard(number, made)
        for made in generations_of(uri)
        for number in made.shards
        if number not in done
    ]


def generations_of(uri: str) -> list[Generation]:
    """The listings that were finished, first to last."""
    found = [name for name in storage.names(join(uri, "_manifest")) if name.endswith(".json")]
    return [Generation(**json.loads(storage.read(join(uri, "_manifest", name)))) for name in found]


def with_errors(uri: str) -> list[Shard]:
    """The shards of an output folder in whose part file an image failed."""
    homes = {number: made for made in generations_of(uri) for number in made.shards}
    found = []
    for place in tables.parts(uri):
        with storage.open_input(place) as file:
            errors = pq.ParquetFile(file).read(columns=["error"]).column("error")
        if errors.null_count < len(errors):
            number = tables.shard_of(place.rsplit("/", 1)[-1])
            found.append(Shard(number, homes[number]))
    return found


class _Known:
    """The manifest as sorted hashes, 36 bytes an image: fit for a hundred million."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        chunks = [
            _hashes(_chunk_uri(uri, made.number, chunk))
            for made in generations_of(uri)
            for chunk in range(-(-made.rows // _CHUNK))
        ]
        self._paths = np.concatenate([c[0] for c in chunks]) if chunks else np.empty(0, "V16")
        self._marks = np.concatenate([c[1] for c in chunks]) if chunks else np.empty(0, "u8")
        self._order = np.argsort(self._paths.view("S16"), kind="stable")
        self._sorted = self._paths.view("S16")[self._order]
        self._seen = np.zeros(len(self._paths), bool)
        self._changed: dict[int, Entry] = {}

    def sift(self, entries: Iterator[Entry], listing: Listing) -> Iterator[Entry]:
        """Yields the entries that the manifest does not know; notes the changed ones."""
        while batch := list(islice(entries, _CHUNK)):
            listing.inputs += len(batch)
            if not len(self._sorted):
                yield from batch
                continue
            keys = np.array([_path_hash(entry.path) for entry in batch], "V16").view("S16")
            places = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
            for entry, key, place in zip(batch, keys, places, strict=True):
                if self._sorted[place] != key:
                    yield entry
                    continue
                index = int(self._order[place])
                self._seen[index] = True
                if _mark_hash(entry.size, entry.mark) != int(self._marks[index]):
                    self._changed[index] = entry
        listing.changed = len(self._changed)
        listing.removed = int(len(self._seen) - self._seen.sum())

    def renew(self, generations: list[Generation]) -> None:
        """Takes back the part files of changed inputs, then notes their new marks: in this order,
        so that a kill in between only has the work done again."""
        start = 0
        for made in generations:
            indices = [i - start for i in self._changed if start <= i < start + made.rows]
            for shard in {made.first_shard + i // made.shard_rows for i in indices}:
                storage.remove(tables.part_uri(self._uri, shard))
            for chunk in {i // _CHUNK for i in indices}:
                held = _entries_in(_chunk_uri(self._uri, made.number, chunk))
                first = start + chunk * _CHUNK
                renewed = [self._changed.get(first + i, entry) for i, entry in enumerate(held)]
                _write_chunk(self._uri, made.number, chunk, renewed)
            start += made.rows


def _size_of(entry: Entry) -> int:
    return entry.size or _UNKNOWN


def shard_rows(rows: int, size: int, shard_bytes: int = SHARD_BYTES) -> int:
    """How many images make a shard: few enough that a kill costs seconds and that every worker has
    work until the end, many enough that a hundred million images make no more than 64,000 tasks."""
    by_bytes = shard_bytes * rows // max(1, size)
    wanted = min(by_bytes, max(4, rows // 32), 1000)
    return max(1, wanted, -(-rows // _MOST_SHARDS))


def _write_chunk(uri: str, generation: int, chunk: int, entries: list[Entry]) -> None:
    columns: dict[str, list[Any]] = {
        name: [getattr(entry, name) for entry in entries] for name in _MANIFEST.names
    }
    columns["uri"] = [one.encode("utf-8", "surrogateescape") for one in columns["uri"]]
    table = pa.table(columns, schema=_MANIFEST)
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=_GROUP)
    storage.write(_chunk_uri(uri, generation, chunk), buffer.getbuffer())


def _entries_in(uri: str, start: int = 0, stop: int = _CHUNK) -> list[Entry]:
    """Rows start to stop of a manifest file; only the row groups that hold them are read."""
    with storage.open_input(uri) as file:
        manifest = pq.ParquetFile(file)
        stop = min(stop, manifest.metadata.num_rows)
        groups = range(start // _GROUP, -(-stop // _GROUP))
        table = manifest.read_row_groups(list(groups))
    rows = table.slice(start - groups.start * _GROUP, stop - start).to_pylist()
    return [Entry(**row | {"uri": row["uri"].decode("utf-8", "surrogateescape")}) for row in rows]


def _hashes(uri: str) -> tuple[Any, Any]:
    """[n] hashes of the paths of a manifest file, [n] of what tells the versions."""
    table = pq.read_table(BytesIO(storage.read(uri)), columns=["path", "size", "mark"])
    paths = np.array([_path_hash(path) for path in table.column("path").to_pylist()], "V16")
    pairs = zip(table.column("size").to_pylist(), table.column("mark").to_pylist(), strict=True)
    return paths, np.array([_mark_hash(size, mark) for size, mark in pairs], "u8")


def _path_hash(path: str) -> bytes:
    # numpy strips zero bytes off the end of a string, so that the last byte must not be one
    return blake2b(path.encode(), digest_size=15).digest() + b"\x01"


def _mark_hash(size: int, mark: str) -> int:
    return int.from_bytes(blake2b(f"{size} {mark}".encode(), digest_size=8).digest(), "little")


def _chunk_uri(uri: str, generation: int, chunk: int) -> str:
    return join(uri, "_manifest", f"rows-{generation:05d}-{chunk:05d}.parquet")
