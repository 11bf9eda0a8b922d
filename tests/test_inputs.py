"""Every kind of `--images` gives each input image once, under a path relative to its root."""

import os
import pickle
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from denoise.errors import ImageError, SettingsError
from denoise.images.pairs import PairConfig
from denoise.storage import disk, files, hashes, parquet, pieces
from denoise.storage.entry import Entry, source_of, unique
from denoise.storage.fetch import load_pair
from denoise.storage.found import Found, LeftOut
from denoise.storage.inputs import entries
from denoise.storage.references import reference_of
from denoise.training.photos import decode_photos
from denoise.verbs.checks import run_that_made
from tests.conftest import encoded, photo


def found(images: object, output: str | None = None) -> tuple[dict[str, Entry], Counter[str]]:
    left_out = LeftOut()
    listed = list(entries(str(images), left_out, output=output))
    by_path = {entry.path: entry for entry in listed}
    assert len(by_path) == len(listed), "a path was listed twice"
    return by_path, left_out.counts


def test_a_folder_gives_its_images_and_counts_the_rest(photos: Path):
    listed, left_out = found(photos)
    numbered = {f"{number}.png" for number in range(5)}
    assert set(listed) == numbered | {"broken.png", "more/gray.png", "more/wide.jpg"}
    assert left_out == {"hidden": 1, "no image": 1}


def test_an_image_is_known_by_its_content_where_its_name_says_nothing(tmp_path: Path):
    (tmp_path / "no_suffix").write_bytes(encoded(photo()))
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0 thumbs")
    (tmp_path / "empty.png").write_bytes(b"")
    listed, left_out = found(tmp_path)
    assert set(listed) == {"no_suffix", "empty.png"}  # an image suffix is a promise, kept or not
    assert left_out == {"made by a system (thumbnails, deleted files)": 1}


def test_what_cannot_be_read_now_and_may_be_an_image_is_an_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, content in (("no_suffix", b"?"), ("gone", b"?"), ("_SUCCESS", b"")):
        (tmp_path / name).write_bytes(content)

    def head(uri: str, size: int) -> bytes:
        raise {"no_suffix": OSError(5, "the store answered 503"), "gone": FileNotFoundError(2, "")}[
            uri.rpartition("/")[2]  # of the empty one nobody asks: S3 gives no part of nothing
        ]

    monkeypatch.setattr(files, "head", head)
    listed, left_out = found(tmp_path)
    assert set(listed) == {"no_suffix"} and left_out == {"no image": 2}


def test_the_output_folder_is_no_input_though_it_lies_inside(photos: Path):
    (photos / "out" / "images").mkdir(parents=True)
    (photos / "out" / "images" / "0.png.png").write_bytes(encoded(photo()))
    listed, left_out = found(photos, output=str(photos / "out"))
    assert len(listed) == 8 and left_out["inside the output folder"] == 1


@pytest.mark.parametrize("root", ["{tmp}", "memory://with-outputs"])
def test_what_earlier_jobs_wrote_beside_the_images_is_no_input(tmp_path: Path, root: str):
    root = root.format(tmp=tmp_path)
    image = encoded(photo(8, 8))
    for folder, run in (("done", b'{"format_version": 1}'), ("mine", b"{}"), ("else", b"no JSON")):
        files.write(f"{root}/{folder}/_run.json", run)
        for name in ("images/a.png", "curve.png", "A.png", "z.png"):
            files.write(f"{root}/{folder}/{name}", image)
    names = {"images/a.png", "curve.png", "A.png", "z.png"}
    kept = {f"{folder}/{name}" for folder in ("mine", "else") for name in names}
    kept |= {"done/A.png", "done/z.png"}  # somebody put them there
    listed, left_out = found(root)
    assert set(listed) == kept and left_out["output of an earlier job"] == 2
    every = kept | {f"done/{name}" for name in names}
    assert set(found(f"{root}/**/*.png")[0]) == every  # a glob says what it means
    assert set(found(f"{root}/done/images")[0]) == {"a.png"}
    files.write(f"{root}/outer/done/_run.json", b'{"format_version": 1}')
    files.write(f"{root}/outer/done/data/part-0.parquet", b"")
    with pytest.raises(SettingsError, match="it holds output folders of jobs: name one"):
        found(f"{root}/outer")


