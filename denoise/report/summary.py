"""What a tally says in numbers: the content of summary.json."""

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denoise.report.stats import NUMBERS, Group, Tally, decibels

_SHARES = {"p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95}
_SHOWN_FOLDERS = 100
_BINS = 60  # of the curve of throughput over time


def summary_of(tally: Tally, run: dict[str, Any]) -> dict[str, Any]:
    """Everything that is said in numbers."""
    noisy, denoised = (tally.all(name) for name in NUMBERS)
    seconds, pace = _pace(tally, run)
    psnr_noisy, psnr = _spread(decibels(noisy)), _spread(decibels(denoised))
    with np.errstate(invalid="ignore"):  # nothing to gain where neither differs from the clean
        gain = _spread(decibels(denoised) - decibels(noisy))
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
        "gain_db": gain["mean"] if gain else None,
        "histogram": _histogram(decibels(noisy), decibels(denoised)),
        "formats": dict(tally.formats.most_common()),
        "by_size": _groups(tally.sizes, list(tally.sizes), sort=_size_order),
        "by_folder": _groups(tally.folders, _largest(tally.folders), sort=str),
        "notes": dict(tally.notes.most_common()),
        "stages": _stages(tally),
        "throughput": pace,
    }


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
    return float(decibels(np.array([mean]))[0]) if mean > 0 else None


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


def _groups(groups: dict[str, Group], names: list[str], *, sort: Any) -> list[dict[str, Any]]:
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


def _largest(folders: dict[str, Group]) -> list[str]:
    """The folders that hold the most images."""
    return sorted(folders, key=lambda name: -folders[name].images)[:_SHOWN_FOLDERS]


def _size_order(name: str) -> float:
    """Smallest first."""
    if name.startswith("under"):
        return 0.0
    return float("inf") if name == "unknown" else float(name.split()[0])


def _stages(tally: Tally) -> dict[str, float]:
    """Seconds of work spent in each stage, over all workers."""
    stages: dict[str, float] = defaultdict(float)
    for about in tally.about:
        for stage, seconds in about.get("seconds", {}).items():
            stages[stage] += seconds
    return {stage: round(seconds, 3) for stage, seconds in stages.items()}


def _pace(tally: Tally, run: dict[str, Any]) -> tuple[float | None, list[dict[str, float]]]:
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
