"""A table's statistics in words and numbers: the content of summary.json."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denoise.reports.stats import SIZE_NAMES, Group, TableStatistics, decibels

_WITHOUT_REFERENCE = ("removed", "noise_before", "noise_after")
# Root mean square of what was removed, on 0..1. One level of 255 is the least that an 8-bit file
# can hold; noise of 4 levels is seen in a flat area without enlarging it
HARDLY, STRONGLY = 1 / 255, 4 / 255
_LITTLE_NOISE = 0.5 / 255  # as `estimate_noise` reads it: too little of a camera's
CHANGE_BOUNDS = {
    "strongly": "4 levels of 255 or more were removed (root mean square)",
    "slightly": "1 to 4 levels",
    "hardly": "less than 1 level",
}
_SHARES = {"p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95}
_SHOWN_FOLDERS = 100
_BINS = 60  # of the curve of throughput over time


def summary_of(stats: TableStatistics, run: dict[str, Any]) -> dict[str, Any]:
    """Everything that a report says in numbers; `run` is as in _run.json."""
    noisy, denoised = (stats.metric(name) for name in ("mse_noisy", "mse"))
    seconds, pace = _pace(stats, run)
    psnr_noisy, psnr = _spread(decibels(noisy)), _spread(decibels(denoised))
    with np.errstate(invalid="ignore"):  # nothing to gain where neither differs from the clean
        gain = _spread(decibels(denoised) - decibels(noisy))
    done = stats.images - stats.failed
    settings = run.get("settings", {})
    return {
        "verb": run.get("verb"),
        "model": settings.get("model"),
        "save": settings.get("save"),
        "images": stats.images,
        "done": done,
        "failed": stats.failed,
        "left_out": run.get("left_out", {}),
        "errors": dict(stats.errors.most_common()),
        "error_examples": dict(stats.examples),
        "megapixels": round(stats.megapixels, 6),
        "seconds": seconds,
        "images_per_second": done / seconds if seconds else None,
        "megapixels_per_second": stats.megapixels / seconds if seconds else None,
        "psnr_noisy": psnr_noisy,
        "psnr": psnr,
        "mse_noisy": _spread(noisy),
        "mse": _spread(denoised),
        "ssim_noisy": _spread(stats.metric("ssim_noisy")),
        "ssim": _spread(stats.metric("ssim")),
        "psnr_noisy_of_mean_mse": _of_mean(noisy),
        "psnr_of_mean_mse": _of_mean(denoised),
        "identical": int((denoised == 0).sum()),  # psnr is inf there, and not in the statistics
        "gain_db": gain["mean"] if gain else None,
        **verdict_of(stats, settings, is_measured=psnr is not None),
        "histogram": _histogram(decibels(noisy), decibels(denoised)),
        "formats": dict(stats.formats.most_common()),
        "by_size": _groups(stats.sizes, [name for name in SIZE_NAMES if name in stats.sizes]),
        "by_folder": _groups(stats.folders, sorted(_largest(stats.folders))),
        "notes": dict(stats.notes.most_common()),
        "stages": _stages(stats),
        "throughput": pace,
    }


def verdict_of(
    stats: TableStatistics, settings: Mapping[str, Any], *, is_measured: bool
) -> dict[str, Any]:
    """How much the images changed, as far as the table says, and what to try where it is little.

    `removed` is a root mean square, `noise_before` and `noise_after` are sigmas, all on 0..1.
    """
    spreads = {name: _spread(stats.metric(name)) for name in _WITHOUT_REFERENCE}
    removed = stats.metric("removed")
    counts = {
        "strongly": int((removed >= STRONGLY).sum()),
        "slightly": int(((removed >= HARDLY) & (removed < STRONGLY)).sum()),
        "hardly": int((removed < HARDLY).sum()),
    }
    known = sum(counts.values())
    needs_advice = not is_measured and 2 * counts["hardly"] > known
    return {
        **spreads,
        "changed": counts | {"bounds": CHANGE_BOUNDS} if known else None,
        "advice": _advice(spreads["noise_before"], settings) if needs_advice else None,
    }


def _advice(noise: Mapping[str, float] | None, settings: Mapping[str, Any]) -> str:
    """What to try where more than half of the images hardly changed."""
    model, strength = str(settings.get("model") or "the model"), settings.get("strength")
    words = advice_on(noise["median"] if noise else None, model, strength or 1.0)
    return f"More than half of the images hardly changed: {words}"


def advice_on(noise: float | None, model: str, strength: float) -> str:
    """Why images may have hardly changed, and what to try; `noise` is a sigma on 0..1."""
    if noise is not None and noise < _LITTLE_NOISE:
        why = f"there is little noise (about {255 * noise:.1f} levels of 255)"
    else:
        why = f"the noise may be of a kind that {model.partition('@')[0]} does not remove"
    tries = ["another --model (`denoise models` lists them, `denoise compare` shows them)"]
    if strength < 1:
        tries.insert(0, "--strength 1")
    return f"{why}. Try {', or '.join(tries)}."


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


def _groups(groups: Mapping[str, Group], names: Sequence[str]) -> list[dict[str, Any]]:
    """Groups as rows of a table."""
    return [
        {
            "name": name,
            "images": groups[name].images,
            "failed": groups[name].failed,
            "psnr_noisy": groups[name].mean("psnr_noisy"),
            "psnr": groups[name].mean("psnr"),
            "removed": groups[name].mean("removed"),
        }
        for name in names
    ]


def _largest(folders: Mapping[str, Group]) -> list[str]:
    """The folders that hold the most images."""
    return sorted(folders, key=lambda name: -folders[name].images)[:_SHOWN_FOLDERS]


def _stages(stats: TableStatistics) -> dict[str, float]:
    """Seconds of work spent in each stage, over all workers."""
    stages: dict[str, float] = defaultdict(float)
    for footer in stats.footers:
        for stage, seconds in footer.get("seconds", {}).items():
            stages[stage] += seconds
    return {stage: round(seconds, 3) for stage, seconds in stages.items()}


def _pace(
    stats: TableStatistics, run: dict[str, Any]
) -> tuple[float | None, list[dict[str, float]]]:
    """Seconds in which some worker was busy (without pauses between resumed runs), and the speed in
    each of some equal spans of them."""
    timed = [
        (footer["started"], footer["ended"], *work)
        for footer, work in zip(stats.footers, stats.part_work, strict=True)
        if "started" in footer and "ended" in footer
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
    """Times of work counted from the first, without the times in which no worker was busy."""
    ended = np.maximum(ended, started + 1e-3)
    order = np.argsort(started)
    reach = np.maximum.accumulate(ended[order])
    pauses = np.maximum(0, started[order][1:] - reach[:-1])
    shift = np.empty(len(order))
    shift[order] = np.concatenate([[0], np.cumsum(pauses)]) + started.min()
    return started - shift, ended - shift


def _seconds_of(run: dict[str, Any]) -> float | None:
    """How long the last run took, where the part files do not say."""
    return float(run["seconds"]) if run.get("seconds") else None
