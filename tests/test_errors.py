"""What goes wrong with URIs, in plain words: the same for the same cause, without credentials."""

import pytest

from denoise import errors


def test_credentials_are_in_no_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3ts3cr3t")
    assert "s3cr3t" not in errors.words_of(OSError("bad key s3cr3ts3cr3t"))
    words = errors.words_of(OSError("https://me:pass@host/x?sig=abc&y=1"))
    assert words == "https://host/x?..."


@pytest.mark.parametrize(
    "text",
    [
        "cannot get https://host/a.png?S3CR3T",
        "cannot get 'https://host/a.png?code=S3CR3T&x=1'",
        "cannot get https://host/a.png#access_token=S3CR3T",
        "cannot get (https://me:S3CR3T@host/a.png)",
        *(f"wrong {name}=S3CR3T" for name in ("code", "jwt", "pwd", "auth", "access", "sas")),
        "Authorization: Bearer S3CR3TS3CR3T",
        "authorization: Basic S3CR3TS3CR3T==",
    ],
)
def test_no_secret_in_the_message_of_a_library_is_in_our_words(text: str):
    assert "S3CR3T" not in errors.without_secrets(text)


def test_what_is_no_secret_stays_in_our_words():
    text = "sigma=0.1 of https://host/a.png is wrong (line 3)"
    assert errors.without_secrets(text) == text


def test_a_refused_request_is_said_alike_for_every_image():
    class Refused(OSError):
        status = 403

    assert errors.words_of(Refused("403, url='https://host/a.png'")) == "the store answered 403"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ruined\rdone", r"ruined\rdone"),
        ("two\nlines", r"two\nlines"),
        ("\x1b[2J\x9b2J\x07", r"\x1b[2J\x9b2J\x07"),
        ("cod\u202egpj.exe", r"cod\u202egpj.exe"),
        ("a\u2066\u2028\u200b\ufeff", r"a\u2066\u2028\u200b\ufeff"),
        ("caf\udce9", r"caf\udce9"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_would_move_a_terminal_is_shown_as_its_escape(text: str, shown: str):
    assert errors.printable(text) == shown


@pytest.mark.parametrize(
    "text", ["Straße 50 %.png", "写真\u3000一.png", "می\u200cخواهم", "👩\u200d🚀", "a\\b"]
)
def test_a_name_in_any_script_stays_as_it_is(text: str):
    assert errors.printable(text) == text
