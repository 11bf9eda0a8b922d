"""Shards: the rows of a part file, also where a task that wrote them is run again."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from conftest import encoded, photo
from running import tiny_model

from denoise.errors import WriteError
from denoise.nets import package
from denoise.output import tables
from denoise.output.tables import INFER_SCHEMA
from denoise.runners import crash_guard, ray_data
from denoise.runners.ray_data import Turn
from denoise.storage.inputs import Entry, entries
from denoise.verbs.infer import InferConfig, _finish_shard, _load_shard, _Network


def test_a_task_that_ray_runs_again_writes_the_same_rows(ray_session: object, tmp_path: Path):
    output = str(tmp_path)
    entries = [Entry(name, f"/in/{name}", 10, "1") for name in ("a", "b", "c", "d")]
    told = {"output": output, "shard": 0, "entries": [asdict(entry) for entry in entries]}
    block = pa.table({"work": [json.dumps(told)]})
    failed = [{"path": one.path, "error": "bad" if one.path in "acd" else None} for one in entries]
    whole = ray_data.work_of(block, INFER_SCHEMA, Turn(1))
    ray_data.finish(whole, [], ((row, {"decode": 1.0}) for row in failed), ["tiles of 512 pixels"])
    before = tables.about(output, 0)
    work = ray_data.work_of(block, INFER_SCHEMA, Turn(1, only_errors=True))

    todo, _ = ray_data.kept(work)
    assert list(todo) == ["a", "c", "d"]
    mended = [
        {"path": one.path, "error": "bad" if one.path == "d" else None} for one in todo.values()
    ]
    for _ in range(2):  # the second time the rows that were done stand among those that are kept
        _, rows = ray_data.kept(work)
        line = ray_data.finish(work, rows, ((row, {}) for row in mended))
        assert json.loads(line.column("counted").to_pylist()[0])["images"] == 4
        found = [(row["path"], row["error"]) for row in tables.part(output, 0)]
        assert found == [("a", None), ("b", None), ("c", None), ("d", "bad")]
    after = tables.about(output, 0)
    assert after["seconds"] == before["seconds"] == {"decode": 4.0}, (
        "rows that stay took their time"
    )
    assert after["notes"] == before["notes"] == ["tiles of 512 pixels"]
    assert after["ended"] - after["started"] > before["ended"] - before["started"]


def test_of_a_shard_that_is_done_again_only_what_changed_is_worked_on(
    ray_session: object, tmp_path: Path
):
    output = str(tmp_path)
    entries = [asdict(Entry(name, f"/in/{name}", 10, "1")) for name in ("a", "b", "c")]
    told = {"output": output, "shard": 0, "entries": entries}
    whole = ray_data.work_of(pa.table({"work": [json.dumps(told)]}), INFER_SCHEMA, Turn(1))
    rows = [{"path": "a", "error": "bad"}, {"path": "b", "width": 1}, {"path": "c", "width": 1}]
    ray_data.finish(whole, [], ((row | {"error": row.get("error")}, {}) for row in rows))

    block = pa.table({"work": [json.dumps(told | {"again": ["b"]})]})
    work = ray_data.work_of(block, INFER_SCHEMA, Turn(1))
    for _ in range(2):  # as where Ray runs it again
        todo, kept = ray_data.kept(work)
        assert list(todo) == ["b"]
        ray_data.finish(work, kept, [({"path": "b", "width": 2, "error": None}, {})])
        found = [(row["path"], row["width"], row["error"]) for row in tables.part(output, 0)]
        assert found == [("a", None, "bad"), ("b", 2, None), ("c", 1, None)]


def test_a_shard_that_workers_hand_on_was_begun_by_the_first_of_them(tmp_path: Path):
    told = {"output": str(tmp_path), "shard": 0, "entries": []}
    block = pa.table({"work": [json.dumps(told)]})
    first = ray_data.work_of(block, INFER_SCHEMA, Turn(1))
    begun = ray_data.begun(block, first)
    time.sleep(0.01)
    assert ray_data.work_of(begun, INFER_SCHEMA, Turn(1)).started == first.started
    assert ray_data.work_of(block, INFER_SCHEMA, Turn(1)).started > first.started


def test_on_a_gpu_a_shard_takes_from_its_first_byte_to_its_last(
    ray_session: object, photos: Path, tmp_path: Path
):
    """The three kinds of workers, one after the other, as they follow on a machine with a GPU."""
    output, model = str(tmp_path / "out"), tiny_model(tmp_path / "model")
    config = InferConfig(images=str(photos), output=output, model=model, add_noise=0.1)
    told = [asdict(one) for one in entries(str(photos), Counter())]
    block = pa.table({"work": [json.dumps({"output": output, "shard": 0, "entries": told})]})
    turn = Turn(1)
    start = time.time()
    block = _load_shard(block, config, turn)
    loaded = time.time()
    block = _Network(config, package.id_of(model), turn)(block)
    _finish_shard(block, config, package.id_of(model), turn)
    (part,) = tables.parts(output)
    about = json.loads(pq.read_metadata(part).metadata[b"denoise"])
    assert start <= about["started"] <= loaded <= about["ended"]
    assert sum(row["error"] is None for row in tables.part(output, 0)) == 7


class Died(Exception):
    pass


def until_one_lives(attempt: Callable[[], Any], death: type[Exception]) -> tuple[Any, int]:
    """What an attempt gives that ends otherwise than by death, and how many it took."""
    for tries in range(1, 20):
        try:
            return attempt(), tries
        except death:
            continue
    raise AssertionError("it never ends")


class Deadly:
    """A denoiser whose worker does not outlive a picture of some width."""

    notes: tuple[str, ...] = ()

    def __init__(self, width: int) -> None:
        self._width = width

    def denoise(self, noisy: list[np.ndarray]) -> list[np.ndarray]:
        if any(picture.shape[1] == self._width for picture in noisy):
            raise Died
        return noisy


def test_on_a_gpu_an_image_that_kills_its_workers_is_an_error_row(
    ray_session: object, photos: Path, tmp_path: Path
):
    (photos / "narrow.png").write_bytes(encoded(photo(20, 33)))
    config = InferConfig(images=str(photos), output=str(tmp_path), add_noise=0.1)
    told = [asdict(one) for one in entries(str(photos), Counter())]
    block = pa.table({"work": [json.dumps({"output": str(tmp_path), "shard": 0, "entries": told})]})
    turn = Turn(1, attempts=crash_guard.counter(pause=0.0))
    network = _Network(config, "it", turn)
    network._denoiser = Deadly(33)  # a cached property
    loaded = _load_shard(block, config, turn)
    denoised, tries = until_one_lives(lambda: network(loaded), Died)  # Ray keeps what was loaded
    _finish_shard(denoised, config, "it", turn)
    failed = {row["path"]: row["error"] for row in tables.part(str(tmp_path), 0) if row["error"]}
    assert (tries, failed["narrow.png"]) == (7, crash_guard.KILLER)
    assert len(list(tables.part(str(tmp_path), 0))) == len(told)
    assert ray.get(turn.attempts.begin.remote((0, "network"))) == (None, []), "done and forgotten"


def test_an_image_that_kills_as_its_row_is_written_is_the_one_that_fails(
    ray_session: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tables, "_GROUP_BYTES", 1)
    listed = {path: Entry(path, path, 1, "1") for path in "abcd"}
    turn = Turn(1, attempts=crash_guard.counter(pause=0.0))
    work = ray_data.Work(
        str(tmp_path), 0, list(listed.values()), INFER_SCHEMA, turn, again=None, started=0.0
    )

    def made(some: list[Entry]) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
        for entry in some:
            name = 7 if entry.path == "b" else "a.png"  # no number can be a name: it ends the write
            yield {"path": entry.path, "error": None, "image": {"bytes": b"1", "path": name}}, {}

    def attempt() -> pa.Table:
        done = ray_data.worked(work, "all", listed, made, lambda pair: (pair.about(), {}))
        return ray_data.finish(work, [], done)

    _, tries = until_one_lives(attempt, pa.ArrowTypeError)
    found = [(row["path"], row["error"]) for row in tables.part(str(tmp_path), 0)]
    assert (tries, found) == (
        7,
        [("a", None), ("b", crash_guard.KILLER), ("c", None), ("d", None)],
    )


def test_a_part_file_that_cannot_be_written_is_told_in_plain_words(tmp_path: Path):
    (tmp_path / "data").write_text("in the way")
    work = ray_data.Work(str(tmp_path), 3, [], INFER_SCHEMA, Turn(1), again=None, started=0.0)
    with pytest.raises(WriteError, match=r"/data/part-00000003\.parquet could not be .*: file exi"):
        ray_data.finish(work, [], [])
