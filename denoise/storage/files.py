"""Files and folders by URI: read them, write them whole or not at all, look what is there.

A URI is a local path, `file://`, `s3://`, `gs://`, `az://` or whatever else fsspec knows.
Credentials come from where each store's own tools look (environment, profile, instance). What goes
wrong is an `OSError`; `words_of` puts it in plain words, the same for the same cause.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from itertools import islice
from typing import IO, Any

from denoise.errors import SettingsError, words_of
from denoise.storage import disk, pages
from denoise.storage.found import Found
from denoise.storage.stores import WHOLE_UPLOADS, ask, filesystem, is_disk, translate_errors
from denoise.storage.uris import before_wildcards, is_local, is_normal, join, name_of, redact


def read(uri: str) -> bytes:
    """The bytes of a file. Raises OSError; passing faults of a store are retried first."""
    fs, path = filesystem(uri)
    if is_disk(fs):
        return ask(fs, uri, disk.read, path)
    return bytes(ask(fs, uri, fs.cat_file, path))


def head(uri: str, size: int) -> bytes:
    """The first bytes of a file. Raises OSError."""
    fs, path = filesystem(uri)
    return bytes(ask(fs, uri, fs.cat_file, path, start=0, end=size))


def read_range(uri: str, start: int, stop: int) -> bytes:
    """The bytes of a file from one offset to another, fewer where it ends. Raises OSError."""
    fs, path = filesystem(uri)
    if is_disk(fs):
        return ask(fs, uri, disk.read_range, path, start, stop)
    found = bytes(ask(fs, uri, fs.cat_file, path, start=start, end=stop))
    if len(found) > stop - start:  # a web server that does not know ranges sends all of it
        raise OSError("the store gives no parts of a file")
    return found


def object_in(uri: str) -> dict[str, Any]:
    """What a JSON file holds. Raises OSError, and ValueError where that is no object."""
    try:
        found = json.loads(read(uri))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError(f"an object was expected, got {type(found).__name__}")
    return found


def to_json(fields: Mapping[str, Any]) -> bytes:
    """What `object_in` reads."""
    text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")  # a folder's name need not be valid text


@contextmanager
def open_input(uri: str) -> Iterator[IO[bytes]]:
    """A seekable file to read from, for tables that are read in parts. Raises OSError."""
    fs, path = filesystem(uri)
    with ask(fs, uri, fs.open, path, "rb") as file, translate_errors(uri):
        yield file


def write(uri: str, content: bytes | memoryview, *, aside: str | None = None) -> None:
    """Writes a file whole or not at all: on object stores only a finished upload shows, elsewhere
    a rename is the commit. Raises OSError.

    `aside` is a folder of the same store for what is not written to the end; beside the file if
    not given.
    """
    fs, path = filesystem(uri)
    if not is_disk(fs):
        ask(fs, uri, _upload, fs, path, content)
        return
    with disk.open_output(path, aside) as file:
        file.write(content)


def write_below(
    folder: str, name: str, content: bytes | memoryview, *, aside: str | None = None
) -> None:
    """Write a file of a name below a folder, as `write`, but on a disk through no symbolic link
    below that folder. Raises OSError (ELOOP where there is one)."""
    write(_below(folder, name), content, aside=aside)


def create_below(folder: str, name: str, content: bytes) -> bool:
    """Write a file of a name below a folder where none is, as `create`, through no symbolic link
    below that folder; False where there is one. Raises OSError (ELOOP where there is a link)."""
    return create(_below(folder, name), content)


def _below(folder: str, name: str) -> str:
    """The URI of a name below a folder. Raises OSError where a link is on its way (ELOOP)."""
    fs, path = filesystem(folder)
    if is_disk(fs):
        disk.check_unlinked(path, name)
    return join(folder, name)


def folds_names(folder: str) -> bool:
    """Whether names there that differ by case or by Unicode normalisation alone are the same, as
    on most disks of macOS and Windows. Raises OSError."""
    fs, path = filesystem(folder)
    return is_disk(fs) and disk.folds_names(path)


@contextmanager
def open_output(uri: str, *, aside: str | None = None) -> Iterator[IO[bytes]]:
    """A file to write to bit by bit, there as a whole when the block ends, or not at all when it
    raises: a disk takes the bits as they come, a store all of it at the end. `aside` is as `write`
    has it. Raises OSError."""
    fs, path = filesystem(uri)
    if is_disk(fs):
        with disk.open_output(path, aside) as file:
            yield file
        return
    buffer = BytesIO()
    yield buffer
    ask(fs, uri, _upload, fs, path, buffer.getbuffer())


def create(uri: str, content: bytes) -> bool:
    """Writes a file only where none is; False where there is one."""
    fs, path = filesystem(uri)
    if is_disk(fs):
        return disk.create(path, content)
    if exists(uri):
        return False
    write(uri, content)
    return True


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    fs, path = filesystem(uri)
    return bool(ask(fs, uri, fs.exists, path))


def is_folder(uri: str) -> bool:
    """Whether a folder is there (on an object store: whether anything is below that name)."""
    fs, path = filesystem(uri)
    return bool(ask(fs, uri, fs.isdir, path))


def names(folder: str, begins: str = "") -> list[str]:
    """The names of a folder's children that begin so, sorted; none where it is not
    there. Raises OSError."""
    return sorted(set(_names(folder, begins)) - {""})


def names_if_few(folder: str, most: int) -> list[str] | None:
    """As `names`; None where there are more and those that begin in some way are found at once."""
    if not pages.are_found_by_beginning(filesystem(folder)[0]):
        return names(folder)
    found = list(islice(_names(folder), most + 1))
    return None if len(found) > most else sorted(set(found) - {""})


def _names(folder: str, begins: str = "") -> Iterator[str]:
    fs, path = filesystem(folder)
    try:
        if is_disk(fs):
            yield from (name for name in os.listdir(path) if name.startswith(begins))
        else:
            yield from pages.names(fs, path, partial(ask, fs, folder), begins)
    except (FileNotFoundError, NotADirectoryError):
        return


def info(uri: str) -> Found:
    """One file's size and mark, its path being its name. Raises OSError."""
    fs, path = filesystem(uri)
    details = ask(fs, uri, fs.info, path)
    return pages.found(name_of(uri), uri, details)


