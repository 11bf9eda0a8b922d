"""The inputs of a listing, cut into shards, in the files of a manifest.

OUTPUT/_manifest/rows-*.parquet      the inputs of one listing, in order
OUTPUT/_manifest/generation-*.json   how it is cut into shards; written last
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from denoise.storage import files
from denoise.storage.entry import Entry
from denoise.storage.uris import from_bytes, join, to_bytes

CHUNK = 65_536  # rows of a manifest file
_GROUP = 4_096  # rows of a row group in it: what a worker reads to learn one shard
URI_BITS = 0xFFFFFF  # the bits that tell where an input lies, of the 64 remembered of its version
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
NOTHING = pa.schema([])


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
        for chunk in range(self.start // CHUNK, (self.stop - 1) // CHUNK + 1):
            first = chunk * CHUNK
            rows = max(self.start - first, 0), min(self.stop - first, CHUNK)
            found += entries_in(chunk_uri(uri, self.generation, chunk), *rows)
        return found


def generations_of(uri: str) -> list[Generation]:
    """The listings that were finished, first to last."""
    found = [name for name in files.names(join(uri, "_manifest")) if name.endswith(".json")]
    return [Generation(**json.loads(files.read(join(uri, "_manifest", name)))) for name in found]


def shards_of(generations: list[Generation]) -> Iterator[Shard]:
    return (made.shard(number) for made in generations for number in made.shards)


def write_chunk(
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
    files.write(chunk_uri(uri, generation, chunk), buffer.getbuffer())


def entries_in(uri: str, start: int = 0, stop: int = CHUNK) -> list[Entry]:
    """Rows start to stop of a manifest file; only the row groups that hold them are read."""
    with files.open_input(uri) as file:
        manifest = pq.ParquetFile(file)
        stop = min(stop, manifest.metadata.num_rows)
        groups = range(start // _GROUP, -(-stop // _GROUP))
        table = manifest.read_row_groups(list(groups))
    rows = table.slice(start - groups.start * _GROUP, stop - start).to_pylist()
    return [Entry(**row | {"uri": from_bytes(row["uri"])}) for row in rows]


def beside_in(uri: str) -> pa.Schema:
    """The types of what the entries of a manifest file carry along."""
    with files.open_input(uri) as file:
        schema = pq.read_schema(file)
    return pa.schema(list(schema.field("beside").type)) if "beside" in schema.names else NOTHING


def hashes_in(uri: str) -> tuple[Any, Any]:
    """[n] hashes of the paths of a manifest file, [n] of what tells the versions."""
    table = pq.read_table(BytesIO(files.read(uri)), columns=_VERSIONED)
    paths, *others = (table.column(name).to_pylist() for name in _VERSIONED)
    hashes = np.array([path_hash(path) for path in paths], "V16")
    return hashes, np.array([mark_hash(*each) for each in zip(*others, strict=True)], "u8")


def path_hash(path: str) -> bytes:
    # numpy strips zero bytes off the end of a string, so that the last byte must not be one
    return blake2b(path.encode(), digest_size=15).digest() + b"\x01"


def mark_hash(uri: bytes, size: int, mark: str, row: int) -> int:
    """In the upper bits what tells the version of an input, in the lower ones where it lies."""
    version = blake2b(f"{size} {mark}".encode(), digest_size=8).digest()
    lies = crc32(uri, row + 1) & URI_BITS
    return int.from_bytes(version, "big") & ~URI_BITS | lies


def chunk_uri(uri: str, generation: int, chunk: int) -> str:
    return join(uri, "_manifest", f"rows-{generation:05d}-{chunk:05d}.parquet")
