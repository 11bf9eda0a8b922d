"""The stores themselves, as fsspec's file systems, with retries after passing faults.

The one user of fsspec.
"""

import errno
import logging
import os
import random
import re
import socket
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from denoise.errors import SettingsError, words_of
from denoise.storage.uris import local_path, split

# protocol -> the extra that brings its library
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"} | dict.fromkeys(
    ("az", "abfs", "abfss", "adl"), "azure"
)
# stores that show an upload when all of it is there; the others get a rename
WHOLE_UPLOADS = frozenset(EXTRAS) | {"memory", "oss", "oci", "hf", "r2"}
ASKERS = 16  # threads that ask a store: enough to hide its latency
_ATTEMPTS = 5
_T = TypeVar("_T")
# What the stores' libraries raise of their own; those that are not loaded raise nothing.
_LIBRARIES = (
    "aiohttp:ClientError",
    "botocore.exceptions:BotoCoreError",
    "botocore.exceptions:ClientError",
    "gcsfs.retry:HttpError",
    "gcsfs.retry:ChecksumError",
    "google.auth.exceptions:GoogleAuthError",
    "azure.core.exceptions:AzureError",
    "httpx:HTTPError",
    "httpx2:HTTPError",
    "paramiko:SSHException",
    "requests:RequestException",
)
# Of these what another attempt cannot help: credentials that are missing, and what the store's
# library raises only after attempts of its own (gcsfs makes six in half a minute, Azure's four in
# more than one).
_FINAL = {
    "s3": (
        "botocore.exceptions:NoCredentialsError",
        "botocore.exceptions:PartialCredentialsError",
    ),
    "gcs": (*_LIBRARIES[3:6], "aiohttp:ClientError", "requests:RequestException"),
    "azure": ("azure.core.exceptions:AzureError",),
}
# What else they raise for a URI that makes no sense to them, or for a file that is none of theirs
_NONSENSE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    ImportError,
    EOFError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
)
_NO_HOST = "its host's name does not resolve"
_NO_SUCH_NAME = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name)
}


def filesystem(uri: str) -> tuple[Any, str]:
    """fsspec's file system for a URI, and the path on it. Raises SettingsError if there is none,
    OSError where no file can have that name."""
    import fsspec  # 0.1 s, and not needed by --help

    if "\0" in uri:
        raise OSError(errno.EINVAL, "a name with a NUL byte in it")
    protocol, _ = split(uri)
    try:
        if protocol == "file":
            return _store("file", os.getpid()), local_path(uri)
        if protocol in WHOLE_UPLOADS or protocol.startswith("http"):  # one for all their hosts
            fs = _store(protocol, os.getpid())
            return fs, fs._strip_protocol(uri)
        return fsspec.core.url_to_fs(uri, use_listings_cache=False)  # one a host
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        way_out = f"pip install 'bulk-denoise[{extra}]'" if extra else str(error)
        raise SettingsError(f"{protocol}:// needs a package more: {way_out}") from error
    except _foreign() as error:
        is_plain = type(error) is ValueError  # such as credentials that are missing
        words = words_of(error if is_plain else _translate(error, protocol))
        raise SettingsError(f"cannot open {protocol}://: {words}") from error


@lru_cache(maxsize=64)
def _store(protocol: str, _process: int) -> Any:
    """One file system a protocol and process: its connections do not survive a fork."""
    import fsspec

    more: dict[str, Any] = {}
    if EXTRAS.get(protocol) == "s3" and "AWS_MAX_ATTEMPTS" not in os.environ:
        # s3fs retries too, and so does `ask`: three of five attempts each would be 125
        more["config_kwargs"] = {"retries": {"mode": "standard", "total_max_attempts": 2}}
    if EXTRAS.get(protocol) == "gcs":
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # its tracebacks become words
    # listings are never cached: other processes write to the same folders
    return fsspec.filesystem(protocol, use_listings_cache=False, **more)


