"""What keeps a Ray of ours private, quiet and apart, and ends all of it with the job."""

import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from functools import cache
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import psutil
import ray

import denoise

_GRACE = 5.0  # seconds that Ray's own processes have to end
_LONGEST = 24  # characters of the folder for temporary files


@contextmanager
def private_folder() -> Iterator[str]:
    """A folder for the session that no other user can enter: Ray lets everybody into its own.

    It is gone with the session. Its name is short, since a socket's path has 107 characters.
    """
    usual = gettempdir()
    parent = TemporaryDirectory(
        prefix="denoise-",
        dir=usual if len(usual) <= _LONGEST else "/tmp",
        ignore_cleanup_errors=True,  # a process of Ray's may write its last line just now
    )
    with parent as private:
        yield os.path.join(private, "ray")  # Ray changes the mode of this one


@contextmanager
def away_from_users_modules(folder: str) -> Iterator[None]:
    """Start Ray in an empty folder: its workers import from the current one before all others.

    A user may have a `denoise.py` or a `statistics.py` there, beside the photographs. Where this
    package runs from a clone, its workers find it by PYTHONPATH instead.
    """
    home = Path(denoise.__file__).parent.parent
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [os.path.abspath(one) for one in given if one]  # the workers start elsewhere
    if "site-packages" not in home.parts:
        paths = [str(home), *paths]
    if paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.makedirs(folder, exist_ok=True)
    with chdir(folder):
        yield


@contextmanager
def in_own_group() -> Iterator[None]:
    """What Ray starts here gets a process group of its own, on Linux. A SIGTERM to all of ours, as
    systemd sends it, would end Ray before us, and Ray's end is ours, at once and without a word.
    Ray's processes still end when we do: the kernel sees to that (PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        _forks_apart().set()
    try:
        yield
    finally:
        _forks_apart().clear()


@cache
def _forks_apart() -> threading.Event:
    """Asked by every fork from now on. Of subprocess's, those with a preexec_fn: Ray's have one."""
    apart = threading.Event()
    os.register_at_fork(after_in_child=lambda: os.setpgid(0, 0) if apart.is_set() else None)
    return apart


@contextmanager
def own_signals() -> Iterator[None]:
    """Ray installs handlers of its own, which abort at SIGTERM: ours come back afterwards."""
    ours = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for sign, handler in ours.items():
                signal.signal(sign, handler)


@contextmanager
def none_left() -> Iterator[None]:
    """Ends what is left of a session of ours after its shutdown: Ray forgets a worker that says
    goodbye, and a thread of it that never ends, such as an upload's, would hold it for ever."""
    node = ray._private.worker._global_node
    started = chain(*node.all_processes.values()) if node else ()  # on a cluster, nothing
    own = [process for one in started for process in _with_descendants(one.process.pid)]
    try:
        yield
    finally:
        _, left = psutil.wait_procs(own, _GRACE)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, _GRACE)


def _with_descendants(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextmanager
def silence() -> Iterator[None]:
    """Keeps Ray's C++ side off the terminal: its word on every actor of Ray Data's own making, and
    the line about its own silence. What goes wrong is raised all the same."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


@cache
def token() -> str:
    """The same for all sessions of this process: Ray's C++ side reads it once."""
    return secrets.token_hex(32)
