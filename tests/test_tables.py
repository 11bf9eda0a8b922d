"""Tables keep their types whatever they hold, and anything can read them."""

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from denoise.output import tables
from denoise.output.tables import INFER_SCHEMA, NOISE_SCHEMA
from tests.conftest import encoded, photo
from tests.running import footer_of, write_part

CONTRACT = {
    "path": pa.string(), "height": pa.int32(), "width": pa.int32(), "bit_depth": pa.int8(),
    "format": pa.string(), "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "sigma": pa.float64(), "seed": pa.int64(), "mse_noisy": pa.float64(),
    "psnr_noisy": pa.float64(), "mse": pa.float64(), "psnr": pa.float64(), "model": pa.string(),
    "error": pa.string(),
}  # fmt: skip


@pytest.mark.parametrize("schema", [INFER_SCHEMA, NOISE_SCHEMA])
def test_types_stay_where_every_value_is_null(tmp_path: Path, schema: pa.Schema):
    write_part(str(tmp_path), 0, [{"path": "a.png"}], schema, {})
    found = pq.read_schema(tables.parts(str(tmp_path))[0])
    assert found.equals(schema)
    assert not found.field("path").nullable


def test_infer_has_the_columns_users_rely_on():
    assert {name: INFER_SCHEMA.field(name).type for name in CONTRACT} == CONTRACT


def test_hugging_face_shows_pictures(tmp_path: Path):
    datasets = pytest.importorskip("datasets", reason="the library `datasets` is not installed")
    row = {"path": "a.png", "image": {"bytes": encoded(photo(9, 7)), "path": "a.png"}}
    write_part(str(tmp_path / "out"), 0, [row], INFER_SCHEMA, {})
    files = tables.parts(str(tmp_path / "out"))
    found = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert found[0]["image"].size == (7, 9)


def test_duckdb_reads_it(tmp_path: Path):
    rows = [{"path": f"{i}.png", "psnr": 30.0 + i} for i in range(3)]
    write_part(str(tmp_path), 0, rows, INFER_SCHEMA, {})
    query = f"select avg(psnr), count(*) from '{tmp_path}/data/part-*.parquet' where error is null"
    assert duckdb.sql(query).fetchall() == [(31.0, 3)]


def test_rows_come_back_in_order_and_the_footer_with_them(tmp_path: Path):
    rows = [{"path": name, "error": None} for name in ("a", "b", "c")]
    write_part(str(tmp_path), 3, rows, NOISE_SCHEMA, {"seconds": {"decode": 1.5}})
    assert [row["path"] for row in tables.part(str(tmp_path), 3)] == ["a", "b", "c"]
    assert footer_of(tables.part_uri(str(tmp_path), 3)) == {"seconds": {"decode": 1.5}}
    assert [row["path"] for row in tables.rows(str(tmp_path), ["path"])] == ["a", "b", "c"]


def test_a_part_is_written_as_its_rows_come_and_never_holds_many_of_them(tmp_path: Path):
    alive: weakref.WeakSet[Row] = weakref.WeakSet()
    most = 0

    def rows() -> Iterator[Row]:
        nonlocal most
        for number in range(20):
            row = Row(path=f"{number:02d}", image={"bytes": bytes(4 << 20), "path": "x"})
            alive.add(row)
            most = max(most, len(alive))
            yield row

    write_part(str(tmp_path), 0, rows(), INFER_SCHEMA, {})
    assert len(list(tables.part(str(tmp_path), 0, ["path"]))) == 20
    assert most <= 6  # of 4 MiB each: a row group of 16 MiB, and the next one's first


def test_a_part_whose_rows_cannot_be_had_is_not_there_at_all(tmp_path: Path):
    def rows() -> Iterator[dict[str, Any]]:
        yield {"path": "a"}
        raise RuntimeError("the network is gone")

    with pytest.raises(RuntimeError, match="the network is gone"):
        write_part(str(tmp_path), 0, rows(), INFER_SCHEMA, {})
    assert not list((tmp_path / "data").iterdir())


class Row(dict[str, Any]):
    """A row that can be watched: a plain dict cannot be referred to weakly."""

    __hash__ = object.__hash__  # by identity: two are never one


@pytest.mark.parametrize(
    "name",
    [
        "part-1.parquet.x",
        ".part-00000001.parquet.ab",
        "x.parquet",
        "part-0.parquet",
        "part-.parquet",
    ],
)
def test_only_part_files_are_shards(name: str):
    assert tables.shard_of(name) == -1
    assert tables.shard_of("part-00000012.parquet") == 12
    assert tables.shard_of("part-123456789.parquet") == 123456789
