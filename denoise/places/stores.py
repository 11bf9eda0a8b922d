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
from typing import Any, TypeVar

from denoise.places.errors import EXTRAS, SettingsError, final, foreign, words_of
from denoise.places.uris import local_path, split

# stores that show an upload when all of it is there; the others get a rename
WHOLE_UPLOADS = frozenset(EXTRAS) | {"memory", "oss", "oci", "hf", "r2"}
_ATTEMPTS = 5
_T = TypeVar("_T")


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
        way_out = f"pip install 'denoise[{extra}]'" if extra else str(error)
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
