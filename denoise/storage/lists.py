"""Lists that name images: text of lines, CSV, TSV, JSON lines, each also gzipped, and Parquet.

What stands beside a name can be carried along: of CSV and TSV as text, of JSON lines and Parquet
with its type.
"""

import codecs
import csv
import gzip
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain, count, islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from denoise.errors import SettingsError
from denoise.storage import columns, files, uris
from denoise.storage.columns import Columns
from denoise.storage.found import LeftOut

_KINDS = ("txt", "csv", "tsv", "jsonl", "ndjson")
_JSON = ("jsonl", "ndjson")
_HEADERS = ("uri", "url")  # a text's first line may be one
_LONGEST = 16 << 20  # characters of a line or field: a longer one is no list's
_AT_ONCE = 1000  # rows whose types are looked at together

_Row = dict[str, Any]


def is_text_list(uri: str) -> bool:
    """Whether a URI ends like a list in text."""
    return bool(_kind_of(uri))


def names_in(
    uri: str, column: str | None, beside: Columns, left_out: LeftOut
) -> Iterator[tuple[str, _Row | None]]:
    """What each row of a list names, as it stands there, and the columns to carry along.

    Rows that name nothing are counted. Raises OSError, and SettingsError where the list cannot be
    read or has no column of locations.
    """
    with _open_list(uri, column, [name for name, _ in beside.names]) as (location, _, rows):
        for row in rows:
            named = row.get(location)
            if isinstance(named, str) and named.strip():
                yield named, _fit_row(beside.of(row), beside.schema) if beside.names else None
            else:
                left_out.add("rows that name no image")


def schema_of(uri: str, column: str | None) -> pa.Schema:
    """The columns of a list that stand beside the one that names its images."""
    with _open_list(uri, column) as (location, schema, rows):
        if _kind_of(uri) in _JSON:
            schema = _infer_schema(rows)
    return columns.beside(schema, location)


def names_uris(uri: str, column: str | None) -> bool:
    """Whether a table is a list whatever else it holds: by its column `uri`, or the wanted one."""
    if uris.suffix(uris.redact(uri)) != ".parquet":
        return False
    with files.open_input(uri) as file:
        schema = pq.read_schema(file)
    name = column or "uri"
    return name in schema.names and not columns.holds_images(schema.field(name).type)


def names_images(uri: str, column: str | None) -> bool:
    """Whether a table has a column of locations."""
    try:
        schema_of(uri, column)
    except (SettingsError, pa.ArrowException):
        return False
    return True


_Opened = tuple[str, pa.Schema, Iterator[_Row]]  # the column of locations, all columns, the rows


@contextmanager
def _open_list(uri: str, column: str | None, beside: Sequence[str] = ()) -> Iterator[_Opened]:
    """A list to read; of a Parquet file's rows no more columns than the locations and `beside`."""
    kind = _kind_of(uri)
    with files.open_input(uri) as file:
        if not kind:
            yield _of_table(uri, pq.ParquetFile(file), column, beside)
            return
        lines = _lines(uri, file, allow_nul=kind in ("csv", "tsv"))
        if kind == "txt":
            bare = (line.rstrip("\r\n") for line in lines)
            named = ({"uri": name} for name in bare if name.strip() and name not in _HEADERS)
            yield "uri", pa.schema([("uri", pa.string())]), named
            return
        first, rows = _json_rows(uri, lines) if kind in _JSON else _cells(lines, kind)
        schema = pa.schema([(name, pa.string()) for name in first])
        yield _location(uri, schema, column), schema, rows


def _of_table(
    uri: str, table: pq.ParquetFile, column: str | None, beside: Sequence[str]
) -> _Opened:
    location = _location(uri, table.schema_arrow, column)
    batches = table.iter_batches(columns=[location, *beside])
    rows = (row for batch in batches for row in batch.to_pylist())
    return location, table.schema_arrow, rows


def _location(uri: str, schema: pa.Schema, column: str | None) -> str:
    """The column of locations. Raises SettingsError, in which the list is named."""

    def other_than_text(name: str) -> str:
        kind = schema.field(name).type
        return "" if columns.is_text(kind) else str(kind)

    try:
        return columns.location_column(schema.names, column, other_than_text)
    except SettingsError as error:
        raise SettingsError(f"{uris.redact(uri)}: {error}") from error


