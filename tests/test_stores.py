"""Stores: which are there, and how often they are asked."""

from types import SimpleNamespace

import pytest

from denoise.errors import SettingsError
from denoise.storage import files, stores


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
