"""An output folder's lock, OUTPUT/_lock.json: which driver is at work there, and a heartbeat."""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from denoise.errors import SettingsError
from denoise.storage import files, uris

_log = logging.getLogger(__name__)
_BEAT = 10.0  # seconds between heartbeats
_SETTLE = 1.0  # seconds to wait before a lock that others may take as well is ours
_DEAD = 60.0  # seconds without a heartbeat after which a driver elsewhere counts as dead
_KINDS = {"host": str, "system": str, "process": int, "born": float, "token": str, "beat": float}


class Lock:
    """Acquired, renewed by a heartbeat, released; lost where another run takes it for dead."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._uri = uris.join(folder, "_lock.json")
        self._token = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._beating = threading.Lock()  # nobody reads a heartbeat that is half written
        self._stop = threading.Event()
        self._lost = threading.Event()

    def take(self) -> None:
        """Take it. Raises OSError, and SettingsError where another driver holds it and lives."""
        if not files.create(self._uri, self._heartbeat()):
            self._refuse_if_held()
            files.write(self._uri, self._heartbeat())
        elif uris.is_local(self._uri):
            return  # a disk lets one only create it
        time.sleep(_SETTLE)  # whoever saw the same as we did has written by now; the last one stays
        if not self._is_ours():
            raise SettingsError(f"another run took {uris.redact(self._folder)} at the same moment")

    def keep(self) -> None:
        """Begin the heartbeat, until `rest`."""
        self._heart.start()

    def rest(self) -> None:
        """End the heartbeat."""
        self._stop.set()
        self._heart.join()

    def release(self) -> None:
        """Remove the lock if it is ours. Raises OSError."""
        if self._is_ours():
            files.remove(self._uri)

    @property
    def is_lost(self) -> bool:
        """Whether another driver was seen to have it; it costs nothing to ask often."""
        return self._lost.is_set()

    def look(self) -> None:
        """Read whether it is lost. Raises OSError."""
        with self._beating:
            if not self._is_ours():
                self._lost.set()

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT):
            try:
                self.look()
                if self.is_lost:
                    return
                with self._beating:
                    files.write(self._uri, self._heartbeat())
            except OSError:
                continue  # the next beat may go through; without one for a minute the lock is free

    def _heartbeat(self) -> bytes:
        return files.to_json(
            {
                "host": socket.gethostname(),
                "system": _system(),
                "process": os.getpid(),
                "born": _birth_of(os.getpid()),
                "token": self._token,
                "beat": time.time(),
            }
        )

    def _refuse_if_held(self) -> None:
        holder = self._holder()
        if holder is None or not self._is_alive(holder):
            return
        raise SettingsError(
            f"{uris.redact(self._folder)} is being written by process {holder['process']} on "
            f"{holder['host']}; wait for it, or stop it"
        )

    def _holder(self) -> dict[str, Any] | None:
        """What the lock says; None where it was removed or cut off.

        Raises OSError, and SettingsError where no driver of ours can have written it, as it may be
        somebody's own file.
        """
        try:
            found = json.loads(files.read(self._uri))
        except (FileNotFoundError, ValueError, RecursionError):
            return None  # what cannot be read for another reason may be held: that ends this run
        fields = found if isinstance(found, dict) else {}
        wrong = [name for name, kind in _KINDS.items() if not _is_of(kind, fields.get(name))]
        if wrong:
            raise SettingsError(
                f"{uris.redact(self._uri)} is no lock of this version (its {wrong[0]} is missing "
                "or wrong); remove it if nothing is at work there"
            )
        return fields

    def _is_alive(self, holder: Mapping[str, Any]) -> bool:
        """Whether the driver that holds the lock lives: its process if that can be seen from here,
        else its heartbeat; that too for this very process, which an earlier run may have failed to
        release it in."""
        if holder["system"] and holder["system"] == _system():
            lives = _is_running(holder["process"], holder["born"])
            if lives is not None and holder["process"] != os.getpid():
                return lives
            if lives is False:
                return False
        age = time.time() - holder["beat"]
        return self._beats(holder) if age < -_DEAD else age < _DEAD

    def _beats(self, holder: Mapping[str, Any]) -> bool:
        """Whether another heartbeat comes: where one is from the future, as by another clock or by
        no clock at all, this alone tells whether a driver lives."""
        _log.info("%s has a lock from the future: waiting for a sign of life", self._folder)
        time.sleep(2.5 * _BEAT)
        return self._holder() not in (None, holder)

    def _is_ours(self) -> bool:
        try:
            holder = files.object_in(self._uri)
        except (FileNotFoundError, ValueError):  # removed, or somebody else's
            return False
        return bool(holder.get("token") == self._token)


def _is_of(kind: type, value: Any) -> bool:
    """Whether a value of JSON is of a kind, and a number one that can be computed with."""
    if kind is str:
        return isinstance(value, str)
    is_number = isinstance(value, int | kind) and not isinstance(value, bool)
    return is_number and abs(value) < 1e18  # which also no NaN is


def _system() -> str:
    """Where a process number means the same: one boot of one machine, and one namespace of process
    numbers in it. Containers may share their host's name and disk, but not that. Empty where it
    is not known."""
    if os.name != "posix" or not Path("/proc/self/ns").exists():
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"  # has no such namespaces
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _is_running(process: int, born: float) -> bool | None:
    """Whether a process of this namespace runs that started then: its number may be reused.
    None where it cannot be seen, being another user's."""
    found = _birth_of(process)
    if found is None:
        return None
    return bool(found) and abs(found - born) < 2  # the clock may have been set since


def _birth_of(process: int) -> float | None:
    """When a process started; 0 if it has ended, None if it runs and cannot be seen."""
    try:
        found = psutil.Process(process)
        # one that was killed stays a zombie until its parent asks how it ended
        return 0.0 if found.status() == psutil.STATUS_ZOMBIE else found.create_time()
    except psutil.AccessDenied:
        return None
    except (ValueError, OverflowError):  # no process number
        return 0.0
    except psutil.NoSuchProcess:  # or /proc hides those of others
        return None if os.name == "posix" and _exists(process) else 0.0


def _exists(process: int) -> bool:
    """Whether the kernel knows a process number, whoever it belongs to."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True
