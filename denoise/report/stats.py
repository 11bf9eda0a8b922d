"""One pass over the numbers of an output folder's table: 32 bytes an image stay in memory."""

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from denoise.output import tables
from denoise.storage import files

NUMBERS = ("mse_noisy", "mse")
_COLUMNS = ("path", "height", "width", "format", "bit_depth", "error", "note", "ssim_noisy", "ssim")
_SIZES = (0.1, 0.3, 1, 3, 10, 30, 100)  # megapixels between the groups by size
_MOST_GROUPS = 1000  # folders and error texts told apart; what comes later is counted together


@dataclass
class Group:
    """What images have in common, counted."""

    images: int = 0
    failed: int = 0
    measured: int = 0
    psnr_noisy: float = 0.0  # sums
    psnr: float = 0.0


@dataclass
class Tally:
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
    folders: dict[str, Group] = field(default_factory=dict)
    sizes: dict[str, Group] = field(default_factory=dict)

    def all(self, name: str) -> NDArray[np.float64]:
        """[images] one number of every row, in the order of the table; nan where there is none."""
        return np.concatenate(self.numbers[name]) if self.numbers[name] else np.empty(0)


def tally_of(uri: str) -> Tally:
    """Reads the numbers of every part file, never the images; some parts at a time."""
    tally = Tally(parts=tables.parts(uri))
    with ThreadPoolExecutor(16) as pool:
        for start in range(0, len(tally.parts), 64):
            for table, about in pool.map(_numbers_of, tally.parts[start : start + 64]):
                _count(tally, table, about)
    return tally


def decibels(mse: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] mean squared errors -> [n] PSNR in dB, on the 0..1 scale; inf where there is none."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(mse)


def _numbers_of(part: str) -> tuple[pa.Table, dict[str, Any]]:
    """The columns of a part file that are no images, and its footer."""
    with files.open_input(part) as file:
        parquet = pq.ParquetFile(file)
        names = set(parquet.schema_arrow.names)
        wanted = [name for name in (*_COLUMNS, *NUMBERS) if name in names]
        return parquet.read(columns=wanted), tables.about_in(parquet.metadata)


def _count(tally: Tally, table: pa.Table, about: dict[str, Any]) -> None:
    """Adds one part file."""
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    none = [None] * len(table)
    for name in (*NUMBERS, "ssim_noisy", "ssim"):
        values = table.column(name).to_numpy() if name in columns else np.full(len(table), np.nan)
        tally.numbers[name].append(np.asarray(values, np.float64))
    noisy, denoised = (decibels(tally.numbers[name][-1]) for name in NUMBERS)
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


def _count_error(tally: Tally, path: str, error: str) -> None:
    text = error if error in tally.errors or len(tally.errors) < _MOST_GROUPS else "other errors"
    tally.errors[text] += 1
    if len(tally.examples[text]) < 3:
        tally.examples[text].append(path)


def _count_in(
    groups: dict[str, Group], name: str, error: str | None, noisy: float, denoised: float
) -> None:
    if name not in groups and len(groups) >= _MOST_GROUPS:
        name = "(other folders)"
    group = groups.setdefault(name, Group())
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
