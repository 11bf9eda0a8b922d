"""A plan counts what a run would do, and does nothing."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from denoise.errors import SettingsError
from denoise.output import manifest
from denoise.output.folder import Output
from denoise.output.redo import paths_to_redo
from denoise.output.tables import INFER_SCHEMA
from denoise.runners.resources import Resources
from denoise.storage.entry import Entry
from denoise.storage.found import LeftOut
from denoise.storage.inputs import entries
from denoise.verbs.infer import prepare
from denoise.verbs.plan import PlanConfig, _Sample, plan
from tests.conftest import encoded, photo
from tests.running import tiny_model, write_part


def listed(config: PlanConfig, photos: Path) -> None:
    """Lists the photographs, as a run does before its work."""
    ready, model, _ = prepare(config)
    with Output(config.output, "infer", ready.settings() | {"model": model}):
        found = manifest.update(config.output, entries(str(photos), LeftOut()))
        if found.new is not None:
            manifest.cut(config.output, found.new)


def nothing(photos: Path) -> None: ...


def add(photos: Path) -> None:
    for number in range(5):
        (photos / f"new{number}.png").write_bytes(encoded(photo(seed=20 + number)))


def change(photos: Path) -> None:
    (photos / "0.png").write_bytes(encoded(photo(30, 30, seed=21)))


def take_away(photos: Path) -> None:
    (photos / "more" / "wide.jpg").unlink()


def mend(photos: Path) -> None:
    (photos / "broken.png").write_bytes(encoded(photo(30, 30, seed=22)))


def everything(photos: Path) -> None:
    for one in (add, change, take_away, mend):
        one(photos)


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
    listed(config, photos)
    shard = manifest.shards_to_do(config.output)[0]
    (Path(config.output) / "data").mkdir(exist_ok=True)
    (Path(config.output) / "data" / f"part-{shard.number:08d}.parquet").write_bytes(b"")
    assert plan(config)["already_done"] == len(shard)


@pytest.mark.parametrize("since", [nothing, add, change, take_away, mend, everything])
@pytest.mark.parametrize("retry_errors", [False, True])
def test_it_says_what_a_run_would_find_to_do(
    config: PlanConfig, photos: Path, since: Callable[[Path], None], retry_errors: bool
):
    output, config = config.output, replace(config, retry_errors=retry_errors)
    listed(config, photos)
    for shard in manifest.shards_to_do(output):
        paths = [entry.path for entry in shard.entries(output)]
        rows = [{"path": p, "error": "bad" if p == "broken.png" else None} for p in sorted(paths)]
        write_part(output, shard.number, rows, INFER_SCHEMA)
    before = {path: path.read_bytes() for path in Path(output).rglob("*.*")}
    since(photos)
    found = plan(config)
    assert {path: path.read_bytes() for path in Path(output).rglob("*.*")} == before

    listed(config, photos)
    pending = manifest.shards_to_do(output)
    failed = manifest.shards_with_errors(output) if retry_errors else []
    to_do = {entry.path for one in pending if not one.has_redo for entry in one.entries(output)}
    for one in pending:
        to_do |= paths_to_redo(output, one.number) if one.has_redo else set()
    assert found["to_do"] == len(to_do | {"broken.png"} if failed else to_do)
    assert found["shards"] == len({one.number for one in pending + failed})
    assert bool(found["seconds"]) == bool(pending or failed)
    assert found["already_done"] + found["to_do"] == found["images"]


def test_to_overwrite_is_to_do_all_of_it(config: PlanConfig, photos: Path):
    listed(config, photos)
    found = plan(replace(config, overwrite=True))
    assert (found["already_done"], found["to_do"]) == (0, 8)


def test_the_size_of_the_output_is_that_of_the_images_it_saves(config: PlanConfig):
    kinds = ("parquet", "files", "both", "none")
    table, files, both, none = (plan(replace(config, save=k))["output_bytes"] for k in kinds)
    assert table == files > none == 0
    assert both == pytest.approx(2 * table, abs=1)


def test_it_refuses_what_infer_would_refuse(config: PlanConfig, tmp_path: Path):
    flags = asdict(config)
    with pytest.raises(SettingsError, match=r"no images|no such file"):
        plan(PlanConfig(**flags | {"images": str(tmp_path / "nowhere")}))
    with pytest.raises(SettingsError, match="nosuchmodel"):
        plan(PlanConfig(**flags | {"model": "nosuchmodel"}))
    with pytest.raises(SettingsError, match="lies inside the output folder"):
        plan(PlanConfig(**flags | {"output": str(Path(config.images).parent)}))
    with Output(str(tmp_path / "other"), "infer", {"seed": 7}):
        write_part(str(tmp_path / "other"), 0, [{"path": "a.png"}], INFER_SCHEMA)
    with pytest.raises(SettingsError, match=r"other settings: .*or --overwrite"):
        plan(PlanConfig(**flags | {"output": str(tmp_path / "other")}))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match="cannot write to"):
        plan(PlanConfig(**flags | {"output": str(tmp_path / "file" / "out")}))


def test_it_leaves_no_folder_behind_on_the_way_to_the_output(config: PlanConfig, tmp_path: Path):
    plan(replace(config, output=str(tmp_path / "x" / "y" / "z")))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("address", [None, "", "local"])
def test_workers_beyond_this_machine_are_not_counted(
    config: PlanConfig, ray_session: Resources, monkeypatch: pytest.MonkeyPatch, address: str | None
):
    """An address of nobody is none: `infer` would start a session of its own."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    found = plan(replace(config, workers=4096))
    assert (found["workers"], found["where"]) == (int(ray_session.cpus), "this machine")


def test_a_sample_is_fair():
    listed = [Entry(str(number), str(number), 10, "") for number in range(100_000)]
    sample = _Sample()
    assert list(sample.of(listed)) == listed
    assert (sample.count, sample.size, len(sample.entries)) == (100_000, 1_000_000, 64)
    mean = sum(int(entry.path) for entry in sample.entries) / 64
    assert abs(mean - 50_000) < 5 * 100_000 / 12**0.5 / 8  # five standard errors
