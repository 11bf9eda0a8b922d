"""Places, by URI: list them, read them, write them whole or not at all; the one user of fsspec.

A URI is a local path, `file://`, `s3://`, `gs://`, `az://` or whatever else fsspec knows.
Credentials come from where each store's own tools look (environment, profile, instance). What goes
wrong is an `OSError`; `words_of` puts it in plain words, the same for the same cause.
"""

import errno
import os
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib import import_module
from io import BytesIO
from itertools import islice
from threading import Lock
from typing import IO, Any, TypeVar
from uuid import uuid4

from denoise.places import disk, pages
from denoise.places.disk import UNFINISHED, Found
from denoise.places.uris import (
    before_wildcards,
    glob_parts,
    is_local,
    join,
    local_path,
    shown,
    split,
    without_secrets,
)

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"} | dict.fromkeys(
    ("az", "abfs", "abfss", "adl"), "azure"
)
# stores that show an upload when all of it is there; the others get a rename
_WHOLE_UPLOADS = frozenset(_EXTRAS) | {"memory", "oss", "oci", "hf", "r2"}
# Each store's library raises exceptions of its own beside OSError; here they all become OSError.
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
_ATTEMPTS = 5
_LISTERS = 16  # folders of a store listed ahead
_T = TypeVar("_T")
_counting = Lock()  # folders are listed by threads


class WriteError(RuntimeError):
    """What a job has made cannot be written, which ends it; the text says where and why."""


class SettingsError(ValueError):
    """Wrong flags, places or settings, found before any work: one line, exit code 2."""


_Listed = tuple[Any, Iterable[Found]]  # a folder's identity, and its children
_Asked = tuple[str, ...]  # what `_inside` is given


def listing(
    root: str,
    left_out: Counter[str] | None = None,
    *,
    begins: str = "",
    enters: Callable[[str], Hashable] = lambda path: True,
) -> Iterator[Found]:
    """Every file and folder below a folder, in the order of names (of keys, where a store lists
    them in pages), listed ahead in parallel.

    Links are followed; a folder that several names lead to is entered by the first of them. What a
    dangling link names is listed with size 0, so that reading it tells. Raises OSError where a
    folder cannot be listed; but with `left_out` the folders below the root that may not be read are
    counted there and passed over. Folders are entered if `enters` says anything of their paths; by
    several names, if it says different things. `begins` spares a store those directly in the root
    that begin otherwise.
    """
    fs, top = _filesystem(root)
    # identities by what `enters` said; in the order of names, whatever is listed ahead
    seen: dict[Hashable, set[Any]] = defaultdict(set)
    children = partial(_inside, fs, left_out)
    with ThreadPoolExecutor(1 if _is_disk(fs) else _LISTERS) as pool:
        first = top if _is_disk(fs) else root  # what is found keeps the store's protocol
        waiting: list[tuple[Hashable, _Asked | Future[_Listed]]]  # the next one last
        waiting = [(enters(""), ("", first, begins))]
        while waiting:
            for k, (said, one) in enumerate(waiting[-_LISTERS:], max(0, len(waiting) - _LISTERS)):
                if isinstance(one, tuple):
                    waiting[k] = said, pool.submit(children, *one)
            said, folder = waiting.pop()
            assert isinstance(folder, Future)
            identity, found = folder.result()
            if identity in seen[said]:
                continue
            seen[said].add(identity)
            folders = []
            for child in found:
                yield child
                if child.is_folder and (said := enters(child.path)):
                    folders.append((said, (child.path + "/", child.uri)))
            waiting += reversed(folders)


def _inside(
    fs: Any,
    left_out: Counter[str] | None,
    prefix: str,
    folder: str,
    begins: str = "",
) -> _Listed:
    """What a folder is, and what lies directly in it; nothing where it may not be read and that is
    forgiven."""
    try:
        if _is_disk(fs):
            return disk.identity(folder), disk.children(prefix, folder)
        return folder, pages.children(fs, prefix, folder, partial(_ask, fs, folder), begins)
    except PermissionError:
        if prefix.startswith(".") or "/." in prefix:
            return folder, []  # as a system keeps its own on a camera's card
        if left_out is None or not prefix:
            raise
        with _counting:
            left_out["folders that may not be read"] += 1
        return folder, []


def read(uri: str) -> bytes:
    """The bytes of a file. Raises OSError; passing faults of a store are tried again first."""
    fs, path = _filesystem(uri)
    if _is_disk(fs):
        return _ask(fs, uri, disk.read, path)
    return bytes(_ask(fs, uri, fs.cat_file, path))


