"""The numbers of an output folder's table, added up by Arrow: no Python runs for a row.

Part files are read 64 at a time, never their images. What stays in memory is 8 bytes a row for
each metric that has values (so medians and percentiles are exact: 1.6 GB for a hundred million
images with `mse_noisy` and `mse`), and twice that while a percentile is taken; besides, up to
1,000 folders and error texts, and the footer of each part file.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from denoise.output import tables
from denoise.storage import files
from denoise.storage.stores import ASKERS

METRICS = ("mse_noisy", "mse", "ssim_noisy", "ssim", "removed", "noise_before", "noise_after")
_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("format", pa.string()),
        ("bit_depth", pa.int8()),
        ("error", pa.string()),
        ("note", pa.string()),
        *((name, pa.float64()) for name in METRICS),
    ]
)
_AT_ONCE = 64  # part files whose rows are in memory together
_SIZES = (0.1, 0.3, 1, 3, 10, 30, 100)  # megapixels between the groups by size
SIZE_NAMES = (
    "unknown",
    f"under {_SIZES[0]:g} MP",
    *(f"{low:g} to {high:g} MP" for low, high in pairwise(_SIZES)),
    f"{_SIZES[-1]:g} MP and more",
)
_MOST_GROUPS = 1000  # folders and error texts listed; what comes later is counted together
_OTHER_FOLDERS, _OTHER_ERRORS, _OTHER_NOTES = "(other folders)", "other errors", "other notes"
_EXAMPLES = 5  # paths named for each error


@dataclass
class Group:
    """Images that have something in common: how many, and sums over those that were measured."""

    images: int = 0
    failed: int = 0
    # of finite PSNR in dB, and of `removed`
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    counts: Counter[str] = field(default_factory=Counter)  # of the images in each sum

    def mean(self, name: str) -> float | None:
        return self.sums[name] / self.counts[name] if self.counts[name] else None


@dataclass
class TableStatistics:
    """What one pass over the rows keeps."""

    images: int = 0
    failed: int = 0
    megapixels: float = 0.0
    parts: list[str] = field(default_factory=list)  # URIs
    part_rows: list[int] = field(default_factory=list)
    part_work: list[tuple[int, float]] = field(default_factory=list)  # images done, megapixels
    footers: list[dict[str, Any]] = field(default_factory=list)  # one a part
    formats: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)  # of images, and of how workers went on
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    folders: dict[str, Group] = field(default_factory=dict)
    sizes: dict[str, Group] = field(default_factory=dict)
    _metrics: dict[str, list[NDArray[np.float64]]] = field(
        default_factory=lambda: {name: [] for name in METRICS}
    )

    def metric(self, name: str) -> NDArray[np.float64]:
        """[images] one metric of every row, in the order of the table; nan where there is none."""
        chunks = self._metrics[name]
        if len(chunks) > 1 and any(chunk.strides != (0,) for chunk in chunks):
            chunks[:] = [np.concatenate(chunks)]
        return chunks[0] if len(chunks) == 1 else _nans(self.images)


def table_statistics(uri: str) -> TableStatistics:
    """Read the numbers of every part file of an output folder. Raises OSError."""
    found = TableStatistics(parts=tables.parts(uri))
    with ThreadPoolExecutor(ASKERS) as pool:
        for start in range(0, len(found.parts), _AT_ONCE):
            _add(found, list(pool.map(_numbers_in, found.parts[start : start + _AT_ONCE])))
    return found


def decibels(mse: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] mean squared errors -> [n] PSNR in dB, on the 0..1 scale; inf where there is none."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(mse)


def _numbers_in(part: str) -> tuple[pa.Table, dict[str, Any]]:
    """The columns of a part file that are no images (nulls where it lacks one), and its footer."""
    with files.open_input(part) as file:
        parquet = pq.ParquetFile(file)
        there = set(parquet.schema_arrow.names)
        table = parquet.read(columns=[name for name in _SCHEMA.names if name in there])
        footer = tables.footer_in(parquet.metadata)
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in there
        else pa.nulls(len(table), field.type)
        for field in _SCHEMA
    ]
    return pa.table(columns, schema=_SCHEMA), footer


def _add(found: TableStatistics, parts: list[tuple[pa.Table, dict[str, Any]]]) -> None:
    """Add some part files."""
    table = pa.concat_tables([table for table, _ in parts]).combine_chunks()
    pixels = [pc.fill_null(table[name], 0).to_numpy() for name in ("height", "width")]
    megapixels = pixels[0].astype(np.float64) * pixels[1] / 1e6
    is_done = pc.is_null(table["error"]).to_numpy()
    for name in METRICS:
        found._metrics[name].append(_values(table[name]))
    noisy, denoised = (decibels(found._metrics[name][-1]) for name in ("mse_noisy", "mse"))
    measured = pa.table(
        {
            "failed": pa.array(~is_done).cast(pa.int64()),
            "psnr_noisy": _finite(noisy),
            "psnr": _finite(denoised),
            "removed": table["removed"],
        }
    )
    sizes = np.searchsorted(_SIZES, megapixels, side="right") + 1
    size_names = pa.array(SIZE_NAMES).take(pa.array(np.where(megapixels > 0, sizes, 0)))
    folders = _limit(_folders(table["path"]), found.folders, _OTHER_FOLDERS)
    _add_groups(found.folders, folders, measured)
    _add_groups(found.sizes, size_names, measured)
    _add_errors(found, table.filter(pa.array(~is_done)))
    _add_notes(found, table["note"])
    _add_formats(found, table.filter(pa.array(is_done)))
    ends = np.cumsum([len(part) for part, _ in parts])
    done, work = (_sums(values, ends) for values in (is_done, np.where(is_done, megapixels, 0)))
    found.part_rows += [len(part) for part, _ in parts]
    found.part_work += zip(map(int, done), map(float, work), strict=True)
    found.footers += [footer for _, footer in parts]
    for _, footer in parts:
        found.notes.update(footer.get("notes", ()))
    found.images += len(table)
    found.failed += len(table) - int(done.sum())
    found.megapixels += float(work.sum())


def _values(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """A column's numbers, nan for null; where all are null, an array that takes no memory."""
    if column.null_count == len(column):
        return _nans(len(column))
    return np.asarray(column.to_numpy(), np.float64)


