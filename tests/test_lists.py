"""Lists and tables as people have them: every kind gives each of its images once."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from denoise.errors import SettingsError
from denoise.images.pairs import PairConfig
from denoise.storage import arrow, lists, pieces, uris
from denoise.storage import rows as lists_of_rows
from denoise.storage.entry import Entry, source_of
from denoise.storage.fetch import load_pair
from denoise.storage.found import LeftOut
from denoise.storage.inputs import columns_of, entries
from denoise.training.split import split_of
from denoise.verbs.plan import PlanConfig, plan
from denoise.verbs.train import TrainConfig
from tests.conftest import encoded, photo

PICTURES = [encoded(photo(24, 32, seed=number)) for number in range(4)]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def found(images: object, column: str | None = None) -> tuple[dict[str, Entry], Counter[str]]:
    left_out = LeftOut()
    listed = {entry.path: entry for entry in entries(str(images), left_out, column=column)}
    return listed, left_out.counts


def bytes_of(images: object, column: str | None = None) -> dict[str, bytes]:
    return {path: source_of(entry).encoded for path, entry in found(images, column)[0].items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    (tmp_path / "0.png").write_bytes(PICTURES[0])
    (tmp_path / "deep" / "é 1.png").write_bytes(PICTURES[1])
    return tmp_path


NAMED = {"0.png": PICTURES[0], "deep/é 1.png": PICTURES[1]}
LISTS = {
    "a.txt": "0.png\ndeep/é 1.png\n",
    "crlf.txt": "0.png\r\n\r\ndeep/é 1.png",
    "a.csv": 'url,caption\n0.png,"two\nlines, and more"\ndeep/é 1.png,x\n',
    "semicolons.csv": "id;URL\n1;0.png\n2;deep/é 1.png\n",
    "a.tsv": "file_name\tlabel\n0.png\t1\ndeep/é 1.png\t2\n",
    "a.jsonl": '{"url": "0.png", "x": {"y": [1]}}\n\n{"url": "deep/é 1.png"}\n',
    "a.ndjson": '{"image_path": "0.png"}\n{"image_path": "deep/\\u00e9 1.png"}\n',
    "path.csv": "path\n0.png\ndeep/é 1.png\n",
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("wrapped", ["utf-8", "utf-8-sig", "utf-16", "gzip"])
def test_every_kind_of_list_names_its_images(folder: Path, name: str, wrapped: str):
    text = LISTS[name]
    uri = folder / (name + ".gz" if wrapped == "gzip" else name)
    if wrapped == "gzip":
        uri.write_bytes(gzip.compress(text.encode()))
    else:
        uri.write_bytes(text.encode(wrapped))
    assert bytes_of(uri) == NAMED


def test_of_a_folder_of_lists_all_are_read(folder: Path):
    (folder / "lists").mkdir()
    for number, named in enumerate(NAMED):
        table = pa.table({"url": [f"../{named}"], "text": ["x"]})
        pq.write_table(table, folder / "lists" / f"{number}.parquet")
    pq.write_table(pa.table({"z": [1]}), folder / "lists" / "z.parquet")
    listed, left_out = found(folder / "lists")
    assert [source_of(entry).encoded for entry in listed.values()] == list(NAMED.values())
    assert left_out == {"table without images": 1}
    assert columns_of(str(folder / "lists")).names == ["text"]


def test_a_column_of_another_name_can_be_named(folder: Path):
    (folder / "a.csv").write_text("thumbnail,url\n0.png,gone.png\n")
    assert set(found(folder / "a.csv")[0]) == {"gone.png"}
    assert bytes_of(folder / "a.csv", "thumbnail") == {"0.png": PICTURES[0]}
    with pytest.raises(SettingsError, match=r"no column `size` \(it has \['thumbnail', 'url'\]\)"):
        found(folder / "a.csv", "size")


def test_rows_that_name_nothing_are_counted(folder: Path):
    (folder / "a.jsonl").write_text('{"url": null}\n{"url": "0.png"}\n{}\n{"url": 7}\n{"url": " "}')
    listed, left_out = found(folder / "a.jsonl")
    assert set(listed) == {"0.png"} and left_out == {"rows that name no image": 4}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"url": "0.png"}\n[1]\n', "line 2 is no JSON object"),
        ("a.jsonl", b'{"url": "0.png"}\n{"url": \n', "line 2 is no JSON object"),
        ("a.jsonl", b"[" * 100_000, "line 1 is no JSON object"),
        ("a.csv", "uri\n0.png\n".encode("utf-16-be"), "NUL characters.*save it as UTF-8"),
        ("a.txt.gz", gzip.compress(b"0.png\n" * 9999)[:60], "cannot list"),
        ("a.csv.gz", b"uri\n0.png\n", "cannot list"),
        ("a.txt", b"\xff\xfe0\x00.", "cannot list"),
        ("a.csv", b"", "no column `uri`"),
        ("a.parquet", b"PAR1", "a.parquet"),
        ("a.arrow", b"ARROW1\0\0 and no more", "a.arrow"),
    ],
    ids=range(10),
)
def test_a_list_that_cannot_be_read_is_refused_in_one_line(
    folder: Path, name: str, content: bytes, words: str
):
    (folder / name).write_bytes(content)
    with pytest.raises(SettingsError, match=words) as raised:
        found(folder / name)
    assert "\n" not in str(raised.value)


def test_a_line_without_an_end_is_refused_before_it_fills_memory(folder: Path, monkeypatch):
    monkeypatch.setattr(lists, "_LONGEST", 1000)
    (folder / "a.txt.gz").write_bytes(gzip.compress(b"x" * 100_000))
    with pytest.raises(SettingsError, match="line 1 is too long"):
        found(folder / "a.txt.gz")


def test_a_long_field_of_a_list_is_no_reason_to_refuse_it(folder: Path):
    (folder / "a.csv").write_text(f'url,text\n0.png,"{"x" * 200_000}"\n')
    assert bytes_of(folder / "a.csv") == {"0.png": PICTURES[0]}


def saved(folder: Path, table: pa.Table, name: str = "data-00000-of-00001.arrow") -> Path:
    """A table as `datasets.save_to_disk` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table, max_chunksize=2)
    state = {"_data_files": [{"filename": name}], "_fingerprint": "f"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def images(count: int = 4) -> pa.Array:
    return pa.array([{"bytes": one, "path": None} for one in PICTURES[:count]], IMAGE)


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_saved_dataset_gives_its_rows(tmp_path: Path, monkeypatch, on_disk: bool):
    folder = saved(tmp_path / "set" / "train", pa.table({"image": images(), "label": [0, 1, 0, 1]}))
    cache = folder / "cache-0123456789abcdef.arrow"
    cache.write_bytes((folder / "data-00000-of-00001.arrow").read_bytes())
    monkeypatch.setattr(uris, "is_local", lambda uri: on_disk)
    stem = "train/data-00000-of-00001"
    assert bytes_of(tmp_path / "set") == {f"{stem}/{k}": PICTURES[k] for k in range(4)}
    listed, _ = found(tmp_path / "set")
    backwards = {path: source_of(listed[path]).encoded for path in sorted(listed, reverse=True)}
    assert backwards == {f"{stem}/{k}": PICTURES[k] for k in range(4)}
    if not on_disk:
        assert pieces.at_hand[0].piece.num_rows == 2  # a batch, and no more


def test_the_library_s_own_saved_dataset_is_read(tmp_path: Path):
    datasets = pytest.importorskip("datasets", reason="the library `datasets` is not installed")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int8")})
    rows = {"image": [{"bytes": one, "path": None} for one in PICTURES], "label": [1, 2, 3, 4]}
    made = datasets.Dataset.from_dict(rows, features=features)
    made.save_to_disk(str(tmp_path / "set"), num_shards=2)
    assert list(bytes_of(tmp_path / "set").values()) == PICTURES
    assert columns_of(str(tmp_path / "set")).field("label").type == pa.int8()


def test_a_feather_file_is_a_table(tmp_path: Path):
    table = pa.table({"path": ["a", "b"], "image": images(2)})
    feather.write_feather(table, str(tmp_path / "t.feather"), compression="lz4")
    assert bytes_of(tmp_path / "t.feather") == {"a": PICTURES[0], "b": PICTURES[1]}


def test_of_an_arrow_file_on_a_disk_a_row_alone_is_read(tmp_path: Path):
    table = pa.table({"image": images(), "other": pa.array([bytes(1 << 20)] * 4)})
    folder = saved(tmp_path, table)
    before = pa.total_allocated_bytes()
    assert len(bytes_of(folder)) == 4
    assert pa.total_allocated_bytes() - before < 1 << 20
    assert arrow.data_files(str(folder)) == {"data-00000-of-00001.arrow"}


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_column_of_bytes_that_are_images_is_one_of_images(
    tmp_path: Path, kind: pa.DataType, suffix: str
):
    columns = {
        "a": [b"\0\1"] * 4,
        "jpg": pa.array([None, *PICTURES[1:]], kind),
        "key": list("wxyz"),
    }
    write(tmp_path / f"t.{suffix}", pa.table(columns))
    listed, _ = found(tmp_path)
    assert list(listed) == list("wxyz")
    assert source_of(listed["z"]).encoded == PICTURES[3]
    assert load_pair(listed["w"], PairConfig()).error == "the table's row holds no image"


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, lambda one: pa.list_(one, 2)])
@pytest.mark.parametrize("element", [IMAGE, pa.binary()])
@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_each_image_of_a_list_is_an_input(tmp_path: Path, kind: Any, element: Any, suffix: str):
    one_by_one = [{"bytes": one, "path": "same.png"} for one in PICTURES]
    values = one_by_one if element == IMAGE else PICTURES
    rows = pa.array([values[:2], values[2:], None], kind(element))
    write(tmp_path / f"t.{suffix}", pa.table({"images": rows, "text": list("abc")}))
    assert bytes_of(tmp_path) == {
        "t/0/0": PICTURES[0], "t/0/1": PICTURES[1], "t/1/0": PICTURES[2], "t/1/1": PICTURES[3]
    }  # fmt: skip
    assert found(tmp_path)[1]["rows with an empty list of images"] == 1
    assert columns_of(str(tmp_path)).names == ["text"]


