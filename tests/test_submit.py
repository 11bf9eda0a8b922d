"""`ray job submit` to a real head with two workers, as cluster/local.sh starts it; images in S3."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from denoise.storage import files
from tests import running, servers
from tests.running import ROOT, parts_in, rows_of, same, wait_until

IMAGES = 40
RAY = str(Path(sys.executable).parent / "ray")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        not shutil.which("setsid"), reason="cluster/local.sh needs setsid (util-linux)"
    ),
]


@dataclass(frozen=True)
class Cluster:
    """A rehearsal cluster and the bucket that its jobs read and write."""

    env: dict[str, str]
    root: str
    mark: str  # that its processes carry

    def submit(self, verb: str, *flags: str, ray: tuple[str, ...] = ()) -> "Ended":
        command = [RAY, "job", "submit", *ray, "--working-dir", ".", "--"]
        return self.ray(*command[1:], "python", "-m", f"jobs.{verb}", *flags)

    def ray(self, *arguments: str, env: Mapping[str, str] | None = None) -> "Ended":
        done = subprocess.run(
            [RAY, *arguments],
            cwd=ROOT,
            env=self.env | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Ended(done.returncode, done.stdout + done.stderr)


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    said: str


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    mark = uuid4().hex
    with servers.s3() as store:
        path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        env = running.clean_environment() | store.env | path | running.mark_of(mark)
        process = subprocess.Popen(
            [str(ROOT / "cluster" / "local.sh")],
            env=env | {"PYTHON": sys.executable},
            stdout=subprocess.PIPE,
            text=True,
            # a shell's background jobs begin without SIGINT, and a script cannot take it back
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert process.stdout
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, "cluster/local.sh ended early"
            said += line
        told = dict(re.findall(r"\b(RAY_\w+)=(\S+)", said))
        with servers.visible(store):
            yield Cluster(env | told, store.root, mark)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert running.marked(mark) == {}, "cluster/local.sh left something running"


@pytest.fixture(scope="module")
def images(cluster: Cluster) -> str:
    running.pictures(f"{cluster.root}/images", IMAGES)
    return f"{cluster.root}/images"


@pytest.fixture(scope="module")
def model(cluster: Cluster) -> str:
    return running.tiny_model(f"{cluster.root}/tiny")


@pytest.fixture(scope="module")
def denoised(cluster: Cluster, images: str, model: str) -> str:
    """The output of an infer job that was submitted."""
    output = f"{cluster.root}/denoised"
    done = cluster.submit("infer", *_flags(images, output, model))
    assert done.code == 0, done.said
    assert "succeeded" in done.said
    return output


def test_infer_is_submitted_with_a_small_upload_and_its_result_is_complete(
    cluster: Cluster, images: str, model: str, denoised: str
):
    rows = rows_of(denoised)
    assert len(rows) == IMAGES
    assert all(row["error"] is None and row["psnr"] > 0 for row in rows)
    assert files.exists(f"{denoised}/_SUCCESS")


def test_what_is_uploaded_is_the_code_and_its_weights(cluster: Cluster):
    from ray._private.runtime_env.packaging import create_package, get_uri_for_directory

    home = str(ROOT)
    name = get_uri_for_directory(home, include_gitignore=True)
    package = Path(os.environ.get("TMPDIR", "/tmp")) / f"{uuid4().hex}.zip"
    try:
        create_package(home, package, include_gitignore=True)
        held = subprocess.run(
            [sys.executable, "-m", "zipfile", "-l", str(package)], capture_output=True, text=True
        ).stdout
        assert name.startswith("gcs://")
        assert package.stat().st_size < 24 << 20
        for wanted in ("jobs/infer.py", "denoise/__main__.py"):
            assert wanted in held
        for unwanted in ("tests/", ".git/", "cluster/", ".venv/"):
            assert f" {unwanted}" not in f" {held}".replace("\n", "\n ")
    finally:
        package.unlink(missing_ok=True)


def test_the_same_infer_again_does_nothing_and_says_so(
    cluster: Cluster, images: str, model: str, denoised: str
):
    part = files.info(f"{denoised}/data/part-00000000.parquet").mark
    done = cluster.submit("infer", *_flags(images, denoised, model), "--json")
    assert done.code == 0, done.said
    assert '"nothing_to_do": true' in done.said
    assert files.info(f"{denoised}/data/part-00000000.parquet").mark == part


def test_a_job_stopped_in_the_middle_is_resumed_by_submitting_it_again(
    cluster: Cluster, images: str, model: str, denoised: str
):
    output = f"{cluster.root}/stopped"
    name = uuid4().hex
    flags = _flags(images, output, model)
    begun = cluster.submit("infer", *flags, ray=("--no-wait", "--submission-id", name))
    assert begun.code == 0, begun.said
    wait_until(lambda: parts_in(output) >= 2, 120)
    for process, line in running.marked(cluster.mark).items():
        if "MapWorker" in line:  # else the last shard is done before `ray job stop` has started
            running.send(process, signal.SIGSTOP)
    assert cluster.ray("job", "stop", name).code == 0
    assert parts_in(output) < parts_in(denoised), "it was done before it was stopped"
    done = cluster.submit("infer", *flags)
    assert done.code == 0, done.said
    assert same(rows_of(output), rows_of(denoised)) == []


def test_noise_and_train_are_submitted_too(cluster: Cluster, images: str):
    pairs, model = f"{cluster.root}/pairs", f"{cluster.root}/model"
    done = cluster.submit("noise", "--images", images, "--output", pairs)
    assert done.code == 0, done.said
    assert len(rows_of(pairs)) == IMAGES
    flags = ["--images", pairs, "--output", model, "--architecture", "classic"]
    few = ["--steps", "4", "--batch-size", "2", "--patch", "32"]
    done = cluster.submit("train", *flags, *few)
    assert done.code == 0, done.said
    assert set(files.names(model)) >= {"model.safetensors", "config.json", "README.md"}


def test_a_wrong_uri_ends_a_submitted_job_with_one_clear_line(cluster: Cluster, model: str):
    flags = _flags(f"{cluster.root}/nothing-here", f"{cluster.root}/no-output", model)
    done = cluster.submit("infer", *flags)
    assert done.code != 0
    assert "exit code 2" in done.said
    assert "nothing-here" in done.said
    assert "Traceback" not in done.said


def test_without_the_token_nobody_gets_in(cluster: Cluster):
    refused = cluster.ray("job", "list", env={"RAY_AUTH_TOKEN": "f" * 64})
    assert refused.code != 0
    assert "401" in refused.said or "token" in refused.said.lower()
    assert "PENDING" not in refused.said and "SUCCEEDED" not in refused.said


def test_no_secret_of_the_bucket_shows_in_the_logs(cluster: Cluster, denoised: str):
    jobs = cluster.ray("job", "list").said
    assert servers.SECRET not in jobs
    for name in re.findall(r"submission_id='(\w+)'", jobs)[:2]:
        assert servers.SECRET not in cluster.ray("job", "logs", name).said
    assert servers.SECRET.encode() not in files.read(f"{denoised}/_run.json")


def _flags(images: str, output: str, model: str) -> list[str]:
    return ["--images", images, "--output", output, "--model", model, "--add-noise", "0.1"]
