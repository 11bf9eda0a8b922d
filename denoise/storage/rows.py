"""Images in the rows of tables, Parquet and Arrow: listed by name, fetched one by one.

A table is one that a job of ours has written, or any that has a column of images, see `columns`.
"""

from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from denoise.errors import ImageError, SettingsError
from denoise.images.pairs import Source
from denoise.storage import archives, arrow, columns, files, parquet, uris
from denoise.storage.found import Found, LeftOut

SUFFIXES = (*parquet.SUFFIXES, *arrow.SUFFIXES)
OURS = ("sigma", "seed", "file", "error")  # columns by which a table of a job of ours is known
_LARGEST_PAGE = 1 << 30  # bytes: reading takes twice that
_LOOKED_AT = 16  # rows by which a column of bytes is known
_Table = parquet.Table | arrow.Table


class Image(NamedTuple):
    """One image in a table."""

    path: str
    size: int  # in bytes, about; 0, which is not known, where the images are elsewhere
    column: str
    row: int
    item: int  # its number in the row's list of images, -1 where the row has one alone


def is_table(uri: str) -> bool:
    """Whether a URI ends like a table."""
    return uris.suffix(uris.redact(uri)) in SUFFIXES


def images_in(found: Found, column: str | None, left_out: LeftOut | None = None) -> Iterator[Image]:
    """The images of a table. Each is named by the table's `path`, else by the image's own, else by
    the table's path below the input root and its row's number; of a list of images each by that
    name and its number in the list, as in `a/0/3`.

    Images of other columns, and rows that have no list, are counted in `left_out`. Raises OSError,
    ArrowException, and SettingsError where there is no image column.
    """
    left_out = left_out or LeftOut()
    with _module_of(found.uri).open_table(found.uri) as table:
        taken = _image_column(table, column)
        if (page := table.largest_page(taken)) > _LARGEST_PAGE:
            raise SettingsError(
                f"{uris.redact(found.uri)}: its row groups have {page / 2**30:.1f} GiB of images "
                "that are read at once, by each worker, which takes twice that: write it with "
                "smaller ones, as by pyarrow.parquet.write_table(..., row_group_size=100)"
            )
        for other in columns.image_columns(table.schema):
            if other not in (taken, "clean"):
                reason = f"in column `{other}`, beside the images of `{taken}` (--column chooses)"
                left_out.add(reason, count=table.rows)
        size = found.size // max(1, table.rows) if table.holds_bytes(taken) else 0
        stem = found.path.rsplit(".", 1)[0]
        lengths = _lengths(table, taken)
        for number, name in enumerate(_names(table, taken)):
            is_name = isinstance(name, str | int) and name != ""
            path = str(name) if is_name else f"{stem}/{number}"
            if lengths is None:
                yield Image(path, size, taken, number, -1)
                continue
            length = next(lengths)
            if not length:
                left_out.add("rows with an empty list of images")
            for item in range(length):
                yield Image(f"{path}/{item}", size // length, taken, number, item)


def _image_column(table: _Table, wanted: str | None) -> str:
    """The column of a table that holds its images. Raises ArrowException, SettingsError."""

    def first_values(name: str) -> list[object]:
        values = [one.to_pylist() for one in table.batches(name, rows=_LOOKED_AT)]
        return values[0] if values else []

    return columns.image_column(table.schema, wanted, first_values)


def schema_beside(uri: str, column: str) -> pa.Schema:
    """The columns of a table that stand beside its images and their names. Raises OSError,
    ArrowException."""
    with _module_of(uri).open_table(uri) as table:
        schema: pa.Schema = table.schema
    return columns.beside(schema, column, columns.name_column(schema, column))


def image_in(
    uri: str,
    mark: str,
    image: tuple[str, int, int],
    *,
    beside: tuple[str, ...] = (),
    allow_elsewhere: bool = False,
) -> Source:
    """The image of a column, row and item; -1 is the item of a row that has one image alone.

    The columns `beside` are read with it, for `values_in`. Raises OSError, or ImageError where
    there is none, or one elsewhere than its table, which may come from anybody.
    """
    column, number, item = image
    row = _row(uri, mark, number, (*_needed(column), *beside))
    is_ours = row.keys() >= {*OURS}
    if is_ours and row["error"] is not None:
        return Source(b"", error=str(row["error"]))
    if is_ours and row["file"] and not row.get(column):  # `--save files` or `tar` wrote it
        encoded = archives.read(
            uris.resolve_inside(uris.folder_of(uris.folder_of(uri)), row["file"])
        )
        if column != "noisy":  # by `infer`: it is noisy no more
            return Source(encoded, white_level=row.get("white_level"))
        of_noise = {name: row.get(name) for name in ("sigma", "seed", "noise", "white_level")}
        return Source(encoded, **of_noise)
    encoded = _bytes_of(_item_of(row.get(column), item), uri, allow_elsewhere)
    level = row.get("white_level") if is_ours else None
    if column != "noisy" or not holds_image(row.get("clean")):
        return Source(encoded, white_level=level)
    clean = _bytes_of(row["clean"], uri, allow_elsewhere)
    of_noise = {name: row.get(name) for name in ("sigma", "seed", "noise")}
    return Source(encoded, clean, **of_noise, white_level=level)


def values_in(
    uri: str, mark: str, image: tuple[str, int, int], beside: tuple[str, ...], *, alone: bool
) -> dict[str, Any]:
    """What stands beside an image in its row: with `alone` nothing else of the row is read. A
    column that the table lacks is null. Raises OSError, ImageError."""
    column, number, _ = image
    others = () if alone else _needed(column)
    row = _row(uri, mark, number, (*others, *beside), of=beside)
    return {name: row.get(name) for name in beside}


def holds_image(value: Any) -> bool:
    """Whether a value of a table's row is an image struct."""
    return isinstance(value, dict) and "bytes" in value


def _module_of(uri: str) -> ModuleType:
    """What reads a table: two modules with the same names in them."""
    return arrow if uris.suffix(uris.redact(uri)) in arrow.SUFFIXES else parquet


def _row(
    uri: str, mark: str, number: int, wanted: tuple[str, ...], of: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """Of the wanted columns those that are there; with `of` no others become Python objects."""
    table: pa.Table = _module_of(uri).row(uri, mark, number, wanted)
    if of is not None:
        table = table.select([name for name in table.column_names if name in of])
    found = table.to_pylist()
    return found[0] if found else {}


def _needed(column: str) -> tuple[str, ...]:
    """The columns that `image_in` looks at; a table may have others of any size."""
    return (column, *(["clean"] if column == "noisy" else []), "noise", "white_level", *OURS)


def _names(table: _Table, column: str) -> Iterator[Any]:
    """The name of each row, None where nothing names it."""
    named = columns.name_column(table.schema, column)
    if named is None:
        yield from (None for _ in range(table.rows))
        return
    for values in table.batches(named, inner="path" if named == column else ""):
        is_image = pa.types.is_struct(values.type) and values.type.get_field_index("path") >= 0
        yield from (values.field("path") if is_image else values).to_pylist()


def _lengths(table: _Table, column: str) -> Iterator[int] | None:
    """How many images each row has, where that may be several."""
    if not columns.is_list(table.schema.field(column).type):
        return None
    return (
        length or 0
        for values in table.batches(column, inner="path")  # not their bytes
        for length in pc.list_value_length(values).to_pylist()
    )


def _item_of(value: Any, item: int) -> Any:
    """One of a row's images, None where a table that changed since has no such one."""
    if item < 0:
        return value
    return value[item] if isinstance(value, list) and item < len(value) else None


def _bytes_of(image: Any, table: str, allow_elsewhere: bool) -> bytes:
    """The bytes of an image, fetched from its path where the table holds none."""
    if isinstance(image, bytes):
        return image
    if holds_image(image) and image["bytes"] is not None:
        return bytes(image["bytes"])
    if holds_image(image) and image.get("path"):
        folder = uris.folder_of(table)
        named = uris.resolve_inside(folder, image["path"], allow_elsewhere=allow_elsewhere)
        return files.read(named)
    raise ImageError("the table's row holds no image")