def write(path: Path, table: pa.Table) -> None:
    if path.suffix == ".arrow":
        saved(path.parent, table, path.name)
        return
    pq.write_table(table, path)


def test_of_several_image_columns_any_can_be_chosen(tmp_path: Path):
    backwards = pa.array(images().to_pylist()[::-1], IMAGE)
    write(tmp_path / "t.parquet", pa.table({"source": images(), "target": backwards}))
    assert list(bytes_of(tmp_path).values()) == PICTURES
    assert list(bytes_of(tmp_path, "target").values()) == PICTURES[::-1]
    with pytest.raises(SettingsError, match=r"t.parquet: no column `x` among"):
        found(tmp_path, "x")
    write(tmp_path / "t.parquet", pa.table({"image": images(), "label": [0, 1, 0, 1]}))
    with pytest.raises(SettingsError, match="its column `label` holds int64, no images"):
        found(tmp_path, "label")


def test_plan_and_training_choose_the_column_too(tmp_path: Path):
    thumbs = pa.array([{"bytes": b"none", "path": "x"}] * 4, IMAGE)
    write(tmp_path / "t.parquet", pa.table({"image": thumbs, "full": images()}))
    flags: dict[str, Any] = {"images": str(tmp_path / "t.parquet"), "column": "full"}
    planned = plan(PlanConfig(**flags, output=str(tmp_path / "out"), model="classic"))
    assert (planned["to_do"], planned["sample_errors"]) == (4, {})
    config = TrainConfig(**flags, output=str(tmp_path / "model"))
    split = split_of(config.images, None, str(tmp_path / "m"), LeftOut(), config.column)
    assert {entry.column for entry in (*split.training, *split.validation)} == {"full"}


