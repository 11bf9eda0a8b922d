"""Jobs as their users run them: processes of their own, watched, disturbed and counted.

Whatever a job starts inherits a mark in its environment: a test finds, and ends, what belongs
to its own jobs and nothing else.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest

from denoise.output import tables
from denoise.storage import files, uris
from tests.conftest import encoded, photo

ROOT = Path(__file__).parent.parent
_MARK = "DENOISE_TEST_MARK"


class Job:
    """A job that runs: `python -m jobs.VERB FLAGS --json` in a session of its own."""

    def __init__(self, verb: str, *flags: str, env: Mapping[str, str] | None = None) -> None:
        self.mark = uuid4().hex
        # files, not pipes: what a killed driver leaves behind would hold a pipe open
        self._out, self._err = TemporaryFile(), TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"jobs.{verb}", *flags, "--json"],
            cwd=ROOT,
            env=clean_environment() | dict(env or {}) | mark_of(self.mark),
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    def done(self, seconds: float = 240, *, patience: float = 10) -> "Done":
        """Waits for its end and for the end of all it started; what is left is ended and told."""
        try:
            self.process.wait(seconds)
        finally:
            left = self.left_over(patience)
            self.kill()
        said = []
        for file in (self._out, self._err):
            file.seek(0)
            said.append(file.read().decode())
        return Done(self.process.returncode, *said, left)

    def left_over(self, seconds: float) -> list[str]:
        """What of it still runs after a while."""
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.1)
        return sorted(left.values())

    def kill(self) -> None:
        """Ends at once all that is left of it."""
        while left := self.processes():
            for process in left:
                send(process, signal.SIGKILL)
            time.sleep(0.05)

    def processes(self, name: str = "") -> dict[int, str]:
        """Its living processes whose command line holds a name."""
        return {pid: line for pid, line in marked(self.mark).items() if name in line}

    def send(self, sign: signal.Signals, name: str) -> bool:
        """Sends a signal to one of its processes of that name; False where there is none."""
        return any(send(process, sign) for process in list(self.processes(name))[:1])


@dataclass(frozen=True)
class Done:
    """How a job ended."""

    code: int
    out: str
    err: str
    left: list[str]  # processes that it should have ended

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


def run(verb: str, *flags: str, env: Mapping[str, str] | None = None, seconds: float = 240) -> Done:
    """Runs a job to its end."""
    return Job(verb, *flags, env=env).done(seconds)


def mark_of(mark: str) -> dict[str, str]:
    """What a process's environment holds so that `marked` finds it and all that it starts."""
    return {_MARK: mark}


def marked(mark: str) -> dict[int, str]:
    """The command lines of the living processes that carry a mark."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                line = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                if line:  # a zombie has none
                    found[int(folder.name)] = line
        except (OSError, ValueError):
            continue  # ended since, or somebody else's
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Returns as soon as something is so. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.02)


def rows_of(output: str | Path) -> list[dict[str, Any]]:
    """Every row of an output folder, in the order of paths."""
    return sorted(tables.rows(str(output)), key=lambda row: row["path"])


def parts_in(output: str | Path) -> int:
    """How many shards are done; no footer is read."""
    return len(tables.parts(str(output)))


def pictures(folder: str | Path, count: int, *, side: int = 96, kinds: int = 12) -> None:
    """Writes so many small pictures below a URI; there are only so many kinds of them."""
    made = [encoded(photo(side, side + 8 * kind, seed=kind)) for kind in range(kinds)]
    for number in range(count):
        name = f"{number % 7}/{number:05d}.png"
        files.write(uris.join(str(folder), name), made[number % kinds])


def tiny_model(uri: str | Path) -> str:
    """Saves a `classic` network of few channels with fixed weights; returns its URI."""
    import torch

    from denoise.nets import networks, package

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.build("classic", {"width": 4})
    package.save(str(uri), network, {"architecture": "classic", "sigma": [0.1, 0.1]})
    return str(uri)


def same(ours: Iterable[Mapping[str, Any]], theirs: Iterable[Mapping[str, Any]]) -> list[str]:
    """How two tables differ, in words; nothing where they hold the same."""
    left, right = list(ours), list(theirs)
    names = [row["path"] for row in left]
    told = [f"twice: {name}" for name in sorted({n for n in names if names.count(n) > 1})]
    mine, others = ({row["path"]: row for row in rows} for rows in (left, right))
    told += [f"lost: {name}" for name in sorted(others.keys() - mine.keys())]
    told += [f"too many: {name}" for name in sorted(mine.keys() - others.keys())]
    both = sorted(mine.keys() & others.keys())
    return told + [f"different: {name}" for name in both if mine[name] != others[name]]


def asked_runner(request: pytest.FixtureRequest) -> str:
    """A fixture's runner, `here` or `ray`, of which the latter needs a session."""
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return str(request.param)


def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, with room for about half of the output."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"cannot mount a small disk: {made.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def write_part(
    output: str, shard: int, rows: Iterable[dict[str, Any]], schema: Any, footer: Any = None
) -> None:
    """Writes a part file with these rows."""
    with tables.PartFile(output, shard, schema) as part:
        part.footer = dict(footer or {})
        for row in rows:
            part.add(row)


def footer_of(part: str) -> dict[str, Any]:
    """What a job noted in a part file's footer: its times, say."""
    with files.open_input(part) as file:
        found: dict[str, Any] = json.loads(pq.ParquetFile(file).metadata.metadata[b"denoise"])
    return found


def footer_is_whole(uri: str) -> bool:
    """Whether a part file can be read to its end."""
    with files.open_input(uri) as file:
        return pq.ParquetFile(file).read().num_rows > 0


def clean_environment() -> dict[str, str]:
    """This process's environment without what would lead a job to somebody's Ray or cloud."""
    named = ("RAY_", "AWS_", "FSSPEC_", "AZURE_", "GOOGLE_", "DENOISE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(named)}
    return kept | {"RAY_worker_niceness": "0"}  # 15 by itself: on a busy machine next to nothing


def send(process: int, sign: signal.Signals) -> bool:
    try:
        os.kill(process, sign)
    except ProcessLookupError:
        return False
    return True
