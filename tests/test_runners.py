"""What holds for both runners: this process, and Ray Data. Each test runs against both."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from denoise import InferConfig, infer
from denoise.errors import CRASHED, ReadError, WriteError
from denoise.output import tables
from denoise.output.generations import Shard, generations_of
from denoise.output.shard import ShardTask, task_of
from denoise.runners import GIVEN_UP, Allocation, Job, open_runner
from denoise.runners.resources import Resources
from denoise.storage.entry import Entry
from denoise.storage.found import LeftOut
from denoise.storage.inputs import entries
from denoise.verbs import stages
from denoise.verbs.infer import prepare
from denoise.verbs.infer_shard import worker
from denoise.verbs.noise import NoiseConfig, noise
from denoise.verbs.threads import TimeLimit, in_order
from tests.conftest import encoded, make_photos, photo
from tests.running import (
    ROOT,
    asked_runner,
    clean_environment,
    parts_in,
    rows_of,
    send,
    small_disk,
    wait_until,
)
from tests.running import (
    Job as Process,
)

RUNNERS = ["here", pytest.param("ray", marks=pytest.mark.ray)]
WORKERS = {"here": None, "ray": 2}
small_disk = pytest.fixture(small_disk)
runner = pytest.fixture(params=RUNNERS)(asked_runner)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"))


def config_of(runner: str, images: Path, output: Path, model: str, **more: Any) -> InferConfig:
    flags = {"images": str(images), "output": str(output), "model": model, "add_noise": 0.1}
    return InferConfig(**flags | {"workers": WORKERS[runner]} | more)


def pages_of(output: Path) -> dict[str, bytes]:
    """The part files without their footers, which hold times."""
    found = {}
    for path in sorted((output / "data").iterdir()):
        raw = path.read_bytes()
        found[path.name] = raw[: -8 - int.from_bytes(raw[-8:-4], "little")]
    return found


def ran_by(output: Path) -> str:
    return str(json.loads((output / "_run.json").read_text())["runner"])


@pytest.fixture(scope="module")
def by_this_process(tmp_path_factory: pytest.TempPathFactory, images: Path, model: str) -> Path:
    output = tmp_path_factory.mktemp("here") / "out"
    infer(config_of("here", images, output, model))
    assert ran_by(output) == "this process"
    return output


@pytest.mark.ray
def test_both_write_the_same_part_files_and_shards_byte_for_byte(
    ray_session: object, by_this_process: Path, images: Path, model: str, tmp_path: Path
):
    infer(config_of("ray", images, tmp_path / "out", model))
    assert ran_by(tmp_path / "out") == "ray"
    assert pages_of(tmp_path / "out") == pages_of(by_this_process)
    for runner in ("here", "ray"):
        flags = {"images": str(images), "output": str(tmp_path / f"pairs-{runner}")}
        noise(NoiseConfig(**flags, workers=WORKERS[runner], save="tar"))
    assert pages_of(tmp_path / "pairs-ray") == pages_of(tmp_path / "pairs-here")
    shards_here, shards_ray = (
        {one.name: one.read_bytes() for one in (tmp_path / f"pairs-{runner}" / "images").iterdir()}
        for runner in ("here", "ray")
    )
    assert shards_here and shards_ray == shards_here


@pytest.mark.ray
@pytest.mark.parametrize(("first", "second"), [("here", "ray"), ("ray", "here")])
def test_a_run_that_one_began_the_other_finishes(
    ray_session: object, by_this_process: Path, images: Path, model: str, tmp_path: Path,
    first: str, second: str,
):  # fmt: skip
    infer(config_of(first, images, tmp_path / "out", model))
    part, *_ = sorted((tmp_path / "out" / "data").iterdir())
    others = {path: path.stat().st_mtime_ns for path in part.parent.iterdir() if path != part}
    part.unlink()
    (tmp_path / "out" / "_SUCCESS").unlink()
    infer(config_of(second, images, tmp_path / "out", model))
    assert ran_by(tmp_path / "out") == {"here": "this process"}.get(second, second)
    assert pages_of(tmp_path / "out") == pages_of(by_this_process)
    assert all(path.stat().st_mtime_ns == time for path, time in others.items())


def test_errors_are_tried_again(runner: str, photos: Path, model: str, tmp_path: Path):
    config = config_of(runner, photos, tmp_path / "out", model)
    assert infer(config)["failed"] == 1
    mended = photos / "broken.png"
    stat = mended.stat()
    mended.write_bytes(encoded(np.zeros((8, 8, 3), np.uint8)).ljust(stat.st_size, b"\0"))
    os.utime(mended, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # not told from before by its mark
    assert infer(replace(config, retry_errors=True))["failed"] == 0
    assert len(rows_of(config.output)) == 8


def test_a_full_disk_ends_the_run_in_words_and_room_lets_it_go_on(
    runner: str, images: Path, model: str, small_disk: Path, by_this_process: Path, tmp_path: Path
):
    config = config_of(runner, images, small_disk / "out", model)
    (small_disk / "filler").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - 40_000))
    with pytest.raises((WriteError, OSError)) as raised:
        infer(config)
    assert "no space left on device" in str(raised.value).lower()
    (small_disk / "filler").unlink()
    infer(config)
    assert pages_of(small_disk / "out") == pages_of(by_this_process)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_in_this_process_says_so_and_resumes(
    sign: signal.Signals, model: str, tmp_path: Path
):
    images = tmp_path / "many"
    images.mkdir()
    for number in range(60):
        (images / f"{number:03d}.png").write_bytes(encoded(photo(360, 480, seed=number % 3)))
    flags = ["--images", str(images), "--output", str(tmp_path / "out"), "--model", model]
    job = Process("infer", *flags)
    wait_until(lambda: parts_in(tmp_path / "out") >= 2 or job.process.poll() is not None, 120)
    os.kill(job.process.pid, sign)
    done = job.done(60)
    assert (done.code, done.left) == (130, []), done.err
    assert "interrupted" in done.err and "Traceback" not in done.err
    assert json.loads((tmp_path / "out" / "_run.json").read_text())["state"] == "failed"
    infer(InferConfig(images=str(images), output=str(tmp_path / "out"), model=model))
    assert len(rows_of(tmp_path / "out")) == 60
    assert ran_by(tmp_path / "out") == "this process"


@pytest.mark.ray
def test_a_run_that_died_in_this_process_goes_on_by_ray(
    ray_session: object, by_this_process: Path, images: Path, model: str, tmp_path: Path
):
    config = config_of("here", images, tmp_path / "out", model)
    infer(config)
    record = json.loads((tmp_path / "out" / "_run.json").read_text())
    (tmp_path / "out" / "_run.json").write_text(json.dumps(record | {"state": "running"}))
    sorted((tmp_path / "out" / "data").iterdir())[0].unlink()
    (tmp_path / "out" / "_SUCCESS").unlink()  # as a kill leaves it
    infer(config)
    assert ran_by(tmp_path / "out") == "ray"
    assert pages_of(tmp_path / "out") == pages_of(by_this_process)


@pytest.mark.ray
@pytest.mark.slow
def test_an_image_that_its_workers_die_on_is_an_error_row_and_the_others_are_fine(
    ray_session: object, model: str, tmp_path: Path
):
    """As one is that is too large for a worker's memory, or crashes a decoder."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        (images / f"{number:05d}.png").write_bytes(encoded(photo(24, 32, seed=number)))
    killed: list[int] = []

    class Store(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/00003.png":
                killed.extend(pid for pid in workers_here() if send(pid, signal.SIGKILL))
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Store, directory=images)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        listed = "\n".join(f"{root}/{number:05d}.png" for number in range(12))
        (tmp_path / "list.txt").write_text(listed)
        infer(config_of("ray", tmp_path / "list.txt", tmp_path / "out", model, workers=1))
        server.shutdown()
    failed = {row["path"]: row["error"] for row in rows_of(tmp_path / "out") if row["error"]}
    ((path, error),) = failed.items()
    assert path.endswith("/00003.png") and error == CRASHED and len(killed) == 6
    assert len(rows_of(tmp_path / "out")) == 12


