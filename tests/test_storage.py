"""Places: listed in order, read with plain words, written whole or not at all."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from denoise.places import storage, uris
from denoise.places.storage import SettingsError


def test_a_listing_is_in_the_order_of_names_and_relative_to_its_root(tmp_path: Path):
    for name in ("b/2.png", "a/1.png", "a/z/0.png", "c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    files = [found for found in storage.listing(str(tmp_path)) if not found.is_folder]
    assert [found.path for found in files] == ["c.png", "a/1.png", "a/z/0.png", "b/2.png"]
    assert all(found.size == 5 and found.mark for found in files)


def test_a_folder_is_entered_once_though_links_lead_back(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    paths = [found.path for found in storage.listing(str(tmp_path)) if not found.is_folder]
    assert paths == ["a.png", "dangling.png"]


@pytest.mark.parametrize("siblings", [0, 14, 40])
def test_a_folder_with_two_names_goes_by_the_first_whatever_lies_beside_it(
    tmp_path: Path, siblings: int
):
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "1.png").write_bytes(b"1")
    (tmp_path / "a").symlink_to("z")
    for number in range(siblings):
        (tmp_path / f"b{number}").mkdir()
    files = [found.path for found in storage.listing(str(tmp_path)) if not found.is_folder]
    assert files == ["a/1.png"]


@pytest.mark.parametrize("name", ["a b", "ü", "a#b", "100%", "q?x", "[1]", "x&y=z"])
def test_what_is_written_is_read_back_whatever_its_name(tmp_path: Path, name: str):
    uri = uris.join(str(tmp_path), "deep", name)
    storage.write(uri, b"content")
    assert storage.read(uri) == b"content"
    assert storage.exists(uri) and storage.names(str(tmp_path / "deep")) == [name]
    storage.remove(uri)
    assert not storage.exists(uri)


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path):
    uri = str(tmp_path / "a")
    storage.write(uri, b"old")
    with pytest.raises(TypeError):
        storage.write(uri, "text")
    assert storage.read(uri) == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_is_created_once(tmp_path: Path):
    uri = str(tmp_path / "lock")
    assert storage.create(uri, b"1")
    assert not storage.create(uri, b"2")
    assert storage.read(uri) == b"1"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda place: None, "no such file"),
        (lambda place: place.mkdir(), "a folder, not a file"),
        (lambda place: place.symlink_to("nowhere"), "no such file"),
    ],
)
def test_what_cannot_be_read_is_said_in_plain_words(tmp_path: Path, make, words: str):
    place = tmp_path / "x.png"
    make(place)
    with pytest.raises(OSError) as caught:
        storage.read(str(place))
    assert storage.words_of(caught.value) == words


def test_credentials_are_in_no_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3ts3cr3t")
    assert "s3cr3t" not in storage.words_of(OSError("bad key s3cr3ts3cr3t"))
    words = storage.words_of(OSError("https://me:pass@host/x?sig=abc&y=1"))
    assert words == "https://host/x?sig=...&y=1"


def test_a_lock_can_be_made_on_a_disk_without_hard_links(tmp_path: Path, monkeypatch):
    def no_links(*_: str) -> None:
        raise PermissionError(errno.EPERM, "operation not permitted")  # as vfat says

    monkeypatch.setattr("os.link", no_links)
    assert storage.create(str(tmp_path / "lock"), b"mine")
    assert not storage.create(str(tmp_path / "lock"), b"another's")
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("lock", b"mine")]


def test_a_store_that_is_a_host_needs_one_and_says_so():
    with pytest.raises(SettingsError, match="cannot open ftp://"):
        storage.exists("ftp://127.0.0.1:1/x.png")  # nobody listens there
    with pytest.raises(SettingsError, match="cannot open github://"):
        storage.exists("github://x.png")


def test_a_refused_request_is_said_alike_for_every_image():
    class Refused(OSError):
        status = 403

    assert storage.words_of(Refused("403, url='https://host/a.png'")) == "the store answered 403"


def test_a_store_without_its_package_names_what_to_install():
    with pytest.raises(SettingsError, match="cannot open nosuch://"):
        storage.exists("nosuch://bucket/x")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot write to .*a part of its path is no folder"):
        storage.check_writable(str(tmp_path / "file" / "out"))


def attempts(uri: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a store is asked that always answers with an error."""
    made = []

    def ask() -> None:
        made.append(uri)
        raise error

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    store = SimpleNamespace(protocol=uri.partition(":")[0])
    with pytest.raises(OSError):
        storage._ask(store, uri, ask)
    return len(made)


@pytest.mark.parametrize(
    ("uri", "module", "name"),
    [
        ("gs://bucket/x", "google.auth.exceptions", "DefaultCredentialsError"),
        ("gs://bucket/x", "gcsfs.retry", "HttpError"),
        ("gs://bucket/x", "aiohttp", "ClientConnectionError"),
        ("s3://bucket/x", "botocore.exceptions", "NoCredentialsError"),
        ("az://bucket/x", "azure.core.exceptions", "ClientAuthenticationError"),
        ("az://bucket/x", "azure.core.exceptions", "HttpResponseError"),
    ],
)
def test_what_another_attempt_cannot_help_is_asked_once(
    uri: str, module: str, name: str, monkeypatch: pytest.MonkeyPatch
):
    error = getattr(pytest.importorskip(module, reason="needs the extra of that store"), name)()
    assert attempts(uri, error, monkeypatch) == 1


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3://bucket/x", "az://bucket/x"])
def test_a_store_that_does_not_answer_in_time_is_asked_again(
    uri: str, monkeypatch: pytest.MonkeyPatch
):
    assert attempts(uri, TimeoutError(), monkeypatch) == storage._ATTEMPTS
