"""Whatever dies or fails in the middle of a job: no row is lost, none doubled, none different."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import running, servers
from tests.running import Done, Job, parts_in, rows_of, run, same, small_disk, wait_until

pytestmark = pytest.mark.slow

small_disk = pytest.fixture(small_disk)

IMAGES = 96  # enough that something can die in the middle, few enough for two cores


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "images"
    running.pictures(folder, IMAGES, side=160)
    return folder


@pytest.fixture(scope="module")
def undisturbed(images: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an infer job that nothing happened to."""
    output = tmp_path_factory.mktemp("faults") / "undisturbed"
    done = run("infer", *_flags(images, output, model))
    assert done.code == 0, done.err
    assert len(rows_of(output)) == IMAGES
    return output


def test_a_killed_driver_is_gone_with_all_it_started_and_the_next_run_does_the_rest(
    images: Path, model: str, undisturbed: Path, tmp_path: Path
):
    flags = _flags(images, tmp_path / "out", model)
    job = Job("infer", *flags)
    _wait_for_the_middle(job, tmp_path / "out")
    _kill_driver(job)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/data").glob("part-*")}
    assert 0 < len(before) < parts_in(undisturbed)
    done = run("infer", *flags)
    assert done.code == 0, done.err
    assert same(rows_of(tmp_path / "out"), rows_of(undisturbed)) == []
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


@pytest.mark.parametrize(
    "sign, send",
    [
        pytest.param(signal.SIGTERM, os.kill, id="SIGTERM to the driver, as kill and Docker do"),
        pytest.param(signal.SIGTERM, os.killpg, id="SIGTERM to all of the group, as systemd does"),
        pytest.param(signal.SIGINT, os.killpg, id="Ctrl-C, to all of the group"),
    ],
)
def test_an_interrupted_job_says_so_leaves_nothing_running_and_resumes(
    sign: signal.Signals,
    send: Callable[[int, int], None],
    images: Path,
    model: str,
    undisturbed: Path,
    tmp_path: Path,
):
    flags = _flags(images, tmp_path / "out", model)
    job = Job("infer", *flags)
    _wait_for_the_middle(job, tmp_path / "out")
    ray = [*job.processes("raylet/raylet"), *job.processes("gcs/gcs_server")]
    groups = [os.getpgid(pid) for pid in ray]
    assert groups and job.process.pid not in groups  # Ray, which must outlive us, hears no signal
    send(job.process.pid, sign)
    done = job.done(60)
    assert done.code == 130, done.err
    assert "Traceback" not in done.err and "ray.kill" not in done.err
    assert "interrupted" in done.err
    assert done.left == []
    assert run("infer", *flags).code == 0
    assert same(rows_of(tmp_path / "out"), rows_of(undisturbed)) == []


def test_a_killed_worker_costs_nothing_but_time(
    images: Path, model: str, undisturbed: Path, tmp_path: Path
):
    job = Job("infer", *_flags(images, tmp_path / "out", model))
    _wait_for_the_middle(job, tmp_path / "out")
    assert job.send(signal.SIGKILL, "ray::MapWorker")
    done = job.done()
    assert done.code == 0, done.err
    assert same(rows_of(tmp_path / "out"), rows_of(undisturbed)) == []