def _nans(count: int) -> NDArray[np.float64]:
    return np.broadcast_to(np.float64(np.nan), count)


def _finite(values: NDArray[np.float64]) -> pa.Array:
    return pa.array(values, mask=~np.isfinite(values))


def _sums(values: NDArray[Any], ends: NDArray[Any]) -> NDArray[Any]:
    """[parts] sums over runs of rows that end there; a run may be empty."""
    reached = np.concatenate([[0], np.cumsum(values)])[ends]
    return np.diff(reached, prepend=0)


def _folders(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """The folder of each path; "." of those at the top."""
    parts = pc.split_pattern(paths, "/", max_splits=1, reverse=True)
    is_top = pc.equal(pc.list_value_length(parts), 1)
    return pc.if_else(is_top, ".", pc.list_element(parts, 0))


def _limit(texts: pa.ChunkedArray, known: Container[str], other: str) -> pa.ChunkedArray:
    """The texts, with `other` for those for which there is no room beside the known."""
    distinct = pc.unique(texts).to_pylist()
    room = max(0, _MOST_GROUPS - len(known))  # type: ignore[arg-type]  # a dict or Counter
    fresh = [text for text in distinct if text not in known]
    if len(fresh) <= room:
        return texts
    named = pa.array([text for text in distinct if text in known] + fresh[:room], pa.string())
    return pc.if_else(pc.is_in(texts, value_set=named), texts, other)


def _add_groups(groups: dict[str, Group], keys: Any, measured: pa.Table) -> None:
    """Add rows of `measured` to the groups that their keys name."""
    names = ("psnr_noisy", "psnr", "removed")
    wanted = [("failed", "sum"), ("failed", "count")]
    wanted += [(name, kind) for name in names for kind in ("sum", "count")]
    table = measured.append_column("key", keys)
    for row in table.group_by("key", use_threads=False).aggregate(wanted).to_pylist():
        group = groups.setdefault(row["key"], Group())
        group.images += row["failed_count"]
        group.failed += row["failed_sum"]
        for name in names:
            group.sums[name] += row[f"{name}_sum"] or 0.0
            group.counts[name] += row[f"{name}_count"]


def _add_errors(found: TableStatistics, failed: pa.Table) -> None:
    errors = _limit(failed["error"], found.errors, _OTHER_ERRORS)
    for text, count in _counts_of(errors):
        found.errors[text] += count
        missing = _EXAMPLES - len(found.examples[text])
        if missing > 0:
            paths = failed["path"].filter(pc.equal(errors, text))
            found.examples[text] += paths.slice(0, missing).to_pylist()


def _add_notes(found: TableStatistics, notes: pa.ChunkedArray) -> None:
    for text, count in _counts_of(_limit(notes.drop_null(), found.notes, _OTHER_NOTES)):
        found.notes[text] += count


def _add_formats(found: TableStatistics, done: pa.Table) -> None:
    kinds = done.select(["format", "bit_depth", "path"]).group_by(["format", "bit_depth"])
    for row in kinds.aggregate([("path", "count")]).to_pylist():
        found.formats[f"{row['format']}, {row['bit_depth']} bits"] += row["path_count"]


def _counts_of(texts: pa.ChunkedArray) -> Iterable[tuple[str, int]]:
    """Each text with how often it occurs."""
    return ((one["values"], one["counts"]) for one in pc.value_counts(texts).to_pylist())
