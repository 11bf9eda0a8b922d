"""Tables in Arrow files, as `datasets.save_to_disk` writes them: their columns, and single rows.

Files of this machine are mapped into memory: of a row no more is read than its own bytes. Those of
a store are read batch by batch. Both layouts of Arrow are known, the stream and the file (Feather).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property, lru_cache, partial
from itertools import accumulate, pairwise
from threading import Lock
from typing import Any

import pyarrow as pa

from denoise.errors import ImageError
from denoise.storage import files, pieces, uris

SUFFIXES = (".arrow", ".feather")
_MAGIC = b"ARROW1"  # of the file layout; a stream has none
_reading = Lock()


def data_files(folder: str) -> set[str] | None:
    """The names of a saved dataset's own files in a folder, where caches and files of an earlier
    save may be beside them; None where no dataset was saved. Raises OSError."""
    try:
        state = files.object_in(uris.join(folder, "state.json"))
    except (FileNotFoundError, ValueError):
        return None
    named = state.get("_data_files")
    if not isinstance(named, list):
        return None
    return {str(one.get("filename")) for one in named if isinstance(one, dict)}


class Table:
    """An Arrow file that is open."""

    def __init__(self, uri: str, schema: pa.Schema) -> None:
        self._uri = uri
        self.schema = schema

    @cached_property
    def rows(self) -> int:
        with _reader(self._uri) as reader:
            return sum(batch.num_rows for batch in _all(reader))

    def holds_bytes(self, column: str) -> bool:
        """Whether the images of a column are in the table: as far as anybody counted them."""
        return True

    def largest_page(self, column: str) -> int:
        """Bytes that are read at once for one image: of files of this machine its own alone."""
        return 0

    def batches(self, column: str, *, inner: str = "", rows: int = 0) -> Iterator[pa.Array]:
        """A column's values, a batch at a time, and with `rows` the first so many. Raises OSError,
        ArrowException."""
        with _reader(self._uri) as reader:
            for batch in _all(reader):
                yield batch.column(column)[: rows or len(batch)]
                if rows:
                    return


@contextmanager
def open_table(uri: str) -> Iterator[Table]:
    """An Arrow file to list. Raises OSError, ArrowException."""
    with _reader(uri) as reader:
        schema = reader.schema
    yield Table(uri, schema)


def row(uri: str, mark: str, number: int, columns: tuple[str, ...]) -> pa.Table:
    """One row, and of its columns those that are there. Raises OSError, ImageError."""
    with _reading:
        try:
            if uris.is_local(uri):
                found = _map_row(uri, mark, number)
            else:
                found = pieces.row((uri, mark), number, partial(_from_store, uri))
        except pa.ArrowException as error:
            raise ImageError("its table cannot be read") from error
    return found.select([name for name in columns if name in found.column_names])


def _from_store(uri: str, stack: ExitStack) -> Iterator[pa.RecordBatch]:
    return _all(stack.enter_context(_reader(uri)))


def _map_row(uri: str, mark: str, number: int) -> pa.Table:
    found, starts = _map_batches(uri, mark)
    for batch, (start, stop) in zip(found, pairwise(starts), strict=True):
        if start <= number < stop:
            return pa.Table.from_batches([batch.slice(number - start, 1)])
    raise ImageError("the table's row is gone")


@lru_cache(maxsize=16)
def _map_batches(uri: str, _mark: str) -> tuple[list[pa.RecordBatch], list[int]]:
    """The batches of a file of this machine, whose bytes are read when they are looked at, and the
    rows that they begin with."""
    with _reader(uri) as reader:
        found = list(_all(reader))
    return found, list(accumulate((one.num_rows for one in found), initial=0))


@contextmanager
def _reader(uri: str) -> Iterator[Any]:
    """A reader of either layout. Raises OSError, ArrowException."""
    with ExitStack() as stack:
        if uris.is_local(uri):
            source = stack.enter_context(pa.memory_map(uris.local_path(uri)))
        else:
            source = stack.enter_context(files.open_input(uri))
        is_file = source.read(len(_MAGIC)) == _MAGIC
        source.seek(0)
        yield stack.enter_context((pa.ipc.open_file if is_file else pa.ipc.open_stream)(source))


def _all(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)
