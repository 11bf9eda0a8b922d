"""Several nodes, each a raylet of its own, that share nothing but an S3 bucket."""

import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from denoise.storage import files
from tests import running, servers
from tests.running import Job, marked, parts_in, rows_of, same, wait_until

pytestmark = pytest.mark.cluster

IMAGES = 60
SECRET_TOKEN = uuid4().hex


@dataclass
class Node:
    """A raylet and all that it starts; `ray start --block` in a session of its own."""

    process: subprocess.Popen[bytes]
    mark: str
    metrics: int  # the port of its Prometheus endpoint
    seen: set[str] = field(default_factory=set)  # names of what ran on it

    def look(self) -> set[str]:
        """The names of the tasks and actors that run on it now, and did when looked at before."""
        lines = marked(self.mark).values()
        self.seen |= {line.strip() for line in lines if line.startswith("ray::")}
        return self.seen

    def runs(self, name: str) -> bool:
        return any(name in line for line in self.look())

    def kill(self) -> None:
        """As if the plug were pulled."""
        while found := marked(self.mark):
            for process in found:
                running.send(process, signal.SIGKILL)
            time.sleep(0.05)
        self.process.wait()


class Nodes:
    """A head without CPUs, and nodes that come and go."""

    def __init__(self, folder: str, env: dict[str, str], root: str) -> None:
        self.folder, self.root = folder, root
        self.env = env | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRET_TOKEN}
        self.nodes: list[Node] = []
        head = ["--head", f"--temp-dir={folder}", "--include-dashboard=false"]
        ports = [f"--port={servers.free_port()}", f"--ray-client-server-port={servers.free_port()}"]
        self.add(0, 0, *head, *ports)
        log = Path(folder, "0.log").read_text()
        self.env["RAY_ADDRESS"] = re.findall(r"--address='([\d.:]+)'", log)[0]

    def add(self, cpus: int, gpus: int = 0, *flags: str, without: Path | None = None) -> Node:
        """Starts a node, from which a folder may be hidden, and waits until it has joined."""
        log = Path(self.folder, f"{len(self.nodes)}.log")
        mark = uuid4().hex
        address = [f"--address={self.env['RAY_ADDRESS']}"] if self.nodes else []
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *address]
        size = [f"--num-cpus={cpus}", f"--num-gpus={gpus}", "--object-store-memory=200000000"]
        metrics = servers.free_port()
        ports = ["--dashboard-agent-listen-port=0", f"--metrics-export-port={metrics}"]
        hidden = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            f'mount -t tmpfs none {without} && exec "$@"',
            "",
        ]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [
                    *(hidden if without else []),
                    *command,
                    *size,
                    *ports,
                    "--disable-usage-stats",
                    *flags,
                ],
                env=self.env | running.mark_of(mark),
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.nodes.append(Node(process, mark, metrics))
        started = "Ray runtime started"
        wait_until(lambda: started in log.read_text() or process.poll() is not None, 120)
        assert process.poll() is None, log.read_text()
        return self.nodes[-1]

    def job(self, verb: str, *flags: str, **env: str) -> Job:
        return Job(verb, *flags, env=self.env | env)

    def watch(self, job: Job, until: Callable[[], bool]) -> None:
        """Looks at what runs where until something is so, or the job ends."""
        while not until() and job.process.poll() is None:
            for node in self.nodes:
                node.look()
            time.sleep(0.05)


@contextmanager
def _nodes(env: dict[str, str], root: str) -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory(prefix="nodes-", dir="/tmp") as folder:  # short: for sockets
        nodes = Nodes(folder, running.clean_environment() | env, root)
        try:
            yield nodes
        finally:
            for node in reversed(nodes.nodes):
                node.kill()


_going = threading.Event()  # cleared, it keeps photographs waiting
_going.set()


