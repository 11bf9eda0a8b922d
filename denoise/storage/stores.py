"""The stores themselves, as fsspec's file systems, asked again after passing faults.

The one user of fsspec.
"""

import errno
import os
import random
import re
import time
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeVar

from denoise.errors import SettingsError, words_of
from denoise.storage.uris import local_path, split

# protocol -> the extra that brings its library
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"} | dict.fromkeys(
    ("az", "abfs", "abfss", "adl"), "azure"
)
# stores that show an upload when all of it is there; the others get a rename
WHOLE_UPLOADS = frozenset(EXTRAS) | {"memory", "oss", "oci", "hf", "r2"}
_ATTEMPTS = 5
_T = TypeVar("_T")
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


def filesystem(uri: str) -> tuple[Any, str]:
    """fsspec's file system for a URI, and the path on it. Raises SettingsError if there is none,
    OSError where no file can be called so."""
    import fsspec  # 0.1 s, and not needed by --help

    if "\0" in uri:
        raise OSError(errno.EINVAL, "a name with a NUL byte in it")
    protocol, _ = split(uri)
    try:
        if protocol == "file":
            return _store("file", os.getpid()), local_path(uri)
        if protocol in WHOLE_UPLOADS or protocol.startswith("http"):  # one for all their places
            fs = _store(protocol, os.getpid())
            return fs, fs._strip_protocol(uri)
        return fsspec.core.url_to_fs(uri, use_listings_cache=False)  # one a host
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        way_out = f"pip install 'bulk-denoise[{extra}]'" if extra else str(error)
        raise SettingsError(f"{protocol}:// needs a package more: {way_out}") from error
    except (ValueError, TypeError, OSError) as error:
        raise SettingsError(f"cannot open {protocol}://: {words_of(error)}") from error


@lru_cache(maxsize=64)
def _store(protocol: str, _process: int) -> Any:
    """One file system a protocol and process: its connections do not survive a fork."""
    import fsspec

    # listings are never cached: other processes write to the same folders
    return fsspec.filesystem(protocol, use_listings_cache=False)


def is_disk(fs: Any) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def ask(fs: Any, uri: str, call: Callable[..., _T], *args: Any, **options: Any) -> _T:
    """Calls a store, again after a passing fault, and lets nothing but OSError out."""
    for attempt in range(_ATTEMPTS):
        try:
            return call(*args, **options)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
            raise
        except foreign(split(uri)[0]) as error:
            is_final = is_disk(fs) or isinstance(error, final(split(uri)[0]))
            if is_final or attempt == _ATTEMPTS - 1:
                raise error if isinstance(error, OSError) else OSError(words_of(error)) from error
        # a growing, jittered pause: a hundred workers must not come back all at once
        time.sleep(0.2 * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("the last attempt returns or raises")


def pattern(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression. Raises ValueError where it is none."""
    from fsspec.utils import glob_translate  # 0.1 s, and not needed by --help

    return re.compile(glob_translate(glob))


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