_ACTOR = "MapWorker(Read_Shards->Map(_Worker))"  # one step: reading has no processes of its own


def workers_here() -> list[int]:
    """The actors of Ray Data that this process has started, which read their own rows."""
    import psutil

    children = psutil.Process().children(recursive=True)
    return [one.pid for one in children if _ACTOR in " ".join(one.cmdline())]


@pytest.mark.ray
def test_a_job_that_failed_gives_its_cpus_back_while_its_error_is_still_there(
    ray_session: Resources, tmp_path: Path
):
    """As in a notebook, where a training may come next and would wait for them."""
    import ray

    shards = [Shard(number, 0, number, number + 1, 10) for number in range(4)]
    with (
        pytest.raises(ReadError) as raised,
        open_runner(
            Job(worker=lambda allocation: None, workers=(2,)),
            str(tmp_path),
            here=False,
            verbose=False,
        ) as runner,
    ):
        list(runner.run(shards, False))  # nothing was listed there: no worker finds its inputs
    wait_until(lambda: ray.available_resources().get("CPU") == ray_session.cpus, 30)
    assert str(tmp_path) in str(raised.value)


def shard_of(images: Path, output: Path) -> ShardTask:

    listed = sorted(entries(str(images), LeftOut()), key=lambda entry: entry.path)
    return ShardTask(str(output), 0, listed)


