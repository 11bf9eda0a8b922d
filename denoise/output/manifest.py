"""What an output folder's inputs are, cut into shards; every later listing is compared with it.

See `generations` and `redo` for the files in it.
"""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice, repeat

import pyarrow as pa

from denoise.output.generations import (
    CHUNK,
    NOTHING,
    Generation,
    Shard,
    chunk_uri,
    entries_in,
    generations_of,
    shards_of,
    write_chunk,
)
from denoise.output.known_inputs import KnownInputs, Listing
from denoise.output.names import Names
from denoise.output.redo import failures_in, finished_shards, paths_to_redo, shards_to_redo
from denoise.storage import files
from denoise.storage.entry import Entry
from denoise.storage.stores import ASKERS
from denoise.storage.uris import join

SHARD_BYTES = 1 << 20  # of encoded images: a kill costs the work on so much, for each worker
_LARGEST = 32 << 20  # and no more in a large store: a worker may have a shard's pixels in memory
_MANY = 64_000  # shards, beyond which they are made larger


@dataclass(frozen=True)
class Planned:
    """What a run would find to do, in images and in shards."""

    done: int  # listed images whose rows would stay
    to_do: int
    shards: int


def update(
    uri: str,
    entries: Iterator[Entry],
    beside: pa.Schema = NOTHING,
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
    known = KnownInputs(uri, generations)
    number = len(generations)
    rows = size = chunk = 0
    fresh = known.compare(entries, listing, renew=True)
    if names is not None:
        _claim(uri, generations, names)
        fresh = names.give(fresh)
    while batch := list(islice(fresh, CHUNK)):
        write_chunk(uri, number, chunk, batch, beside)
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
        for chunk in range(-(-made.rows // CHUNK)):
            for entry in entries_in(chunk_uri(uri, made.number, chunk)):
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
    return entries_in(chunk_uri(uri, 0, 0), 0, 1)[0].uri


def plan(
    uri: str, entries: Iterator[Entry], *, retry_errors: bool = False, overwrite: bool = False
) -> Planned:
    """What `infer` would do with these inputs, by `update`'s own comparison; nothing is written."""
    generations = [] if overwrite else generations_of(uri)
    known = KnownInputs(uri, generations)
    rows = size = 0
    for entry in known.compare(entries, Listing()):
        rows, size = rows + 1, size + entry.likely_size
    shards = -(-rows // shard_rows(rows, size))
    done, finished, redo = 0, finished_shards(uri), known.changed_paths()
    numbers = sorted(shards_to_redo(uri))
    with ThreadPoolExecutor(ASKERS) as pool:
        for number, paths in zip(
            numbers, pool.map(partial(paths_to_redo, uri), numbers), strict=True
        ):
            redo[number] |= paths
    there = []
    for shard in shards_of(generations):
        if shard.number in finished:
            there.append(shard)
        else:
            rows, shards = rows + len(shard), shards + 1
    failures: Iterable[set[str]] = failures_in(uri, there) if retry_errors else repeat(set())
    for shard, failed in zip(there, failures, strict=False):
        redone = len(redo[shard.number] | failed)
        rows, shards = rows + redone, shards + (redone > 0)
        done += max(0, known.listed_in(shard) - redone)
    return Planned(done, rows, shards)


def shards_to_do(uri: str) -> list[Shard]:
    """The shards of an output folder that have no part file yet, or one with rows to redo."""
    done, redo = finished_shards(uri), shards_to_redo(uri)
    return [
        replace(shard, has_redo=shard.number in done)
        for shard in shards_of(generations_of(uri))
        if shard.number not in done or shard.number in redo
    ]


def shards_with_errors(uri: str) -> list[Shard]:
    """The shards of an output folder in whose part file an image failed."""
    done = finished_shards(uri)
    there = [shard for shard in shards_of(generations_of(uri)) if shard.number in done]
    failures = failures_in(uri, there)
    return [shard for shard, failed in zip(there, failures, strict=True) if failed]


def shard_rows(rows: int, size: int, shard_bytes: int = SHARD_BYTES) -> int:
    """How many images make a shard: few enough that a kill costs seconds and that every worker has
    work until the end; more in a large store, so that its files are not too many."""
    by_bytes, largest = (limit * rows // max(1, size) for limit in (shard_bytes, _LARGEST))
    wanted = min(by_bytes, max(4, rows // 32), 1000)
    return max(1, wanted, min(-(-rows // _MANY), largest))
