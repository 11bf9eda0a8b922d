"""report.html: a run's summary and some of its images, as one page that needs nothing else.

The template escapes every text, as names of files may hold anything, and isolates names, as they
may hold marks of right-to-left writing. The page may run no script but its own (its hash stands in
the page's content security policy) and may load nothing.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files as files_of
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from denoise.reports.charts import pace_chart, psnr_histogram
from denoise.reports.progress import words_of_time
from denoise.reports.views import DIFFERENCE_GAIN, View

_NONE = "\u2013"
_SHARES = ("mean", "min", "p5", "p25", "median", "p75", "p95", "max")
_Cell = str | Sequence[str]  # several texts stand below each other


@dataclass(frozen=True)
class Table:
    """A table of a page; columns of numbers stand right."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[_Cell]]

    @property
    def is_number(self) -> list[bool]:
        """[columns] whether every cell looks like one; the first column names its row."""
        return [
            column > 0 and all(row[column][:1] in tuple("-+0123456789\u2013") for row in self.rows)
            for column in range(len(self.head))
        ]


def page(
    summary: Mapping[str, Any], run: Mapping[str, Any], views: Mapping[str, Sequence[View]]
) -> str:
    """The whole page: `summary` as in summary.json, `run` as in _run.json, `views` by title."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"caption": _caption, "numbers": _numbers, "where": _where}
    home = files_of("denoise.reports")
    script = home.joinpath("report.js").read_text("utf-8")
    template = environment.from_string(home.joinpath("report.html").read_text("utf-8"))
    names = _measured_names(summary)
    return template.render(
        title=f"denoise {run.get('verb')}: {summary['images']:,} images",
        heading=_heading(summary),
        about=list(_about(run)),
        headline=list(_headline(summary)),
        advice=summary["advice"],
        is_measured=bool(names) or not summary["changed"],
        histogram=psnr_histogram(summary) if names else None,
        spreads=list(_spreads(summary, names)),
        notes=list(_notes(summary, names)),
        groups=[
            _groups("by size", summary["by_size"], names),
            _groups("by folder", summary["by_folder"], names),
        ],
        views=views,
        pace=pace_chart(summary["throughput"]) if len(summary["throughput"]) > 1 else None,
        work=list(_work(summary)),
        errors=_errors(summary) if summary["failed"] else None,
        settings=[
            Table("flags", ["flag", "value"], _texts(run.get("settings", {}))),
            Table("versions", ["package", "version"], _texts(run.get("versions", {}))),
        ],
        script=Markup(script),  # our own file
        script_hash=f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}",
        panels=max((len(view.wholes) for some in views.values() for view in some), default=4),
    )


def _heading(summary: Mapping[str, Any]) -> str:
    words = {"noise": "Noise added to", "infer": "Denoised"}.get(str(summary["verb"]), "Report of")
    return f"{words} {summary['done']:,} images"


def _about(run: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Lines below the heading: a label, and a name that may hold anything."""
    settings = run.get("settings", {})
    yield "", str(settings.get("images", ""))
    if settings.get("model"):
        yield "model ", str(settings["model"])
    if run.get("started"):
        yield "", _times(str(run["started"]), str(run.get("ended") or ""))


def _times(started: str, ended: str) -> str:
    """From when to when a run went: 30 November 2026, 09:03 to 09:19 UTC."""
    try:
        start, *end = (datetime.fromisoformat(t).astimezone(UTC) for t in (started, ended) if t)
    except ValueError:
        return f"{started} to {ended}"
    words = f"{start.day} {start:%B %Y, %H:%M}"
    if end and f"{end[0]:%F %H:%M}" == f"{start:%F %H:%M}":
        return f"{words} UTC"
    if end and end[0].date() == start.date():
        words += f" to {end[0]:%H:%M}"
    elif end:
        words += f" to {end[0].day} {end[0]:%B %Y, %H:%M}"
    return f"{words} UTC"