def test_a_record_that_cannot_be_read_now_ends_the_listing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    files.write(f"{tmp_path}/done/_run.json", b'{"format_version": 1}')
    files.write(f"{tmp_path}/done/images/a.png", encoded(photo(8, 8)))

    def unreachable(uri: str) -> dict[str, Any]:
        raise OSError(5, "the store answered 503", uri)

    monkeypatch.setattr(files, "object_in", unreachable)
    with pytest.raises(SettingsError, match=r"cannot list .* 503"):
        found(tmp_path)


def test_a_glob_is_relative_to_its_fixed_part(photos: Path):
    listed, _ = found(photos / "*.png")
    assert set(listed) == {f"{number}.png" for number in range(5)} | {"broken.png"}
    assert set(found(photos / "**" / "*.jpg")[0]) == {"more/wide.jpg"}


def test_names_that_become_the_same_key_are_two_inputs_of_a_glob():
    for uri in ("memory://globbed/a/x.png", "memory://globbed/a//x.png"):
        files.write(uri, encoded(photo()))
    listed, left_out = found("memory://globbed/**/*.png")
    assert len(listed) == 2 and "a/x.png" in listed and not left_out


def test_one_file_is_an_input_of_its_own(photos: Path):
    listed, _ = found(photos / "3.png")
    assert listed["3.png"].uri == str(photos / "3.png")


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_a_manifest_names_its_images_relative_to_itself(photos: Path, kind: str):
    uris = ["0.png", "more/wide.jpg", str(photos / "1.png"), "0.png", "gone.png"]
    path = photos / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"uri": uris}), path)
    else:
        head = ["uri"] if kind == "csv" else []
        path.write_text("\n".join(head + uris) + "\n")
    listed, left_out = found(path)
    assert set(listed) == {"0.png", "more/wide.jpg", "1.png", "gone.png"}
    assert left_out == {"named twice": 1}
    assert source_of(listed["1.png"]).encoded == (photos / "1.png").read_bytes()


def test_a_signature_is_no_part_of_a_path(tmp_path: Path):
    (tmp_path / "list.txt").write_text("https://me:pw@host/a.jpg?X-Amz-Signature=0123\n")
    (path,) = found(tmp_path / "list.txt")[0]
    assert "pw" not in path and "0123" not in path


def test_images_of_one_name_in_two_folders_are_two_inputs(tmp_path: Path):
    (tmp_path / "list.txt").write_text("s3://bucket/a.png\ngs://bucket/a.png\ns3://bucket/a.png\n")
    listed, left_out = found(tmp_path / "list.txt")
    assert len(listed) == 2 and left_out == {"named twice": 1}


def test_a_broken_table_is_said_in_one_line(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(SettingsError, match="cannot list"):
        found(tmp_path / "a.parquet")


def test_an_output_folder_inside_a_folder_of_tables_is_none_of_them(tmp_path: Path):
    image = [{"bytes": encoded(photo()), "path": "0.png"}]
    pq.write_table(pa.table({"image": image}), tmp_path / "a.parquet")
    (tmp_path / "out" / "_manifest").mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "out" / "_manifest" / "rows.parquet")
    listed, left_out = found(tmp_path, output=str(tmp_path / "out"))
    assert set(listed) == {"0.png"} and "no image" not in left_out


def test_a_csv_without_the_column_says_which_it_has(tmp_path: Path):
    (tmp_path / "list.csv").write_text("photo,label\na.png,1\n")
    with pytest.raises(SettingsError, match=r"list.csv: no column `uri`.*photo.*label.*--column"):
        found(tmp_path / "list.csv")


def test_a_hugging_face_table_gives_its_rows(tmp_path: Path):
    pictures = [encoded(photo(seed=seed)) for seed in range(3)]
    image = [{"bytes": picture, "path": f"{i}.png"} for i, picture in enumerate(pictures)]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"image": image, "label": [0, 1, 2]}), tmp_path / "data" / "a.parquet")
    listed, _ = found(tmp_path)
    assert set(listed) == {"0.png", "1.png", "2.png"}
    assert source_of(listed["2.png"]).encoded == pictures[2]


def test_rows_without_a_name_are_numbered(tmp_path: Path):
    image = [{"bytes": encoded(photo()), "path": None}] * 2
    pq.write_table(pa.table({"image": image}), tmp_path / "a.parquet", row_group_size=1)
    listed, _ = found(tmp_path / "a.parquet")
    assert set(listed) == {"a/0", "a/1"}
    assert source_of(listed["a/1"]).encoded == encoded(photo())


