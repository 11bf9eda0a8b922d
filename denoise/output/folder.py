"""An output folder during a job: its settings, its lock, and whether it is finished.

OUTPUT/_run.json            every flag, versions, start, end, state
OUTPUT/_manifest/           what was listed, see `manifest`; only its owner may read it
OUTPUT/data/part-*.parquet  one file a shard, written whole: it is there or not, and that is all
OUTPUT/_unfinished/         image files on their way: a rename puts each where it belongs
OUTPUT/_lock.json           which driver is at work, and a heartbeat
OUTPUT/_log.txt             the drivers' messages, see `run_log`
OUTPUT/_SUCCESS             empty, written last
"""

import json
import logging
import platform
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import metadata
from types import MappingProxyType
from typing import Any

from denoise import errors
from denoise.errors import SettingsError, WriteError
from denoise.output import discard
from denoise.output.discard import UNFINISHED
from denoise.output.lock import Lock
from denoise.output.run_log import RunLog
from denoise.storage import disk, files, uris
from denoise.storage.uris import join

_log, _OURS = logging.getLogger(__name__), logging.getLogger("denoise")
FORMAT = 1  # of an output folder; the next one is refused by this version, and vice versa


class Output:
    """An output folder during a job; a context manager that holds its lock.

    Raises SettingsError where another driver is at work there, where it cannot be written, or where
    it was made with other settings (named), unless `overwrite`; None where a verb has no such flag.
    """

    def __init__(
        self, uri: str, verb: str, settings: Mapping[str, Any], *, overwrite: bool | None = None
    ) -> None:
        self.uri = uri
        self._run: dict[str, Any] = {
            "format_version": FORMAT,
            "verb": verb,
            "settings": dict(settings),
        }
        self._overwrite = overwrite
        self._lock = Lock(uri)
        self.log = RunLog()  # written at the end of a run that had started
        self._is_new = True  # no run was here before
        self.has_died = False  # the process of the last run here ended without a record
        self._began: float | None = None  # on the monotonic clock
        self._at_exit = ExitStack()

    def __enter__(self) -> "Output":
        with ExitStack() as undone:
            made = disk.missing_folders(self.uri) if uris.is_local(self.uri) else []
            undone.callback(disk.remove_empty, made)  # a refusal leaves nothing behind
            files.check_writable(self.uri)
            self._lock.take()
            undone.callback(self._release)
            files.sweep(self.uri)  # before the heartbeat, which writes there, begins
            self._lock.keep()  # to discard a large output may take longer than a lock lives
            undone.callback(self._lock.rest)
            self._adopt()
            self._at_exit = undone.pop_all()
        _OURS.addHandler(self.log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        _OURS.removeHandler(self.log)
        self._lock.rest()
        with self._at_exit:
            if kind is not None and error is not None:
                self.log.line(f"{self._run['verb']}: ended by {kind.__name__}: {error}")
                self._leave(kind)

    def check(self) -> None:
        """Raise WriteError once another run has taken over; it costs nothing to call often."""
        if self._lock.is_lost:
            raise WriteError(
                f"{uris.redact(self.uri)}: another run took over, as this one gave no sign of "
                "life, or _lock.json was removed; this one writes no more"
            )

    def record(self, **fields: Any) -> None:
        """Add fields to _run.json. Raises WriteError as `check` does."""
        self._lock.look()
        self.check()
        self._run |= fields
        files.write(join(self.uri, "_run.json"), files.to_json(self._run))

    def begin(
        self,
        inputs: int = 0,
        left_out: Mapping[str, int] = MappingProxyType({}),
        flags: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Record that the run starts, and of how many inputs: from here on it is not finished.

        `left_out` counts by reason what was found beside them.
        """
        files.remove(join(self.uri, "_SUCCESS"))
        self._sweep()
        self._began = time.monotonic()
        known = versions()
        self.log.line(f"{self._run['verb']}: denoise {known['denoise']} on {platform.node()}")
        self._run.setdefault("started", _now())
        self._run["model"] = self._run["settings"].get("model")
        self.record(
            state="running",
            ended=None,
            flags=dict(flags),
            versions=known,
            inputs=inputs,
            left_out=dict(left_out),
        )

    def end(self, **fields: Any) -> None:
        """Record that the run has ended, and how many seconds it took since `begin`."""
        spent = None if self._began is None else time.monotonic() - self._began
        self.record(ended=_now(), seconds=spent, **fields)

    def finish(self) -> None:
        """Record that every input has its row; _SUCCESS comes last."""
        self.record(state="done")
        self._sweep()
        self.log.save(self.uri)
        files.write(join(self.uri, "_SUCCESS"), b"")

    def _sweep(self) -> None:
        """Remove what killed processes left half written."""
        files.remove(join(self.uri, UNFINISHED))
        for folder in ("data", "_manifest"):
            files.sweep(join(self.uri, folder))

    @property
    def is_finished(self) -> bool:
        return files.exists(join(self.uri, "_SUCCESS"))

    def _adopt(self) -> None:
        """Take over the run that is there if its settings are ours, else begin anew."""
        settings = self._run["settings"]
        found = run_to_resume(self.uri, self._run["verb"], settings, overwrite=self._overwrite)
        if found is not None:
            self._is_new = False
            self.has_died = found.get("state") == "running" and "flags" in found
            self._run = found | self._run
        else:
            if files.exists(join(self.uri, "_run.json")):
                discard.discard(self.uri)
            # the settings come first, so that no manifest is adopted by other ones
            self.record(state="running")
        if uris.is_local(self.uri) and self._run["verb"] != "train":
            disk.make_private(join(self.uri, "_manifest"))  # it holds whole URIs

    def _leave(self, kind: type[BaseException]) -> None:
        """Record that the run ended early. A new folder that was refused is left as it was, unless
        it has rows or a checkpoint: a worker may find out late that it lacks what a store needs."""
        if self._lock.is_lost:
            return
        try:
            is_refused = self._is_new and issubclass(kind, SettingsError)
            has_work = discard.holds_work(self.uri, self._run["verb"])
            if is_refused and not has_work and not files.exists(join(self.uri, "images")):
                for name in ("_manifest", discard.SPLIT, discard.UNFINISHED, "_run.json"):
                    files.remove(join(self.uri, name))
            elif self._is_new or self._began is not None:
                self.end(state="failed")
                self.log.save(self.uri)
        except (OSError, WriteError) as error:  # must not hide why the run ended
            self._warn("its end could not be noted", error)

    def _release(self) -> None:
        try:
            self._lock.release()
        except OSError as error:  # nor this; without a heartbeat the lock is free after a minute
            self._warn("its lock could not be removed", error)

    def _warn(self, words: str, error: OSError | WriteError) -> None:
        why = errors.words_of(error) if isinstance(error, OSError) else error
        _log.warning("%s: %s: %s", uris.redact(self.uri), words, why)


def run_to_resume(
    uri: str, verb: str, settings: Mapping[str, Any], *, overwrite: bool | None
) -> dict[str, Any] | None:
    """_run.json of the run that one with these settings goes on with; None where it begins anew:
    in a new folder, with `overwrite` (None where a verb has no such flag), and after a run that
    ended before it had made anything.

    Raises SettingsError where the folder is of another run, or of none of ours.
    """
    discard.refuse_links(uri)
    if not files.exists(join(uri, "_run.json")):
        has_files = settings.get("save") in ("files", "both", "tar")
        discard.refuse_others(uri, verb, has_files=has_files)
        return None
    found = None if overwrite else run_of(uri)
    if found is None:
        return None
    wanted = {"verb": verb, "settings": settings}
    if _differences_between(found, wanted) and not discard.holds_work(uri, found["verb"]):
        return None
    check_same(uri, found, wanted, can_overwrite=overwrite is not None)
    return found


def run_of(uri: str) -> dict[str, Any] | None:
    """_run.json of an output folder; None where there is none.

    Raises SettingsError where no version of ours wrote it, or one of another format.
    """
    try:
        found = files.object_in(join(uri, "_run.json"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SettingsError(f"{_record(uri)} cannot be read: {errors.words_of(error)}") from error
    except ValueError as error:
        raise SettingsError(f"{_record(uri)} holds no JSON object") from error
    version = found.get("format_version", 0)
    if type(version) is not int:
        raise SettingsError(f"{_record(uri)} is none of ours: its format_version is no number")
    if version != FORMAT:
        age = "an older" if version < FORMAT else "a newer"
        raise SettingsError(
            f"{uris.redact(uri)} was made by {age} version of denoise (format {version}, this one "
            f"has {FORMAT}): use that version, or give another --output"
        )
    for name, kind in (("verb", str), ("settings", dict)):
        if not isinstance(found.get(name), kind):
            raise SettingsError(f"{_record(uri)} is none of ours: its {name} is missing or wrong")
    return found


def _record(uri: str) -> str:
    return f"{uris.redact(uri)}/_run.json"


def check_same(
    uri: str, found: Mapping[str, Any], wanted: Mapping[str, Any], *, can_overwrite: bool
) -> None:
    """Raise SettingsError where the run that is there is of another verb or of other settings."""
    differences = _differences_between(found, wanted)
    if differences:
        ways_out = "another --output, or --overwrite" if can_overwrite else "or another --output"
        raise SettingsError(
            f"{uris.redact(uri)} was made with other settings: {'; '.join(differences)}."
            f" Give the same ones{',' if can_overwrite else ''} {ways_out}"
        )


def _differences_between(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    if found["verb"] != wanted["verb"]:
        return [f"it is the output of `{found['verb']}`, not of `{wanted['verb']}`"]
    old, new = found["settings"], json.loads(json.dumps(wanted["settings"]))
    return [
        f"{name} was {old.get(name)!r}, now {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide a run's result."""
    packages = ("ray", "torch", "numpy", "pyarrow", "pillow", "fsspec")
    found = {name: metadata.version(name) for name in packages}
    from denoise import __version__

    return {"denoise": __version__, "python": platform.python_version(), **found}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