def _slow(number: int, method: str, path: str) -> str | None:
    """Photographs take a while, so that something can happen in the middle on any machine."""
    if method != "GET" or "/images/" not in path:
        return None
    _going.wait()
    return "slow"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with servers.s3() as store, servers.faulty(store.endpoint, _slow) as endpoint:
        env = store.env | {"AWS_ENDPOINT_URL": endpoint}
        env["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "10"
        with servers.visible(store), _nodes(env, store.root) as nodes:
            running.pictures(f"{store.root}/images", IMAGES)
            running.tiny_model(f"{store.root}/tiny")
            for _ in range(2):
                nodes.add(1)
            yield nodes


@pytest.fixture(scope="module")
def denoised(nodes: Nodes) -> str:
    """The output of an infer job that ran on two nodes undisturbed."""
    output = f"{nodes.root}/denoised"
    job = nodes.job("infer", *_flags(nodes, output))
    nodes.watch(job, lambda: False)
    done = job.done()
    assert done.code == 0, done.err
    return output


def test_every_node_works_and_every_image_has_one_row(nodes: Nodes, denoised: str):
    rows = rows_of(denoised)
    assert len({row["path"] for row in rows}) == len(rows) == IMAGES
    assert all(row["error"] is None for row in rows)
    head, *others = nodes.nodes
    assert all(node.runs("MapWorker") for node in others)
    assert not head.runs("MapWorker")


def test_images_done_are_counted_at_the_nodes_prometheus_endpoints(nodes: Nodes, denoised: str):
    """Since the cluster began: no other job has run on it yet."""
    said = [_metrics(node) for node in nodes.nodes]
    for name, expected in (("images", IMAGES), ("megapixels", _megapixels(denoised))):
        counts = [
            float(count)
            for text in said
            for count in re.findall(rf"^ray_denoise_{name}_total{{.*}} (\S+)$", text, re.MULTILINE)
        ]
        assert sum(counts) == pytest.approx(expected)
    assert "ray_denoise_model_seconds_total" in "".join(said)
    assert "ray_denoise_failed" not in "".join(said)


def _metrics(node: Node) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{node.metrics}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def _megapixels(output: str) -> float:
    return sum(row["height"] * row["width"] for row in rows_of(output)) / 1e6


def test_a_node_lost_in_the_middle_costs_no_row_and_a_node_added_is_used(
    nodes: Nodes, denoised: str
):
    output = f"{nodes.root}/lost-and-added"
    job = nodes.job("infer", *_flags(nodes, output), "--workers", "1", "3")
    nodes.watch(job, lambda: parts_in(output) >= 1)
    _going.clear()  # a busy machine might be through before the node has joined and got a worker
    try:
        nodes.nodes.pop().kill()
        added = nodes.add(1)
        wait_until(lambda: added.runs("MapWorker") or job.process.poll() is not None, 120)
    finally:
        _going.set()
    done = job.done()
    assert done.code == 0, done.err
    assert same(rows_of(output), rows_of(denoised)) == []
    assert added.runs("MapWorker"), added.seen


def test_training_goes_on_with_the_nodes_that_are_left(nodes: Nodes):
    output = f"{nodes.root}/model"
    flags = ["--images", f"{nodes.root}/images", "--output", output, "--architecture", "classic"]
    small = ["--batch-size", "2", "--patch", "32", "--steps", "400", "--workers", "1", "2"]
    job = nodes.job("train", *flags, *small)
    workers = nodes.nodes[1:]
    nodes.watch(job, lambda: all(node.runs("RayTrainWorker") for node in workers))
    nodes.watch(job, lambda: files.exists(f"{output}/checkpoint.pt"))
    nodes.nodes.pop().kill()
    done = job.done(400)
    nodes.add(1)
    assert done.code == 0, done.err
    assert done.out.startswith("{")  # what Ray says of the lost node is not on stdout
    assert files.exists(f"{output}/config.json")


def test_training_goes_into_a_folder_that_all_nodes_see(nodes: Nodes, tmp_path: Path):
    """All raylets here see this disk."""
    flags = ["--images", f"{nodes.root}/images", "--output", str(tmp_path / "model")]
    small = ["--architecture", "classic", "--patch", "16", "--batch-size", "2"]
    done = nodes.job("train", *flags, *small, "--steps", "1").done()
    assert done.code == 0, done.err
    assert (tmp_path / "model" / "config.json").exists()


def test_workers_run_where_the_gpus_are(nodes: Nodes, denoised: str):
    """Ray counts a GPU that does not exist, as in a rehearsal: its workers compute on the CPU."""
    nodes.env["DENOISE_MADE_UP_GPUS"] = "1"
    gpu = nodes.add(2, 1)
    for node in nodes.nodes:
        node.seen.clear()
    output = f"{nodes.root}/by-gpu"
    job = nodes.job("infer", *_flags(nodes, output), "--gpus-per-worker", "0.5")
    nodes.watch(job, lambda: False)
    done = job.done()
    assert done.code == 0, done.err
    assert same(rows_of(output), rows_of(denoised)) == []
    assert gpu.runs("MapWorker")
    assert not any(node.runs("MapWorker") for node in nodes.nodes[1:-1])


@pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode
    != 0,
    reason="needs the right to hide a folder from a process (unshare --mount)",
)
@pytest.mark.parametrize(
    ("verb", "what"),
    [("infer", "images"), ("infer", "model"), ("infer", "output"), ("train", "images")],
)
def test_what_only_the_laptop_has_is_refused(nodes: Nodes, tmp_path: Path, verb: str, what: str):
    mine = tmp_path / "mine"
    running.pictures(mine / "images", 3)
    running.tiny_model(mine / "model")
    there = {"images": f"{nodes.root}/images", "output": f"{nodes.root}/unmade-{verb}-{what}"}
    if verb == "infer":
        there["model"] = f"{nodes.root}/tiny"
    there[what] = str(mine / what)
    elsewhere = nodes.add(1, without=tmp_path)
    done = nodes.job(verb, *(f"--{name}={uri}" for name, uri in there.items())).done()
    nodes.nodes.remove(elsewhere)
    elsewhere.kill()
    assert done.code == 2
    assert f"{mine}/{what}" in done.err and "is on this machine only" in done.err
    assert "Traceback" not in done.err