def test_threads_read_what_rows_or_names_they_share_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    image = [{"bytes": encoded(photo()), "path": f"{i}.png"} for i in range(8)]
    pq.write_table(pa.table({"image": image}), tmp_path / "a.parquet")
    listed, _ = found(tmp_path / "a.parquet")
    asked = []

    def slowly(name: str) -> Callable[[str], Any]:
        call = getattr(files, name)

        def slow(uri: str) -> Any:
            asked.append(name)
            time.sleep(0.05)
            return call(uri)

        return slow

    for name in ("open_input", "names"):
        monkeypatch.setattr(files, name, slowly(name))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(source_of, listed.values()))
        list(pool.map(partial(reference_of, str(tmp_path)), ["a.parquet"] * 8))
    assert sorted(asked) == ["names", "open_input", "open_input"]  # the footer, and the rows


def test_rows_in_an_order_of_their_own_are_read_with_their_groups_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    image = [{"bytes": encoded(photo()), "path": f"{i * 7 % 40}.png"} for i in range(40)]
    pq.write_table(pa.table({"image": image}), tmp_path / "a.parquet", row_group_size=8)
    listed, _ = found(tmp_path / "a.parquet")
    opened, call = [], files.open_input
    monkeypatch.setattr(files, "open_input", lambda uri: opened.append(uri) or call(uri))
    assert all(source_of(listed[path]).encoded == encoded(photo()) for path in sorted(listed))
    assert len(opened) == 1 + 5  # the footer, and each group


def test_keys_stay_below_their_root(tmp_path: Path):
    (tmp_path / "x").mkdir()
    (tmp_path / "a.png").write_bytes(encoded(photo()))
    (tmp_path / "x" / "list.txt").write_text("../a.png\n")
    listed, _ = found(tmp_path / "x" / "list.txt")
    assert all(".." not in path.split("/") and not path.startswith("/") for path in listed)


def test_names_that_are_no_text_are_listed_and_read(tmp_path: Path):
    name = b"caf\xe9.png"
    with open(bytes(tmp_path) + b"/" + name, "wb") as file:
        file.write(encoded(photo()))
    listed, _ = found(tmp_path)
    (entry,) = listed.values()
    entry.path.encode()  # a key is valid text
    assert source_of(entry).encoded == encoded(photo())


@pytest.mark.parametrize("name", ["nowhere", "empty", "nothing/*.png"])
def test_nothing_to_do_is_said_with_a_way_out(tmp_path: Path, name: str):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"no images under|no such file"):
        found(tmp_path / name)


def test_a_glob_of_folders_alone_is_refused_with_the_way_out(photos: Path):
    with pytest.raises(SettingsError, match=r"a glob, which names files: `/\*\*` at its end"):
        found(photos / "mor*")
    assert set(found(photos / "mor*" / "**")[0]) == {"more/gray.png", "more/wide.jpg"}


@pytest.mark.parametrize("name", ["sigma=0.1/a.png", "monkey=1.png", "my token=x&key=y.png"])
def test_a_path_that_reads_like_a_secret_is_kept_as_it_is(tmp_path: Path, name: str):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encoded(photo()))
    (tmp_path / "list.txt").write_text(f"{name}\n")
    assert list(found(tmp_path / "list.txt")[0]) == list(found(tmp_path)[0]) == [name]


def test_one_signed_image_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch):
    uri = "https://host/a.png?X-Amz-Signature=01/23"
    monkeypatch.setattr(files, "is_folder", lambda uri: False)
    monkeypatch.setattr(files, "info", lambda uri: files.Found("23", uri, 1, ""))
    listed, _ = found(uri)
    assert list(listed) == ["a.png"] and listed["a.png"].uri == uri


def test_an_image_that_is_signed_anew_is_the_same_input(tmp_path: Path):
    (tmp_path / "list.txt").write_text("".join(f"https://h/a.png?sig={n}\n" for n in range(2)))
    listed, left_out = found(tmp_path / "list.txt")
    assert list(listed) == ["h/a.png"] and left_out == {"named twice": 1}


