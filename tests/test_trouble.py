"""Trouble in the middle of a run, in both runners: with memory, disks, inputs and stores."""

import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from denoise import InferConfig, infer
from denoise.errors import CRASHED, SettingsError
from denoise.images.codec import Picture, encode
from tests.conftest import encoded, photo
from tests.running import asked_runner, rows_of, run, same, small_disk, wait_until

RUNNERS = ["here", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])]
small_disk = pytest.fixture(small_disk)
COUNT = 12  # images, in three shards
runner = pytest.fixture(params=RUNNERS)(asked_runner)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"{number:02d}.png").write_bytes(encoded(photo(24, 32, seed=number)))
    return folder


@contextmanager
def served(images: Path, asked: Callable[[str], None]) -> Iterator[Path]:
    """A list of the images of a folder on a web server, which says first what it is asked for."""

    class Store(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked(self.path.strip("/"))
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Store, directory=images)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        names = sorted(path.name for path in images.iterdir())
        root = f"http://127.0.0.1:{server.server_port}"
        listed = images.parent / "list.txt"
        listed.write_text("\n".join(f"{root}/{name}" for name in names))
        try:
            yield listed
        finally:
            server.shutdown()


def rows_after(
    runner: str, listed: Path, model: str, output: Path, **more: Any
) -> dict[str, dict[str, Any]]:
    """The rows of a run, by the last part of their paths."""
    workers = 1 if runner == "ray" else None
    flags = {"images": str(listed), "output": str(output), "model": model, "workers": workers}
    infer(InferConfig(**flags, add_noise=0.1, **more))
    found = rows_of(output)
    assert len(found) == COUNT
    return {row["path"].rsplit("/", 1)[-1]: row for row in found}


def test_an_image_that_does_not_fit_into_a_limit_of_memory_is_an_error_row(
    runner: str, images: Path, model: str, tmp_path: Path
):
    big = "05.png"
    (images / big).write_bytes(encode(Picture(np.zeros((9000, 9000, 3), np.uint8))))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    name_of = {"here": "jobs.infer", "ray": "MapWorker"}[runner]

    output = tmp_path / "out"

    def limit(name: str) -> None:
        """Take the room for the big image from whoever asks for it, until it has its row."""
        if name != big:
            return
        time.sleep(2)  # images before it, which are small, have their threads and buffers by then
        for one in psutil.Process().children(recursive=True):
            if name_of in " ".join(one.cmdline()):
                room = one.memory_info().vms + (160 << 20)
                resource.prlimit(one.pid, resource.RLIMIT_AS, (room, hard))
                threading.Thread(target=give_back, args=(one.pid,), daemon=True).start()

    def give_back(pid: int) -> None:
        wait_until(lambda: len(list(output.glob("data/part-*5.parquet"))) == 1, 120)
        with suppress(ProcessLookupError):  # Ray has other workers now
            resource.prlimit(pid, resource.RLIMIT_AS, (soft, hard))

    with served(images, limit) as listed:
        if runner == "here":  # a process of its own: the limit is on no test
            flags = ["--images", str(listed), "--output", str(output), "--model", model]
            assert run("infer", *flags).code == 3  # one of twelve is too many
        else:
            rows_after(runner, listed, model, output)
    rows = {row["path"].rsplit("/", 1)[-1]: row["error"] for row in rows_of(output)}
    assert len(rows) == COUNT
    assert rows.pop(big) in ("not enough memory to decode it", CRASHED)
    assert set(rows.values()) == {None}


def test_what_becomes_of_inputs_in_the_middle_of_a_run_is_their_own_rows_concern(
    runner: str, images: Path, model: str, tmp_path: Path
):
    new = photo(40, 20, seed=99)

    def change(name: str) -> None:
        if name == "00.png":
            (images / "08.png").unlink(missing_ok=True)
            (images / "09.png").write_bytes(encoded(new))
            (images / "10.png").write_bytes(encoded(photo(24, 32, seed=10))[:200])

    with served(images, change) as listed:
        rows = rows_after(runner, listed, model, tmp_path / "out")
    assert rows["08.png"]["error"] == "no such file"
    assert (rows["09.png"]["height"], rows["09.png"]["width"]) == (40, 20)
    assert rows["10.png"]["error"] == "truncated or damaged PNG"
    assert {name for name, row in rows.items() if row["error"]} == {"08.png", "10.png"}


def test_a_store_that_stalls_for_a_while_costs_time_and_nothing_else(
    runner: str, images: Path, model: str, tmp_path: Path
):
    recovers = time.monotonic() + 2

    def stall(name: str) -> None:
        if name > "03.png":
            time.sleep(max(0.0, recovers - time.monotonic()))

    with served(images, lambda name: None) as listed:
        quick = rows_after("here", listed, model, tmp_path / "quick")
    with served(images, stall) as listed:  # no time of decoding: --max-seconds is not for it
        rows = rows_after(runner, listed, model, tmp_path / "slow", max_seconds=1)
    assert same(by_name(rows), by_name(quick)) == []


def by_name(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose paths do not say at which port their server was."""
    shown = []
    for name, row in rows.items():
        assert row["error"] is None
        shown.append({"path": name, "height": row["height"], "width": row["width"]})
    return shown


def test_an_output_on_a_disk_that_only_reads_is_refused_in_one_sentence(
    images: Path, model: str, small_disk: Path
):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SettingsError, match=r"cannot write to .*/out: read-only file system$"):
        infer(InferConfig(images=str(images), output=str(small_disk / "out"), model=model))