def head(uri: str, size: int) -> bytes:
    """The first bytes of a file. Raises OSError."""
    fs, path = _filesystem(uri)
    return bytes(_ask(fs, uri, fs.cat_file, path, start=0, end=size))


def open_input(uri: str) -> IO[bytes]:
    """A seekable file to read from, for tables that are read in parts."""
    fs, path = _filesystem(uri)
    opened: IO[bytes] = _ask(fs, uri, fs.open, path, "rb")
    return opened


def write(uri: str, content: bytes | memoryview, *, aside: str | None = None) -> None:
    """Writes a file whole or not at all: on object stores only a finished upload shows, elsewhere
    a rename is the commit. Raises OSError.

    `aside` is a folder of the same store for what is not written to the end; beside the file if
    not given.
    """
    fs, path = _filesystem(uri)
    if not _is_disk(fs):
        _ask(fs, uri, _upload, fs, path, content)
        return
    with disk.renamed(path, aside) as file:
        file.write(content)


@contextmanager
def written(uri: str) -> Iterator[IO[bytes]]:
    """A file to write to bit by bit, there as a whole when the block ends, or not at all when it
    raises: a disk takes the bits as they come, a store all of it at the end. Raises OSError."""
    fs, path = _filesystem(uri)
    if _is_disk(fs):
        with disk.renamed(path, None) as file:
            yield file
        return
    buffer = BytesIO()
    yield buffer
    _ask(fs, uri, _upload, fs, path, buffer.getbuffer())


def create(uri: str, content: bytes) -> bool:
    """Writes a file only where none is; False where there is one."""
    fs, path = _filesystem(uri)
    if _is_disk(fs):
        return disk.create(path, content)
    if exists(uri):
        return False
    write(uri, content)
    return True


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    fs, path = _filesystem(uri)
    return bool(_ask(fs, uri, fs.exists, path))


def is_folder(uri: str) -> bool:
    """Whether a folder is there (on an object store: whether anything lies below that name)."""
    fs, path = _filesystem(uri)
    return bool(_ask(fs, uri, fs.isdir, path))


def names(folder: str, begins: str = "") -> list[str]:
    """The names of what lies directly in a folder and begins so, sorted; none where it is not
    there. Raises OSError."""
    return sorted(set(_names(folder, begins)) - {""})


def names_if_few(folder: str, most: int) -> list[str] | None:
    """As `names`; None where there are more and those that begin in some way are found at once."""
    if not pages.are_found_by_beginning(_filesystem(folder)[0]):
        return names(folder)
    found = list(islice(_names(folder), most + 1))
    return None if len(found) > most else sorted(set(found) - {""})


def _names(folder: str, begins: str = "") -> Iterator[str]:
    fs, path = _filesystem(folder)
    try:
        if _is_disk(fs):
            yield from (name for name in os.listdir(path) if name.startswith(begins))
        else:
            yield from pages.names(fs, path, partial(_ask, fs, folder), begins)
    except (FileNotFoundError, NotADirectoryError):
        return


def matches(pattern: str, left_out: Counter[str] | None = None) -> Iterator[Found]:
    """The files and folders a glob stands for, as `listing` gives them; their paths are relative to
    its part before the first wildcard. Raises OSError; SettingsError where it is no glob."""
    from fsspec.utils import glob_translate  # 0.1 s, and not needed by --help

    base, like = glob_parts(local_path(pattern) if is_local(pattern) else pattern)
    if split(pattern)[0] in _WHOLE_UPLOADS and "://" not in base:
        raise SettingsError(f"{shown(pattern)}: a bucket's name has no wildcards")
    parts = like.split("/")
    try:
        whole, *each = [re.compile(glob_translate(one)) for one in (like, *parts)]
    except ValueError as error:
        raise SettingsError(f"{shown(pattern)}: {error}") from error

    def awaited(folder: str) -> frozenset[int]:
        """The parts of the pattern that what lies in a folder may be like, if the folder's own
        parts are like those before: a link may lead to it from where others are."""
        numbers = _or_next({0}, parts)
        for name in folder.split("/") if folder else ():
            like_it = {k for k in numbers if each[k].fullmatch(name)}
            after = {k if parts[k] == "**" else k + 1 for k in like_it}
            numbers = _or_next(after - {len(parts)}, parts)
        return frozenset(numbers)

    found = listing(base, left_out, begins=before_wildcards(parts[0]), enters=awaited)
    return (one for one in found if whole.fullmatch(one.path))


def _or_next(numbers: set[int], parts: list[str]) -> set[int]:
    """Parts of a pattern, and those behind a `**` among them, which stands for no folder too."""
    for k, part in enumerate(parts[:-1]):
        if part == "**" and k in numbers:
            numbers = numbers | {k + 1}
    return numbers


