"""Parquet tables: their columns, and single rows, of which the needed columns alone are read."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from denoise.errors import ImageError
from denoise.storage import files, pieces

SUFFIXES = (".parquet",)
_LEAST = 64  # bytes of an image file: a column of nothing takes less a row
_MOST_KEPT = 64 << 20  # bytes of row groups, beside the last two, however large these are
_LARGE = 256 << 20  # bytes of a row group: a larger one is read in pieces
_PIECE = 32 << 20
_PAGE_ROWS = 1024
_kept: dict[tuple[str, str, int, tuple[str, ...]], pa.Table] = {}  # what was asked for last is last
_reading = Lock()  # else all threads that fetch ahead read the same rows at once


class Table:
    """A Parquet file that is open."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        self.schema: pa.Schema = file.schema_arrow
        self.rows: int = file.metadata.num_rows

    def holds_bytes(self, column: str) -> bool:
        """Whether the images of a column are in the table, and not only their locations."""
        size = sum(
            chunk.total_uncompressed_size
            for _, chunks in self._chunks(column)
            for chunk in chunks
            if not chunk.path_in_schema.endswith(".path")
        )
        return bool(size >= _LEAST * self.rows)

    def largest_page(self, column: str) -> int:
        """Bytes that are read at once for one image, about: writers make pages, and dictionaries,
        of whole thousands of rows, however large these are."""
        found = 0
        for rows, chunks in self._chunks(column):
            size = sum(chunk.total_uncompressed_size for chunk in chunks)
            found = max(found, size * min(_PAGE_ROWS, rows) // max(1, rows))
        return found

    def _chunks(self, column: str) -> Iterator[tuple[int, list[pq.ColumnChunkMetaData]]]:
        """Of each row group the number of rows, and what it stores of a column."""
        for number in range(self._file.metadata.num_row_groups):
            group = self._file.metadata.row_group(number)
            yield group.num_rows, _chunks(group, (column,))

    def batches(self, column: str, *, inner: str = "", rows: int = 0) -> Iterator[pa.Array]:
        """A column's values, a batch at a time: of structs the field `inner` alone, if they have
        it, and with `rows` the first so many. Raises OSError, ArrowException."""
        schema = self._file.schema
        leaves = [schema.column(number).path for number in range(len(schema.names))]
        within = (one for one in leaves if one.startswith(f"{column}."))
        leaf = next((one for one in within if inner and one.endswith(f".{inner}")), column)
        for batch in self._file.iter_batches(rows or 65_536, columns=[leaf]):
            yield batch.column(0)
            if rows:
                return


def _chunks(group: pq.RowGroupMetaData, columns: tuple[str, ...]) -> list[pq.ColumnChunkMetaData]:
    """What a row group stores of columns, those of a struct's fields included."""
    chunks = map(group.column, range(group.num_columns))
    return [one for one in chunks if one.path_in_schema.partition(".")[0] in columns]


@contextmanager
def open_table(uri: str) -> Iterator[Table]:
    """A Parquet file to list. Raises OSError, ArrowException."""
    with files.open_input(uri) as file:
        yield Table(pq.ParquetFile(file))


def row(uri: str, mark: str, number: int, columns: tuple[str, ...]) -> pa.Table:
    """One row, and of its columns those that are there, from rows in memory for its neighbours.
    Raises OSError, ImageError."""
    with _reading:
        groups = _groups(uri, mark, columns)
    for group in groups:
        if group.first <= number < group.stop:
            with _reading:
                if group.size > _LARGE:
                    return _row_of_large(uri, mark, group, number - group.first)
                neighbours = _group(uri, mark, group)
            return neighbours.slice(number - group.first, 1)
    raise ImageError("the table's row is gone")


class _Group(NamedTuple):
    """A row group: its rows, and the columns that are read with their bytes when decompressed."""

    number: int
    first: int
    stop: int
    size: int
    columns: tuple[str, ...]


@lru_cache(maxsize=64)
def _groups(uri: str, _mark: str, columns: tuple[str, ...]) -> list[_Group]:
    """The row groups of a Parquet file."""
    groups, first = [], 0
    with _whole_table(uri) as table:
        columns = tuple(name for name in columns if name in table.schema_arrow.names)
        for number in range(table.metadata.num_row_groups):
            group = table.metadata.row_group(number)
            size = sum(one.total_uncompressed_size for one in _chunks(group, columns))
            groups.append(_Group(number, first, first + group.num_rows, size, columns))
            first += group.num_rows
    return groups


def _group(uri: str, mark: str, group: _Group) -> pa.Table:
    """A row group, from among those that were asked for last: an image's neighbours by name may be
    in any of its table's."""
    key = uri, mark, group.number, group.columns
    found = _kept.pop(key, None)
    if found is None:
        with _whole_table(uri) as table:
            found = table.read_row_group(group.number, columns=list(group.columns))
        while len(_kept) > 1 and sum(one.nbytes for one in _kept.values()) > _MOST_KEPT:
            del _kept[next(iter(_kept))]
    _kept[key] = found
    return found


def _row_of_large(uri: str, mark: str, group: _Group, row: int) -> pa.Table:
    """A row of a group that is too large to be held."""

    def opened(stack: ExitStack) -> Iterator[pa.RecordBatch]:
        table = stack.enter_context(_whole_table(uri))
        rows = max(1, (group.stop - group.first) * _PIECE // group.size)
        return table.iter_batches(
            batch_size=rows,
            row_groups=[group.number],
            columns=list(group.columns),
            use_threads=False,
        )

    return pieces.row((uri, mark, group.number, group.columns), row, opened)


@contextmanager
def _whole_table(uri: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file to read images from; one that was cut off since is their error."""
    unreadable = pa.ArrowException  # at the interpreter's end `pa` is gone before this is closed
    try:
        with files.open_input(uri) as file:
            # pages as they are needed: not all of a column that may have gigabytes
            yield pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
    except unreadable as error:
        raise ImageError("its table cannot be read") from error
