"""Images that lie in the rows of Parquet tables: listed by name, and fetched one by one.

A table is one that a job of ours has written, or any that has a column of image structs (bytes and
path), as Hugging Face `datasets` writes them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from denoise.errors import ImageError, SettingsError
from denoise.images.pairs import Source
from denoise.storage import files, uris
from denoise.storage.disk import Found

_OURS = {"sigma", "seed", "file", "error"}  # columns by which a table of a job of ours is known
_LEAST = 64  # bytes of an image file: a column of nothing takes less a row
_MOST_KEPT = 64 << 20  # bytes of row groups, beside the last two, however large these are
_kept: dict[tuple[str, str, int], pa.Table] = {}  # the one asked for last comes last
_reading = Lock()  # else all threads that fetch ahead read the same rows at once


def rows_in(found: Found) -> Iterator[tuple[str, int]]:
    """What the image of each row is called (by the table's `path`, else by the image's own, else by
    the table's place below the input root and its number), and about how large it is, in bytes: 0,
    which is not known, where the images lie elsewhere.

    Raises OSError, ArrowException, and SettingsError where there is no image column.
    """
    stem = found.path.rsplit(".", 1)[0]
    with files.open_input(found.uri) as file:
        table = pq.ParquetFile(file)
        size = found.size // max(1, table.metadata.num_rows) if _holds_bytes(table) else 0
        for number, name in enumerate(_names_in(table)):
            is_name = isinstance(name, str | int) and name != ""
            yield (str(name) if is_name else f"{stem}/{number}"), size


def _holds_bytes(table: pq.ParquetFile) -> bool:
    """Whether the images are in the table, and not only their places."""
    name = f"{_image_column(table.schema_arrow)}.bytes"
    groups = map(table.metadata.row_group, range(table.metadata.num_row_groups))
    chunks = (group.column(number) for group in groups for number in range(group.num_columns))
    size = sum(one.total_uncompressed_size for one in chunks if one.path_in_schema == name)
    return bool(size >= _LEAST * table.metadata.num_rows)


def _names_in(table: pq.ParquetFile) -> Iterator[Any]:
    schema = table.schema_arrow
    column = _image_column(schema)
    if "path" in schema.names:
        column = "path"
    elif schema.field(column).type.get_field_index("path") >= 0:
        column = f"{column}.path"
    for batch in table.iter_batches(columns=[column]):
        values = batch.column(0)
        if pa.types.is_struct(values.type) and values.type.get_field_index("path") >= 0:
            values = values.field("path")
        yield from values.to_pylist()


def image_in(uri: str, mark: str, number: int, *, allow_elsewhere: bool = False) -> Source:
    """The image of one row. Raises OSError, or ImageError where it has none, or one that lies
    elsewhere than its table, which may come from anybody."""
    table = _row(uri, mark, number)
    (row,), column = table.to_pylist(), _image_column(table.schema)
    is_ours = row.keys() >= _OURS
    if is_ours and row["error"] is not None:
        return Source(b"", error=str(row["error"]))
    if is_ours and row["file"] and not row[column]:  # `--save files` wrote it so
        encoded = files.read(uris.resolve_inside(uri.rsplit("/", 2)[0], row["file"]))
        if column != "noisy":  # by `infer`: it is noisy no more
            return Source(encoded)
        return Source(encoded, sigma=row["sigma"], seed=row["seed"], noise=row.get("noise"))
    encoded = _bytes_of(row[column], uri, allow_elsewhere)
    if column != "noisy" or not holds_image(row.get("clean")):
        return Source(encoded)
    clean = _bytes_of(row["clean"], uri, allow_elsewhere)
    return Source(encoded, clean, row.get("sigma"), row.get("seed"), row.get("noise"))


def _image_column(schema: pa.Schema) -> str:
    """The column of a table that holds the image: `noisy`, `image`, else the first of the kind.

    Raises SettingsError where there is none.
    """
    candidates = [field.name for field in schema if _is_image(field.type)]
    for name in ("noisy", "image"):
        if name in candidates:
            return name
    if not candidates:
        known = sorted(schema.names)
        raise SettingsError(f"no image column (a struct of bytes and path) among {known}")
    return candidates[0]


def _is_image(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def holds_image(value: Any) -> bool:
    """Whether a value of a table's row is an image struct."""
    return isinstance(value, dict) and "bytes" in value


def _row(uri: str, mark: str, row: int) -> pa.Table:
    """One row of a Parquet file, from a row group that is kept for its neighbours."""
    with _reading:
        groups = _groups(uri, mark)
    for group, first, stop in groups:
        if first <= row < stop:
            with _reading:
                neighbours = _group(uri, mark, group)
            return neighbours.slice(row - first, 1)
    raise ImageError("the table's row is gone")


@lru_cache(maxsize=64)
def _groups(uri: str, _mark: str) -> list[tuple[int, int, int]]:
    """The row groups of a Parquet file: number, first row, row after the last."""
    with _whole_table(uri) as table:
        metadata = table.metadata
    bounds, first = [], 0
    for group in range(metadata.num_row_groups):
        stop = first + metadata.row_group(group).num_rows
        bounds.append((group, first, stop))
        first = stop
    return bounds


def _group(uri: str, mark: str, group: int) -> pa.Table:
    """A row group, from among those that were asked for last: an image's neighbours by name may lie
    in any of its table's."""
    place = uri, mark, group
    found = _kept.pop(place, None)
    if found is None:
        with _whole_table(uri) as table:
            found = table.read_row_group(group)
        while len(_kept) > 1 and sum(one.nbytes for one in _kept.values()) > _MOST_KEPT:
            del _kept[next(iter(_kept))]
    _kept[place] = found
    return found


@contextmanager
def _whole_table(uri: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file to read images from; one that was cut off since is their error."""
    try:
        with files.open_input(uri) as file:
            yield pq.ParquetFile(file)
    except pa.ArrowException as error:
        raise ImageError("its table cannot be read") from error


def _bytes_of(image: dict[str, Any] | None, table: str, allow_elsewhere: bool) -> bytes:
    """The bytes of an image struct, fetched from its path where the table holds none."""
    if image and image.get("bytes") is not None:
        return bytes(image["bytes"])
    if image and image.get("path"):
        folder = uris.folder_of(table)
        named = uris.resolve_inside(folder, image["path"], allow_elsewhere=allow_elsewhere)
        return files.read(named)
    raise ImageError("the table's row holds no image")
