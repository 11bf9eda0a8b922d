"""`denoise extract`: a table's images as files, each under a name of its own."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from denoise.errors import SettingsError, WriteError
from denoise.images.codec import Picture, encode
from denoise.output import tables
from denoise.output.folder import FORMAT
from denoise.storage import files
from denoise.verbs.extract import ExtractConfig, extract
from tests.running import write_part


def image(seed: int) -> bytes:
    pixels = np.full((4, 5, 3), seed, np.uint8)
    return encode(Picture(pixels))


def written(folder: Path, rows: list[dict[str, Any]], *, done: bool = True, **settings: Any) -> str:
    """A finished output folder of `infer` with these rows, in two part files."""
    for shard, some in enumerate((rows[:2], rows[2:])):
        write_part(str(folder), shard, some, tables.INFER_SCHEMA, {})
    run = {"format_version": FORMAT, "verb": "infer", "settings": settings}
    files.write(f"{folder}/_run.json", json.dumps(run).encode())
    if done:
        files.write(f"{folder}/_SUCCESS", b"")
    return str(folder)


def row(path: str, seed: int, suffix: str = ".png") -> dict[str, Any]:
    return {"path": path, "image": {"bytes": image(seed), "path": path + suffix}}


def listed(into: Path) -> dict[str, dict[str, str]]:
    with (into / "extracted.csv").open(newline="") as file:
        return {one["path"]: one for one in csv.DictReader(file)}


def test_images_lie_under_their_paths_with_the_suffix_of_what_they_are(tmp_path: Path):
    rows = [row("Dog.png", 1), row("a/b/Cat.jpg", 2), row("a/b/noname", 3)]
    folder = written(tmp_path / "out", sorted(rows, key=lambda one: one["path"]))
    found = extract(ExtractConfig(output=folder, into=str(tmp_path / "into")))
    assert (found["images"], found["written"], found["renamed"]) == (3, 3, 0)
    for name, seed in (("Dog.png", 1), ("a/b/Cat.png", 2), ("a/b/noname.png", 3)):
        assert (tmp_path / "into" / name).read_bytes() == image(seed)


def test_of_two_images_with_one_name_the_second_is_renamed_and_the_list_says_so(tmp_path: Path):
    rows = [row("dog.gif", 1), row("dog.jpg", 2), row("dog.png", 3), row("DOG.webp", 4)]
    folder = written(tmp_path / "out", sorted(rows, key=lambda one: one["path"]))
    into = tmp_path / "into"
    found = extract(ExtractConfig(output=folder, into=str(into)))
    assert found["written"] == 4 and found["renamed"] == 3
    names = {path: one["file"] for path, one in listed(into).items()}
    assert names == {  # told apart where a disk knows no capital letters, too
        "DOG.webp": "DOG.png",
        "dog.gif": "dog.gif.png",
        "dog.jpg": "dog.jpg.png",
        "dog.png": "dog.png.png",
    }
    assert listed(into)["dog.jpg"]["note"].startswith("renamed")
    assert (into / "dog.jpg.png").read_bytes() == image(2)


def test_a_second_time_nothing_is_written_and_nothing_of_others_is_ever_replaced(tmp_path: Path):
    folder = written(tmp_path / "out", [row("a.png", 1), row("b.png", 2)])
    config = ExtractConfig(output=folder, into=str(tmp_path / "into"))
    extract(config)
    assert extract(config)["already_there"] == 2
    (tmp_path / "into/b.png").write_bytes(b"mine")
    with pytest.raises(SettingsError, match=r"b\.png is there and is another image"):
        extract(config)
    assert (tmp_path / "into/b.png").read_bytes() == b"mine"


def test_failed_images_are_listed_with_their_errors(tmp_path: Path):
    rows = [{"path": "a.png", "error": "empty file"}, row("b.png", 2)]
    folder = written(tmp_path / "out", rows)
    found = extract(ExtractConfig(output=folder))
    assert (found["written"], found["failed"]) == (1, 1)
    assert listed(tmp_path / "out/images")["a.png"]["error"] == "empty file"


def test_files_that_a_job_saved_beside_the_table_are_copied_and_no_others(tmp_path: Path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    rows = [
        {"path": "a.jpg", "file": "images/a.png"},
        {"path": "b.jpg", "file": "images/../../secret.png"},
    ]
    folder = written(tmp_path / "out", rows, save="files")
    files.write(f"{folder}/images/a.png", image(7))
    into = tmp_path / "into"
    extract(ExtractConfig(output=folder, into=str(into)))
    assert (into / "a.png").read_bytes() == image(7)
    assert listed(into)["b.jpg"]["error"] == "its file lies outside the output folder"


@pytest.mark.parametrize("save", ["files", "both"])
def test_images_saved_as_files_too_keep_the_names_that_these_have(tmp_path: Path, save: str):
    rows = [
        row("a.jpg", 1) | {"file": "images/a.png"},
        row("a.png", 2) | {"file": "images/a-1f.png"},  # the job renamed it
        row("b/A.jpg", 3) | {"file": "images/b/A.png"},
        row("b/a.jpg", 4) | {"file": "images/b/a.png"},  # another file on most disks
    ]
    for one in rows:
        files.write(f"{tmp_path}/out/{one['file']}", one["image"]["bytes"])
        if save == "files":
            one["image"] = None
    folder = written(tmp_path / "out", rows, save=save)
    found = extract(ExtractConfig(output=folder))
    assert (found["written"], found["already_there"], found["renamed"]) == (0, 4, 0)
    elsewhere = tmp_path / "into"
    extract(ExtractConfig(output=folder, into=str(elsewhere)))
    assert (elsewhere / "a-1f.png").read_bytes() == image(2)


@pytest.mark.parametrize("path", ["../up.png", "/etc/up.png", "a/../../up.png"])
def test_no_path_leads_out_of_the_folder(tmp_path: Path, path: str):
    folder = written(tmp_path / "deep/out", [row(path, 1)])
    extract(ExtractConfig(output=folder, into=str(tmp_path / "deep/into")))
    new = {one for one in tmp_path.rglob("up.png")}
    assert len(new) == 1 and (tmp_path / "deep/into") in new.pop().parents


def test_nothing_is_written_through_a_symbolic_link(tmp_path: Path):
    elsewhere, into = tmp_path / "elsewhere", tmp_path / "into"
    for folder in (elsewhere, into):
        folder.mkdir()
    (into / "sub").symlink_to(elsewhere)
    written(tmp_path / "out", [row("sub/a.png", 1)])
    with pytest.raises(WriteError, match="symbolic link"):
        extract(ExtractConfig(output=str(tmp_path / "out"), into=str(into)))
    assert list(elsewhere.iterdir()) == []


def test_what_cannot_be_extracted_is_refused_in_one_sentence(tmp_path: Path):
    def refused(name: str, words: str, into: str | None = None) -> None:
        with pytest.raises(SettingsError, match=words):
            extract(ExtractConfig(output=str(tmp_path / name), into=into))

    refused("nothing", "no output of a job under")
    written(tmp_path / "half", [row("a.png", 1)], done=False)
    refused("half", "is not finished; run `infer` again")
    run = {"format_version": FORMAT, "verb": "train", "settings": {}}
    trained = json.dumps(run).encode()
    written(tmp_path / "none", [row("a.png", 1)], save="none")
    refused("none", "made with --save none")
    files.write(
        str(tmp_path / "model/_run.json"),
        trained,
    )
    refused("model", "output of `train`, which has no images")
    written(tmp_path / "out", [row("a.png", 1)])
    refused("out", "lies inside the output folder", into=str(tmp_path / "out/data"))
    with pytest.raises(ValueError, match="into must not be empty"):
        ExtractConfig(output="out", into="")
