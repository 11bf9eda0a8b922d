"""What an output folder's table says: summary.json, report.html and contact sheets.

One pass over the numbers (32 bytes an image stay in memory), then the pixels of ten images, one
after the other; so it costs the same memory for ten images and for ten million.
"""

import json
import logging
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from denoise.display import page
from denoise.display.views import Pixels, View, panels_of, view_of
from denoise.flow.pairs import PairConfig, load
from denoise.pixels.image import MAX_PIXELS, ImageError, decode
from denoise.places import manifest, output, storage, tables
from denoise.places.storage import SettingsError, join

log = logging.getLogger(__name__)

_NUMBERS = ("mse_noisy", "mse")
_COLUMNS = ("path", "height", "width", "format", "bit_depth", "error", "note", "ssim_noisy", "ssim")
_SHARES = {"p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95}
_SIZES = (0.1, 0.3, 1, 3, 10, 30, 100)  # megapixels between the groups by size
_MOST_GROUPS = 1000  # folders and error texts told apart; what comes later is counted together
_SHOWN_FOLDERS = 100
_BINS = 60  # of the curve of throughput over time
_WORST, _MEDIAN, _BEST = 4, 3, 3  # images shown of each


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Writes report.html and summary.json of an output folder again."""

    output: str  # the output folder of `noise` or `infer`


def report(config: ReportConfig) -> dict[str, Any]:
    """Writes OUTPUT/summary.json and OUTPUT/report.html; the summary is what it returns.

    Raises SettingsError where no job has written a table there.
    """
    uri = storage.absolute(config.output)
    run = output.run_of(uri)
    if run is None:
        raise SettingsError(f"no output of a job under {storage.shown(uri)} (it has no _run.json)")
    if run.get("verb") == "train":
        raise SettingsError(
            f"{storage.shown(uri)} is the output of `train`: a model package, which has no table to"
            " report on; its numbers are in config.json and README.md there"
        )
    tally = _tally(uri)
    summary = _summary(tally, run)
    storage.write(join(uri, "summary.json"), (json.dumps(summary, indent=2) + "\n").encode())
    views = _views(uri, run, tally)
    storage.write(
        join(uri, "report.html"), page.page(summary, run, views).encode(errors="backslashreplace")
    )
    return summary


@dataclass
class _Group:
    """What images have in common, counted."""

    images: int = 0
    failed: int = 0
    measured: int = 0
    psnr_noisy: float = 0.0  # sums
    psnr: float = 0.0


@dataclass
class _Tally:
    """What one pass over the rows keeps."""

    images: int = 0
    failed: int = 0
    megapixels: float = 0.0
    parts: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # of each part
    about: list[dict[str, Any]] = field(default_factory=list)  # each part's footer
    work: list[tuple[int, float]] = field(default_factory=list)  # each part's images, megapixels
    numbers: dict[str, list[NDArray[np.float64]]] = field(default_factory=lambda: defaultdict(list))
    formats: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)  # of images, and of how workers went on
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    folders: dict[str, _Group] = field(default_factory=dict)
    sizes: dict[str, _Group] = field(default_factory=dict)

    def all(self, name: str) -> NDArray[np.float64]:
        """[images] one number of every row, in the order of the table; nan where there is none."""
        return np.concatenate(self.numbers[name]) if self.numbers[name] else np.empty(0)


def _tally(uri: str) -> _Tally:
    """Reads the numbers of every part file, never the images; some parts at a time."""
    tally = _Tally(parts=tables.parts(uri))
    with ThreadPoolExecutor(16) as pool:
        for start in range(0, len(tally.parts), 64):
            for table, about in pool.map(_numbers_of, tally.parts[start : start + 64]):
                _count(tally, table, about)
    return tally


def _numbers_of(part: str) -> tuple[pa.Table, dict[str, Any]]:
    """The columns of a part file that are no images, and its footer."""
    with storage.open_input(part) as file:
        parquet = pq.ParquetFile(file)
        names = set(parquet.schema_arrow.names)
        wanted = [name for name in (*_COLUMNS, *_NUMBERS) if name in names]
        metadata = parquet.metadata.metadata or {}
        return parquet.read(columns=wanted), json.loads(metadata.get(b"denoise", b"{}"))


def _count(tally: _Tally, table: pa.Table, about: dict[str, Any]) -> None:
    """Adds one part file."""
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    none = [None] * len(table)
    for name in (*_NUMBERS, "ssim_noisy", "ssim"):
        values = table.column(name).to_numpy() if name in columns else np.full(len(table), np.nan)
        tally.numbers[name].append(np.asarray(values, np.float64))
    noisy, denoised = (_psnr(tally.numbers[name][-1]) for name in _NUMBERS)
    done = 0
    megapixels = 0.0
    for row in range(len(table)):
        path, error = columns["path"][row], columns["error"][row]
        size = (columns["height"][row] or 0) * (columns["width"][row] or 0) / 1e6
        note = columns.get("note", none)[row]
        if note is not None:
            tally.notes[note] += 1
        if error is None:
            done, megapixels = done + 1, megapixels + size
            form, depth = (columns.get(name, none)[row] for name in ("format", "bit_depth"))
            tally.formats[f"{form}, {depth} bits"] += 1
        else:
            _count_error(tally, path, error)
        folder = path.rpartition("/")[0] or "."
        for groups, name in ((tally.folders, folder), (tally.sizes, _size_name(size))):
            _count_in(groups, name, error, float(noisy[row]), float(denoised[row]))
    tally.images += len(table)
    tally.failed += len(table) - done
    tally.megapixels += megapixels
    tally.rows.append(len(table))
    tally.about.append(about)
    tally.notes.update(about.get("notes", ()))
    tally.work.append((done, megapixels))


def _count_error(tally: _Tally, path: str, error: str) -> None:
    text = error if error in tally.errors or len(tally.errors) < _MOST_GROUPS else "other errors"
    tally.errors[text] += 1
    if len(tally.examples[text]) < 3:
        tally.examples[text].append(path)


def _count_in(
    groups: dict[str, _Group], name: str, error: str | None, noisy: float, denoised: float
) -> None:
    if name not in groups and len(groups) >= _MOST_GROUPS:
        name = "(other folders)"
    group = groups.setdefault(name, _Group())
    group.images += 1
    group.failed += error is not None
    if np.isfinite(denoised):
        group.measured += 1
        group.psnr += denoised
        group.psnr_noisy += noisy if np.isfinite(noisy) else np.nan


def _size_name(megapixels: float) -> str:
    """The group of a size, in words that sort."""
    if megapixels == 0:
        return "unknown"
    above = [limit for limit in _SIZES if megapixels >= limit]
    below = [limit for limit in _SIZES if megapixels < limit]
    if not above:
        return f"under {below[0]:g} MP"
    return f"{above[-1]:g} to {below[0]:g} MP" if below else f"{above[-1]:g} MP and more"


def _summary(tally: _Tally, run: dict[str, Any]) -> dict[str, Any]:
    """Everything that is said in numbers."""
    noisy, denoised = (tally.all(name) for name in _NUMBERS)
    seconds, pace = _pace(tally, run)
    psnr_noisy, psnr = _spread(_psnr(noisy)), _spread(_psnr(denoised))
    done = tally.images - tally.failed
    return {
        "verb": run.get("verb"),
        "model": run.get("settings", {}).get("model"),
        "images": tally.images,
        "done": done,
        "failed": tally.failed,
        "left_out": run.get("left_out", {}),
        "errors": dict(tally.errors.most_common()),
        "error_examples": dict(tally.examples),
        "megapixels": round(tally.megapixels, 6),
        "seconds": seconds,
        "images_per_second": done / seconds if seconds else None,
        "megapixels_per_second": tally.megapixels / seconds if seconds else None,
        "psnr_noisy": psnr_noisy,
        "psnr": psnr,
        "mse_noisy": _spread(noisy),
        "mse": _spread(denoised),
        "ssim_noisy": _spread(tally.all("ssim_noisy")),
        "ssim": _spread(tally.all("ssim")),
        "psnr_noisy_of_mean_mse": _of_mean(noisy),
        "psnr_of_mean_mse": _of_mean(denoised),
        "identical": int((denoised == 0).sum()),  # psnr is inf there, and not in the statistics
        "gain_db": psnr["mean"] - psnr_noisy["mean"] if psnr and psnr_noisy else None,
        "histogram": _histogram(_psnr(noisy), _psnr(denoised)),
        "formats": dict(tally.formats.most_common()),
        "by_size": _groups(tally.sizes, list(tally.sizes), sort=_size_order),
        "by_folder": _groups(tally.folders, _largest(tally.folders), sort=str),
        "notes": dict(tally.notes.most_common()),
        "stages": _stages(tally),
        "throughput": pace,
    }


def _psnr(mse: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return -10 * np.log10(mse)


def _spread(values: NDArray[np.float64]) -> dict[str, float] | None:
    """Mean, extremes and percentiles of the finite values; None where there are none."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    shares = np.percentile(finite, list(_SHARES.values()))
    return {
        "mean": float(finite.mean()),
        **dict(zip(_SHARES, map(float, shares), strict=True)),
        "min": float(finite.min()),
        "max": float(finite.max()),
    }


def _of_mean(mse: NDArray[np.float64]) -> float | None:
    """The PSNR of the mean squared error over all images: some papers' convention."""
    measured = mse[np.isfinite(mse)]
    mean = float(measured.mean()) if len(measured) else 0.0
    return float(_psnr(np.array([mean]))[0]) if mean > 0 else None


def _histogram(noisy: NDArray[np.float64], denoised: NDArray[np.float64]) -> dict[str, Any] | None:
    """How many images have which PSNR, in bins of whole or half decibels."""
    finite = [values[np.isfinite(values)] for values in (noisy, denoised)]
    joined = np.concatenate(finite)
    if not len(joined):
        return None
    low, high = np.floor(joined.min()), np.floor(joined.max()) + 1
    step = next(step for step in (0.5, 1.0, 2.0, 5.0) if (high - low) / step <= _BINS or step == 5)
    edges = np.arange(low, high + step, step)
    counts = [np.histogram(values, edges)[0].tolist() for values in finite]
    return {"edges": edges.tolist(), "noisy": counts[0], "denoised": counts[1]}


def _groups(groups: dict[str, _Group], names: list[str], *, sort: Any) -> list[dict[str, Any]]:
    """Groups as rows of a table."""
    return [
        {
            "name": name,
            "images": group.images,
            "failed": group.failed,
            "psnr_noisy": _mean(group.psnr_noisy, group.measured),
            "psnr": _mean(group.psnr, group.measured),
        }
        for name in sorted(names, key=sort)
        for group in (groups[name],)
    ]


def _mean(total: float, count: int) -> float | None:
    return total / count if count and np.isfinite(total) else None


def _largest(folders: dict[str, _Group]) -> list[str]:
    """The folders that hold the most images."""
    return sorted(folders, key=lambda name: -folders[name].images)[:_SHOWN_FOLDERS]


def _size_order(name: str) -> float:
    """Smallest first."""
    if name.startswith("under"):
        return 0.0
    return float("inf") if name == "unknown" else float(name.split()[0])


def _stages(tally: _Tally) -> dict[str, float]:
    """Seconds of work spent in each stage, over all workers."""
    stages: dict[str, float] = defaultdict(float)
    for about in tally.about:
        for stage, seconds in about.get("seconds", {}).items():
            stages[stage] += seconds
    return {stage: round(seconds, 3) for stage, seconds in stages.items()}


def _pace(tally: _Tally, run: dict[str, Any]) -> tuple[float | None, list[dict[str, float]]]:
    """Seconds in which some worker worked (pauses between resumed runs left out), and the speed in
    each of some equal spans of them."""
    timed = [
        (about["started"], about["ended"], *work)
        for about, work in zip(tally.about, tally.work, strict=True)
        if "started" in about and "ended" in about
    ]
    if not timed:
        return _seconds_of(run), []
    started, ended, images, megapixels = np.array(timed, np.float64).T
    started, ended = _without_pauses(started, ended)
    seconds = float(ended.max())
    edges, step = np.linspace(0, seconds, min(_BINS, len(timed)) + 1, retstep=True)
    # [parts, spans] the share of each part's work that fell into each span, a second of it
    inside = np.minimum(ended[:, None], edges[1:]) - np.maximum(started[:, None], edges[:-1])
    share = np.maximum(inside, 0) / (ended - started)[:, None] / step
    rates = zip(edges[:-1], images @ share, megapixels @ share, strict=True)
    names = ("second", "images_per_second", "megapixels_per_second")
    return seconds, [dict(zip(names, map(float, rate), strict=True)) for rate in rates]


def _without_pauses(
    started: NDArray[np.float64], ended: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times of work counted from the first, without the times in which nobody worked."""
    ended = np.maximum(ended, started + 1e-3)
    order = np.argsort(started)
    reach = np.maximum.accumulate(ended[order])
    pauses = np.maximum(0, started[order][1:] - reach[:-1])
    shift = np.empty(len(order))
    shift[order] = np.concatenate([[0], np.cumsum(pauses)]) + started.min()
    return started - shift, ended - shift


def _seconds_of(run: dict[str, Any]) -> float | None:
    """How long the last run worked, where the part files do not tell."""
    return float(run["seconds"]) if run.get("seconds") else None


def _views(uri: str, run: dict[str, Any], tally: _Tally) -> dict[str, list[View]]:
    """The worst, median and best images, drawn; where nothing was measured, some images."""
    shown = {
        title: [view for index in picked if (view := _view(uri, run, tally, index)) is not None]
        for title, picked in _picked(tally).items()
    }
    return {title: views for title, views in shown.items() if views}


def _picked(tally: _Tally) -> dict[str, list[int]]:
    """Rows worth looking at, each once, by their place in the table."""
    values = tally.all("mse")
    ranked = np.argsort(-values, kind="stable")[: int(np.isfinite(values).sum())].tolist()
    if not ranked:
        count = min(tally.images, _WORST)
        return {"Some": [int(row) for row in np.linspace(0, tally.images - 1, count)]}
    worst = ranked[: min(_WORST, max(1, len(ranked) - 2))]
    best = ranked[max(len(worst), len(ranked) - _BEST) :]
    rest = ranked[len(worst) : len(ranked) - len(best)]
    middle = max(0, len(rest) // 2 - _MEDIAN // 2)
    return {"Worst": worst, "Median": rest[middle : middle + _MEDIAN], "Best": best[::-1]}


def _view(uri: str, run: dict[str, Any], tally: _Tally, index: int) -> View | None:
    """One image, drawn; None where its pixels cannot be had any more."""
    ends = np.cumsum(tally.rows)
    part = int(np.searchsorted(ends, index, side="right"))
    place = index - int(ends[part] - tally.rows[part])
    try:
        row = _row(tally.parts[part], place)
        if row["error"] is not None:
            return None
        return _drawn(uri, run, tally.parts[part], row)
    except (ImageError, OSError) as error:
        log.info("left out of the report: row %d of %s (%s)", place, tally.parts[part], error)
        return None


def _row(part: str, place: int) -> dict[str, Any]:
    """One row of a part file, its images included and no other's."""
    with storage.open_input(part) as file:
        parquet = pq.ParquetFile(file)
        group = 0
        while place >= parquet.metadata.row_group(group).num_rows:
            place -= parquet.metadata.row_group(group).num_rows
            group += 1
        batches = parquet.iter_batches(batch_size=1, row_groups=[group])
        found: dict[str, Any] = next(islice(batches, place, None)).to_pylist()[0]
        return found


def _drawn(uri: str, run: dict[str, Any], part: str, row: dict[str, Any]) -> View:
    """Draws one image: from the table what it holds, and drawn again from the input what not."""
    if run.get("verb") == "noise":
        clean, noisy = (_stored(uri, row, name) for name in ("clean", "noisy"))
        if noisy is None:
            clean, noisy = _pair(uri, run, part, row["path"])
        return view_of(
            {**row, "psnr_noisy": row["psnr"], "psnr": None}, panels_of(clean, noisy, None)
        )
    clean, noisy = _pair(uri, run, part, row["path"])
    denoised = _stored(uri, row, "image")
    if len({pixels.shape[:2] for pixels in (clean, noisy, denoised) if pixels is not None}) > 1:
        raise ImageError("its input has changed since")
    return view_of(row, panels_of(clean, noisy, denoised))


def _stored(uri: str, row: dict[str, Any], column: str) -> Pixels | None:
    """The pixels of a row: in the table, or in a file beside it; None if they were not kept."""
    if row.get(column) and row[column]["bytes"]:
        return decode(row[column]["bytes"]).pixels
    if row.get("file") and column != "clean":
        return decode(storage.read(join(uri, row["file"]))).pixels
    return None


def _pair(
    uri: str, run: dict[str, Any], part: str, path: str
) -> tuple[Pixels | None, Pixels | None]:
    """The clean (if there is one) and the noisy image of a row, made again from its input."""
    number = tables.shard_of(part.rsplit("/", 1)[-1])
    made = next(made for made in manifest.generations_of(uri) if number in made.shards)
    entries = manifest.Shard(number, made).entries(uri)
    settings = run["settings"]
    wanted = PairConfig(
        sigma=settings.get("add_noise", settings.get("sigma")),  # as `infer` and `noise` call it
        seed=settings.get("seed", 0),
        float_noise=settings.get("float_noise", False),
        reference=settings.get("reference"),
        max_pixels=settings.get("max_pixels", MAX_PIXELS),
    )
    pair = load(next(entry for entry in entries if entry.path == path), wanted)
    if pair.error is not None:
        raise ImageError(pair.error)
    return pair.clean, pair.noisy
