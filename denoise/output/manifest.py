"""What an output folder's inputs are, cut into shards; every later listing is compared with it.

OUTPUT/_manifest/rows-*.parquet      the inputs of one listing, in order
OUTPUT/_manifest/generation-*.json   how it is cut into shards; written last
OUTPUT/_manifest/redo-*             the paths of a finished shard whose images changed since
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import blake2b
from io import BytesIO
from itertools import accumulate, islice, repeat
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from denoise.output import tables
from denoise.output.names import Names
from denoise.storage import files
from denoise.storage.entry import Entry
from denoise.storage.uris import from_bytes, join, to_bytes

_CHUNK = 65_536  # rows of a manifest file
_GROUP = 4_096  # rows of a row group in it: what a worker reads to learn one shard
SHARD_BYTES = 1 << 20  # of encoded images: a kill costs the work on so much, for each worker
_LARGEST = 32 << 20  # and no more in a large store: a worker may have a shard's pixels in memory
_MANY = 64_000  # shards, beyond which they are made larger
_READERS = 16  # threads: enough to hide a store's latency
_MOVED = 2 * _CHUNK  # inputs that lie elsewhere are noted at a time: each may be in another file
_PLACE = 0xFFFFFF  # the bits that tell where an input lies, of the 64 remembered of its version
_MANIFEST = pa.schema(
    [
        ("path", pa.string()),
        ("uri", pa.binary()),  # a file's name need not be valid text
        ("size", pa.int64()),
        ("mark", pa.string()),
        ("row", pa.int64()),
        ("column", pa.string()),
        ("item", pa.int32()),
        ("archive", pa.string()),
        ("offset", pa.int64()),
        ("stored", pa.int64()),
        ("error", pa.string()),
        ("stem", pa.string()),
    ]
)
_VERSIONED = ["path", "uri", "size", "mark", "row"]
_NOTHING = pa.schema([])


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
        """The numbers of its shards."""
        return range(self.first_shard, self.first_shard - (-self.rows // self.shard_rows))

    def shard(self, number: int) -> "Shard":
        """One of its shards."""
        start = (number - self.first_shard) * self.shard_rows
        stop = min(start + self.shard_rows, self.rows)
        return Shard(number, self.number, start, stop, self.size * (stop - start) // self.rows)


@dataclass
class Listing:
    """What a listing found, against what the manifest knew."""

    inputs: int = 0
    added: int = 0
    changed: int = 0
    removed: int = 0
    new: Generation | None = None  # what the manifest did not know, not cut into shards yet


@dataclass(frozen=True)
class Planned:
    """What a run would find to do, in images and in shards."""

    done: int  # listed images whose rows would stay
    to_do: int
    shards: int


@dataclass(frozen=True)
class Shard:
    """Some inputs of one listing, which end up in one part file."""

    number: int
    generation: int
    start: int  # its inputs are these rows of the generation
    stop: int
    size: int  # bytes of its images, about
    has_redo: bool = False  # it has a part file, of which a few rows are to be redone

    def __len__(self) -> int:
        return self.stop - self.start

    def entries(self, uri: str) -> list[Entry]:
        """Read its inputs from the manifest of the output folder `uri`. Raises OSError."""
        found: list[Entry] = []
        for chunk in range(self.start // _CHUNK, (self.stop - 1) // _CHUNK + 1):
            first = chunk * _CHUNK
            rows = max(self.start - first, 0), min(self.stop - first, _CHUNK)
            found += _entries_in(_chunk_uri(uri, self.generation, chunk), *rows)
        return found


def update(
    uri: str,
    entries: Iterator[Entry],
    beside: pa.Schema = _NOTHING,
    names: Names | None = None,
) -> Listing:
    """Compare a listing with the manifest, and note what is new in it.

    What is new becomes a generation, which `cut` makes shards of. What changed is to be redone.
    Rows of inputs that are gone stay. Where an input only lies elsewhere than before (under a
    new signature, say), that is noted and no more. `beside` are the types of what the entries of a
    list carry along. `names` are for the files of images: the inputs of the manifest keep theirs,
    and new ones get others.
    """
    listing = Listing()
    generations = generations_of(uri)
    known = _Known(uri, generations)
    number = len(generations)
    rows = size = chunk = 0
    fresh = known.compare(entries, listing, renew=True)
    if names is not None:
        _claim(uri, generations, names)
        fresh = names.give(fresh)
    while batch := list(islice(fresh, _CHUNK)):
        _write_chunk(uri, number, chunk, batch, beside)
        chunk, rows = chunk + 1, rows + len(batch)
        size += sum(entry.likely_size for entry in batch)
    if rows or listing.changed:  # first of all: a kill must not leave it finished
        files.remove(join(uri, "_SUCCESS"))
    if rows:
        first = generations[-1].shards.stop if generations else 0
        listing.new = Generation(number, rows, size, rows, first)
    known.renew()
    listing.added = rows if generations else 0
    return listing


def _claim(uri: str, generations: list[Generation], names: Names) -> None:
    """Note the names that the manifest's inputs have, also of those that are gone since."""
    for made in generations:
        for chunk in range(-(-made.rows // _CHUNK)):
            for entry in _entries_in(_chunk_uri(uri, made.number, chunk)):
                names.claim(entry)


def cut(uri: str, new: Generation, shard_bytes: int = SHARD_BYTES) -> list[Shard]:
    """Cut a new generation into shards of about so many bytes, and note it: from now on it counts.

    Raises OSError.
    """
    made = replace(new, shard_rows=shard_rows(new.rows, new.size, shard_bytes))
    name = f"generation-{made.number:05d}.json"
    files.write(join(uri, "_manifest", name), json.dumps(asdict(made)).encode())
    return [made.shard(number) for number in made.shards]


def first_uri(uri: str) -> str:
    """Where the first input of an output folder lies. Raises OSError."""
    return _entries_in(_chunk_uri(uri, 0, 0), 0, 1)[0].uri


def planned(
    uri: str, entries: Iterator[Entry], *, retry_errors: bool = False, overwrite: bool = False
) -> Planned:
    """What `infer` would do with these inputs, by `update`'s own comparison; nothing is written."""
    generations = [] if overwrite else generations_of(uri)
    known = _Known(uri, generations)
    rows = size = 0
    for entry in known.compare(entries, Listing()):
        rows, size = rows + 1, size + entry.likely_size
    shards = -(-rows // shard_rows(rows, size))
    done, finished, redo = 0, _finished(uri), known.changed_paths()
    numbers = sorted(_to_redo(uri))
    with ThreadPoolExecutor(_READERS) as pool:
        for number, paths in zip(
            numbers, pool.map(partial(paths_to_redo, uri), numbers), strict=True
        ):
            redo[number] |= paths
    there = []
    for shard in _shards(generations):
        if shard.number in finished:
            there.append(shard)
        else:
            rows, shards = rows + len(shard), shards + 1
    failures: Iterable[set[str]] = _failures(uri, there) if retry_errors else repeat(set())
    for shard, failed in zip(there, failures, strict=False):
        redone = len(redo[shard.number] | failed)
        rows, shards = rows + redone, shards + (redone > 0)
        done += max(0, known.listed_in(shard) - redone)
    return Planned(done, rows, shards)


def pending(uri: str) -> list[Shard]:
    """The shards of an output folder that have no part file yet, or one with rows to redo."""
    done, redo = _finished(uri), _to_redo(uri)
    return [
        replace(shard, has_redo=shard.number in done)
        for shard in _shards(generations_of(uri))
        if shard.number not in done or shard.number in redo
    ]


def paths_to_redo(uri: str, shard: int) -> set[str]:
    """The paths of a shard that changed since it was done; none once they are redone."""
    try:
        return set(json.loads(files.read(_redo_uri(uri, shard))))
    except FileNotFoundError:
        return set()


def note_redone(uri: str, shard: int, paths: Set[str]) -> None:
    """Notes that a shard's part file has the rows of these; what else changed since stays noted."""
    _note_redo(uri, shard, paths_to_redo(uri, shard) - paths)


def _note_redo(uri: str, shard: int, paths: Set[str]) -> None:
    if paths:
        files.write(_redo_uri(uri, shard), json.dumps(sorted(paths)).encode())
    else:
        files.remove(_redo_uri(uri, shard))


def generations_of(uri: str) -> list[Generation]:
    """The listings that were finished, first to last."""
    found = [name for name in files.names(join(uri, "_manifest")) if name.endswith(".json")]
    return [Generation(**json.loads(files.read(join(uri, "_manifest", name)))) for name in found]


def with_errors(uri: str) -> list[Shard]:
    """The shards of an output folder in whose part file an image failed."""
    done = _finished(uri)
    there = [shard for shard in _shards(generations_of(uri)) if shard.number in done]
    failures = _failures(uri, there)
    return [shard for shard, failed in zip(there, failures, strict=True) if failed]


def _shards(generations: list[Generation]) -> Iterator[Shard]:
    return (made.shard(number) for made in generations for number in made.shards)


def _finished(uri: str) -> set[int]:
    """The numbers of the shards that have a part file."""
    return {tables.shard_of(name) for name in files.names(join(uri, "data"))} - {-1}


def _to_redo(uri: str) -> set[int]:
    """The numbers of the shards of which something is to be redone."""
    names = files.names(join(uri, "_manifest"))
    numbers = (name.removeprefix("redo-") for name in names if name.startswith("redo-"))
    return {int(number) for number in numbers if re.fullmatch(r"\d{8,}", number)}


def _redo_uri(uri: str, shard: int) -> str:
    return join(uri, "_manifest", f"redo-{shard:08d}")


def _failures(uri: str, shards: list[Shard]) -> Iterator[set[str]]:
    """What failed in each shard's part file; many are asked for at a time."""
    with ThreadPoolExecutor(_READERS) as pool:
        yield from pool.map(_failed_in, (tables.part_uri(uri, one.number) for one in shards))


def _failed_in(part: str) -> set[str]:
    """The paths of the images of a part file that failed."""
    with files.open_input(part) as file:
        rows = pq.ParquetFile(file)
        errors = rows.read(columns=["error"]).column("error")
        if errors.null_count == len(errors):
            return set()
        paths = rows.read(columns=["path"]).column("path")
    return set(paths.filter(errors.is_valid()).to_pylist())


class _Known:
    """The manifest as sorted hashes, 33 bytes an image, 49 while they are sorted: fit for a hundred
    million."""

    def __init__(self, uri: str, generations: list[Generation]) -> None:
        self._uri = uri
        ends = [0, *accumulate(made.rows for made in generations)]
        self._starts = dict(zip(generations, ends, strict=False))
        paths, self._marks = np.empty(ends[-1], "V16"), np.empty(ends[-1], "u8")
        for made, start in self._starts.items():
            for chunk in range(-(-made.rows // _CHUNK)):
                first = start + chunk * _CHUNK
                span = slice(first, min(first + _CHUNK, start + made.rows))
                paths[span], self._marks[span] = _hashes(_chunk_uri(uri, made.number, chunk))
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
        while batch := list(islice(entries, _CHUNK)):
            listing.inputs += len(batch)
            if not len(self._sorted):
                yield from batch
                continue
            keys = np.array([_path_hash(entry.path) for entry in batch], "V16").view("S16")
            positions = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
            for entry, key, position in zip(batch, keys, positions, strict=True):
                if self._sorted[position] != key:
                    yield entry
                    continue
                index = int(self._order[position])
                self._seen[index] = True
                uri = to_bytes(entry.uri)
                mark = _mark_hash(uri, entry.size, entry.mark, entry.row)
                differs = mark ^ int(self._marks[index])
                if differs & ~_PLACE:
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
        changed, redo = self.changed_paths(), _to_redo(self._uri)
        if not changed and not redo:
            return  # as nearly always: the part files need not be listed for it
        finished = _finished(self._uri)

        def note(shard: int) -> None:
            paths = changed[shard] | (paths_to_redo(self._uri, shard) if shard in redo else set())
            _note_redo(self._uri, shard, paths if shard in finished else set())

        # of those that have no part file any more nothing needs to be known
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(note, sorted((changed.keys() & finished) | (redo - finished))))
        self._write(self._changed)

    def _write(self, entries: Mapping[int, Entry]) -> None:
        """Replaces entries that the manifest holds."""
        for made, start in self._starts.items():
            chunks = {(i - start) // _CHUNK for i in entries if start <= i < start + made.rows}
            for chunk in sorted(chunks):
                held = _entries_in(name := _chunk_uri(self._uri, made.number, chunk))
                first = start + chunk * _CHUNK
                renewed = [
                    replace(entries.get(first + i, entry), stem=entry.stem)
                    for i, entry in enumerate(held)
                ]
                _write_chunk(self._uri, made.number, chunk, renewed, _beside_in(name))


def shard_rows(rows: int, size: int, shard_bytes: int = SHARD_BYTES) -> int:
    """How many images make a shard: few enough that a kill costs seconds and that every worker has
    work until the end; more in a large store, so that its files are not too many."""
    by_bytes, largest = (limit * rows // max(1, size) for limit in (shard_bytes, _LARGEST))
    wanted = min(by_bytes, max(4, rows // 32), 1000)
    return max(1, wanted, min(-(-rows // _MANY), largest))


def _write_chunk(
    uri: str, generation: int, chunk: int, entries: list[Entry], beside: pa.Schema
) -> None:
    schema = _MANIFEST
    if len(beside):
        schema = schema.append(pa.field("beside", pa.struct(list(beside))))
    columns: dict[str, list[Any]] = {
        name: [getattr(entry, name) for entry in entries] for name in schema.names
    }
    columns["uri"] = [to_bytes(uri) for uri in columns["uri"]]
    table = pa.table(columns, schema=schema)
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=_GROUP)
    files.write(_chunk_uri(uri, generation, chunk), buffer.getbuffer())


def _entries_in(uri: str, start: int = 0, stop: int = _CHUNK) -> list[Entry]:
    """Rows start to stop of a manifest file; only the row groups that hold them are read."""
    with files.open_input(uri) as file:
        manifest = pq.ParquetFile(file)
        stop = min(stop, manifest.metadata.num_rows)
        groups = range(start // _GROUP, -(-stop // _GROUP))
        table = manifest.read_row_groups(list(groups))
    rows = table.slice(start - groups.start * _GROUP, stop - start).to_pylist()
    return [Entry(**row | {"uri": from_bytes(row["uri"])}) for row in rows]


def _beside_in(uri: str) -> pa.Schema:
    """The types of what the entries of a manifest file carry along."""
    with files.open_input(uri) as file:
        schema = pq.read_schema(file)
    return pa.schema(list(schema.field("beside").type)) if "beside" in schema.names else _NOTHING


def _hashes(uri: str) -> tuple[Any, Any]:
    """[n] hashes of the paths of a manifest file, [n] of what tells the versions."""
    table = pq.read_table(BytesIO(files.read(uri)), columns=_VERSIONED)
    paths, *others = (table.column(name).to_pylist() for name in _VERSIONED)
    hashes = np.array([_path_hash(path) for path in paths], "V16")
    return hashes, np.array([_mark_hash(*each) for each in zip(*others, strict=True)], "u8")


def _path_hash(path: str) -> bytes:
    # numpy strips zero bytes off the end of a string, so that the last byte must not be one
    return blake2b(path.encode(), digest_size=15).digest() + b"\x01"


def _mark_hash(uri: bytes, size: int, mark: str, row: int) -> int:
    """In the upper bits what tells the version of an input, in the lower ones where it lies."""
    version = blake2b(f"{size} {mark}".encode(), digest_size=8).digest()
    lies = crc32(uri, row + 1) & _PLACE
    return int.from_bytes(version, "big") & ~_PLACE | lies


def _chunk_uri(uri: str, generation: int, chunk: int) -> str:
    return join(uri, "_manifest", f"rows-{generation:05d}-{chunk:05d}.parquet")
