"""An output folder while a job works on it: its settings, its lock, and whether it is finished.

OUTPUT/_run.json            every flag, versions, start, end, state
OUTPUT/_manifest/           what was listed, see `manifest`
OUTPUT/data/part-*.parquet  one file a shard, written whole: it is there or not, and that is all
OUTPUT/_unfinished/          image files on their way: a rename puts each where it belongs
OUTPUT/_lock.json           who is at work, and a heartbeat
OUTPUT/_SUCCESS             empty, written last
"""

import json
import logging
import os
import platform
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import metadata
from types import MappingProxyType
from typing import Any

import psutil
import pyarrow as pa

from denoise.places import disk, errors, storage, tables, tree, uris
from denoise.places.errors import SettingsError, WriteError
from denoise.places.manifest import Listing
from denoise.places.uris import join

_log = logging.getLogger(__name__)
UNFINISHED = "_unfinished"
_OURS = ("_SUCCESS", "summary.json", "report.html", "_manifest", UNFINISHED, "_run.json")
_REMOVERS = 16  # threads: enough to hide a store's latency
_BEAT = 10.0  # seconds between heartbeats
_SETTLE = 1.0  # seconds to wait before a lock that others may take as well is ours
_DEAD = 60.0  # seconds without one after which a driver on another machine counts as dead


