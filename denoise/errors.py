"""Every error that a user meets, in words: of one image, of wrong settings, of a failed write."""

import os
import re

# what the names of secrets have in them, among the fields of a query or of a library's message
SECRETS = (
    r"(?i)([\w-]*(?:sig(?!ma)|signature|key|token|secret|passw|pwd|credential|code|jwt|auth|access|sas"
    r"|session|ticket)[\w-]*)=[^&;\s]+"
)
_QUERY = r"(\bhttps?://[^\s?#'\"<>]+)[?#][^\s'\"<>)]*"
# control characters, marks of direction and breaks of lines, invisible ones, halves of a pair;
# not the joiners, which Persian and emoji are written with
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
_WORDS: dict[type[BaseException], str] = {
    FileNotFoundError: "no such file",
    NotADirectoryError: "a part of its path is no folder",
    IsADirectoryError: "a folder, not a file",
    PermissionError: "permission denied",
    TimeoutError: "the store did not answer in time",
    ConnectionError: "the store could not be reached or broke off",
}
_ALIKE: dict[str, type[BaseException]] = {
    "Timeout": TimeoutError,
    "Connect": ConnectionError,
    "Endpoint": ConnectionError,
    "Disconnected": ConnectionError,
    "IncompleteRead": ConnectionError,
    "ResponseStreaming": ConnectionError,
    "Payload": ConnectionError,
}


class ImageError(ValueError):
    """What is wrong with one image, in words fit for a table: the same cause, the same words."""


class ElsewhereError(ImageError):
    """An image that a table names lies neither below the table's folder nor on its own store."""


class WriteError(RuntimeError):
    """What a job has made cannot be written, which ends it; the text says where and why."""


class ReadError(RuntimeError):
    """What a job knows of its shards cannot be read, which ends it; the text says where and why."""


class SettingsError(ValueError):
    """Wrong flags, URIs or settings, found before any work: one line, exit code 2."""


# The error of an image that workers died on.
CRASHED = (
    "three workers died on it (out of memory, or a decoder that crashed); --retry-errors tries it"
    " again"
)
# What may go wrong with one image without ending a run: its row says it.
FAILURES = (ImageError, SettingsError, OSError, MemoryError)


def words_of(error: BaseException) -> str:
    """What went wrong with a URI, in plain words without names, addresses or credentials."""
    for kind, words in _WORDS.items():
        if isinstance(error, kind):
            return words
    for name, kind in _ALIKE.items():  # the stores' libraries have exceptions of their own
        if name in type(error).__name__:
            return _WORDS[kind]
    if isinstance(status := getattr(error, "status", None), int):  # of an HTTP request
        return f"the store answered {status}"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.errno:
        text = error.strerror
    return without_secrets(text)[:200].lower()


def why(error: BaseException) -> str:
    """What went wrong with an image, in words that are the same for the same cause."""
    if isinstance(error, MemoryError):
        return "not enough memory for an image of this size"
    return words_of(error) if isinstance(error, OSError) else str(error)


def printable(text: object) -> str:
    """A text on one line of a terminal: what would move the cursor, colour, clear, turn the
    direction of writing or not be seen at all is written as its escape, `\\r` or `\\u202e`.

    Names of files, settings of a stranger's folder and what a library says may hold anything.
    """
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], str(text))


def without_user(text: str) -> str:
    """Without a user name and password; Azure's containers stand there and stay."""
    text = re.sub(r"(?<!\baz)(?<!\babfs)(?<!\babfss)://[^/@\s]*@", "://", text)
    # a secret may hold a slash, and a port is none
    return re.sub(r"://[^/@:\s]+:(?!\d+/)[^@\s]+@", "://", text)


def without_secrets(text: str) -> str:
    """Without user names, passwords, queries and whatever else may let somebody in."""
    text = re.sub(_QUERY, r"\1?...", without_user(text))
    text = re.sub(SECRETS, r"\1=...", text)
    text = re.sub(r"(?i)\b(bearer|basic) [\w.~+/=-]{8,}", r"\1 ...", text)
    for name, value in os.environ.items():
        if len(value) > 7 and re.search(
            r"(?i)secret|key|token|password|connection_string|sas", name
        ):
            text = text.replace(value, "...")
    return re.sub(r" at 0x[0-9a-f]+", "", text)