def _kind_of(uri: str) -> str:
    """Its ending, without `.gz`; empty for a table."""
    name = uris.name_of(uris.redact(uri)).lower().removesuffix(".gz")
    last = uris.suffix(name).removeprefix(".")
    return last if last in _KINDS else ""


def _lines(uri: str, file: IO[bytes], *, allow_nul: bool) -> Iterator[str]:
    """The lines of a text in UTF-8, or in UTF-16 where its first bytes say so.

    What is no UTF-8 is escaped, as in the names of files. Raises SettingsError where a line is no
    text or too long.
    """
    plain: Any = gzip.GzipFile(fileobj=file) if uris.redact(uri).lower().endswith(".gz") else file
    head = plain.read(2)
    plain.seek(0)
    is_wide = head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as Excel and PowerShell write
    encoding, errors = ("utf-16", "strict") if is_wide else ("utf-8-sig", "surrogateescape")
    text = TextIOWrapper(plain, encoding=encoding, errors=errors, newline="")
    for number in count(1):
        line = text.readline(_LONGEST)
        if not line:
            return
        if len(line) == _LONGEST or ("\0" in line and not (allow_nul and number > 1)):
            wrong = "is too long" if len(line) == _LONGEST else "holds NUL characters"
            raise SettingsError(
                f"{uris.redact(uri)} is no UTF-8 text (line {number} {wrong}): save it as UTF-8"
            )
        yield line


def _cells(lines: Iterator[str], kind: str) -> tuple[list[str], Iterator[_Row]]:
    """The names of the columns of a CSV or TSV, and its rows. Raises csv.Error."""
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
    head = next(lines, "")
    separator = "\t" if kind == "tsv" else max(",;\t", key=head.count)  # of equals the comma
    cells = csv.reader(chain([head], lines), delimiter=separator)
    names = [_valid(name.strip()) for name in next(cells, [])]
    columns_of = {name: number for number, name in reversed([*enumerate(names)]) if name}
    rows = (
        {name: row[number] for name, number in columns_of.items() if number < len(row)}
        for row in cells
        if row
    )
    return [name for name in dict.fromkeys(names) if name], rows


def _json_rows(uri: str, lines: Iterator[str]) -> tuple[list[str], Iterator[_Row]]:
    """The names in the first row of a list in JSON lines, and all rows. Raises SettingsError."""

    def rows() -> Iterator[_Row]:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _object(uri, number, line)

    found = rows()
    first = next(found, {})
    return list(first), chain([first], found)


def _object(uri: str, number: int, line: str) -> _Row:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SettingsError(f"{uris.redact(uri)}: line {number} is no JSON object")
    return {_valid(name): value for name, value in found.items()}


def _infer_schema(rows: Iterator[_Row]) -> pa.Schema:
    """The columns of JSON rows: of the type that all values have, else text."""
    kinds: dict[str, pa.DataType] = {}
    while batch := list(islice(rows, _AT_ONCE)):
        for name in dict.fromkeys(name for row in batch for name in row):
            kind = _kind_of_values([row.get(name) for row in batch])
            kinds[name] = _common(kinds.get(name, pa.null()), kind)
    return pa.schema(list(kinds.items()))


def _kind_of_values(values: list[Any]) -> pa.DataType:
    try:
        kind = pa.array(values).type
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # of several types
        return pa.string()
    return pa.string() if "struct<>" in str(kind) else kind  # which Parquet does not know


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    schemas = [pa.schema([("value", kind)]) for kind in (one, other)]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive").field("value").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def _fit_row(row: _Row, schema: pa.Schema) -> _Row:
    """A row's values as their columns hold them: what else stands in one of text is JSON."""
    return {name: _fit_value(value, schema.field(name).type) for name, value in row.items()}


def _fit_value(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, str):
        return _valid(value)
    if value is None or kind != pa.string():
        return value
    return _valid(json.dumps(value, ensure_ascii=False))


def _valid(text: str) -> str:
    """Text that a table can hold: what was no UTF-8 stays an escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