def test_a_killed_noise_job_resumes_too(images: Path, tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run("noise", "--images", str(images), "--output", str(whole)).code == 0
    flags = ["--images", str(images), "--output", str(broken)]
    job = Job("noise", *flags)
    _wait_for_the_middle(job, broken)
    _kill_driver(job)
    assert run("noise", *flags).code == 0
    assert same(rows_of(broken), rows_of(whole)) == []


def test_a_full_disk_stops_the_job_and_room_lets_it_go_on(
    images: Path, model: str, undisturbed: Path, tmp_path: Path, small_disk: Path
):
    output = small_disk / "out"
    flags = _flags(images, output, model)
    done = run("infer", *flags)
    assert done.code == 1
    said = _last_line(done)  # whether it was a part file or the run's own notes
    assert re.fullmatch(r"denoise infer: (.*: )?no space left on device \(-v shows where\)", said)
    assert all(running.footer_is_whole(str(path)) for path in (output / "data").glob("part-*"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    done = run("infer", *flags)
    assert done.code == 0, done.err
    assert same(rows_of(output), rows_of(undisturbed)) == []


def test_a_training_on_a_full_disk_ends_at_once_in_plain_words(images: Path, small_disk: Path):
    flags = ["--images", str(images), "--output", str(small_disk / "out")]
    recipe = ["--architecture", "cae-s", "--steps", "4", "--save-every", "2", "--batch-size", "2"]
    done = run("train", *flags, *recipe)
    assert done.code == 1
    said = f"denoise train: no space left for {small_disk}/out (-v shows where)"
    assert _last_line(done) == said


def test_what_would_only_happen_again_is_tried_no_eight_times_by_several_workers(
    images: Path, small_disk: Path
):
    """Of a worker that runs out of memory the same is true, which is harder to bring about."""
    flags = ["--images", str(images), "--output", str(small_disk / "out"), "--workers", "2"]
    recipe = ["--architecture", "cae-s", "--steps", "4", "--save-every", "2", "--batch-size", "2"]
    job, seen = Job("train", *flags, *recipe), set[int]()
    while job.process.poll() is None:
        seen |= job.processes("RayTrainWorker").keys()
        time.sleep(0.05)
    done = job.done()
    assert done.code == 1
    said = f"denoise train: no space left for {small_disk}/out (-v shows where)"
    assert _last_line(done) == said
    assert len(seen) <= 4, "two that met it, and two that were told"


@pytest.mark.parametrize("fault", ["cut", "stall"])
def test_a_store_that_fails_now_and_then_changes_nothing(
    fault: str, images: Path, model: str, undisturbed: Path
):
    every = 40 if fault == "stall" else 9

    def rule(number: int, method: str, path: str) -> str | None:
        return fault if method == "GET" and number % every == 4 else None

    impatient = {"config_kwargs": {"read_timeout": 2, "connect_timeout": 2}}
    with servers.s3() as store, servers.visible(store):
        running.pictures(f"{store.root}/images", 48, side=160)
        with servers.faulty(store.endpoint, rule) as endpoint:
            env = store.env | {"AWS_ENDPOINT_URL": endpoint, "FSSPEC_S3": json.dumps(impatient)}
            output = f"{store.root}/out"
            done = run("infer", *_flags(f"{store.root}/images", output, model), env=env)
        assert done.code == 0, done.err
        assert servers.SECRET not in done.err
        wanted = [row for row in rows_of(undisturbed) if int(Path(row["path"]).stem) < 48]
        assert same(rows_of(output), wanted) == []


def test_a_store_that_is_gone_in_the_middle_stops_the_job_in_words_and_it_resumes(
    images: Path, model: str, undisturbed: Path
):
    gone = []

    def rule(number: int, method: str, path: str) -> str | None:
        if "/data/part-" in path and method == "PUT":
            gone.append(path)
        return "error" if len(gone) > 3 else None

    impatient = {"config_kwargs": {"retries": {"max_attempts": 1}}}  # else minutes of waiting
    with servers.s3() as store, servers.visible(store):
        running.pictures(f"{store.root}/images", 48, side=160)
        flags = _flags(f"{store.root}/images", f"{store.root}/out", model)
        with servers.faulty(store.endpoint, rule) as endpoint:
            env = store.env | {"AWS_ENDPOINT_URL": endpoint, "FSSPEC_S3": json.dumps(impatient)}
            done = run("infer", *flags, env=env)
        assert done.code == 1, done.err
        assert servers.SECRET not in done.err
        # two workers: one writes when the store goes, the other may just have asked for its shard
        assert _last_line(done) in {
            f"denoise infer: {store.root}/out{what}: internal server error (-v shows where)"
            for what in (
                "/data/part-XX.parquet could not be written",
                ": its list of inputs could not be read",
            )
        }
        again = run("infer", *flags, env=store.env)
        assert again.code == 0, again.err
        wanted = [row for row in rows_of(undisturbed) if int(Path(row["path"]).stem) < 48]
        assert same(rows_of(f"{store.root}/out"), wanted) == []


def test_a_second_driver_is_refused_while_the_first_one_lives(
    images: Path, model: str, tmp_path: Path
):
    flags = _flags(images, tmp_path / "out", model)
    first = Job("infer", *flags)
    _wait_for_the_middle(first, tmp_path / "out")
    second = run("infer", *flags)
    assert second.code == 2
    assert "being written by" in second.err
    assert first.done().code == 0


def _flags(images: Path | str, output: Path | str, model: str) -> list[str]:
    flags = ["--images", str(images), "--output", str(output), "--model", model]
    return [*flags, "--add-noise", "0.1", "--workers", "2"]


def _last_line(done: Done) -> str:
    """What a job said at last, without its part file's number; a traceback is no way to say it."""
    assert "Traceback" not in done.err and "ray.kill" not in done.err
    return re.sub(r"part-\d+", "part-XX", done.err.strip().splitlines()[-1])


def _wait_for_the_middle(job: Job, output: Path) -> None:
    """Returns when the job has done some shards, but not nearly all."""
    wait_until(lambda: parts_in(output) >= 3 or job.process.poll() is not None, 120)
    assert job.process.poll() is None, job.done().err


def _kill_driver(job: Job) -> None:
    """Kills a driver; Ray's own processes follow it, all but two that watch and answer nobody."""
    os.kill(job.process.pid, signal.SIGKILL)
    working = ("ray::Map", "ray::IDLE", "raylet", "gcs_server", "jobs.")
    wait_until(lambda: not any(job.processes(name) for name in working), 60)
    job.kill()