def test_images_that_a_query_names_are_told_apart_without_its_secret(tmp_path: Path):
    uris = [f"https://h/image?id={n}&api_key=abc" for n in range(5)]
    (tmp_path / "list.txt").write_text("\n".join(uris))
    listed, left_out = found(tmp_path / "list.txt")
    assert {entry.uri for entry in listed.values()} == set(uris) and not left_out
    assert "h/image" in listed and not any("abc" in path for path in listed)


def test_each_of_many_images_of_one_name_has_a_path_of_its_own(tmp_path: Path):
    uris = [f"{store}://b/a.png" for store in ("s3", "gs", "gs", "az", "s3", "az")]
    (tmp_path / "list.txt").write_text("\n".join(uris))
    listed, left_out = found(tmp_path / "list.txt")
    assert {entry.uri for entry in listed.values()} == set(uris) and left_out == {"named twice": 3}


def test_paths_are_unique_however_many_and_in_whatever_runs_their_hashes_are(
    monkeypatch: pytest.MonkeyPatch,
):
    uris = [f"/{k % 13}/{k % 7}/{k % 50}.png" for k in range(3000)]

    def listed() -> tuple[list[tuple[str, str]], int]:
        found = (Entry(uri.rpartition("/")[2], uri, 0, "") for uri in uris)
        left_out = LeftOut()
        return [(one.path, one.uri) for one in unique(found, "/", left_out)], left_out.counts[
            "named twice"
        ]

    whole = listed()
    monkeypatch.setattr(hashes, "_RUN", 10)
    assert listed() == whole
    assert len(dict(whole[0])) == len(whole[0]) == len(set(uris)) == 3000 - whole[1]


def test_a_name_that_is_escaped_and_one_that_looks_so_are_two_inputs(tmp_path: Path):
    for name in (b"caf\xe9.png", b"caf\\xe9.png"):
        with open(bytes(tmp_path) + b"/" + name, "wb") as file:
            file.write(encoded(photo()))
    assert len(found(tmp_path)[0]) == 2


def test_paths_of_a_table_that_mean_the_same_are_told_apart(tmp_path: Path):
    image = [{"bytes": encoded(photo()), "path": path} for path in ("a.png", "./a.png", "x/./a")]
    pq.write_table(pa.table({"image": image}), tmp_path / "a.parquet")
    assert [path.split("~")[0] for path in found(tmp_path)[0]] == ["a.png", "a.png", "x/a"]


def test_an_output_folder_behind_a_link_is_known_for_what_it_is(tmp_path: Path):
    out = tmp_path / "real" / "photos" / "out"
    out.mkdir(parents=True)
    for folder in (out, out.parent):
        (folder / "a.png").write_bytes(encoded(photo()))
    (tmp_path / "link").symlink_to("real")
    for images in (tmp_path / "link" / "photos", tmp_path / "link" / "photos" / "**" / "*.png"):
        listed, left_out = found(images, output=str(out))
        assert list(listed) == ["a.png"] and left_out["inside the output folder"] == 1


