"""The Parquet tables that jobs write: schemas, one part file a shard, and reading them back."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from denoise.storage import files, uris
from denoise.storage.parquet import holds_image

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
        ("model", pa.string()),
        *_END,
    ]
)


def write_part(
    output: str,
    shard: int,
    rows: Iterable[dict[str, Any]],
    schema: pa.Schema,
    about: Mapping[str, Any],
) -> None:
    """Writes the rows of one shard as they come, which must be in the order of their paths.

    `about` (times, say) goes into the footer, as JSON under `denoise`, once the last row is there:
    the rows themselves hold only what a second run would find again. Raises OSError.
    """
    images = [f"{field.name}.bytes" for field in schema if field.type == _IMAGE]
    with (
        files.written(part_uri(output, shard)) as file,
        pq.ParquetWriter(
            file,
            schema,
            # encoded images do not get smaller
            compression={name: "none" if name in images else "zstd" for name in _leaves(schema)},
            use_dictionary=["format", "model", "error", "note"],
            write_statistics=["path"],
        ) as part,
    ):
        for group in _groups(rows):
            part.write_table(pa.Table.from_pylist(group, schema=schema))
        part.add_key_value_metadata({"denoise": json.dumps(about)})


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows of each row group: so few that writer and readers hold little in memory."""
    group: list[dict[str, Any]] = []
    size, last = 0, ""
    for row in rows:
        assert row["path"] > last or not last, f"{row['path']} came after {last}"
        group.append(row)
        size += sum(len(value["bytes"] or b"") for value in row.values() if holds_image(value))
        last = row["path"]
        if len(group) == _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group  # before the next row is made
            group.clear()  # let go of, also by whoever wrote it
            size = 0
    if group or not last:
        yield group


def rows(output: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Every row of an output folder, a few at a time in memory. Raises OSError."""
    for uri in parts(output):
        yield from rows_in(uri, columns)


def part(output: str, shard: int, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one shard, a few at a time in memory. Raises OSError where it is not there."""
    return rows_in(part_uri(output, shard), columns)


def about(output: str, shard: int) -> dict[str, Any]:
    """What `write_part` was told of a shard's making. Raises OSError."""
    with files.open_input(part_uri(output, shard)) as file:
        return about_in(pq.read_metadata(file))


def about_in(metadata: pq.FileMetaData) -> dict[str, Any]:
    """The same, from the footer of a part file."""
    found: dict[str, Any] = json.loads((metadata.metadata or {}).get(b"denoise", b"{}"))
    return found


def parts(output: str) -> list[str]:
    """The URIs of an output folder's part files, in order."""
    folder = uris.join(output, "data")
    return [uris.join(folder, name) for name in files.names(folder) if shard_of(name) >= 0]


def part_uri(output: str, shard: int) -> str:
    """Where the rows of a shard lie: a name that only this shard has."""
    return uris.join(output, "data", _part_name(shard))


def shard_of(name: str) -> int:
    """The number of the shard that a part file holds; -1 for any other file's name, also where it
    is alike: other tools call theirs part-0.parquet."""
    digits = name.removeprefix("part-").removesuffix(".parquet")
    return int(digits) if digits.isdecimal() and name == _part_name(int(digits)) else -1


def _part_name(shard: int) -> str:
    return f"part-{shard:08d}.parquet"


def rows_in(uri: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a part file, a few at a time in memory. Raises OSError."""
    with files.open_input(uri) as file:
        for batch in pq.ParquetFile(file).iter_batches(16, columns=columns):
            yield from batch.to_pylist()


def _leaves(schema: pa.Schema) -> list[str]:
    """The columns as Parquet stores them: a struct's fields one by one."""
    return [
        f"{field.name}.{field.type.field(i).name}" if field.type == _IMAGE else field.name
        for field in schema
        for i in range(field.type.num_fields if field.type == _IMAGE else 1)
    ]
