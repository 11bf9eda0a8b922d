"""Names of the files of images: the mirrored tree, and no two inputs to one file."""

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from denoise.output import manifest
from denoise.output.names import Names, file_of, shorten
from denoise.output.tar_shard import key_of
from denoise.storage import disk
from denoise.storage.entry import Entry
from denoise.verbs.extract import ExtractConfig, extract
from denoise.verbs.noise import NoiseConfig, noise
from tests.conftest import encoded, photo
from tests.running import rows_of

ALIKE = ["a", "a.jpg", "a.png", "a.jpeg", "a.gif", "a.gif.png", "a.png.png", "a.jpg.png", "a."]


def by_path(output: str) -> dict[str, Any]:
    return {row["path"]: row for row in rows_of(output)}


def entry(path: str) -> Entry:
    return Entry(path, f"s3://b/{path}", 1, "")


def stems_of(
    paths: Sequence[str], format: str = "png", *, folds: bool = False, first: Sequence[str] = ()
) -> dict[str, str]:
    """Path -> stem, of a listing after another one."""
    names = Names(format, folds=folds)
    for one in Names(format, folds=folds).give(map(entry, first)):
        names.claim(one)
    return {one.path: one.stem for one in names.give(map(entry, paths))}


def test_a_file_has_the_formats_suffix_in_place_of_the_inputs():
    assert file_of("x/Dog.png", ".png") == "x/Dog.png"
    assert file_of("x/Dog.JPG", ".png") == "x/Dog.png"
    assert file_of("x/v1.2", ".png") == "x/v1.2.png"
    assert file_of("x/Dog.jpeg", ".jpg", keep_name=True) == "x/Dog.jpeg"
    assert file_of("x/Dog.heic", ".png", keep_name=True) == "x/Dog.png"
    assert file_of("x/Dog.jpg", ".png", keep_name=True) == "x/Dog.jpg.png"
    assert ".." not in file_of("../up.png", ".png")


def test_a_name_of_any_length_is_a_files_and_no_two_become_one():
    for longest in (241, 251, 252, 255, 300, 1024):
        for letter in "aé漢":
            stem = (letter * longest).encode()[:longest].decode(errors="ignore")
            made = {shorten(f"{stem}{end}.jpg.png") for end in ("", "1", "2")}
            assert len(made) == 3
            for name in made:
                assert len(name.encode()) <= 255 and name.endswith(".png")
    assert shorten("x/a.jpg.png") == "x/a.jpg.png"
    assert len(shorten("d" * 300 + "/" + "." * 300).split("/")[0]) == 255


@pytest.mark.parametrize("format", ["png", "jpeg", "same"])
@pytest.mark.parametrize("folds", [False, True])
def test_no_two_inputs_get_one_file_whatever_they_hold(format: str, folds: bool):
    for paths in permutations([*ALIKE[:4], "A.png", ALIKE[6]], 6):
        stems = stems_of(paths, format, folds=folds)
        suffixes = {"png": [".png"], "jpeg": [".jpg"]}.get(format, [".png", ".jpg", ".webp"])
        for held in suffixes:  # in `same` each may hold something else than its name says
            files = [
                file_of(path, held, keep_name=format == "same", stem=stem)
                for path, stem in stems.items()
            ]
            unlike = {name.casefold() for name in files} if folds else set(files)
            assert len(unlike) == len(paths), files


@pytest.mark.parametrize("in_tar", [False, True])
@pytest.mark.parametrize("first", ["a.jpeg", "a.jpg", "a.png", "a.gif"])
@pytest.mark.parametrize("second", ["a.jpeg.gif", "a.jpg.gif", "a.png.gif", "a.webp", "a"])
def test_neither_do_two_whose_names_say_something_else_than_they_hold(
    first: str, second: str, in_tar: bool
):
    names = Names("same", folds=False, in_tar=in_tar)
    for one in (entries := list(names.give(map(entry, (first, second))))):
        assert one.path in (first, second)
    made = [
        {file_of(one.path, held, keep_name=True, stem=one.stem) for held in (".png", ".jpg")}
        for one in entries
    ]
    if in_tar:  # where names that differ by suffix alone are one sample
        made = [{key_of(name) for name in names} for names in made]
    assert made[0].isdisjoint(made[1])


def test_the_first_gets_the_usual_name_and_the_next_says_where_it_comes_from():
    assert stems_of(["Dog.gif", "Dog.jpg", "cat.jpg"]) == {
        "Dog.gif": "",
        "Dog.jpg": "Dog.jpg",
        "cat.jpg": "",
    }
    assert not any(stems_of(["Dog.jpg", "Dog.png"], "same").values())