@contextmanager
def serving(folder: Path) -> Iterator[tuple[int, list[str]]]:
    """A server of a folder on this machine: its port, and what it was asked for."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, _: str, *args: object) -> None:
            asked.append(str(args))

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], asked
        server.shutdown()


def test_a_hugging_face_table_may_name_its_images_by_whole_paths(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encoded(photo()))
    image = [{"bytes": None, "path": str(tmp_path / "photos" / "a.png")}]
    (tmp_path / "tables").mkdir()
    pq.write_table(pa.table({"image": image}), tmp_path / "tables" / "a.parquet")
    (entry,) = found(tmp_path / "tables")[0].values()
    assert source_of(entry, allow_elsewhere=True).encoded == encoded(photo())
    assert entry.size == 0  # not known: the table is small, the image need not be
    pair = load_pair(entry, PairConfig(allow_elsewhere=True))
    assert pair.error is None and pair.noisy is not None


@pytest.mark.parametrize(
    "path",
    ["{secret}", "file://{secret}", "../../secret.png", "http://127.0.0.1:{port}/secret.png"],
)
@pytest.mark.parametrize("column", ["image", "noisy", "clean", "file"])
def test_a_strangers_table_reads_no_file_of_this_machine_and_asks_none_of_its_servers(
    tmp_path: Path, path: str, column: str
):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(photo()))
    with serving(tmp_path) as (port, asked):
        named = {"bytes": None, "path": path.format(secret=secret, port=port)}
        rows: dict[str, list[object]] = {"path": ["a"], column: [named]}
        if column == "clean":
            rows["noisy"] = [{"bytes": encoded(photo()), "path": "a"}]
        if column == "file":
            empty = pa.array([None], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
            nothing = dict.fromkeys(("sigma", "seed", "error"), pa.array([None], pa.string()))
            rows |= {"image": empty, "file": [named["path"]], **nothing}
        (tmp_path / "theirs" / "data").mkdir(parents=True)
        pq.write_table(pa.table(rows), tmp_path / "theirs" / "data" / "a.parquet")
        (entry,) = found(tmp_path / "theirs")[0].values()
        pair = load_pair(entry, PairConfig())
    assert str(pair.error).startswith("it is elsewhere than its table")
    assert pair.noisy is None and asked == []


def test_a_row_without_its_image_takes_no_other_columns(tmp_path: Path):
    mask = {"bytes": encoded(photo(seed=1)), "path": "mask.png"}
    columns = {"image": [None, mask], "mask": [mask, mask], "error": ["a user's own", None]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    listed, _ = found(tmp_path)
    with pytest.raises(ImageError, match="row holds no image"):
        source_of(listed["a/0"])
    assert source_of(listed["mask.png"]).error is None


@pytest.mark.parametrize(
    ("columns", "paths"),
    [
        ({"image": [{"bytes": b"x"}] * 2}, ["a/0", "a/1"]),
        ({"image": [{"bytes": b"x"}] * 2, "path": [7, 8]}, ["7", "8"]),
    ],
)
def test_a_table_may_name_its_images_by_numbers_or_not_at_all(tmp_path: Path, columns, paths):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert list(found(tmp_path)[0]) == paths


def test_a_table_that_was_cut_off_since_is_its_rows_error(tmp_path: Path):
    image = [{"bytes": encoded(photo()), "path": "0.png"}]
    pq.write_table(pa.table({"image": image}), tmp_path / "cut.parquet")
    (entry,) = found(tmp_path)[0].values()
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImageError, match="its table cannot be read"):
        source_of(entry)


def test_a_uri_that_no_package_here_can_reach_is_its_rows_error(tmp_path: Path):
    (tmp_path / "list.txt").write_text("zz://bucket/a.png\n")
    (entry,) = found(tmp_path / "list.txt")[0].values()
    assert "cannot open zz://" in str(load_pair(entry, PairConfig()).error)
    assert "cannot open zz://" in decode_photos([entry], 64)[1].errors[entry.path]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_name_with_a_nul_byte_is_its_rows_error(tmp_path: Path, kind: str):
    (tmp_path / "list.csv").write_bytes(b"uri\na\0b.jpg\n")
    pq.write_table(pa.table({"uri": ["a\0b.jpg"]}), tmp_path / "list.parquet")
    (entry,) = found(tmp_path / f"list.{kind}")[0].values()
    assert "nul byte" in str(load_pair(entry, PairConfig()).error)


def test_a_list_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "list.txt").write_text("a.png\n", encoding="utf-16-le")  # and no mark of it
    with pytest.raises(SettingsError, match="save it as UTF-8"):
        found(tmp_path / "list.txt")


def test_a_systems_own_folder_that_nobody_may_list_is_none_of_ours(tmp_path: Path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(photo()))
    (tmp_path / ".Trashes").mkdir()
    scandir = os.scandir

    def refused(folder: str) -> Any:  # whoever runs the tests may be root
        if folder.endswith("Trashes"):
            raise PermissionError(folder)
        return scandir(folder)

    monkeypatch.setattr("os.scandir", refused)
    listed, left_out = found(tmp_path)
    assert list(listed) == ["a.png"] and not left_out


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder, and no right to what is locked in it: root would have every right."""
    with TemporaryDirectory() as folder:  # pytest's own folders let nobody else in
        os.chmod(folder, 0o755)
        files.exists(folder)  # loads what it needs, wherever that may be read by root alone
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(folder, 65534, -1)
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            if is_root:
                os.seteuid(0)
            for locked in ("locked", "."):
                os.chmod(os.path.join(folder, locked), 0o755)


