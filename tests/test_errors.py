"""What goes wrong with places, in plain words: the same for the same cause, without credentials."""

import pytest

from denoise import errors


def test_credentials_are_in_no_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3ts3cr3t")
    assert "s3cr3t" not in errors.words_of(OSError("bad key s3cr3ts3cr3t"))
    words = errors.words_of(OSError("https://me:pass@host/x?sig=abc&y=1"))
    assert words == "https://host/x?sig=...&y=1"


def test_a_refused_request_is_said_alike_for_every_image():
    class Refused(OSError):
        status = 403

    assert errors.words_of(Refused("403, url='https://host/a.png'")) == "the store answered 403"