class Output:
    """An output folder while a job works on it; a context manager that holds its lock.

    Raises SettingsError where another driver is at work there, where it cannot be written, or where
    it was made with other settings (named), unless `overwrite`; None where a verb has no such flag.
    """

    def __init__(
        self, uri: str, verb: str, settings: Mapping[str, Any], *, overwrite: bool | None = None
    ) -> None:
        self.uri = uri
        self._run: dict[str, Any] = {"verb": verb, "settings": dict(settings)}
        self._overwrite = overwrite
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._beating = threading.Lock()  # nobody reads a heartbeat that is half written
        self._lost = threading.Event()  # another run took over, because we seemed dead
        self._is_new = True  # nobody worked here before
        self._began: float | None = None  # on the monotonic clock
        self._at_exit = ExitStack()
        self._token = f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"

    def __enter__(self) -> "Output":
        with ExitStack() as undone:
            made = disk.missing(self.uri) if uris.is_local(self.uri) else []
            undone.callback(disk.remove_empty, made)  # a refusal leaves nothing behind
            storage.check_writable(self.uri)
            self._lock()
            undone.callback(self._unlock)
            self._adopt()
            storage.sweep(self.uri)  # before the heartbeat, which writes there, begins
            self._at_exit = undone.pop_all()
        self._heart.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._heart.join()
        with self._at_exit:
            if kind is not None:
                self._leave(kind)

    def check(self) -> None:
        """Raises WriteError once another run has taken over; it costs nothing to ask often."""
        if self._lost.is_set():
            raise WriteError(
                f"{uris.shown(self.uri)}: another run took over, as this one gave no sign of life, "
                "or _lock.json was removed; this one writes no more"
            )

    def record(self, **fields: Any) -> None:
        """Adds to _run.json. Raises WriteError as `check` does."""
        with self._beating:
            if not self._is_ours():
                self._lost.set()
        self.check()
        self._run |= fields
        storage.write(join(self.uri, "_run.json"), _json(self._run))

    def begin(self, listing: Listing, flags: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Records that work starts: from here on the folder is not finished."""
        storage.remove(join(self.uri, "_SUCCESS"))
        self._sweep()
        self._began = time.monotonic()
        self._run.setdefault("started", _now())
        self._run["model"] = self._run["settings"].get("model")
        self.record(
            state="running",
            ended=None,
            flags=dict(flags),
            versions=versions(),
            inputs=listing.inputs,
            left_out=dict(listing.left_out),
        )

    def end(self, **fields: Any) -> None:
        """Records that the work has ended and how long it took, this time."""
        spent = None if self._began is None else time.monotonic() - self._began
        self.record(ended=_now(), seconds=spent, **fields)

    def finish(self) -> None:
        """Records that everything is done; _SUCCESS comes last."""
        self.record(state="done")
        self._sweep()
        storage.write(join(self.uri, "_SUCCESS"), b"")

    def _sweep(self) -> None:
        """Removes what killed processes left half written."""
        storage.remove(join(self.uri, UNFINISHED))
        for folder in ("data", "_manifest"):
            storage.sweep(join(self.uri, folder))

    @property
    def is_finished(self) -> bool:
        return storage.exists(join(self.uri, "_SUCCESS"))

    def _adopt(self) -> None:
        """Takes over a run that is there, if its settings are ours."""
        if self._overwrite and storage.exists(join(self.uri, "_run.json")):
            _discard(self.uri)
        found = run_of(self.uri)
        if found is None:  # the settings come first, so that no manifest is adopted by other ones
            self.record(state="running")
            return
        self._is_new = False
        check_same(self.uri, found, self._run, can_overwrite=self._overwrite is not None)
        self._run = found | self._run

    def _leave(self, kind: type[BaseException]) -> None:
        """Notes how the run ended early; a new folder that was refused is left as it was, but for
        one that has rows: a worker may find out late that it lacks what a place needs."""
        if self._lost.is_set():
            return
        try:
            is_refused = self._is_new and issubclass(kind, SettingsError)
            if is_refused and not tables.parts(self.uri):
                for name in ("_manifest", "_run.json"):
                    storage.remove(join(self.uri, name))
            elif self._is_new or self._began is not None:
                self.end(state="failed")
        except (OSError, WriteError) as error:  # must not hide why the run ended
            self._warn("its end could not be noted", error)

    def _lock(self) -> None:
        place = join(self.uri, "_lock.json")
        if not storage.create(place, self._heartbeat()):
            self._refuse_if_held(place)
            storage.write(place, self._heartbeat())
        elif uris.is_local(place):
            return  # a disk lets one only create it
        time.sleep(_SETTLE)  # whoever saw the same as we did has written by now; the last one stays
        if not self._is_ours():
            raise SettingsError(f"another run took {uris.shown(self.uri)} at the same moment")

    def _refuse_if_held(self, place: str) -> None:
        try:
            holder = _object_in(place)
        except (OSError, ValueError):
            holder = {}  # taken away or cut off at this moment: nobody's
        if _is_alive(holder):
            raise SettingsError(
                f"{uris.shown(self.uri)} is being written by process {holder['process']} on "
                f"{holder['host']}; wait for it, or stop it"
            )

    def _unlock(self) -> None:
        try:
            if self._is_ours():
                storage.remove(join(self.uri, "_lock.json"))
        except OSError as error:  # nor this; without a heartbeat the lock is free after a minute
            self._warn("its lock could not be removed", error)

    def _warn(self, words: str, error: OSError | WriteError) -> None:
        why = errors.words_of(error) if isinstance(error, OSError) else error
        _log.warning("%s: %s: %s", uris.shown(self.uri), words, why)

    def _is_ours(self) -> bool:
        """Whether nobody took the lock over, because we seemed dead."""
        try:
            holder = _object_in(join(self.uri, "_lock.json"))
        except (FileNotFoundError, ValueError):
            return False
        return bool(holder.get("token") == self._token)

    def _beat(self) -> None:
        while not self._stop.wait(_BEAT):
            try:
                with self._beating:
                    if not self._is_ours():
                        self._lost.set()
                        return
                    storage.write(join(self.uri, "_lock.json"), self._heartbeat())
            except OSError:
                continue  # the next beat may go through; without one for a minute the lock is free

    def _heartbeat(self) -> bytes:
        return _json(
            {
                "host": socket.gethostname(),
                "process": os.getpid(),
                "born": _birth_of(os.getpid()),
                "token": self._token,
                "beat": time.time(),
            }
        )


def _discard(uri: str) -> None:
    """Removes what jobs of ours have made, and nothing that a user may have put beside it: of
    OUTPUT/data the part files, of OUTPUT/images the files that these name.

    So an image stays that a killed run had written before the part file that names it.
    """
    storage.remove(join(uri, "_SUCCESS"))
    with ThreadPoolExecutor(_REMOVERS) as pool:
        for part in tables.parts(uri):
            files = [join(uri, name) for name in _files_of(part)]
            list(pool.map(storage.remove, files))
            storage.remove(part)
    storage.sweep(join(uri, "data"))
    for folder in (join(uri, "data"), join(uri, "images")):
        if storage.exists(folder) and all(one.is_folder for one in tree.listing(folder)):
            storage.remove(folder)
    for name in _OURS:
        storage.remove(join(uri, name))


def _files_of(part: str) -> list[str]:
    """The image files that a part file names; none where it cannot be read."""
    try:
        return [row["file"] for row in tables.rows_in(part, ["file"]) if row.get("file")]
    except (OSError, pa.ArrowException):
        return []


def run_of(uri: str) -> dict[str, Any] | None:
    """_run.json of an output folder; None where there is none."""
    try:
        return _object_in(join(uri, "_run.json"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise SettingsError(f"{uris.shown(uri)}/_run.json holds no JSON object") from error


def _object_in(uri: str) -> dict[str, Any]:
    """What a JSON file holds. Raises OSError, and ValueError where that is no object."""
    found = json.loads(storage.read(uri))
    if not isinstance(found, dict):
        raise ValueError(f"an object was expected, got {type(found).__name__}")
    return found


def check_same(
    uri: str, found: Mapping[str, Any], wanted: Mapping[str, Any], *, can_overwrite: bool
) -> None:
    """Raises SettingsError where the run that is there is of another job or of other settings."""
    differences = _differences_between(found, wanted)
    if differences:
        ways_out = "another --output, or --overwrite" if can_overwrite else "or another --output"
        raise SettingsError(
            f"{uris.shown(uri)} was made with other settings: {'; '.join(differences)}."
            f" Give the same ones{',' if can_overwrite else ''} {ways_out}"
        )


def _differences_between(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    if found.get("verb") != wanted["verb"]:
        return [f"it is the output of `{found.get('verb')}`, not of `{wanted['verb']}`"]
    old, new = found.get("settings", {}), json.loads(json.dumps(wanted["settings"]))
    return [
        f"{name} was {old.get(name)!r}, now {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def versions() -> dict[str, str]:
    """What a run was made with."""
    packages = ("ray", "torch", "numpy", "pyarrow", "pillow", "fsspec")
    found = {name: metadata.version(name) for name in packages}
    from denoise import __version__

    return {"denoise": __version__, "python": platform.python_version(), **found}


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _json(fields: Mapping[str, Any]) -> bytes:
    text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")  # a folder's name need not be valid text
