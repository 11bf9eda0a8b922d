"""The Parquet tables that jobs write: schemas, one part file a shard, and reading them back."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import lru_cache
from io import BytesIO
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from denoise.errors import SettingsError
from denoise.storage import columns, files, uris
from denoise.storage.columns import NO_COLUMNS, Columns
from denoise.storage.rows import OURS, holds_image

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_GROUP_ROWS, _GROUP_BYTES = 64, 16 << 20  # of a row group: what is in memory at once


def _schema(fields: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    """A schema that Hugging Face `datasets` shows pictures from: its features in the metadata."""
    features: dict[str, Any] = {
        name: {"_type": "Image"}
        if kind == _IMAGE
        else {"dtype": str(kind).replace("double", "float64"), "_type": "Value"}
        for name, kind in fields
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(
        [pa.field(name, kind, nullable=name != "path") for name, kind in fields], metadata=metadata
    )


_ABOUT = [
    ("path", pa.string()),
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("bit_depth", pa.int8()),
    ("white_level", pa.int32()),  # what 1.0 is, where that is not the largest of the type
    ("format", pa.string()),
]
_END = [("file", pa.string()), ("note", pa.string()), ("error", pa.string())]

NOISE_SCHEMA = _schema(
    [
        *_ABOUT,
        ("clean", _IMAGE),
        ("noisy", _IMAGE),
        ("sigma", pa.float64()),
        ("seed", pa.int64()),
        ("noise", pa.string()),
        ("mse", pa.float64()),
        ("psnr", pa.float64()),
        *_END,
    ]
)
INFER_SCHEMA = _schema(
    [
        *_ABOUT,
        ("image", _IMAGE),
        ("sigma", pa.float64()),
        ("seed", pa.int64()),
        ("mse_noisy", pa.float64()),
        ("psnr_noisy", pa.float64()),
        ("mse", pa.float64()),
        ("psnr", pa.float64()),
        ("ssim_noisy", pa.float64()),
        ("ssim", pa.float64()),
        ("removed", pa.float64()),  # root mean square of what was removed, 0..1
        ("noise_before", pa.float64()),  # estimated, as a sigma on the 0..1 scale
        ("noise_after", pa.float64()),
        ("noise", pa.string()),  # kind and parameters of what was added
        ("model", pa.string()),
        *_END,
    ]
)


def carried_columns(found: pa.Schema | None, keep: Sequence[str] | None, own: pa.Schema) -> Columns:
    """The columns of an input table or list that are carried into an output of the schema `own`:
    those that `keep` names; else all but images, bytes, and what a job of ours has measured there.

    One that is called like a column of the output gets `_input` behind its name. Raises
    SettingsError where `keep` names what is not there.
    """
    if found is None or keep is not None:
        _check_keep(found, keep)
    if found is None:
        return NO_COLUMNS
    ours = {*NOISE_SCHEMA.names, *INFER_SCHEMA.names} if {*found.names} >= {*OURS} else set()
    fields = [
        field
        for field in found
        if (field.name in keep if keep is not None else _is_company(field, ours))
    ]
    taken = {*own.names}
    names, features = [], _features(found)
    schema: list[pa.Field] = []
    for field in fields:
        name = field.name
        while name in taken:
            name += "_input"
        taken.add(name)
        names.append((field.name, name))
        schema.append(pa.field(name, field.type))
    kinds = {new: features[name] for name, new in names if name in features}
    metadata = {"huggingface": json.dumps({"info": {"features": kinds}})}
    return Columns(tuple(names), pa.schema(schema, metadata=metadata))


def _check_keep(found: pa.Schema | None, keep: Sequence[str] | None) -> None:
    if found is None and keep:
        raise SettingsError(
            f"keep-columns names {keep[0]}: there are columns in tables and lists alone, and the "
            "images are files"
        )
    missing = [name for name in keep or () if found is not None and name not in found.names]
    if missing and found is not None:
        raise SettingsError(
            f"keep-columns names {missing[0]}, which stands beside no image (there are "
            f"{', '.join(found.names) or 'none'})"
        )


def _is_company(field: pa.Field, ours: set[str]) -> bool:
    """Whether a column is carried along unasked."""
    return field.name not in ours and not columns.holds_images(field.type)


def with_columns(own: pa.Schema, carried: Columns) -> pa.Schema:
    """The schema of an output with columns of its input behind its own."""
    if not carried.names:
        return own
    features = _features(own) | _features(carried.schema)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema([*own, *carried.schema], metadata=metadata)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What Hugging Face `datasets` says of columns; nothing where it did not write the schema."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = found["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


class PartFile:
    """A part file while it is written: a context manager that leaves it whole, or not at all.

    Rows come one by one, in the order of their paths. Few of them are in memory at once. What
    `footer` holds (times, say) at the end is written last, as JSON under `denoise`: the rows
    hold only what a second run would find too. Raises OSError.
    """

    def __init__(self, output: str, shard: int, schema: pa.Schema) -> None:
        self.footer: dict[str, Any] = {}
        self._uri, self._schema = part_uri(output, shard), schema
        self._rows: list[dict[str, Any]] = []  # of the row group to be written next
        self._size, self._last = 0, ""

    def __enter__(self) -> Self:
        images = [f"{field.name}.bytes" for field in self._schema if field.type == _IMAGE]
        with ExitStack() as opened:
            file = opened.enter_context(files.open_output(self._uri))
            self._writer = opened.enter_context(
                pq.ParquetWriter(
                    file,
                    self._schema,
                    compression={  # encoded images do not get smaller
                        name: "none" if name in images else "zstd" for name in _leaves(self._schema)
                    },
                    use_dictionary=["format", "model", "error", "note"],
                    write_statistics=["path"],
                )
            )
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is not None:
            self._opened.__exit__(*raised)
            return
        with self._opened:
            if self._rows or not self._last:
                self.flush()
            self._writer.add_key_value_metadata({"denoise": json.dumps(self.footer)})

    def add(self, row: dict[str, Any]) -> None:
        """Write a row. It may stay in memory until its row group is full."""
        assert row["path"] > self._last or not self._last, f"{row['path']} after {self._last}"
        self._rows.append(row)
        self._size += sum(map(_size, row.values()))
        self._last = row["path"]
        if len(self._rows) == _GROUP_ROWS or self._size >= _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rows that are in memory."""
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._size = [], 0


