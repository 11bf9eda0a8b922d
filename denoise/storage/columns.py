"""Which columns of a table or list are its images, their names, and what stands beside them.

An image is a struct of bytes and path, as Hugging Face `datasets` writes it, or plain bytes, as
Spark, Ray Data and img2dataset do; a column may hold one image a row, or a list of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from denoise.errors import SettingsError
from denoise.images.sniff import HEAD, looks_like_image

# columns of a list that name its images, and of a table that name its rows; the first one counts
_LOCATIONS = (
    *("uri", "url", "file_name", "filename", "path", "file_path", "filepath", "image_path"),
    *("image_url", "image_uri", "image"),
)
_NAMES = ("file_name", "filename", "key", "__key__")
_PREFERRED = ("noisy", "image")
_WAY_OUT = "--column names another"

Names = tuple[tuple[str, str], ...]  # of columns, in the input and in the output
FirstValues = Callable[[str], Sequence[object]]  # a column's name -> some of its values


class NoImagesError(SettingsError):
    """A table in which no column holds images, or the wanted one holds none."""


@dataclass(frozen=True)
class Columns:
    """Columns of input tables and lists that are carried along into the output."""

    names: Names = ()
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))  # of the output's

    def of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Their values in an input's row, as the output calls them; null where it has none."""
        return {new: row.get(name) for name, new in self.names}

    def settings(self) -> dict[str, Any]:
        """What decides a table's columns, as a run records it."""
        kinds = {one.name: str(one.type) for one in self.schema}
        return {"columns": kinds} if kinds else {}


NO_COLUMNS = Columns()


def image_column(schema: pa.Schema, wanted: str | None, first_values: FirstValues) -> str:
    """The column of a table that holds the images: the one that is wanted, else `noisy`, `image`,
    the first of image structs, the first of lists of them, the first whose bytes are images.

    Raises NoImagesError where there is none, or the wanted one holds something else.
    """
    if wanted is not None:
        if wanted not in schema.names:
            raise NoImagesError(f"no column `{wanted}` among {sorted(schema.names)}")
        kind = schema.field(wanted).type
        if not (is_struct(element(kind)) or _is_binary(element(kind))):
            raise NoImagesError(f"its column `{wanted}` holds {kind}, no images")
        return wanted
    candidates = image_columns(schema)
    for name in (*(one for one in _PREFERRED if one in candidates), *candidates):
        return name
    for one in schema:
        if _is_binary(element(one.type)) and _are_images(first_values(one.name)):
            return one.name
    known = sorted(schema.names)
    raise NoImagesError(f"no image column (a struct of bytes and path, or bytes) among {known}")


def image_columns(schema: pa.Schema) -> list[str]:
    """The columns that are images by their type: those of one a row come first."""
    single = [one.name for one in schema if is_struct(one.type)]
    lists = [one.name for one in schema if is_list(one.type) and is_struct(element(one.type))]
    return single + lists


def name_column(schema: pa.Schema, image: str) -> str | None:
    """The column of a table that names its rows; None where nothing but their numbers does."""
    if "path" in schema.names and "path" != image:
        return "path"
    if is_struct(schema.field(image).type):
        return image if schema.field(image).type.get_field_index("path") >= 0 else None
    named = (name for name in _NAMES if name in schema.names and name != image)
    return next(named, None)


def location_column(names: Sequence[str], wanted: str | None, kind_of: Callable[[str], str]) -> str:
    """The column of a list that names its images: the wanted one, else `uri`, `url`,
    `file_name` and so on, however it is spelt.

    `kind_of` says what a column holds, empty for text. Raises SettingsError where there is none.
    """
    found = wanted
    if wanted is None:
        by_key = {name.strip().lower(): name for name in reversed(names)}
        found = next((by_key[name] for name in _LOCATIONS if name in by_key), None)
    if found is None or found not in names:
        looked_for = f"`{wanted}`" if wanted else ", ".join(f"`{name}`" for name in _LOCATIONS[:5])
        raise SettingsError(f"no column {looked_for} (it has {list(names)}); {_WAY_OUT}")
    if kind := kind_of(found):
        raise SettingsError(f"its column `{found}` must hold text, not {kind}; {_WAY_OUT}")
    return found


def beside(schema: pa.Schema, *taken: str | None) -> pa.Schema:
    """The columns of a table or list but for those that hold or name its images, with what the
    metadata says of them."""
    fields = [one for one in schema if one.name not in taken]
    return pa.schema(fields, metadata=schema.metadata)


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type holds images, or bytes that may be some."""
    return is_struct(element(kind)) or _is_binary(element(kind))


def element(kind: pa.DataType) -> pa.DataType:
    """The type of one value, in a list or alone."""
    return kind.value_type if is_list(kind) else kind


def is_list(kind: pa.DataType) -> bool:
    """Whether a type is a list of any kind."""
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
    )


def is_struct(kind: pa.DataType) -> bool:
    """Whether a type is the struct of an image."""
    return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text, or a column of nothing but nulls."""
    if pa.types.is_dictionary(kind):  # as pandas writes a categorical column
        return is_text(kind.value_type)
    return kind in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def _is_binary(kind: pa.DataType) -> bool:
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


def _are_images(values: Sequence[object]) -> bool:
    """Whether bytes are an image's, by the first that are there."""
    return any(looks_like_image(one[:HEAD]) for one in _flat(values))


def _flat(values: Sequence[object]) -> Iterator[bytes]:
    for value in values:
        if isinstance(value, bytes):
            yield value
        elif isinstance(value, list):
            yield from _flat(value)
