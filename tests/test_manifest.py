"""The manifest: every input in one shard, and later listings compared with it."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest

from denoise.output import manifest, tables
from denoise.output.known_inputs import Listing
from denoise.output.redo import note_redone, paths_to_redo
from denoise.output.tables import NOISE_SCHEMA
from denoise.storage.entry import Entry
from tests.running import write_part


def entry(number: int, mark: str = "1", size: int = 10) -> Entry:
    return Entry(f"{number:06d}.png", f"/in/{number:06d}.png", size, mark)


def update(output: Path, entries: Iterable[Entry]) -> Listing:
    listing = manifest.update(str(output), iter(list(entries)))
    if listing.new is not None:
        manifest.cut(str(output), listing.new)
    return listing


def done(output: Path, shards: Iterable[manifest.Shard]) -> None:
    for shard in shards:
        rows = [{"path": entry.path, "error": None} for entry in shard.entries(str(output))]
        write_part(str(output), shard.number, rows, NOISE_SCHEMA, {})


def paths(output: Path, shards: Iterable[manifest.Shard]) -> list[str]:
    return [entry.path for shard in shards for entry in shard.entries(str(output))]


@pytest.mark.parametrize("count", [1, 5, 300, 70_000])
def test_every_input_is_in_exactly_one_shard(tmp_path: Path, count: int):
    listing = update(tmp_path, map(entry, range(count)))
    found = paths(tmp_path, manifest.shards_to_do(str(tmp_path)))
    assert found == [entry(number).path for number in range(count)]
    assert listing.inputs == count and listing.added == listing.changed == listing.removed == 0


def test_what_is_done_is_not_pending(tmp_path: Path):
    update(tmp_path, map(entry, range(100)))
    shards = manifest.shards_to_do(str(tmp_path))
    done(tmp_path, shards[::2])
    assert manifest.shards_to_do(str(tmp_path)) == shards[1::2]


def test_the_same_listing_again_changes_nothing(tmp_path: Path):
    update(tmp_path, map(entry, range(100)))
    shards = manifest.shards_to_do(str(tmp_path))
    listing = update(tmp_path, map(entry, reversed(range(100))))
    assert (listing.added, listing.changed, listing.removed) == (0, 0, 0)
    assert manifest.shards_to_do(str(tmp_path)) == shards


def test_inputs_added_since_become_shards_of_their_own(tmp_path: Path):
    update(tmp_path, map(entry, range(50)))
    done(tmp_path, manifest.shards_to_do(str(tmp_path)))
    listing = update(tmp_path, map(entry, range(80)))
    assert listing.added == 30
    wanted = [entry(number).path for number in range(50, 80)]
    assert paths(tmp_path, manifest.shards_to_do(str(tmp_path))) == wanted


def test_a_changed_input_alone_is_done_again_once(tmp_path: Path):
    output = str(tmp_path)
    update(tmp_path, map(entry, range(50)))
    done(tmp_path, manifest.shards_to_do(output))
    changed = [entry(number, mark="2" if number == 17 else "1") for number in range(50)]
    assert update(tmp_path, changed).changed == 1
    assert update(tmp_path, changed).changed == 0  # a kill before anything was done
    (shard,) = manifest.shards_to_do(output)
    assert shard.has_redo and entry(17).path in paths(tmp_path, [shard])
    assert paths_to_redo(output, shard.number) == {entry(17).path}
    note_redone(output, shard.number, {entry(17).path})
    assert update(tmp_path, changed).changed == 0
    assert manifest.shards_to_do(output) == []


def test_what_changes_before_an_earlier_change_was_done_is_done_with_it(tmp_path: Path):
    output = str(tmp_path)
    update(tmp_path, map(entry, range(50)))
    (first, *_) = shards = manifest.shards_to_do(output)
    done(tmp_path, shards)
    one, two, *rest = first.entries(output)
    update(tmp_path, [replace(one, mark="2"), two, *rest])
    update(tmp_path, [replace(one, mark="2"), replace(two, mark="2"), *rest])
    assert paths_to_redo(output, first.number) == {one.path, two.path}
    note_redone(output, first.number, {one.path})  # by a worker of a run that was killed
    assert paths_to_redo(output, first.number) == {two.path}
    (tmp_path / "_manifest" / "redo-00000000 (1)").write_text("a synchronised copy")
    assert manifest.shards_to_do(output) == [replace(first, has_redo=True)]


def test_a_part_file_that_was_taken_away_is_made_anew_whatever_had_changed(tmp_path: Path):
    output = str(tmp_path)
    update(tmp_path, map(entry, range(50)))
    (first, *_) = shards = manifest.shards_to_do(output)
    done(tmp_path, shards)
    changed = [entry(number, mark="2" if number == 0 else "1") for number in range(50)]
    update(tmp_path, changed)
    Path(tables.part_uri(output, first.number)).unlink()
    update(tmp_path, changed)
    assert manifest.shards_to_do(output) == [first]
    done(tmp_path, [first])
    assert manifest.shards_to_do(output) == []


def test_an_input_under_a_new_signature_is_noted_and_not_done_again(tmp_path: Path):
    old, new = (
        [Entry(f"{n}.png", f"https://h/{n}.png?Signature={key}", 10, "1") for n in range(50)]
        for key in ("OLD", "NEW")
    )
    update(tmp_path, old)
    first, *rest = manifest.shards_to_do(str(tmp_path))
    done(tmp_path, [first])
    listing = update(tmp_path, new)
    assert (listing.added, listing.changed, listing.removed) == (0, 0, 0)
    assert manifest.shards_to_do(str(tmp_path)) == rest
    assert [one for shard in [first, *rest] for one in shard.entries(str(tmp_path))] == new


def test_a_row_that_moved_within_its_table_is_read_from_where_it_is_now(tmp_path: Path):
    table = [Entry(f"{n}.png", "/in/table.parquet", 10, "1", row=n) for n in range(9)]
    turned = [Entry(one.path, one.uri, one.size, one.mark, row=8 - one.row) for one in table]
    update(tmp_path, table)
    update(tmp_path, turned)
    shards = manifest.shards_to_do(str(tmp_path))
    assert [one for shard in shards for one in shard.entries(str(tmp_path))] == turned


def test_a_foreign_part_file_is_no_work_of_ours(tmp_path: Path):
    pyarrow.dataset.write_dataset(pa.table({"x": [1]}), tmp_path / "data", format="parquet")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["part-0.parquet"]
    update(tmp_path, [entry(0)])
    assert paths(tmp_path, manifest.shards_to_do(str(tmp_path))) == [entry(0).path]
    assert tables.parts(str(tmp_path)) == []


def test_inputs_that_are_gone_are_told_and_their_rows_kept(tmp_path: Path):
    update(tmp_path, map(entry, range(50)))
    done(tmp_path, manifest.shards_to_do(str(tmp_path)))
    assert update(tmp_path, map(entry, range(40))).removed == 10
    assert manifest.shards_to_do(str(tmp_path)) == []
    assert len(list(tables.rows(str(tmp_path), ["path"]))) == 50


def test_a_listing_that_was_cut_off_is_made_again(tmp_path: Path):
    update(tmp_path, map(entry, range(50)))
    (tmp_path / "_manifest" / "generation-00000.json").unlink()
    assert manifest.shards_to_do(str(tmp_path)) == []
    update(tmp_path, map(entry, range(60)))
    assert len(paths(tmp_path, manifest.shards_to_do(str(tmp_path)))) == 60


@pytest.mark.parametrize(
    ("count", "size", "most"),
    [(8, 100_000, 4), (1000, 100_000, 15), (10**8, 3_000, 10**8), (50, 20 << 20, 1)],
)
def test_shards_grow_with_the_store_and_stay_small_in_bytes(count: int, size: int, most: int):
    rows = manifest.shard_rows(count, count * size)
    assert 1 <= rows <= most
    assert count / rows < 100_000


def test_a_shard_of_a_hundred_million_photographs_still_fits_into_a_workers_memory():
    count, size = 10**8, 300_000
    assert 16 << 20 < manifest.shard_rows(count, count * size) * size <= 32 << 20


def test_shards_with_errors_are_found(tmp_path: Path):
    update(tmp_path, map(entry, range(20)))
    shards = manifest.shards_to_do(str(tmp_path))
    done(tmp_path, shards)
    bad = [{"path": "a", "error": "empty file"}, {"path": "b", "error": None}]
    write_part(str(tmp_path), shards[1].number, bad, NOISE_SCHEMA, {})
    assert manifest.shards_with_errors(str(tmp_path)) == [shards[1]]