def rows(output: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Every row of an output folder, a few at a time in memory. Raises OSError."""
    for uri in parts(output):
        yield from rows_in(uri, columns)


def part(output: str, shard: int, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one shard, a few at a time in memory. Raises OSError where it is not there."""
    return rows_in(part_uri(output, shard), columns)


def footer_of(output: str, shard: int) -> dict[str, Any]:
    """How a shard was made (times, say), from the footer of its part file. Raises OSError."""
    with files.open_input(part_uri(output, shard)) as file:
        return footer_in(pq.read_metadata(file))


def footer_in(metadata: pq.FileMetaData) -> dict[str, Any]:
    """How a shard was made, from the metadata of its part file."""
    found: dict[str, Any] = json.loads((metadata.metadata or {}).get(b"denoise", b"{}"))
    return found


def parts(output: str) -> list[str]:
    """The URIs of an output folder's part files, in order."""
    folder = uris.join(output, "data")
    return [uris.join(folder, name) for name in files.names(folder) if shard_of(name) >= 0]


def part_uri(output: str, shard: int) -> str:
    """The URI of the part file of a shard."""
    return uris.join(output, "data", _part_name(shard))


def shard_of(name: str) -> int:
    """The number of the shard that a part file holds, by its name; -1 for any other name, such as
    part-0.parquet, which other tools write."""
    digits = name.removeprefix("part-").removesuffix(".parquet")
    return int(digits) if digits.isdecimal() and name == _part_name(int(digits)) else -1


def _part_name(shard: int) -> str:
    return f"part-{shard:08d}.parquet"


def rows_in(uri: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a part file, a few at a time in memory. Raises OSError."""
    with files.open_input(uri) as file:
        for batch in pq.ParquetFile(file).iter_batches(16, columns=columns):
            yield from batch.to_pylist()


@lru_cache(maxsize=8)
def _leaves(schema: pa.Schema) -> list[str]:
    """The columns as Parquet stores them: a struct's fields one by one."""
    empty = BytesIO()
    pq.ParquetWriter(empty, schema).close()
    stored = pq.ParquetFile(empty).schema
    return [stored.column(number).path for number in range(len(stored.names))]


def _size(value: Any) -> int:
    """Bytes of a value, of those that may have many."""
    if holds_image(value):
        value = value["bytes"] or b""
    return len(value) if isinstance(value, bytes | str) else 0
