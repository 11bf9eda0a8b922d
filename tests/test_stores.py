"""Stores: which are there, how often they are asked, and what they raise in plain words."""

import socket
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from denoise.errors import FAILURES, SettingsError, why
from denoise.images.pairs import PairConfig
from denoise.storage import files, stores
from denoise.storage.entry import Entry
from denoise.storage.fetch import load_pair


def test_a_store_that_is_a_host_needs_one_and_says_so():
    with pytest.raises(SettingsError, match="cannot open ftp://"):
        files.exists("ftp://127.0.0.1:1/x.png")  # nobody listens there
    with pytest.raises(SettingsError, match="cannot open github://"):
        files.exists("github://x.png")


def test_a_store_without_its_package_names_what_to_install():
    with pytest.raises(SettingsError, match="cannot open nosuch://"):
        files.exists("nosuch://bucket/x")


def attempts(uri: str, error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often a store is asked that always answers with an error."""
    made = []

    def ask() -> None:
        made.append(uri)
        raise error

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    store = SimpleNamespace(protocol=uri.partition(":")[0])
    with pytest.raises(OSError):
        stores.ask(store, uri, ask)
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
    assert attempts(uri, TimeoutError(), monkeypatch) == stores._ATTEMPTS


def error_of(uri: str) -> str:
    """What the row of an image says that lies there."""
    error = load_pair(Entry("a.png", uri, 0, ""), PairConfig()).error
    assert error is not None
    return error


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://[bad/x.png", "no valid http:// uri: invalid ipv6 url"),
        ("http://127.0.0.1:99999/x.png", "no valid http:// uri: port out of range 0-65535"),
        ("http://127.0.0.1:abc/x.png", "no valid http:// uri"),
        ("http://" + "a" * 64 + ".com/x.png", "no valid http:// uri"),
        ("http://../x.png", "no valid http:// uri"),
        ("http:///x.png", "no valid http:// uri"),
        ("http://\udcff/x.png", "no valid http:// uri"),
        ("http://no.such.host.invalid/x.png", "its host's name does not resolve"),
        ("http://127.0.0.1:1/x.png", "the store could not be reached or broke off"),
        ("data:image/png;base64,AAAA", "no such file"),
        ("data://x", "no valid data:// uri"),
        ("zip://a.png", "cannot open zip://"),
        ("zip://::zip://::x.zip", "cannot open zip://"),
        ("zip://a.png::zip://b::zip://c::x.zip", "cannot open zip://"),
        ("simplecache::http://[bad/x", "no valid simplecache:// uri"),
        ("reference://x", "cannot open reference://"),
        ("jupyter://x", "cannot open jupyter://"),
        ("github://x.png", "cannot open github://"),
        ("nosuch://x", "cannot open nosuch://"),
        ("s3://b/\0.png", "a name with a nul byte in it"),
        ("://", "no such file"),
    ],
)
def test_a_uri_that_makes_no_sense_is_its_images_error_in_one_sentence(
    uri: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    error = error_of(uri)
    assert error.startswith(words)
    assert "\n" not in error and " at 0x" not in error


def test_a_damaged_archive_is_its_images_error(tmp_path: Path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"what is stored")
    assert files.read(f"zip://a.png::{path}") == b"what is stored"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"what", b"WHAT"))
    assert error_of(f"zip://a.png::{path}") == "truncated or damaged archive"
    path.write_bytes(whole[:40])
    assert "truncated or damaged archive" in error_of(f"zip://a.png::{path}")
    path.write_bytes(b"no archive" * 100)
    assert "truncated or damaged archive" in error_of(f"tar://a.png::{path}")


@pytest.mark.parametrize(
    "kind", [ValueError, KeyError, IndexError, TypeError, RuntimeError, ImportError, UnicodeError]
)
def test_whatever_a_library_raises_is_an_oserror_after_one_attempt(kind, monkeypatch):
    error = UnicodeError("x") if kind is UnicodeError else kind("slip")
    assert attempts("http://127.0.0.1/x", error, monkeypatch) == 1


@pytest.mark.parametrize("uri", ["gs://bucket/x", "s3://bucket/x", "http://host/x"])
def test_a_host_that_does_not_resolve_is_asked_for_once_and_named(uri: str, monkeypatch):
    unresolved = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    error = ConnectionError("could not connect")
    error.__cause__ = unresolved
    assert attempts(uri, error, monkeypatch) == 1
    with pytest.raises(FAILURES) as caught:
        stores.ask(SimpleNamespace(protocol="http"), uri, lambda: (_ for _ in ()).throw(error))
    assert why(caught.value) == "its host's name does not resolve"
