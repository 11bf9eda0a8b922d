"""Shards: the rows of a part file, those that are kept and those that are made."""

from pathlib import Path
from typing import Any

import pytest

from denoise.errors import ReadError, WriteError
from denoise.output import tables
from denoise.output.shard import ShardTask, ShardWriter
from denoise.output.tables import INFER_SCHEMA
from denoise.storage.entry import Entry

ENTRIES = [Entry(name, f"/in/{name}", 10, "1") for name in "abcd"]


def write(task: ShardTask, **rows: dict[str, Any]) -> ShardWriter:
    """Does a shard: what a task finds missing gets these rows, by path."""
    with ShardWriter(task, INFER_SCHEMA) as out:
        for entry in task.missing():
            out.add({"path": entry.path, "error": None} | rows.get(entry.path, {}), {"decode": 1.0})
    return out


def rows_in(output: Path) -> list[tuple[str, Any, Any]]:
    found = tables.part(str(output), 0)
    return [(row["path"], row["width"], row["error"]) for row in found]


def test_errors_are_tried_again_and_the_other_rows_stay(tmp_path: Path):
    task = ShardTask(str(tmp_path), 0, ENTRIES)
    whole = write(task, a={"error": "bad"}, c={"error": "bad"}, d={"error": "bad"})
    assert (whole.counts.images, whole.counts.made, whole.counts.failed) == (4, 4, 3)
    whole = tables.footer_of(str(tmp_path), 0)

    again = ShardTask(str(tmp_path), 0, ENTRIES, retry_errors=True)
    out = write(again, a={"width": 2}, d={"error": "bad"})
    assert (out.counts.images, out.counts.made, out.counts.failed) == (4, 3, 1)
    assert rows_in(tmp_path) == [
        ("a", 2, None),
        ("b", None, None),
        ("c", None, None),
        ("d", None, "bad"),
    ]
    after = tables.footer_of(str(tmp_path), 0)
    assert after["seconds"]["decode"] == 7.0, "rows that stay took their time"
    assert after["ended"] - after["started"] > whole["ended"] - whole["started"]


def test_a_task_that_is_done_twice_writes_the_same_rows(tmp_path: Path):
    """As where a worker dies between its part file and its answer."""
    write(ShardTask(str(tmp_path), 0, ENTRIES), a={"error": "bad"}, b={"width": 1}, c={"width": 1})
    task = ShardTask(str(tmp_path), 0, ENTRIES, redo=frozenset("b"))
    for _ in range(2):
        assert write(task, b={"width": 2}).counts.made == 1
        assert rows_in(tmp_path) == [
            ("a", None, "bad"),
            ("b", 2, None),
            ("c", 1, None),
            ("d", None, None),
        ]


def test_notes_of_both_runs_stay(tmp_path: Path):
    for number, retry in enumerate((False, True)):
        with ShardWriter(ShardTask(str(tmp_path), 0, [], retry_errors=retry), INFER_SCHEMA) as out:
            out.notes.add(f"note {number}")
    assert tables.footer_of(str(tmp_path), 0)["notes"] == ["note 0", "note 1"]


def test_a_shard_that_fails_leaves_no_part_file(tmp_path: Path):
    with (
        pytest.raises(KeyboardInterrupt),
        ShardWriter(ShardTask(str(tmp_path), 0, ENTRIES), INFER_SCHEMA) as out,
    ):
        out.add({"path": "a", "error": None}, {})
        raise KeyboardInterrupt
    assert tables.parts(str(tmp_path)) == []
    assert list((tmp_path / "data").iterdir()) == []


def test_a_part_file_that_cannot_be_written_is_told_in_plain_words(tmp_path: Path):
    (tmp_path / "data").write_text("in the way")
    task = ShardTask(str(tmp_path), 3, [])
    with (
        pytest.raises(WriteError, match=r"/data/part-00000003\.parquet could not be .*: file exi"),
        ShardWriter(task, INFER_SCHEMA),
    ):
        pass


def test_earlier_rows_that_cannot_be_read_are_told_in_plain_words(tmp_path: Path):
    task = ShardTask(str(tmp_path), 3, ENTRIES, retry_errors=True)
    words = r"/data/part-00000003\.parquet could not be read: no such file$"
    with pytest.raises(ReadError, match=words):
        task.missing()
    with pytest.raises(ReadError, match=words), ShardWriter(task, INFER_SCHEMA):
        pass