def test_a_folder_that_may_not_be_read_is_left_out_and_counted(unprivileged: Path):
    for name in ("a/b.png", "locked/c.png", "z.png"):
        files.write(str(unprivileged / name), encoded(photo()))
    (unprivileged / "locked").chmod(0)
    listed, left_out = found(unprivileged)
    assert list(listed) == ["z.png", "a/b.png"] and left_out == {"folders that may not be read": 1}


def test_a_root_that_may_not_be_read_is_refused(unprivileged: Path):
    (unprivileged / "locked").mkdir(mode=0)
    with pytest.raises(SettingsError, match="locked: permission denied"):
        found(unprivileged / "locked")


def table(path: Path, *paths: str | None) -> None:
    """A Parquet table of one image a row, which has the name given or none."""
    rows = [{"bytes": encoded(photo(seed=k)), "path": name} for k, name in enumerate(paths)]
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), path)


def test_images_without_a_name_are_called_by_their_table_wherever_it_lies(tmp_path: Path):
    for folder in ("here", "there/too"):
        table(tmp_path / folder / "train" / "p.parquet", None, None)
        table(tmp_path / folder / "test" / "p.parquet", None)
        listed, left_out = found(tmp_path / folder)
        assert set(listed) == {"train/p/0", "train/p/1", "test/p/0"} and not left_out


def test_a_tree_that_is_moved_gives_the_same_names(tmp_path: Path):
    for folder in ("here", "there/too"):
        for part in ("train", "test"):
            table(tmp_path / folder / part / "p.parquet", "0.png")
        (tmp_path / folder / "list.txt").write_text("x/0.png\n./x/../x/0.png\ns3://x/0.png\n")
    for images in (".", "*/*.parquet", "list.txt"):
        first, second = (list(found(tmp_path / one / images)[0]) for one in ("here", "there/too"))
        assert first == second and len(first) == 2


def test_a_glob_of_tables_gives_their_rows(tmp_path: Path):
    table(tmp_path / "train" / "a.parquet", "0.png", None)
    table(tmp_path / "train" / "b.parquet", "1.png")
    listed, left_out = found(tmp_path / "*" / "*.parquet")
    assert set(listed) == {"0.png", "train/a/1", "1.png"} and not left_out
    assert source_of(listed["1.png"]).encoded == encoded(photo())


def test_tables_beside_images_are_left_out_and_counted(tmp_path: Path):
    table(tmp_path / "a.parquet", "0.png")
    (tmp_path / "b.png").write_bytes(encoded(photo()))
    for images in (tmp_path, tmp_path / "*"):
        listed, left_out = found(images)
        assert set(listed) == {"b.png"} and left_out == {"no image": 1}


def test_what_is_neither_file_nor_folder_is_counted_and_never_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "1.png").write_bytes(encoded(photo()))
    for images in (tmp_path, tmp_path / "*.png"):
        listed, left_out = found(images)
        assert list(listed) == ["1.png"] and left_out == {"neither file nor folder": 1}
    with pytest.raises(SettingsError, match="no images"):
        found(tmp_path / "pipe.png")
    (tmp_path / "list.txt").write_text("pipe.png\n")
    (named,) = found(tmp_path / "list.txt")[0].values()
    assert load_pair(named, PairConfig()).error == "neither file nor folder"


def test_links_are_followed_by_a_folder_and_by_a_glob_alike(tmp_path: Path):
    (tmp_path / "real.bin").write_bytes(encoded(photo()))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").symlink_to(tmp_path / "real.bin")
    (tmp_path / "photos" / "b.png").symlink_to(tmp_path / "nowhere")
    whole, by_glob = (found(tmp_path / "photos" / end)[0] for end in ("", "*.png"))
    assert list(whole) == list(by_glob) == ["a.png", "b.png"]
    assert whole["a.png"].size == by_glob["a.png"].size == (tmp_path / "real.bin").stat().st_size
    assert load_pair(by_glob["a.png"], PairConfig()).error is None
    assert load_pair(by_glob["b.png"], PairConfig()).error == "no such file"


def test_a_glob_finds_what_a_link_leads_to_under_every_name_that_it_is_like(tmp_path: Path):
    (tmp_path / "z" / "b").mkdir(parents=True)
    (tmp_path / "z" / "b" / "1.png").write_bytes(encoded(photo()))
    (tmp_path / "a").symlink_to(tmp_path / "z" / "b")
    (tmp_path / "z" / "round").symlink_to(tmp_path)
    for pattern, paths in (
        ("*/b/*.png", ["z/b/1.png"]),
        ("**/b/*.png", ["z/b/1.png"]),
        ("*/*.png", ["a/1.png"]),
        ("**/*.png", ["a/1.png"]),
        ("z/*/a/*.png", ["round/a/1.png"]),
    ):
        assert list(found(tmp_path / pattern)[0]) == paths, pattern