def test_a_refused_token_is_one_clear_line(nodes: Nodes):
    job = nodes.job("infer", *_flags(nodes, f"{nodes.root}/refused"), RAY_AUTH_TOKEN="f" * 64)
    done = job.done(60)
    assert done.code == 2
    assert "refused the token" in done.err and "RAY_AUTH_TOKEN" in done.err
    assert "f" * 64 not in done.err and "Traceback" not in done.err
    assert "refused the token" in done.err.splitlines()[-1]


def test_a_cluster_of_other_versions_is_refused_and_both_are_named(nodes: Nodes):
    with _of_other_versions(nodes):
        done = nodes.job("infer", *_flags(nodes, f"{nodes.root}/versions")).done(60)
    assert done.code == 2
    assert "it runs Ray 2.50.0 on Python 3.12.1, this is Ray" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


_OTHER = """
import json, ray
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

ray.init(log_to_driver=False)
name = {"key": b"CLUSTER_METADATA", "namespace": b"cluster"}
ours = _internal_kv_get(**name)
other = json.loads(ours) | {"ray_version": "2.50.0", "python_version": "3.12.1"}
_internal_kv_put(value=json.dumps(other).encode(), overwrite=True, **name)
print("changed", flush=True)
input()
_internal_kv_put(value=ours, overwrite=True, **name)
"""


@contextmanager
def _of_other_versions(nodes: Nodes) -> Iterator[None]:
    """Lets the head say that another Ray started it, as long as a process of ours is connected."""
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER],
        env=nodes.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        assert any(line == "changed\n" for line in process.stdout)
        try:
            yield
        finally:
            process.communicate("\n")
    assert process.returncode == 0


def _flags(nodes: Nodes, output: str) -> list[str]:
    flags = ["--images", f"{nodes.root}/images", "--output", output]
    more = ["--add-noise", "0.1", "--precision", "float32"]  # the same on all kinds of nodes
    return [*flags, "--model", f"{nodes.root}/tiny", *more]