def test_however_a_worker_works_its_part_files_are_the_same(
    images: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DENOISE_MADE_UP_GPUS", "1")
    config, name, _ = prepare(config_of("here", images, tmp_path, model))
    listed = shard_of(images, tmp_path).entries

    def parts_of(output: str, allocation: Allocation, *, stream: bool) -> dict[str, bytes]:
        work = worker(allocation, config, name)
        few = (listed[:1], listed[1:6], [], listed[6:])
        tasks = [ShardTask(str(tmp_path / output), *one) for one in enumerate(few)]
        counts = list(work(tasks)) if stream else [one for task in tasks for one in work([task])]
        assert [one.images for one in counts] == [1, 5, 0, 2]
        assert sum(one.failed for one in counts) == 1
        return pages_of(tmp_path / output)

    expected = parts_of("cpu", Allocation(), stream=False)
    assert parts_of("here", Allocation(threads=3), stream=True) == expected
    assert parts_of("gpu", Allocation(threads=3, gpu=True), stream=False) == expected
    assert parts_of("careful", Allocation(threads=3, one_by_one=True), stream=True) == expected


def test_images_of_the_next_shard_are_on_their_way_while_one_is_written(
    images: Path, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config, name, _ = prepare(config_of("here", images, tmp_path, model))
    listed = [entry for entry in shard_of(images, tmp_path).entries if entry.path != "broken.png"]
    decode, begun = stages.decode_pair, threading.Event()

    def noted(fetched: Any, config: Any) -> Any:
        if fetched.pair.path == listed[2].path:
            begun.set()
        elif fetched.pair.path == listed[1].path:  # the last one of the first shard
            assert begun.wait(60)
        return decode(fetched, config)

    monkeypatch.setattr(stages, "decode_pair", noted)
    tasks = [ShardTask(str(tmp_path / "out"), *one) for one in enumerate((listed[:2], listed[2:]))]
    counts = list(worker(Allocation(threads=2), config, name)(tasks))
    assert [one.images for one in counts] == [2, len(listed) - 2]


def test_no_more_is_ahead_than_memory_holds():
    running, most = set[int](), list[int]()

    def call(item: int) -> int:
        running.add(item)
        most.append(len(running))
        time.sleep(0.01)
        running.remove(item)
        return item

    for size, expected in ((1, {1, 2, 3, 4}), (40, {1, 2}), (1000, {1})):
        most.clear()
        found = in_order(call, str, range(20), 4, size=lambda item, size=size: size, max_bytes=100)
        assert list(found) == [str(item) for item in range(20)]
        assert set(most) <= expected and max(most) == max(expected)


def test_a_list_of_inputs_that_cannot_be_read_ends_the_job_in_words(tmp_path: Path):
    with pytest.raises(
        ReadError, match=r"out: its list of inputs could not be read: no such file$"
    ):
        task_of(str(tmp_path / "out"), Shard(0, 0, 0, 5, 100))


def test_whoever_leaves_a_stream_waits_for_what_its_threads_do_but_for_late_calls():
    started, done, late = threading.Semaphore(0), [], threading.Event()

    def call(item: int) -> int:
        if item:
            started.release()
            assert late.wait(60) if item == 2 else not time.sleep(0.3)
        return item

    limit = TimeLimit(2.0, lambda item: -item)
    found = in_order(call, done.append, range(9), 2, size=lambda item: 1, limit=limit)
    next(found)
    assert started.acquire(timeout=60) and started.acquire(timeout=60)
    found.close()
    assert done[0] == 0 and 1 in done and 2 not in done  # no thread is about to write
    late.set()
    wait_until(lambda: not any(one.name == GIVEN_UP for one in threading.enumerate()))
    assert 2 not in done


def test_results_do_not_wait_for_many_items_that_come_slowly():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(12):
            time.sleep(0.05)
            taken.append(item)
            yield item

    found = in_order(str, str, items(), 8, size=lambda item: 1)
    assert next(found) == "0" and len(taken) < 8
    assert list(found) == [str(item) for item in range(1, 12)]


def test_a_worker_of_a_gpu_that_finds_no_gpu_ends_the_job_in_one_line(
    images: Path, model: str, tmp_path: Path
):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU that torch can use")
    config = config_of("here", images, tmp_path / "out", model, device="gpu")
    with pytest.raises(ValueError, match=r"no GPU that torch .* can use; the NVIDIA driver: "):
        infer(config)
    assert not tables.parts(config.output)


@pytest.mark.parametrize("allocation", [Allocation(), Allocation(threads=2)])
def test_an_image_that_takes_too_long_is_an_error_row_and_the_others_are_fine(
    allocation: Allocation, images: Path, model: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    decode, release = stages.decode_pair, threading.Event()

    def slowly(fetched: Any, config: Any) -> Any:
        if fetched.pair.path == "1.png":
            release.wait(60)
        return decode(fetched, config)

    monkeypatch.setattr(stages, "decode_pair", slowly)
    config, name, _ = prepare(config_of("here", images, tmp_path, model, max_seconds=0.5))
    list(worker(allocation, config, name)([shard_of(images, tmp_path / "out")]))
    release.set()
    rows = {row["path"]: row["error"] for row in tables.part(str(tmp_path / "out"), 0)}
    assert rows.pop("broken.png") is not None
    assert rows.pop("1.png") == "it took longer than 0.5 s to decode (--max-seconds)"
    assert set(rows.values()) == {None}


def test_what_a_task_names_is_read_from_the_manifest_by_the_worker(
    by_this_process: Path, images: Path
):

    (made,) = generations_of(str(by_this_process))
    tasks = [task_of(str(by_this_process), made.shard(number)) for number in made.shards]
    paths = [entry.path for task in tasks for entry in task.entries]
    assert sorted(paths) == sorted(row["path"] for row in rows_of(by_this_process))
    assert all(isinstance(entry, Entry) for task in tasks for entry in task.entries)


@pytest.mark.ray
@pytest.mark.slow
def test_a_users_own_modules_beside_the_photographs_are_not_imported(
    images: Path, model: str, tmp_path: Path
):
    """Ray's workers import from the current folder first."""
    for name in ("denoise", "statistics", "pyarrow"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')\n")
    flags = ["--images", str(images), "--output", "out", "--model", model, "--workers", "1"]
    script = "from denoise.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, "infer", *flags],
        cwd=tmp_path,
        env=clean_environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 3, done.stderr  # one of eight is broken
    assert len(rows_of(tmp_path / "out")) == 8