def test_a_glob_enters_no_folder_that_it_does_not_lead_to(tmp_path: Path, monkeypatch):
    for name in ("a/b/1.png", "a/b/c/2.png", "d/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(photo()))
    entered, children = [], disk.children

    def seen(prefix: str, folder: str) -> Iterator[Found]:
        entered.append(prefix)
        return children(prefix, folder)

    monkeypatch.setattr(disk, "children", seen)
    assert list(found(tmp_path / "a*" / "?" / "*.png")[0]) == ["a/b/1.png"]
    assert sorted(entered) == ["", "a/", "a/b/"]


def test_a_folder_named_like_an_image_is_a_folder_like_any_other(tmp_path: Path):
    (tmp_path / "x.png").mkdir()
    for name in ("x.png/1.png", "2.png"):
        (tmp_path / name).write_bytes(encoded(photo()))
    assert list(found(tmp_path)[0]) == ["2.png", "x.png/1.png"]
    assert list(found(tmp_path / "*.png")[0]) == ["2.png"]


def test_nothing_is_counted_that_is_not_there(tmp_path: Path):
    table(tmp_path / "a.parquet", "0.png")
    (tmp_path / "out" / "data").mkdir(parents=True)
    assert dict(found(tmp_path, output=str(tmp_path / "out"))[1]) == {}


def test_one_file_that_is_no_image_is_nothing_to_do(tmp_path: Path):
    (tmp_path / "afile").write_text("no image")
    with pytest.raises(SettingsError, match="no images under"):
        found(tmp_path / "afile")
    (tmp_path / "a.png").write_text("no image either, but its name is a promise")
    assert set(found(tmp_path / "a.png")[0]) == {"a.png"}


def test_a_list_of_numbers_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"uri": [1, 2]}), tmp_path / "list.parquet")
    with pytest.raises(SettingsError, match="`uri` must hold text, not int64"):
        found(tmp_path / "list.parquet")


def test_a_list_may_hold_its_names_as_categories(tmp_path: Path):
    names = pa.array(["a.png", "b.png", "a.png"]).dictionary_encode()
    pq.write_table(pa.table({"uri": names}), tmp_path / "list.parquet")
    assert set(found(tmp_path / "list.parquet")[0]) == {"a.png", "b.png"}


def test_an_image_beside_its_lists_folder_is_called_by_the_way_there(tmp_path: Path):
    for folder in ("here", "there/too"):
        lists = tmp_path / folder / "lists"
        lists.mkdir(parents=True)
        (lists / "list.txt").write_text("../photos/a.png\n../lists/b.png\n/elsewhere/c.png\n")
        assert set(found(lists / "list.txt")[0]) == {"__/photos/a.png", "b.png", "elsewhere/c.png"}


def test_what_is_left_out_is_counted_and_the_first_five_are_named_in_any_process():
    left_out = LeftOut()
    for k in range(7):
        left_out.add("no image", f"{k}.txt")
    left_out.add("rows that name no image", count=3)
    there = pickle.loads(pickle.dumps(left_out))
    assert there.counts == {"no image": 7, "rows that name no image": 3}
    assert there.names == {"no image": [f"{k}.txt" for k in range(5)]}


def test_a_hidden_file_that_is_named_is_an_input(tmp_path: Path):
    (tmp_path / ".x.png").write_bytes(encoded(photo()))
    left_out = LeftOut()
    (entry,) = entries(str(tmp_path / ".x.png"), left_out)
    assert entry.uri == str(tmp_path / ".x.png") and not left_out.counts


@pytest.mark.parametrize(
    "left",
    [
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "deep/@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "#recycle/a.png",
        "@Recycle/a.png",
        "$RECYCLE.BIN/S-1-5-21/$RABCDEF.png",
        "System Volume Information/a.png",
        "lost+found/a.png",
        "__MACOSX/a.png",
        "Thumbs.db",
    ],
)
def test_what_a_system_leaves_behind_is_never_an_input(tmp_path: Path, left: str):
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).write_bytes(encoded(photo()))
    (tmp_path / "eaDir.png").write_bytes(encoded(photo()))
    for images in (tmp_path, f"{tmp_path}/**"):
        listed, left_out = found(images)
        assert set(listed) == {"eaDir.png"}
        assert left_out == {"made by a system (thumbnails, deleted files)": 1}
    if "/" in left:
        assert found(tmp_path / left)[0]  # somebody has named it