def info(uri: str) -> Found:
    """One file's size and mark, its path being its name. Raises OSError."""
    fs, path = _filesystem(uri)
    details = _ask(fs, uri, fs.info, path)
    return pages.found(uri.rstrip("/").rsplit("/", 1)[-1], uri, details)


def remove(uri: str) -> None:
    """Removes a file or a whole folder; nothing happens where there is none. Raises OSError."""
    fs, path = _filesystem(uri)
    if not exists(uri):
        return
    if _is_disk(fs) or before_wildcards(path) == path:
        _ask(fs, uri, fs.rm, path, recursive=True)
        return
    for one in _ask(fs, uri, fs.find, path):  # `rm` would take `[1]` or `*` for wildcards
        _ask(fs, uri, fs.rm_file, one)


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """A URI as Ray Train takes it: pyarrow's file system, None for this machine's, and the path."""
    fs, path = _filesystem(uri)
    if _is_disk(fs):
        return None, str(path)
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(fs)), str(path)


def sweep(folder: str) -> None:
    """Removes what killed processes left unfinished directly in a folder."""
    for name in names(folder):
        if name.startswith(UNFINISHED):
            remove(join(folder, name))


def check_writable(folder: str) -> None:
    """Raises SettingsError where nothing can be written below a folder: it tries. The folder stays
    where it was not there; who only looks tries `standing(folder)`."""
    trial = join(folder, UNFINISHED + uuid4().hex)
    try:
        write(trial, b"")
        remove(trial)
    except OSError as error:
        raise SettingsError(f"cannot write to {shown(folder)}: {words_of(error)}") from error


def standing(folder: str) -> str:
    """A folder on a disk if it is there, else the nearest one above it; on a store, itself."""
    while is_local(folder) and not exists(folder):
        folder = os.path.dirname(folder)
    return folder


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


def _filesystem(uri: str) -> tuple[Any, str]:
    """fsspec's file system for a URI, and the path on it. Raises SettingsError if there is none,
    OSError where no file can be called so."""
    import fsspec  # 0.1 s, and not needed by --help

    if "\0" in uri:
        raise OSError(errno.EINVAL, "a name with a NUL byte in it")
    protocol, _ = split(uri)
    try:
        if protocol == "file":
            return _store("file", os.getpid()), local_path(uri)
        if protocol in _WHOLE_UPLOADS or protocol.startswith("http"):  # one for all their places
            fs = _store(protocol, os.getpid())
            return fs, fs._strip_protocol(uri)
        return fsspec.core.url_to_fs(uri, use_listings_cache=False)  # one a host
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
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


def _is_disk(fs: Any) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _ask(fs: Any, uri: str, call: Callable[..., _T], *args: Any, **options: Any) -> _T:
    """Calls a store, again after a passing fault, and lets nothing but OSError out."""
    for attempt in range(_ATTEMPTS):
        try:
            return call(*args, **options)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
            raise
        except _foreign(split(uri)[0]) as error:
            is_final = _is_disk(fs) or isinstance(error, _final(split(uri)[0]))
            if is_final or attempt == _ATTEMPTS - 1:
                raise error if isinstance(error, OSError) else OSError(words_of(error)) from error
        # a growing, jittered pause: a hundred workers must not come back all at once
        time.sleep(0.2 * 2**attempt * random.uniform(0.5, 1.5))
    raise AssertionError("the last attempt returns or raises")


@lru_cache(maxsize=16)
def _foreign(protocol: str) -> tuple[type[BaseException], ...]:
    """What a store's library may raise."""
    if protocol == "file":
        return (OSError,)
    names = ("aiohttp:ClientError", *_FOREIGN.get(_EXTRAS.get(protocol, ""), ()))
    return (OSError, *_kinds(names))


@lru_cache(maxsize=16)
def _final(protocol: str) -> tuple[type[BaseException], ...]:
    """What of it is not worth another attempt."""
    return _kinds(_FINAL.get(_EXTRAS.get(protocol, ""), ()))


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


def _upload(fs: Any, path: str, content: bytes | memoryview) -> None:
    """Object stores show an upload when it is finished; other stores get a rename."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    if not _WHOLE_UPLOADS.isdisjoint(protocols):
        fs.pipe_file(path, bytes(content))
        return
    folder = path.rpartition("/")[0]
    trial = f"{folder}/{UNFINISHED}{uuid4().hex}"
    fs.makedirs(folder, exist_ok=True)
    fs.pipe_file(trial, bytes(content))
    fs.mv(trial, path)
