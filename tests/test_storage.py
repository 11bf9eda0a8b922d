"""Places: read with plain words, written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from denoise import errors
from denoise.errors import SettingsError
from denoise.storage import files, uris


@pytest.mark.parametrize("name", ["a b", "ü", "a#b", "100%", "q?x", "[1]", "x&y=z"])
def test_what_is_written_is_read_back_whatever_its_name(tmp_path: Path, name: str):
    uri = uris.join(str(tmp_path), "deep", name)
    files.write(uri, b"content")
    assert files.read(uri) == b"content"
    assert files.exists(uri) and files.names(str(tmp_path / "deep")) == [name]
    files.remove(uri)
    assert not files.exists(uri)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path):
    uri = str(tmp_path / "a")
    files.write(uri, b"old")
    with pytest.raises(TypeError):
        files.write(uri, "text")
    assert files.read(uri) == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_is_created_once(tmp_path: Path):
    uri = str(tmp_path / "lock")
    assert files.create(uri, b"1")
    assert not files.create(uri, b"2")
    assert files.read(uri) == b"1"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "a folder, not a file"),
        (lambda path: path.symlink_to("nowhere"), "no such file"),
    ],
)
def test_what_cannot_be_read_is_said_in_plain_words(tmp_path: Path, make, words: str):
    path = tmp_path / "x.png"
    make(path)
    with pytest.raises(OSError) as caught:
        files.read(str(path))
    assert errors.words_of(caught.value) == words


def test_a_lock_can_be_made_on_a_disk_without_hard_links(tmp_path: Path, monkeypatch):
    def no_links(*_: str) -> None:
        raise PermissionError(errno.EPERM, "operation not permitted")  # as vfat says

    monkeypatch.setattr("os.link", no_links)
    assert files.create(str(tmp_path / "lock"), b"mine")
    assert not files.create(str(tmp_path / "lock"), b"another's")
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("lock", b"mine")]


def test_a_uri_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot write to .*a part of its path is no folder"):
        files.check_writable(str(tmp_path / "file" / "out"))


def test_nothing_is_written_or_removed_through_a_symbolic_link_below_a_folder(tmp_path: Path):
    output, home = tmp_path / "link", tmp_path / "home"
    (tmp_path / "out" / "images").mkdir(parents=True)
    output.symlink_to("out")  # the folder itself may be one: a user has named it
    home.mkdir()
    (home / "a.png").write_bytes(b"mine")
    (output / "images" / "deep").symlink_to(home)
    (output / "images" / "a.png").symlink_to(home / "a.png")
    for name in ("images/deep/a.png", "images/deep/b.png", "images/deep/more/a.png"):
        with pytest.raises(OSError, match="a symbolic link is on its way"):
            files.write_below(str(output), name, b"theirs")
        files.remove_file(str(output), name)
    files.write_below(str(output), "images/a.png", b"theirs")
    files.write_below(str(output), "images/b/c.png", b"theirs")
    assert [(one.name, one.read_bytes()) for one in home.iterdir()] == [("a.png", b"mine")]
    assert (output / "images" / "b" / "c.png").read_bytes() == b"theirs"
    assert not (output / "images" / "a.png").is_symlink()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/../b", "/a", "a//b", "~/a", "s3://a", "a/"]
)
def test_a_name_that_is_not_normal_removes_nothing(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match="a relative path without"):
        files.remove_file(str(tmp_path), name)


def test_a_disk_says_whether_it_tells_names_apart_and_keeps_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a").write_bytes(b"")
    apart = not (tmp_path / "A").exists()
    assert files.folds_names(str(tmp_path)) != apart
    exists = os.path.exists
    monkeypatch.setattr("os.path.exists", lambda path: exists(path) or path.endswith("A"))
    assert files.folds_names(str(tmp_path))
    assert os.listdir(tmp_path) == ["a"]