def test_an_unfinished_download_is_no_input(tmp_path: Path):
    for name in ("a.png.crdownload", "b.png.part", "c.png"):
        (tmp_path / name).write_bytes(encoded(photo()))
    listed, left_out = found(tmp_path)
    assert (set(listed), left_out) == ({"c.png"}, {"unfinished download": 2})


def images_of(count: int, name: str = "image") -> dict[str, Any]:
    pictures = [encoded(photo(seed=number)) for number in range(count)]
    return {name: [{"bytes": one, "path": f"{k}.png"} for k, one in enumerate(pictures)]}


def test_a_table_without_images_among_others_is_counted(tmp_path: Path):
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "a_captions.parquet")
    with pytest.raises(SettingsError, match=r"a_captions.parquet: no image column"):
        found(tmp_path)
    pq.write_table(pa.table(images_of(3)), tmp_path / "b_images.parquet")
    listed, left_out = found(tmp_path)
    assert set(listed) == {"0.png", "1.png", "2.png"}
    assert left_out == {"table without images": 1}


def test_of_two_image_columns_the_other_is_counted(tmp_path: Path):
    pq.write_table(
        pa.table(images_of(3, "source") | images_of(3, "target")), tmp_path / "t.parquet"
    )
    listed, left_out = found(tmp_path)
    assert len(listed) == 3
    assert left_out == {"in column `target`, beside the images of `source` (--column chooses)": 3}


def test_of_a_table_the_needed_columns_alone_are_read(tmp_path: Path):
    table = pa.table(images_of(4) | {"other": [b"x" * 1000] * 4, "label": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "t.parquet")
    for path, entry in found(tmp_path)[0].items():
        assert source_of(entry).encoded == encoded(photo(seed=int(path[0])))
    (rows,) = (one for key, one in parquet._kept.items() if key[0] == entry.uri)
    assert rows.schema.names == ["image"]


@pytest.mark.parametrize("order", ["rising", "falling", "mixed"])
def test_a_large_row_group_is_read_in_pieces_in_any_order(tmp_path: Path, order: str, monkeypatch):
    monkeypatch.setattr(parquet, "_LARGE", 10_000)
    monkeypatch.setattr(parquet, "_PIECE", 20_000)
    table = pa.table(images_of(30))
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=20, data_page_size=4096)
    listed = list(found(tmp_path)[0].items())
    if order == "falling":
        listed.reverse()
    elif order == "mixed":
        listed = listed[::7] + listed[::3]
    for path, entry in listed:
        number = int(path.removesuffix(".png"))
        assert source_of(entry).encoded == encoded(photo(seed=number))
        assert not any(key[:2] == (entry.uri, entry.mark) for key in parquet._kept)
        assert pieces.at_hand[0].piece.nbytes < 60_000


@pytest.mark.parametrize(
    ("uri", "paths"),
    [
        ("zip://::photos.zip", {"a.png", "deep/b.png"}),
        ("zip://*.png::photos.zip", {"a.png"}),
        ("zip://**/*.png::photos.zip", {"a.png", "deep/b.png"}),
        ("zip://deep::photos.zip", {"deep/b.png"}),
        ("zip://deep/b.png::photos.zip", {"deep/b.png"}),
    ],
)
def test_a_chained_uri_names_what_lies_in_an_archive(
    tmp_path: Path, uri: str, paths: set[str], monkeypatch
):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("a.png", encoded(photo(seed=1)))
        archive.writestr("deep/b.png", encoded(photo(seed=2)))
        archive.writestr("notes.txt", "no picture")
    monkeypatch.chdir(tmp_path)
    listed, _ = found(uri)
    assert set(listed) == paths
    assert run_that_made(uri) is None  # it asks for a file in the archive
    monkeypatch.chdir("/")  # as a worker elsewhere
    for path, entry in listed.items():
        assert source_of(entry).encoded == encoded(photo(seed=1 if path == "a.png" else 2))
