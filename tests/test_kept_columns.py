"""Columns of an input table or list that are not ours come along into the output, types and all."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from denoise.errors import CRASHED, SettingsError
from denoise.images.pairs import PairConfig
from denoise.output import tables
from denoise.output.tables import INFER_SCHEMA, NOISE_SCHEMA, carried_columns, with_columns
from denoise.storage import files
from denoise.storage.entry import Entry
from denoise.storage.fetch import failed, fetch
from denoise.verbs.infer import InferConfig, infer
from denoise.verbs.noise import NoiseConfig, noise
from tests.conftest import encoded, photo
from tests.running import rows_of

BESIDE = {
    "label": pa.array([3, None, 1], pa.int16()),
    "caption": pa.array(["a dog", "été", None], pa.large_string()),
    "taken": pa.array([datetime(2024, 5, 1, 12, tzinfo=UTC)] * 3, pa.timestamp("ns", tz="UTC")),
    "price": pa.array([Decimal("1.20"), None, Decimal("3.00")], pa.decimal128(9, 2)),
    "boxes": pa.array([[{"x": 1.5}], [], None], pa.list_(pa.struct([("x", pa.float32())]))),
    "kind": pa.array(["cat", "dog", "cat"]).dictionary_encode(),
}


def table_of(folder: Path, **more: Any) -> Path:
    """A folder with a table of three images, the second of which is none, and columns beside."""
    pictures = [encoded(photo(24, 32, seed=0)), b"no image", encoded(photo(24, 32, seed=2))]
    image = [{"bytes": one, "path": f"{k}.png"} for k, one in enumerate(pictures)]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": image, **BESIDE, **more}), folder / "t.parquet")
    return folder


def column(output: Path, name: str) -> list[Any]:
    return [row[name] for row in rows_of(output)]


def schema_of(output: Path) -> pa.Schema:
    return pq.read_schema(tables.parts(str(output))[0])


@pytest.mark.parametrize("workers", [None, pytest.param(1, marks=pytest.mark.ray)])
def test_columns_beside_the_images_come_along_with_their_types(
    tmp_path: Path, workers: int | None, request: pytest.FixtureRequest
):
    if workers:
        request.getfixturevalue("ray_session")
    table_of(tmp_path / "in")
    output = tmp_path / "out"
    noise(NoiseConfig(images=str(tmp_path / "in"), output=str(output), workers=workers))
    found = schema_of(output)
    for name, values in BESIDE.items():
        assert found.field(name).type == values.type, name
        assert column(output, name) == values.to_pylist(), name
    assert column(output, "error")[1] is not None  # its row has them too
    assert all(found.field(field.name).type == field.type for field in NOISE_SCHEMA)


def test_a_list_brings_its_columns_along(tmp_path: Path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(photo(24, 32, seed=number)))
    (tmp_path / "list.csv").write_text("label,url\n007,0.png\n,gone.png\n9,2.png\n")
    lines = [
        {"url": "0.png", "n": 1, "tags": ["a", "b"], "mixed": 1},
        {"url": "1.png", "n": 2.5, "tags": [], "mixed": "x", "ok": True},
        {"url": "2.png", "n": None, "tags": None},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    noise(NoiseConfig(images=str(tmp_path / "list.csv"), output=str(tmp_path / "a")))
    assert column(tmp_path / "a", "label") == ["007", "9", ""]  # text stays as it was
    assert column(tmp_path / "a", "error")[2] is not None
    noise(NoiseConfig(images=str(tmp_path / "list.jsonl"), output=str(tmp_path / "b")))
    assert column(tmp_path / "b", "n") == [1.0, 2.5, None]
    assert column(tmp_path / "b", "tags") == [["a", "b"], [], None]
    assert column(tmp_path / "b", "mixed") == ["1", "x", None]
    assert column(tmp_path / "b", "ok") == [None, True, None]


def test_a_parquet_list_keeps_types_in_the_manifest(tmp_path: Path):
    (tmp_path / "0.png").write_bytes(encoded(photo(24, 32)))
    pq.write_table(pa.table({"url": ["0.png", "a.png", "b.png"], **BESIDE}), tmp_path / "l.parquet")
    noise(NoiseConfig(images=str(tmp_path / "l.parquet"), output=str(tmp_path / "out")))
    for name, values in BESIDE.items():
        assert schema_of(tmp_path / "out").field(name).type == values.type
        assert column(tmp_path / "out", name) == values.to_pylist()


def test_rows_of_an_earlier_run_and_those_made_again_have_them(tmp_path: Path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(encoded(photo(24, 32, seed=number)))
    names = ["0.png", "1.png", "2.png"]
    lines = [json.dumps({"url": name, "label": k}) for k, name in enumerate(names)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines[:2]))
    config = NoiseConfig(images=str(tmp_path / "list.jsonl"), output=str(tmp_path / "out"))
    noise(config)
    (tmp_path / "list.jsonl").write_text("\n".join(lines))  # one is added, and fails
    noise(config)
    (tmp_path / "2.png").write_bytes(encoded(photo(24, 32, seed=2)))
    (tmp_path / "0.png").write_bytes(encoded(photo(24, 32, seed=9)))  # one changes
    noise(config)
    assert column(tmp_path / "out", "label") == [0, 1, 2]
    assert column(tmp_path / "out", "error") == [None] * 3


def test_which_columns_come_along_can_be_said(tmp_path: Path):
    table_of(tmp_path / "in")

    def columns_beside(output: str, *names: str) -> list[str]:
        folder = tmp_path / output
        noise(NoiseConfig(images=str(tmp_path / "in"), output=str(folder), keep_columns=names))
        return [name for name in schema_of(folder).names if name not in NOISE_SCHEMA.names]

    assert columns_beside("a", "label", "kind") == ["label", "kind"]
    assert columns_beside("b") == []
    with pytest.raises(SettingsError, match=r"keep-columns names size.*there are label, caption"):
        columns_beside("c", "size")
    with pytest.raises(SettingsError, match="columns was"):
        columns_beside("a", "label")


def test_columns_of_files_are_refused(photos: Path, tmp_path: Path):
    config = NoiseConfig(images=str(photos), output=str(tmp_path / "o"), keep_columns=("label",))
    with pytest.raises(SettingsError, match=r"keep-columns names label: .*the images are files"):
        noise(config)
    assert not (tmp_path / "o").exists()


def test_a_column_that_is_called_like_one_of_ours_gets_another_name():
    found = pa.schema([("width", pa.string()), ("width_input", pa.int8()), ("x", pa.int8())])
    columns = carried_columns(found, None, NOISE_SCHEMA)
    assert columns.names == (
        ("width", "width_input"), ("width_input", "width_input_input"), ("x", "x")
    )  # fmt: skip
    assert with_columns(NOISE_SCHEMA, columns).field("width").type == pa.int32()


def test_of_our_own_table_nothing_is_company_but_what_it_carried(tmp_path: Path):
    table_of(tmp_path / "in")
    noise(NoiseConfig(images=str(tmp_path / "in"), output=str(tmp_path / "pairs")))
    config = InferConfig(
        images=str(tmp_path / "pairs"), output=str(tmp_path / "out"), model="classic"
    )
    infer(config)
    found = schema_of(tmp_path / "out").names
    assert set(found) - set(INFER_SCHEMA.names) == set(BESIDE)
    assert column(tmp_path / "out", "label") == [3, None, 1]
    assert infer(config)["nothing_to_do"]


def test_images_and_bytes_come_along_only_when_named():
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    found = pa.schema([("mask", image), ("raw", pa.binary()), ("views", pa.list_(image))])
    assert carried_columns(found, None, NOISE_SCHEMA).names == ()
    assert carried_columns(found, ["mask"], NOISE_SCHEMA).names == (("mask", "mask"),)


def test_hugging_face_still_knows_what_a_label_stands_for(tmp_path: Path):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    found = pa.schema([("label", pa.int64())], metadata=metadata)
    schema = with_columns(INFER_SCHEMA, carried_columns(found, None, INFER_SCHEMA))
    told = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert told["label"] == features["label"] and told["image"] == {"_type": "Image"}


def test_an_image_that_workers_die_on_has_its_columns_and_is_not_read(tmp_path: Path, monkeypatch):
    table_of(tmp_path / "in")
    entry = Entry("0.png", str(tmp_path / "in" / "t.parquet"), 1, "m", row=0, column="image")
    config = PairConfig(beside=(("label", "label"),))
    assert failed(entry, CRASHED, config).pair.about() | {"label": 3, "error": CRASHED} == (
        failed(entry, CRASHED, config).pair.about()
    )
    assert fetch(entry, config).pair.beside == {"label": 3}
    opened: list[str] = []
    call = files.open_input
    monkeypatch.setattr(files, "open_input", lambda uri: opened.append(uri) or call(uri))
    fetch(entry, config)
    assert not opened  # the row is at hand