def is_version(uri: str, mark: str) -> bool:
    """Whether a file still is the version that `info` or a listing gave a mark. Raises OSError."""
    fs, path = filesystem(uri)
    if is_disk(fs):
        return mark in ask(fs, uri, disk.marks, path)
    return pages.has_mark(ask(fs, uri, fs.info, path), mark)


def remove(uri: str) -> None:
    """Removes a file or a whole folder; nothing happens where there is none. Raises OSError."""
    fs, path = filesystem(uri)
    if not exists(uri):
        return
    if is_disk(fs):
        ask(fs, uri, disk.remove, path)
        return
    if before_wildcards(path) == path:
        ask(fs, uri, fs.rm, path, recursive=True)
        return
    for one in ask(fs, uri, fs.find, path):  # `rm` would take `[1]` or `*` for wildcards
        ask(fs, uri, fs.rm_file, one)


def remove_file(folder: str, name: str) -> None:
    """Remove the one file that a table names, relative to a folder. Nothing else is ever removed:
    no folder, nothing outside of the folder, and on a disk nothing behind a symbolic link.

    Raises ValueError where the name is no normalised relative path, else OSError.
    """
    if not is_normal(name):
        raise ValueError(f"a relative path without `..` was expected, got {name!r}")
    uri = join(folder, name)
    fs, path = filesystem(uri)
    if is_disk(fs):
        disk.remove_file(filesystem(folder)[1], name)
    elif ask(fs, uri, fs.isfile, path):
        ask(fs, uri, fs.rm_file, path)  # `rm` would take `[1]` or `*` for wildcards


def sweep(folder: str) -> None:
    """Remove the files directly in a folder that killed processes left half written. Raises
    OSError."""
    for name in names(folder):
        if disk.is_trial(name):
            remove_file(folder, name)


def check_writable(folder: str) -> None:
    """Raises SettingsError where nothing can be written below a folder: it tries. The folder stays
    where it was not there; who only looks tries `nearest_folder(folder)`."""
    trial = join(folder, disk.trial_name())
    try:
        write(trial, b"")
        remove(trial)
    except OSError as error:
        raise SettingsError(f"cannot write to {redact(folder)}: {words_of(error)}") from error


def nearest_folder(folder: str) -> str:
    """A folder on a disk if it is there, else the nearest one above it; on a store, itself."""
    while is_local(folder) and not exists(folder):
        folder = os.path.dirname(folder)
    return folder


def _upload(fs: Any, path: str, content: bytes | memoryview) -> None:
    """Object stores show an upload when it is finished; other stores get a rename."""
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    if not WHOLE_UPLOADS.isdisjoint(protocols):
        fs.pipe_file(path, bytes(content))
        return
    folder = path.rpartition("/")[0]
    trial = f"{folder}/{disk.trial_name()}"
    fs.makedirs(folder, exist_ok=True)
    fs.pipe_file(trial, bytes(content))
    fs.mv(trial, path)