def _headline(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """The numbers one looks for first: name, kind, value, unit."""
    noisy, denoised = summary["psnr_noisy"], summary["psnr"]
    if summary["verb"] == "noise":
        noisy, denoised = denoised, None
    yield "images", "", f"{summary['done']:,}", f"{summary['megapixels']:,.1f} megapixels"
    yield "failed", "bad" if summary["failed"] else "", f"{summary['failed']:,}", ""
    if left_out := summary["left_out"]:
        yield "left out", "", f"{sum(left_out.values()):,}", ", ".join(left_out)
    if noisy:
        yield "noisy", "noisy", _decibels(noisy), "dB PSNR, mean"
    if denoised:
        yield "denoised", "denoised", _decibels(denoised), "dB PSNR, mean"
    if summary["gain_db"] is not None:
        yield "gain", "", f"{summary['gain_db']:+.2f}", "dB"
    if summary["changed"] and not denoised:
        yield from _changes(summary)
    if summary["seconds"]:
        speed = f"{summary['megapixels_per_second']:,.2f} megapixels/s"
        yield "time", "", words_of_time(summary["seconds"]), f"of work, {speed}"


def _changes(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """What is known of images without a reference."""
    changed = summary["changed"]
    rest = f"slightly {changed['slightly']:,}, hardly {changed['hardly']:,}"
    yield "changed strongly", "denoised", f"{changed['strongly']:,}", rest
    unit = "levels of 255, median"
    yield "removed", "", _levels(summary["removed"], "median"), unit
    if summary["noise_before"] and summary["noise_after"]:
        before, after = (255 * summary[f"noise_{when}"]["median"] for when in ("before", "after"))
        yield "noise, estimated", "", f"{before:.1f} \u2192 {after:.1f}", unit


def _measured_names(summary: Mapping[str, Any]) -> dict[str, str]:
    """What has a PSNR, and the summary's name for it."""
    names = {"noisy": "psnr_noisy", "denoised": "psnr"}
    if summary["verb"] == "noise":
        names = {"noisy": "psnr"}
    return {name: key for name, key in names.items() if summary[key]}


def _spreads(summary: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[Table]:
    """Mean and percentiles of what was measured."""
    if names:
        rows = [
            [share, *(_decibels(summary[key][share]) for key in names.values())]
            for share in _SHARES
        ]
        yield Table("PSNR of the images, in dB: mean and percentiles", ["", *names], rows)
    if changed := summary["changed"]:
        columns = {
            "removed": summary["removed"],
            "noise before": summary["noise_before"],
            "noise after": summary["noise_after"],
        }
        columns = {name: found for name, found in columns.items() if found}
        rows = [
            [share, *(_levels(found, share) for found in columns.values())] for share in _SHARES
        ]
        yield Table(
            "what was removed (root mean square) and the noise as estimated, in levels of 255",
            ["", *columns],
            rows,
        )
        kinds = ("strongly", "slightly", "hardly")
        rows = [[kind, f"{changed[kind]:,}", changed["bounds"][kind]] for kind in kinds]
        yield Table("how much the images changed", ["", "images", "where"], rows)


def _notes(summary: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    if not names:
        yield "There was no reference, so that no PSNR was measured."
    means = {name: summary.get(f"{key}_of_mean_mse") for name, key in names.items()}
    words = ", ".join(f"{name} {_decibels(x)} dB" for name, x in means.items() if x is not None)
    if words:
        yield f"PSNR of the mean MSE: {words}."
    if summary["identical"]:
        yield f"{summary['identical']:,} images are identical to their reference."


def _groups(caption: str, groups: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Table:
    known = {
        name: key for name, key in names.items() if any(group[key] is not None for group in groups)
    }
    has_removed = not known and any(group["removed"] is not None for group in groups)
    unit = ", PSNR in dB" if known else ", removed in levels of 255" if has_removed else ""
    rows = [
        [
            group["name"],
            f"{group['images']:,}",
            f"{group['failed']:,}",
            *(_decibels(group[key]) for key in known.values()),
            *([_levels(group, "removed")] if has_removed else ()),
        ]
        for group in groups
    ]
    head = ["", "images", "failed", *known, *(["removed"] if has_removed else ())]
    return Table(caption + unit, head, rows)


def _work(summary: Mapping[str, Any]) -> Iterator[Table]:
    """The share of each stage, and the kinds of inputs."""
    total = sum(summary["stages"].values())
    if total:
        rows = [
            [stage, f"{seconds:,.1f}", f"{seconds / total:.0%}"]
            for stage, seconds in sorted(summary["stages"].items(), key=lambda item: -item[1])
        ]
        yield Table("where the workers' time went", ["stage", "seconds", "share"], rows)
    formats = [[name, f"{count:,}"] for name, count in summary["formats"].items()]
    yield Table("formats of the input", ["format", "images"], formats)


def _errors(summary: Mapping[str, Any]) -> Table:
    rows = [
        [error, f"{count:,}", summary["error_examples"].get(error, [])]
        for error, count in summary["errors"].items()
    ]
    return Table("failed images, by kind", ["error", "images", "for example"], rows)


def _texts(fields: Mapping[str, Any]) -> list[list[str]]:
    return [[str(name), str(value)] for name, value in fields.items()]


def _numbers(view: View) -> Iterator[tuple[str, str]]:
    """What is known of an image, in words, each with the kind that it is of."""
    yield "", f"{view.width} \u00d7 {view.height}"
    if view.psnr_noisy is not None:
        yield "noisy", f"noisy {_decibels(view.psnr_noisy)} dB"
    if view.psnr is not None:
        yield "denoised", f"denoised {_decibels(view.psnr)} dB"
    if view.psnr is not None and view.psnr_noisy is not None:
        yield "", f"gain {view.psnr - view.psnr_noisy:+.2f} dB"
    if view.psnr is None and view.removed is not None:
        yield "denoised", f"removed {255 * view.removed:.1f} levels of 255"
    if view.psnr is None and view.noise_before is not None and view.noise_after is not None:
        before, after = 255 * view.noise_before, 255 * view.noise_after
        yield "", f"noise, estimated {before:.1f} \u2192 {after:.1f}"


def _where(view: View) -> str:
    """What the enlarged part of an image is."""
    left, top, width, height = view.crop
    why = ", where most is wrong" if "difference" in view.crops else ""
    return f"{width} \u00d7 {height} pixels at {left}, {top}{why}"


def _caption(name: str) -> str:
    return f"{name} \u00d7 {DIFFERENCE_GAIN}" if name in ("difference", "removed") else name


def _decibels(value: float | Mapping[str, float] | None) -> str:
    """A PSNR, or the mean of a spread of them."""
    if isinstance(value, Mapping):
        value = value["mean"]
    if value is None:
        return _NONE
    return "\u221e" if value == float("inf") else f"{value:.2f}"


def _levels(found: Mapping[str, Any], name: str) -> str:
    """A value on 0..1 in levels of 255."""
    return _NONE if found[name] is None else f"{255 * found[name]:.2f}"