def test_a_table_that_changed_since_is_its_rows_error(tmp_path: Path):
    write(tmp_path / "t.parquet", pa.table({"images": [[PICTURES[0], PICTURES[1]]]}))
    entry = found(tmp_path)[0]["t/0/1"]
    write(tmp_path / "t.parquet", pa.table({"images": [[PICTURES[0]]]}))
    pair = load_pair(entry, PairConfig())
    assert pair.error == "the table's row holds no image"


@pytest.mark.parametrize("rows", [1, 4])
def test_row_groups_that_no_worker_has_the_memory_for_are_refused(
    tmp_path: Path, monkeypatch, rows: int
):
    monkeypatch.setattr(lists_of_rows, "_LARGEST_PAGE", 3 * max(map(len, PICTURES)))
    table = pa.table({"image": images()})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=rows, write_statistics=False)
    if rows == 1:
        assert len(bytes_of(tmp_path)) == 4
        return
    with pytest.raises(SettingsError, match=r"t.parquet: its row groups.*row_group_size=100"):
        plan(PlanConfig(images=str(tmp_path), output=str(tmp_path / "out"), model="classic"))


def test_pixels_of_a_table_of_bytes_are_those_of_the_files(tmp_path: Path):
    write(tmp_path / "t.parquet", pa.table({"content": [PICTURES[0]], "path": ["a/0.png"]}))
    (entry,) = found(tmp_path)[0].values()
    pair = load_pair(entry, PairConfig())
    assert entry.path == "a/0.png"
    assert np.array_equal(pair.noisy, photo(24, 32, seed=0))
