"""Which shards of an output folder are done, and which of their rows are to be redone.

OUTPUT/_manifest/redo-*   the paths of a finished shard whose images changed since
"""

import json
import re
from collections.abc import Iterator, Set
from concurrent.futures import ThreadPoolExecutor

import pyarrow.parquet as pq

from denoise.output import tables
from denoise.output.generations import Shard
from denoise.storage import files
from denoise.storage.stores import ASKERS
from denoise.storage.uris import join


def finished_shards(uri: str) -> set[int]:
    """The numbers of the shards that have a part file."""
    return {tables.shard_of(name) for name in files.names(join(uri, "data"))} - {-1}


def shards_to_redo(uri: str) -> set[int]:
    """The numbers of the shards of which something is to be redone."""
    names = files.names(join(uri, "_manifest"))
    numbers = (name.removeprefix("redo-") for name in names if name.startswith("redo-"))
    return {int(number) for number in numbers if re.fullmatch(r"\d{8,}", number)}


def paths_to_redo(uri: str, shard: int) -> set[str]:
    """The paths of a shard that changed since it was done; none once they are redone."""
    try:
        return set(json.loads(files.read(_redo_uri(uri, shard))))
    except FileNotFoundError:
        return set()


def note_redone(uri: str, shard: int, paths: Set[str]) -> None:
    """Notes that a shard's part file has the rows of these; what else changed since stays noted."""
    note_to_redo(uri, shard, paths_to_redo(uri, shard) - paths)


def note_to_redo(uri: str, shard: int, paths: Set[str]) -> None:
    """Note what is to be redone of a shard; nothing where no path is."""
    if paths:
        files.write(_redo_uri(uri, shard), json.dumps(sorted(paths)).encode())
    else:
        files.remove(_redo_uri(uri, shard))


def _redo_uri(uri: str, shard: int) -> str:
    return join(uri, "_manifest", f"redo-{shard:08d}")


def failures_in(uri: str, shards: list[Shard]) -> Iterator[set[str]]:
    """What failed in each shard's part file; many are asked for at a time."""
    with ThreadPoolExecutor(ASKERS) as pool:
        yield from pool.map(_failures_in, (tables.part_uri(uri, one.number) for one in shards))


def _failures_in(part: str) -> set[str]:
    """The paths of the images of a part file that failed."""
    with files.open_input(part) as file:
        rows = pq.ParquetFile(file)
        errors = rows.read(columns=["error"]).column("error")
        if errors.null_count == len(errors):
            return set()
        paths = rows.read(columns=["path"]).column("path")
    return set(paths.filter(errors.is_valid()).to_pylist())
