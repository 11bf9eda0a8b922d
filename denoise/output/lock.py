"""An output folder's lock, OUTPUT/_lock.json: who is at work there, and a heartbeat."""

import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import psutil

from denoise.errors import SettingsError
from denoise.storage import files, uris

_BEAT = 10.0  # seconds between heartbeats
_SETTLE = 1.0  # seconds to wait before a lock that others may take as well is ours
_DEAD = 60.0  # seconds without one after which a driver on another machine counts as dead


class Lock:
    """Taken, kept by a heartbeat, released; lost where another run takes it, as we seemed dead."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._uri = uris.join(folder, "_lock.json")
        self._token = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._beating = threading.Lock()  # nobody reads a heartbeat that is half written
        self._stop = threading.Event()
        self._lost = threading.Event()

    def take(self) -> None:
        """Raises SettingsError where another driver holds it and lives."""
        if not files.create(self._uri, self._heartbeat()):
            self._refuse_if_held()
            files.write(self._uri, self._heartbeat())
        elif uris.is_local(self._uri):
            return  # a disk lets one only create it
        time.sleep(_SETTLE)  # whoever saw the same as we did has written by now; the last one stays
        if not self._is_ours():
            raise SettingsError(f"another run took {uris.shown(self._folder)} at the same moment")

    def keep(self) -> None:
        """Begins the heartbeat, until `rest`."""
        self._heart.start()

    def rest(self) -> None:
        self._stop.set()
        self._heart.join()

    def release(self) -> None:
        """Removes the lock if it is ours. Raises OSError."""
        if self._is_ours():
            files.remove(self._uri)

    @property
    def is_lost(self) -> bool:
        """Whether somebody else was seen to have it; it costs nothing to ask often."""
        return self._lost.is_set()

    def look(self) -> None:
        """Sees whether it is lost. Raises OSError."""
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
                "process": os.getpid(),
                "born": _birth_of(os.getpid()),
                "token": self._token,
                "beat": time.time(),
            }
        )

    def _refuse_if_held(self) -> None:
        try:
            holder = files.object_in(self._uri)
        except (OSError, ValueError):
            holder = {}  # taken away or cut off at this moment: nobody's
        if _is_alive(holder):
            raise SettingsError(
                f"{uris.shown(self._folder)} is being written by process {holder['process']} on "
                f"{holder['host']}; wait for it, or stop it"
            )

    def _is_ours(self) -> bool:
        try:
            holder = files.object_in(self._uri)
        except (FileNotFoundError, ValueError):
            return False
        return bool(holder.get("token") == self._token)


def _is_alive(holder: Mapping[str, Any]) -> bool:
    """Whether the driver that holds a lock lives: its process if here, its heartbeat elsewhere, and
    in this very process, of which an earlier run may have failed to let go."""
    if holder.get("host") == socket.gethostname():
        born = _birth_of(int(holder["process"]))
        lives = bool(born and abs(born - holder["born"]) < 2)  # the clock may have been set since
        if not lives or holder["process"] != os.getpid():
            return lives
    return time.time() - float(holder.get("beat", 0)) < _DEAD


def _birth_of(process: int) -> float:
    """When a process started, so that a number used again tells; 0 if it has ended."""
    try:
        found = psutil.Process(process)
        # one that was killed stays a zombie until its parent asks how it ended
        return 0.0 if found.status() == psutil.STATUS_ZOMBIE else found.create_time()
    except psutil.NoSuchProcess:
        return 0.0
