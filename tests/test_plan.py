"""A plan counts what a run would do, and does nothing."""

import os
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from running import tiny_model

from denoise import manifest
from denoise.inputs import Entry, entries
from denoise.manifest import update
from denoise.plan import PlanConfig, _sampled, plan
from denoise.storage import SettingsError


@pytest.fixture
def config(photos: Path, tmp_path: Path) -> PlanConfig:
    model = tiny_model(tmp_path / "model")
    return PlanConfig(images=str(photos), output=str(tmp_path / "out"), model=model, add_noise=0.1)


def test_it_counts_and_estimates_and_leaves_nothing_behind(config: PlanConfig):
    found = plan(config)
    assert (found["images"], found["already_done"], found["to_do"]) == (8, 0, 8)
    assert found["left_out"] == {"hidden": 1, "no image": 1}
    assert sum(found["sample_errors"].values()) == 1  # the broken one
    assert found["megapixels"] > 0 and found["output_bytes"] > 0
    assert found["seconds"] > found["start_up_seconds"] > 0
    assert not Path(config.output).exists()


def test_it_sees_what_is_done_already(config: PlanConfig, photos: Path):
    update(config.output, entries(str(photos), Counter()), Counter())
    shard = manifest.pending(config.output)[0]
    (Path(config.output) / "data").mkdir()
    (Path(config.output) / "data" / f"part-{shard.number:08d}.parquet").write_bytes(b"")
    assert plan(config)["already_done"] == len(shard.span)


def test_it_refuses_what_infer_would_refuse(config: PlanConfig, tmp_path: Path):
    flags = asdict(config)
    with pytest.raises(SettingsError, match=r"no images|no such file"):
        plan(PlanConfig(**flags | {"images": str(tmp_path / "nowhere")}))
    with pytest.raises(SettingsError, match="nosuchmodel"):
        plan(PlanConfig(**flags | {"model": "nosuchmodel"}))


def test_workers_beyond_this_machine_are_not_counted(config: PlanConfig):
    assert plan(replace(config, workers=4096))["workers"] == os.cpu_count()


def test_a_sample_is_fair():
    listed = [Entry(str(number), str(number), 10, "") for number in range(100_000)]
    count, size, sample = _sampled(listed)
    assert (count, size, len(sample)) == (100_000, 1_000_000, 64)
    mean = sum(int(entry.path) for entry in sample) / 64
    assert abs(mean - 50_000) < 5 * 100_000 / 12**0.5 / 8  # five standard errors
