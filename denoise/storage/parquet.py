"""Images that lie in the rows of Parquet tables: listed by name, and fetched one by one.

A table is one that a job of ours has written, or any that has a column of image structs (bytes and
path), as Hugging Face `datasets` writes them.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from denoise.errors import ImageError, SettingsError
from denoise.images.pairs import Source
from denoise.storage import files, uris
from denoise.storage.disk import Found

_OURS = {"sigma", "seed", "file", "error"}  # columns by which a table of a job of ours is known
_LEAST = 64  # bytes of an image file: a column of nothing takes less a row
_MOST_KEPT = 64 << 20  # bytes of row groups, beside the last two, however large these are
_LARGE = 256 << 20  # bytes of a row group: a larger one is read in pieces
_PIECE = 32 << 20
_kept: dict[tuple[str, str, int], pa.Table] = {}  # the one asked for last comes last
_reading = Lock()  # else all threads that fetch ahead read the same rows at once


def rows_in(found: Found, left_out: Counter[str] | None = None) -> Iterator[tuple[str, int]]:
    """What the image of each row is called (by the table's `path`, else by the image's own, else by
    the table's place below the input root and its number), and about how large it is, in bytes: 0,
    which is not known, where the images lie elsewhere.

    Images of other columns are counted in `left_out`. Raises OSError, ArrowException, and
    SettingsError where there is no image column.
    """
    stem = found.path.rsplit(".", 1)[0]
    with files.open_input(found.uri) as file:
        table = pq.ParquetFile(file)
        size = found.size // max(1, table.metadata.num_rows) if _holds_bytes(table) else 0
        taken = _image_column(table.schema_arrow)
        for other in _image_columns(table.schema_arrow):
            if left_out is not None and other not in (taken, "clean"):
                reason = f"in column `{other}`, beside the images of `{taken}`"
                left_out[reason] += table.metadata.num_rows
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
    candidates = _image_columns(schema)
    for name in ("noisy", "image"):
        if name in candidates:
            return name
    if not candidates:
        known = sorted(schema.names)
        raise SettingsError(f"no image column (a struct of bytes and path) among {known}")
    return candidates[0]


def _image_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if _is_image(field.type)]


def _is_image(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def holds_image(value: Any) -> bool:
    """Whether a value of a table's row is an image struct."""
    return isinstance(value, dict) and "bytes" in value


def _row(uri: str, mark: str, row: int) -> pa.Table:
    """One row of a Parquet file, from rows that are kept for its neighbours."""
    with _reading:
        groups = _groups(uri, mark)
    for group in groups:
        if group.first <= row < group.stop:
            with _reading:
                if group.size > _LARGE:
                    return _row_of_large(uri, mark, group, row - group.first)
                neighbours = _group(uri, mark, group)
            return neighbours.slice(row - group.first, 1)
    raise ImageError("the table's row is gone")


class _Group(NamedTuple):
    """A row group: its rows, and the columns that are read with their bytes when decompressed."""

    number: int
    first: int
    stop: int
    size: int
    columns: list[str]


@lru_cache(maxsize=64)
def _groups(uri: str, _mark: str) -> list[_Group]:
    """The row groups of a Parquet file."""
    groups, first = [], 0
    with _whole_table(uri) as table:
        columns = _needed(table.schema_arrow)
        for number in range(table.metadata.num_row_groups):
            group = table.metadata.row_group(number)
            chunks = map(group.column, range(group.num_columns))
            size = sum(
                one.total_uncompressed_size
                for one in chunks
                if one.path_in_schema.partition(".")[0] in columns
            )
            groups.append(_Group(number, first, first + group.num_rows, size, columns))
            first += group.num_rows
    return groups


def _needed(schema: pa.Schema) -> list[str]:
    """The columns that `image_in` looks at; a table may have others of any size."""
    image = _image_column(schema)
    wanted = {image, "noise", *_OURS} | ({"clean"} if image == "noisy" else set())
    return [name for name in schema.names if name in wanted]


def _group(uri: str, mark: str, group: _Group) -> pa.Table:
    """A row group, from among those that were asked for last: an image's neighbours by name may lie
    in any of its table's."""
    key = uri, mark, group.number
    found = _kept.pop(key, None)
    if found is None:
        with _whole_table(uri) as table:
            found = table.read_row_group(group.number, columns=group.columns)
        while len(_kept) > 1 and sum(one.nbytes for one in _kept.values()) > _MOST_KEPT:
            del _kept[next(iter(_kept))]
    _kept[key] = found
    return found


@dataclass
class _Pieces:
    """A large row group that is read piece by piece, from its first row on."""

    key: tuple[str, str, int]
    open_file: ExitStack
    following: Iterator[pa.RecordBatch]
    first: int = 0  # row of the group that the piece at hand begins with
    piece: pa.Table | None = None


def _row_of_large(uri: str, mark: str, group: _Group, row: int) -> pa.Table:
    """A row of a group that is too large to be held. Rows that follow each other are read once;
    one that lies before the piece at hand has the group read again from its beginning."""
    key = uri, mark, group.number
    at_hand = _large.pop() if _large else None
    if at_hand is None or at_hand.key != key or row < at_hand.first:
        if at_hand is not None:
            at_hand.open_file.close()
        at_hand = _Pieces(key, stack := ExitStack(), iter(()))
        table = stack.enter_context(_whole_table(uri))
        rows = max(1, (group.stop - group.first) * _PIECE // group.size)
        at_hand.following = table.iter_batches(
            batch_size=rows, row_groups=[group.number], columns=group.columns, use_threads=False
        )
    while at_hand.piece is None or row >= at_hand.first + at_hand.piece.num_rows:
        at_hand.first += at_hand.piece.num_rows if at_hand.piece is not None else 0
        try:
            at_hand.piece = pa.Table.from_batches([next(at_hand.following)])
        except (StopIteration, pa.ArrowException) as error:
            at_hand.open_file.close()
            raise ImageError("its table cannot be read") from error
    _large.append(at_hand)
    return at_hand.piece.slice(row - at_hand.first, 1)


_large: list[_Pieces] = []  # the one that was asked for last, if any


@contextmanager
def _whole_table(uri: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file to read images from; one that was cut off since is their error."""
    try:
        with files.open_input(uri) as file:
            # pages as they are needed: not all of a column that may have gigabytes
            yield pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
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
