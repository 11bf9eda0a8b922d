"""What goes wrong with places: the errors that end a job, and those of stores in plain words.

Each store's library raises exceptions of its own beside OSError; whoever asks a store, by
`stores.ask`, gets an OSError of all of them.
"""

from functools import lru_cache
from importlib import import_module

from denoise.places.uris import without_secrets

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"} | dict.fromkeys(
    ("az", "abfs", "abfss", "adl"), "azure"
)
_FOREIGN = {
    "s3": ("botocore.exceptions:BotoCoreError", "botocore.exceptions:ClientError"),
    "gcs": (
        "gcsfs.retry:HttpError",
        "gcsfs.retry:ChecksumError",
        "google.auth.exceptions:GoogleAuthError",
    ),
    "azure": ("azure.core.exceptions:AzureError",),
}
# Of these what another attempt cannot help: credentials that are missing, and what the store's
# library raises only after attempts of its own (gcsfs makes six in half a minute, Azure's four in
# more than one).
_FINAL = {
    "s3": (
        "botocore.exceptions:NoCredentialsError",
        "botocore.exceptions:PartialCredentialsError",
    ),
    "gcs": (*_FOREIGN["gcs"], "aiohttp:ClientError", "requests:RequestException"),
    "azure": _FOREIGN["azure"],
}
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


class WriteError(RuntimeError):
    """What a job has made cannot be written, which ends it; the text says where and why."""


class SettingsError(ValueError):
    """Wrong flags, places or settings, found before any work: one line, exit code 2."""


def words_of(error: BaseException) -> str:
    """What went wrong with a place, in plain words without names, addresses or credentials."""
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


@lru_cache(maxsize=16)
def foreign(protocol: str) -> tuple[type[BaseException], ...]:
    """What a store's library may raise."""
    if protocol == "file":
        return (OSError,)
    names = ("aiohttp:ClientError", *_FOREIGN.get(EXTRAS.get(protocol, ""), ()))
    return (OSError, *_kinds(names))


@lru_cache(maxsize=16)
def final(protocol: str) -> tuple[type[BaseException], ...]:
    """What of it is not worth another attempt."""
    return _kinds(_FINAL.get(EXTRAS.get(protocol, ""), ()))


def _kinds(names: tuple[str, ...]) -> tuple[type[BaseException], ...]:
    """The exceptions of these names, given as `module:name`, that are installed."""
    kinds: list[type[BaseException]] = []
    for place in names:
        module, _, name = place.partition(":")
        try:
            kinds.append(getattr(import_module(module), name))
        except ModuleNotFoundError:
            continue  # a store that does without this library raises none of its exceptions
    return tuple(kinds)