def is_disk(fs: Any) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def ask(fs: Any, uri: str, call: Callable[..., _T], *args: Any, **options: Any) -> _T:
    """Call a store, with retries after passing faults; nothing but OSError comes out."""
    if is_disk(fs):
        return call(*args, **options)
    protocol = split(uri)[0]
    if EXTRAS.get(protocol) == "gcs":
        _check_host(fs)
    for attempt in range(_ATTEMPTS):
        try:
            return call(*args, **options)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
            raise
        except _foreign() as error:
            if _is_final(error, protocol) or attempt == _ATTEMPTS - 1:
                raise _translate(error, protocol) from error
        # a growing, jittered pause: a hundred workers must not come back all at once
        time.sleep(0.2 * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("the last attempt returns or raises")


@contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Turn what a store's library raises of its own into OSError, while others read its file."""
    try:
        yield
    except OSError:
        raise
    except _kinds(_LIBRARIES) as error:
        raise _translate(error, split(uri)[0]) from error


def _foreign() -> tuple[type[BaseException], ...]:
    """What a store's library may raise. URIs may be chained, so each library counts that is loaded;
    this is looked up only once something has been raised."""
    return (OSError, *_NONSENSE, *_kinds(_LIBRARIES))


def _is_final(error: BaseException, protocol: str) -> bool:
    """Whether another attempt cannot help."""
    if isinstance(error, _NONSENSE) and not isinstance(error, OSError):
        return True
    return _has_no_host(error) or isinstance(
        error, _kinds(_FINAL.get(EXTRAS.get(protocol, ""), ()))
    )


def _check_host(fs: Any) -> None:
    """Raise OSError where the host of Google's store does not resolve, for which gcsfs looks for
    more than half a minute. A proxy may know hosts that this machine does not."""
    host = urlsplit(str(getattr(fs, "base", ""))).hostname
    if host is None or getproxies():
        return
    try:
        _resolve(host)
    except socket.gaierror as error:
        if error.errno in _NO_SUCH_NAME:
            raise OSError(_NO_HOST) from error


@lru_cache(maxsize=16)
def _resolve(host: str) -> None:
    """Look a host up, once if it is there."""
    socket.getaddrinfo(host, None)


def _has_no_host(error: BaseException) -> bool:
    """Whether a host's name does not resolve, which libraries hide behind errors of their own."""
    cause: BaseException | None = error
    for _ in range(10):
        if cause is None:
            break
        inner = getattr(cause, "os_error", cause)
        if isinstance(inner, socket.gaierror) and inner.errno in _NO_SUCH_NAME:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _translate(error: BaseException, protocol: str) -> OSError:
    """Turn what a store's library raises into an OSError, in words for a row: here alone."""
    if _has_no_host(error):
        return _refusal(_NO_HOST)
    if isinstance(error, OSError):
        return error
    if isinstance(
        error, zipfile.BadZipFile | tarfile.TarError | EOFError | struct.error | zlib.error
    ):
        return OSError("truncated or damaged archive")
    if isinstance(error, UnicodeError) or "InvalidU" in type(error).__name__:
        return OSError(f"no valid {protocol}:// uri")
    if isinstance(error, ImportError):
        return OSError(f"{protocol}:// needs a package more: {error}")
    if type(error) is ValueError or isinstance(error, NotImplementedError):
        return OSError(f"no valid {protocol}:// uri: {words_of(error)}")
    if isinstance(error, _NONSENSE) and not isinstance(error, _kinds(_LIBRARIES)):
        return OSError(f"no valid {protocol}:// uri ({type(error).__name__})")
    return _refusal(words_of(error))


def _refusal(words: str) -> OSError:
    """A store's error. Its number tells it from what libraries say of a damaged file."""
    error = OSError(words)
    error.errno = errno.EIO
    return error


def pattern(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression. Raises ValueError where it is none."""
    from fsspec.utils import glob_translate  # 0.1 s, and not needed by --help

    return re.compile(glob_translate(glob))


def _kinds(names: tuple[str, ...]) -> tuple[type[BaseException], ...]:
    """The exceptions of these names, given as `module:name`, whose modules are loaded."""
    found = (
        getattr(sys.modules.get(module), name, None)
        for module, _, name in (one.partition(":") for one in names)
    )
    return tuple(kind for kind in found if kind is not None)
