"""Connecting to Ray: what is wrong with a cluster, or asked for in vain, is one clear line."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.data import ActorPoolStrategy

import denoise
from denoise.errors import SettingsError
from denoise.runners.ray_session import _reason
from denoise.runners.resources import Resources, actors, local, needs_of
from tests.running import ROOT, clean_environment, run, send

TWO_CPUS = Resources(2, 0, 1, is_own=True, by_node=({"CPU": 2.0},))
CLUSTER = Resources(4, 2, 2, by_node=({"CPU": 4.0}, {"CPU": 0.0, "GPU": 2.0}))


@pytest.mark.slow
def test_an_address_where_nobody_answers_is_one_line(photos: Path, tmp_path: Path):
    flags = ["--images", str(photos), "--output", str(tmp_path / "out")]
    done = run("infer", *flags, env={"RAY_ADDRESS": "127.0.0.1:1"}, seconds=60)
    assert done.code == 2
    (line,) = (line for line in done.err.splitlines() if "left out" not in line)
    assert line.startswith("denoise infer: no Ray cluster answers at 127.0.0.1:1")


def test_other_versions_are_both_named_with_a_way_out():
    """The words are those of Ray 2.60; tests/test_nodes.py has them from Ray itself."""
    raised = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.50.0\n    Python: 3.12.1\n"
        "This process on node 192.0.2.2 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    assert _reason(raised) == (
        "it runs Ray 2.50.0 on Python 3.12.1, this is Ray 2.60.0 on Python 3.11.7; install the "
        "cluster's versions here, or send the job to it with `ray job submit`"
    )


def test_whatever_else_ray_says_is_put_on_one_line():
    assert _reason(RuntimeError("something\n   else\n")) == "something else"
    assert _reason(RuntimeError()) == "RuntimeError"


def test_a_machine_works_with_as_many_workers_as_it_has_room_for_and_says_so(
    caplog: pytest.LogCaptureFixture,
):
    assert _sizes(actors((8,), 100, TWO_CPUS, {"CPU": 1})) == (2, 2)
    assert "asked for 8 workers, each with 1 CPU; 2 CPUs and 0 GPUs have room for 2" in caplog.text


def test_a_cluster_may_grow_to_as_many_workers_as_were_asked_for():
    assert _sizes(actors((8,), 100, CLUSTER, {"CPU": 1})) == (8, 8)
    assert _sizes(actors((1, 8), 5, CLUSTER, {"CPU": 1})) == (1, 5)


def test_a_cluster_begins_with_what_is_up_and_grows_as_nodes_come():
    pool = actors((), 1000, CLUSTER, {"CPU": 1})
    assert (pool.min_size, pool.initial_size, pool.max_size) == (1, 4, 1000)
    assert actors((), 100, CLUSTER, {"GPU": 0.5}).initial_size == 4
    assert actors((), 3, CLUSTER, {"GPU": 0.5}).initial_size == 3
    assert actors((), 100, CLUSTER, {"GPU": 0.6}).initial_size == 2  # two GPUs hold one each
    assert actors((), 100, Resources(0, 0, 1), {"CPU": 1}).initial_size == 1
    assert _sizes(actors((3,), 1000, CLUSTER, {"CPU": 1})) == (3, 3)


def test_a_worker_takes_a_gpu_where_there_is_one():
    assert needs_of("auto", 1.0, TWO_CPUS) == {"CPU": 1}
    eight = Resources(96, 8, 1, by_node=({"CPU": 96.0, "GPU": 8.0},))
    assert needs_of("auto", 1.0, eight) == {"GPU": 1.0, "CPU": 12.0}
    assert needs_of("auto", 0.5, eight) == {"GPU": 0.5, "CPU": 6.0}
    assert needs_of("cpu", 1.0, eight) == {"CPU": 1}
    assert needs_of("gpu", 1.0, replace(TWO_CPUS, is_own=False)) == {"GPU": 1.0, "CPU": 1.0}
    with pytest.raises(SettingsError, match="--device gpu: this machine has 2 CPUs and 0 GPUs"):
        needs_of("gpu", 1.0, TWO_CPUS)


def test_calls_within_a_session_share_it_and_leave_it_open(ray_session: Resources):
    job = ray.get_runtime_context().get_job_id()
    with denoise.session(), denoise.session():
        assert ray.get_runtime_context().get_job_id() == job
    assert ray.is_initialized()


def test_this_machine_has_what_a_private_session_finds(ray_session: Resources):
    assert (local().cpus, local().gpus) == (ray_session.cpus, ray_session.gpus)
    assert local().room({"CPU": 1}) == ray_session.room({"CPU": 1})


def test_as_many_workers_as_fit_on_this_machine_are_the_default():
    assert _sizes(actors((), 100, TWO_CPUS, {"CPU": 1})) == (2, 2)
    assert _sizes(actors((), 1, TWO_CPUS, {"CPU": 1})) == (1, 1)


def _sizes(pool: ActorPoolStrategy) -> tuple[int, int]:
    return pool.min_size, pool.max_size


def test_a_worker_that_this_machine_can_never_hold_is_refused():
    one_gpu = Resources(8, 1, 1, is_own=True, by_node=({"CPU": 8.0, "GPU": 1.0},))
    with pytest.raises(SettingsError, match=r"takes 2 GPUs; this machine has 8 CPUs and 1 GPUs"):
        actors((), 10, one_gpu, {"GPU": 2.0})


TWICE = """
import os
from ray.data import DataContext
from denoise.runners import ray_session