def test_names_that_a_disk_takes_for_one_become_different():
    alike = ["a.png", "A.png", "caf\u00e9.png", "cafe\u0301.png", "stra\u00dfe.png", "STRASSE.png"]
    assert not any(stems_of(alike).values())
    renamed = [path for path, stem in stems_of(alike, folds=True).items() if stem]
    assert renamed == ["A.png", "cafe\u0301.png", "STRASSE.png"]


def test_an_input_that_comes_later_never_takes_the_name_of_an_earlier_one():
    """Also of one that is gone since, whose row and file stay."""
    assert stems_of(["a.gif", "a.jpg"], first=["a.png"]) == {"a.gif": "a.gif", "a.jpg": "a.jpg"}
    assert stems_of(["a.png"], first=["a.gif", "a.png.gif"])["a.png"].startswith("a.png~")


@pytest.mark.parametrize("later", [0, 1, 2, 3])
def test_no_file_is_called_like_a_folder_whichever_comes_first(later: int):
    """In one listing, and where the last ones are new in a later one."""
    for order in permutations(["a.jpg", "a.png/b.jpg", "a.png/c.png/d.jpg", "x.png/y.jpg"]):
        first, new = order[: 4 - later], order[4 - later :]
        stems = stems_of(first) | stems_of(new, first=first)
        files = {path: file_of(path, ".png", stem=stem) for path, stem in stems.items()}
        folders = {str(folder) for name in files.values() for folder in Path(name).parents}
        assert len(set(files.values())) == 4 and folders.isdisjoint(files.values()), files
        assert files["x.png/y.jpg"] == "x.png/y.png"  # it collides with none


def test_many_names_are_known_again():
    names = Names("png", folds=False)
    stems = stems_of([f"{number}.jpg" for number in range(70_000)])
    assert not any(stems.values())
    given = map(entry, [*stems, *(f"{number}.gif" for number in range(0, 70_000, 7_777))])
    for one in names.give(given):
        assert one.stem == ("" if one.path.endswith("jpg") else one.path)


def test_what_changed_keeps_its_name(tmp_path: Path):
    def listed(size: int) -> list[Entry]:
        found = [Entry(path, f"s3://b/{path}", size, "") for path in ("a.jpg", "a.png")]
        names = Names("png", folds=False)
        new = manifest.update(str(tmp_path), iter(found), names=names).new
        if new:
            manifest.cut(str(tmp_path), new)
        return [
            one
            for shard in manifest.shards_to_do(str(tmp_path))
            for one in shard.entries(str(tmp_path))
        ]

    for size in (10, 20):
        assert [(one.size, one.stem) for one in listed(size)] == [(size, ""), (size, "a.png")]


@pytest.mark.parametrize("folds", [False, True])
def test_a_job_writes_each_image_to_a_file_of_its_own_and_its_row_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: bool
):
    monkeypatch.setattr(disk, "folds_names", lambda folder: folds)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("B.png", "a.bmp", "b.png"):
        (photos / name).write_bytes(encoded(photo()))
    config = NoiseConfig(images=str(photos), output=str(tmp_path / "out"), save="both")
    noise(config)
    (photos / "a.png").write_bytes(encoded(photo()))
    noise(config)
    files = {path: row["file"] for path, row in by_path(config.output).items()}
    second = "images/b.png.png" if folds else "images/b.png"
    assert files == {
        "B.png": "images/B.png",
        "a.bmp": "images/a.png",
        "a.png": "images/a.png.png",
        "b.png": second,
    }
    for path, row in by_path(config.output).items():
        assert (tmp_path / "out" / row["file"]).read_bytes() == row["noisy"]["bytes"], path


def test_extracted_files_have_the_names_that_a_job_would_have_given(tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "a.png", "noname"):
        (photos / name).write_bytes(encoded(photo()))
    for save in ("files", "parquet"):
        noise(NoiseConfig(images=str(photos), output=str(tmp_path / save), save=save))
        extract(ExtractConfig(output=str(tmp_path / save), into=str(tmp_path / f"{save}-out")))
    saved, extracted = (
        {one.name: one.read_bytes() for one in (tmp_path / name).iterdir() if one.suffix == ".png"}
        for name in ("files/images", "parquet-out")
    )
    assert saved == extracted and sorted(saved) == ["a.png", "a.png.png", "noname.png"]
