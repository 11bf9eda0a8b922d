"""Work that waits for room says what is missing, and goes on when there is some."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray

from denoise import InferConfig, infer
from denoise.runners import waiting
from denoise.runners.resources import Resources, in_words
from denoise.runners.waiting import reports_waiting
from tests.running import tiny_model, wait_until

pytestmark = pytest.mark.ray


@ray.remote
class Holder:
    """Another job, which holds what it was given."""

    def ready(self) -> bool:
        return True


@pytest.fixture
def other(ray_session: Resources) -> Iterator[ray.actor.ActorHandle]:
    """An actor that holds every CPU there is."""
    holder = Holder.options(num_cpus=int(ray_session.cpus)).remote()
    ray.get(holder.ready.remote())
    yield holder
    ray.kill(holder)


def test_infer_on_a_full_cluster_says_so_and_goes_on_when_there_is_room(
    ray_session: Resources,
    other: ray.actor.ActorHandle,
    many: Callable[[int], Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(waiting, "PATIENCE", 1.0)
    flags = {"images": str(many(4)), "output": str(tmp_path / "out"), "workers": 1}
    config = InferConfig(**flags, model=tiny_model(tmp_path / "model"))
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(infer, config)
        wait_until(lambda: job.done() or "waiting for" in caplog.text)
        ray.kill(other)
        assert job.result()["done"] == 4
    assert (
        f"waiting for 1 x 1 CPU: Ray has {ray_session}, of which 0 CPUs and 0 GPUs are free; "
        "it goes on when others end or nodes are added"
    ) in caplog.text


def test_what_no_node_can_ever_hold_is_said_to_be_too_large(
    ray_session: Resources, caplog: pytest.LogCaptureFixture
):
    large = Holder.options(num_cpus=0, num_gpus=200).remote()
    with reports_waiting(0.4):
        wait_until(lambda: "waiting for" in caplog.text)
    assert "1 x 200 GPUs" in caplog.text
    assert "no node is large enough: ask for less, or add one that is" in caplog.text
    ray.kill(large)


def test_workers_that_only_fit_together_are_waited_for_together(
    ray_session: Resources, caplog: pytest.LogCaptureFixture
):
    bundles = [{"CPU": 1.0}] * (int(ray_session.cpus) + 1)
    gang = ray.util.placement_group(bundles)
    with reports_waiting(0.4):
        wait_until(lambda: "waiting for" in caplog.text)
    assert f"{len(bundles)} x 1 CPU" in caplog.text
    ray.util.remove_placement_group(gang)


def test_nothing_is_said_where_everything_runs(
    ray_session: Resources, caplog: pytest.LogCaptureFixture
):
    holder = Holder.options(num_cpus=1).remote()
    ray.get(holder.ready.remote())
    with reports_waiting(0.2):
        with pytest.raises(TimeoutError):
            wait_until(lambda: "waiting for" in caplog.text, 1)
    ray.kill(holder)


def test_resources_are_named_as_a_person_would():
    assert in_words({"CPU": 1.0}) == "1 CPU"
    assert in_words({"CPU": 2.0, "GPU": 0.5}) == "2 CPUs and 0.5 GPU"