os.environ["RAY_AUTH_MODE"] = "disabled"
context = DataContext.get_current()
context.target_max_block_size = 123
for _ in range(2):
    with ray_session.connected() as there:
        print(there.nodes, context.target_max_block_size, "RAY_AUTH_TOKEN" in os.environ)
    tokens = [os.environ.get("RAY_AUTH_" + name) for name in ("TOKEN", "MODE")]
    print(context.target_max_block_size, *tokens)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_session_leaves_the_process_as_it_was_and_another_can_follow():
    env = clean_environment()
    done = subprocess.run(
        [sys.executable, "-c", TWICE],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1 None True", "123 None disabled"] * 2


LINGERING = """
import os, subprocess, sys, threading, time
import psutil, ray
from denoise.runners import ray_session

@ray.remote(num_cpus=0)
class Lingering:
    def process(self):
        threading.Thread(target=time.sleep, args=(600,)).start()  # the interpreter waits for it
        return os.getpid()

    def leave(self):
        ray.actor.exit_actor()

with ray_session.connected():
    bystander = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
    actor = Lingering.remote()
    process = psutil.Process(ray.get(actor.process.remote()))
    actor.leave.remote()
    time.sleep(1)
    print(ray.nodes()[0]["MetricsExportPort"])
    session = ray._private.worker._global_node.get_session_dir_path()
    private = os.path.dirname(os.path.dirname(session))
    started = {one.pid for one in psutil.Process().children(recursive=True)}
    listening = [one for one in psutil.net_connections("tcp") if one.status == "LISTEN"]
    ports = {one.laddr.port for one in listening if one.pid in started}
    print(oct(os.stat(private).st_mode & 0o777), ports & {44217, 44227})
print(os.path.exists(private))
print(process.pid, process.is_running(), bystander.poll())
bystander.kill()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_private_session_lets_nobody_in_and_is_gone_with_a_worker_that_never_ends():
    """Metrics' ports would ask for no token, and Ray lets every user into its folders.

    What Ray did not start is left alone.
    """
    done = subprocess.run(
        [sys.executable, "-c", LINGERING], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    port, folder, is_left, ending = done.stdout.splitlines()
    process, *found = ending.split()
    send(int(process), signal.SIGKILL)
    assert port == "-1"
    assert (folder, is_left) == ("0o700 set()", "False")
    assert found == ["False", "None"]
