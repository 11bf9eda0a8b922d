"""Pictures of a table: its worst, median and best images, or those that changed most and least."""

import logging
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from denoise.errors import ElsewhereError, ImageError
from denoise.images.codec import MAX_PIXELS, decode, to_floats
from denoise.images.pairs import PairConfig
from denoise.output import tables
from denoise.output.generations import generations_of
from denoise.reports.stats import TableStatistics
from denoise.reports.views import Panels, Pixels, View, panels_of, view_of
from denoise.storage import archives, files
from denoise.storage.fetch import load_pair
from denoise.storage.uris import name_of, resolve_inside

_log = logging.getLogger(__name__)
_WORST, _MEDIAN, _BEST = 4, 3, 3  # images of each


def views_of(
    uri: str, run: dict[str, Any], stats: TableStatistics, *, allow_elsewhere: bool = False
) -> dict[str, list[View]]:
    """The worst, median and best images, drawn; where nothing was measured, some images.

    An output folder may come from anybody: what is neither in it nor on its own store is drawn
    with `allow_elsewhere` alone.
    """
    view_at = partial(_view, uri, run, stats, allow_elsewhere)
    views = {
        title: [view for index in picked if (view := view_at(index)) is not None]
        for title, picked in _pick(stats).items()
    }
    alone = [view for some in views.values() for view in some if list(view.wholes) == ["denoised"]]
    if alone and not allow_elsewhere:
        _log.warning(
            "the report shows %d images without their inputs, which lie outside of its folder; "
            "--allow-elsewhere reads them",
            len(alone),
        )
    return {title: some for title, some in views.items() if some}


def _pick(stats: TableStatistics) -> dict[str, list[int]]:
    """Rows worth looking at, each once, by their index in the table."""
    titles = ("Worst", "Median", "Best")
    values = stats.metric("mse")
    if not np.isfinite(values).any():
        titles = ("Most changed", "Median", "Least changed")
        values = stats.metric("removed")
    ranked = np.argsort(-values, kind="stable")[: int(np.isfinite(values).sum())].tolist()
    if not ranked:
        count = min(stats.images, _WORST)
        return {"Some": [int(row) for row in np.linspace(0, stats.images - 1, count)]}
    first = ranked[: min(_WORST, max(1, len(ranked) - 2))]
    last = ranked[max(len(first), len(ranked) - _BEST) :]
    rest = ranked[len(first) : len(ranked) - len(last)]
    middle = max(0, len(rest) // 2 - _MEDIAN // 2)
    return dict(zip(titles, (first, rest[middle : middle + _MEDIAN], last[::-1]), strict=True))


def _view(
    uri: str, run: dict[str, Any], stats: TableStatistics, allow_elsewhere: bool, index: int
) -> View | None:
    """One image, drawn; None where its pixels cannot be had any more."""
    ends = np.cumsum(stats.part_rows)
    part = int(np.searchsorted(ends, index, side="right"))
    number = index - int(ends[part] - stats.part_rows[part])
    try:
        row = _row(stats.parts[part], number)
        if row["error"] is not None:
            return None
        return _draw(uri, run, stats.parts[part], row, allow_elsewhere)
    except (ImageError, OSError) as error:
        _log.info("left out of the report: row %d of %s (%s)", number, stats.parts[part], error)
        return None


def _row(part: str, number: int) -> dict[str, Any]:
    """One row of a part file, its images included and no other's."""
    with files.open_input(part) as file:
        parquet = pq.ParquetFile(file)
        group = 0
        while number >= parquet.metadata.row_group(group).num_rows:
            number -= parquet.metadata.row_group(group).num_rows
            group += 1
        batches = parquet.iter_batches(batch_size=1, row_groups=[group])
        found: dict[str, Any] = next(islice(batches, number, None)).to_pylist()[0]
        return found


def _draw(
    uri: str, run: dict[str, Any], part: str, row: dict[str, Any], allow_elsewhere: bool
) -> View:
    """Draw one image: from the table what it holds, the rest from the input."""
    if run.get("verb") == "noise":
        clean, noisy = (_stored_pixels(uri, row, name) for name in ("clean", "noisy"))
        if clean is None or noisy is None:
            clean, noisy = _pair(uri, run, part, row["path"], allow_elsewhere)
        return view_of(
            {**row, "psnr_noisy": row["psnr"], "psnr": None}, _panels(row, clean, noisy, None)
        )
    denoised = _stored_pixels(uri, row, "image")
    try:
        clean, noisy = _pair(uri, run, part, row["path"], allow_elsewhere)
    except ElsewhereError:
        if denoised is None:
            raise
        clean = noisy = None
    if len({pixels.shape[:2] for pixels in (clean, noisy, denoised) if pixels is not None}) > 1:
        raise ImageError("its input has changed since")
    return view_of(row, _panels(row, clean, noisy, denoised))


def _panels(row: dict[str, Any], *given: Pixels | None) -> Panels:
    """The panels of a row's clean, noisy and denoised pixels, as bright as its white level says."""
    level = row.get("white_level")
    scaled = [
        pixels if pixels is None or pixels.itemsize != 2 or not level else to_floats(pixels, level)
        for pixels in given
    ]
    return panels_of(*scaled)


def _stored_pixels(uri: str, row: dict[str, Any], column: str) -> Pixels | None:
    """The pixels of a row: in the table, or in a file beside it; None if they were not saved."""
    if row.get(column) and row[column]["bytes"]:
        return decode(row[column]["bytes"]).pixels
    if row.get("file") and column != "clean":
        return decode(archives.read(resolve_inside(uri, row["file"]))).pixels
    return None


def _pair(
    uri: str, run: dict[str, Any], part: str, path: str, allow_elsewhere: bool
) -> tuple[Pixels | None, Pixels | None]:
    """The clean (if there is one) and the noisy image of a row, remade from its input."""
    number = tables.shard_of(name_of(part))
    found = (made for made in generations_of(uri) if number in made.shards)
    made = next(found, None)
    entries = made.shard(number).entries(uri) if made else []
    entry = next((entry for entry in entries if entry.path == path), None)
    if entry is None:
        raise ImageError("the manifest does not name its input any more")
    settings = run["settings"]
    for named in (entry.uri, settings.get("reference")):
        if named is not None:
            resolve_inside(uri, named, allow_elsewhere=allow_elsewhere)
    wanted = PairConfig(
        sigma=settings.get("add_noise", settings.get("sigma")),  # as `infer` and `noise` call it
        kind=settings.get("kind", "gaussian"),
        iso=settings.get("iso"),
        seed=settings.get("seed", 0),
        float_noise=settings.get("float_noise", False),
        reference=settings.get("reference"),
        white_level=settings.get("white_level"),
        max_pixels=settings.get("max_pixels", MAX_PIXELS),
        allow_elsewhere=allow_elsewhere,
    )
    pair = load_pair(entry, wanted)
    if pair.error is not None:
        raise ImageError(pair.error)
    return pair.clean, pair.noisy
