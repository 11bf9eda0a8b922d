"""This machine's own disks: listed and read, and files that are there whole or not at all.

All of it raises OSError.
"""

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO
from uuid import uuid4

from denoise.storage.found import Found

TRIAL = ".denoise-"  # what the names of files begin with that are not written to the end


def identity(folder: str) -> tuple[int, int]:
    """The same for a folder and for links to it."""
    here = os.stat(folder)
    return here.st_dev, here.st_ino


def children(prefix: str, folder: str) -> Iterator[Found]:
    """One folder of a disk, in the order of names: of a large one these alone are in memory."""
    names = sorted(os.listdir(folder))
    return (_found(prefix + name, os.path.join(folder, name)) for name in names)


def _found(path: str, uri: str) -> Found:
    try:
        status = os.stat(uri)
    except OSError:  # a dangling link, or gone since: reading it will tell
        return Found(path, uri, 0, "")
    is_folder = stat.S_ISDIR(status.st_mode)
    is_special = not is_folder and not stat.S_ISREG(status.st_mode)
    return Found(path, uri, status.st_size, str(status.st_mtime_ns), is_folder, is_special)


def marks(path: str) -> tuple[str, str]:
    """The marks of a file's version: as `children` has it, and as fsspec does."""
    status = os.stat(path)
    return str(status.st_mtime_ns), str(status.st_mtime)


def read(path: str) -> bytes:
    """All of a file; what is neither file nor folder is an error, as reading it might never end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "neither file nor folder", path)
    with open(path, "rb") as file:
        return file.read()


def read_range(path: str, start: int, stop: int) -> bytes:
    """Bytes of a file from one offset to another, fewer where it ends."""
    file = os.open(path, os.O_RDONLY)
    try:
        size = min(stop, os.fstat(file).st_size) - start  # as much as is asked for is allocated
        return os.pread(file, max(0, size), start)
    finally:
        os.close(file)


@contextmanager
def open_output(path: str, aside: str | None) -> Iterator[IO[bytes]]:
    """A file under another name, renamed at the end: readers see all of it or nothing."""
    _make_folder(path)
    folder = aside or os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    trial = os.path.join(folder, trial_name())
    try:
        with open(trial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _move(trial, path)
    except BaseException:  # Ctrl-C too leaves nothing half written
        if os.path.exists(trial):
            os.remove(trial)
        raise


def trial_name() -> str:
    """A name for a file that is not written to its end."""
    return TRIAL + uuid4().hex


def is_trial(name: str) -> bool:
    """Whether a name is that of a file of ours that is not written to its end."""
    return re.fullmatch(re.escape(TRIAL) + "[0-9a-f]{32}", name) is not None


def _move(trial: str, path: str) -> None:
    """Renames; where the folder aside is on another disk, by way of a copy beside the file."""
    try:
        os.replace(trial, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with open(trial, "rb") as file, open_output(path, None) as copy:
            shutil.copyfileobj(file, copy)
        os.remove(trial)


def create(path: str, content: bytes) -> bool:
    """Writes beside the file and links: whoever sees the file sees all of it."""
    _make_folder(path)
    trial = os.path.join(os.path.dirname(path), trial_name())
    with open(trial, "xb") as file:
        file.write(content)
    try:
        os.link(trial, path)
    except FileExistsError:
        return False
    except OSError:  # a disk without links, such as exFAT
        return _create_at_once(path, content)
    finally:
        os.remove(trial)
    return True


def _create_at_once(path: str, content: bytes) -> bool:
    try:
        with open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def make_private(folder: str) -> None:
    """Make a folder that nobody else may enter, or take the right to from one that is there."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if stat.S_IMODE(os.stat(folder).st_mode) != 0o700:
        with suppress(OSError):  # another user's, or on a disk without modes
            os.chmod(folder, 0o700)


def missing_folders(folder: str) -> list[str]:
    """The folders that must be made before something can be written to one, the innermost first."""
    found = []
    while not os.path.lexists(folder):
        found.append(folder)
        folder = os.path.dirname(folder)
    return found


def remove_empty(folders: list[str]) -> None:
    """Removes folders, the innermost first, up to one that holds something or is gone already."""
    for folder in folders:
        try:
            os.rmdir(folder)
        except OSError:
            return


def check_unlinked(folder: str, name: str) -> None:
    """Raise OSError (ELOOP) where a symbolic link below a folder is on the way to a name there:
    whoever writes through it writes anywhere."""
    path = os.path.join(os.path.realpath(folder), name)
    if os.path.realpath(os.path.dirname(path)) != os.path.dirname(path):
        raise OSError(errno.ELOOP, "a symbolic link is on its way", path)


def folds_names(folder: str) -> bool:
    """Whether a disk takes names for the same that differ by case or by Unicode normalisation: it
    tries. The folder must be there."""
    trial = os.path.join(folder, trial_name())
    try:
        for one, other in (("a", "A"), ("\u00e9", "e\u0301")):
            with open(trial + one, "xb"):
                if os.path.exists(trial + other):
                    return True
            os.remove(trial + one)
        return False
    finally:
        for one in ("a", "\u00e9"):
            if os.path.exists(trial + one):
                os.remove(trial + one)


def remove_file(folder: str, name: str) -> None:
    """Remove the file of a name below a folder. A folder or a link of that name stays, and so does
    whatever a symbolic link below the folder leads to."""
    path = os.path.join(os.path.realpath(folder), name)
    try:
        check_unlinked(folder, name)
    except OSError:
        return
    if not os.path.islink(path) and os.path.isfile(path):
        os.remove(path)


def remove(path: str) -> None:
    """Remove a file, or a folder with all that is in it; of a symbolic link only the link."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def _make_folder(path: str) -> None:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
