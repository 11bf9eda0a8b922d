"""report.html: a run's summary and some of its images as one page that needs nothing else.

Every text is escaped here; names of files may hold anything. The page may run no script but its
own (its hash stands in the page's content security policy) and may load nothing.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from denoise.report.charts import curve, histogram
from denoise.report.progress import words_of_time
from denoise.report.views import DIFFERENCE_GAIN, View

_ZOOMS = (1, 2, 4, 8)


def page(
    summary: Mapping[str, Any], run: Mapping[str, Any], views: Mapping[str, Sequence[View]]
) -> str:
    """The whole page: `summary` as in summary.json, `run` as in _run.json."""
    body = [
        _heading(summary, run),
        _headline(summary),
        _quality(summary),
        *(_images(title, some) for title, some in views.items()),
        _speed(summary),
        _errors(summary),
        _settings(run),
    ]
    home = files("denoise.report")
    script = home.joinpath("report.js").read_text("utf-8")
    most = max((len(view.wholes) for some in views.values() for view in some), default=4)
    return Template(home.joinpath("report.html.tmpl").read_text("utf-8")).substitute(
        title=f"denoise {escape(str(run.get('verb')))}: {summary['images']:,} images",
        body="\n".join(body),
        script=script,
        script_hash=f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}",
        panels=most,
    )


def _heading(summary: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    settings = run.get("settings", {})
    model = f"model {settings['model']}" if settings.get("model") else ""
    times = " to ".join(str(run[name]) for name in ("started", "ended") if run.get(name))
    lines = "".join(
        f"<p class=soft>{escape(x)}</p>" for x in (str(settings.get("images", "")), model, times)
    )
    return f"<h1>{_titles(summary)}</h1>{lines}"


def _titles(summary: Mapping[str, Any]) -> str:
    words = {"noise": "Noise added to", "infer": "Denoised"}.get(str(summary["verb"]), "Report of")
    return f"{words} {_count(summary['done'])} images"


def _headline(summary: Mapping[str, Any]) -> str:
    """The numbers one looks for first."""
    noisy, denoised = summary["psnr_noisy"], summary["psnr"]
    if summary["verb"] == "noise":
        noisy, denoised = denoised, None
    seconds = summary["seconds"]
    facts = [
        ("images", _count(summary["done"]), f"{summary['megapixels']:,.1f} megapixels"),
        ("failed", _count(summary["failed"]), _left_out(summary["left_out"])),
        ("noisy", _decibels(noisy), "dB PSNR, mean") if noisy else None,
        ("denoised", _decibels(denoised), "dB PSNR, mean") if denoised else None,
        ("gain", f"{summary['gain_db']:+.2f}", "dB") if summary["gain_db"] is not None else None,
        ("speed", f"{summary['megapixels_per_second']:,.2f}", "megapixels/s") if seconds else None,
        ("time", words_of_time(seconds), "of work, start-up left out") if seconds else None,
    ]
    marks = {"noisy": "noisy", "denoised": "denoised"}
    if summary["failed"]:
        marks["failed"] = "bad"
    cells = [
        f'<div><dt>{name}</dt><dd class="{marks.get(name, "")}">{value} '
        f"<small>{escape(unit)}</small></dd></div>"
        for name, value, unit in filter(None, facts)
    ]
    return f"<dl class=headline>{''.join(cells)}</dl>"


def _left_out(left_out: Mapping[str, int]) -> str:
    total = sum(left_out.values())
    return f"{total:,} files left out: " + ", ".join(left_out) if total else ""


def _images(title: str, views: Sequence[View]) -> str:
    return f"<section><h2>{title} images</h2>{''.join(map(_image, views))}</section>"


def _image(view: View) -> str:
    """One image: its panels, whole and pixel for pixel."""
    numbers = [f"{view.width} \u00d7 {view.height}"]
    if view.psnr_noisy is not None:
        numbers.append(f"<span class=noisy>noisy {_decibels(view.psnr_noisy)} dB</span>")
    if view.psnr is not None:
        numbers.append(f"<span class=denoised>denoised {_decibels(view.psnr)} dB</span>")
    if view.psnr is not None and view.psnr_noisy is not None:
        numbers.append(f"gain {view.psnr - view.psnr_noisy:+.2f} dB")
    left, top, width, height = view.crop
    why = ", where most is wrong" if "difference" in view.crops else ""
    where = f"{width} \u00d7 {height} pixels at {left}, {top}{why}"
    buttons = "".join(
        f'<button type=button value="{zoom}" aria-pressed="{str(zoom == 1).lower()}">'
        f"{zoom}\u00d7</button>"
        for zoom in _ZOOMS
    )
    size = f"width={view.width} height={view.height}"  # no jumps while the page loads
    wholes = "".join(
        f'<figure data-panel="{name}"><img src="{source}" alt="{name}" {size}>'
        f"<figcaption>{_caption(name)}</figcaption></figure>"
        for name, source in view.wholes.items()
    )
    crops = "".join(
        f'<figure><div class=frame><img src="{source}" alt="{name}, enlarged" draggable=false>'
        f"</div><figcaption>{_caption(name)}</figcaption></figure>"
        for name, source in view.crops.items()
    )
    return (
        f"<article class=image><h3>{escape(view.path)}</h3><p class=soft>{' · '.join(numbers)}</p>"
        f'<div class=whole><div class="panels wholes">{wholes}</div></div>'
        f"<div class=zoom><span class=soft>{where}</span>{buttons}</div>"
        f'<div class="panels crops">{crops}</div></article>'
    )


def _caption(name: str) -> str:
    return f"{name} \u00d7 {DIFFERENCE_GAIN}" if name in ("difference", "removed") else name


def _quality(summary: Mapping[str, Any]) -> str:
    """How good it is: distribution, and by size and folder."""
    names = {"noisy": "psnr_noisy", "denoised": "psnr"}
    if summary["verb"] == "noise":
        names = {"noisy": "psnr"}
    measured = {name: summary[key] for name, key in names.items() if summary[key]}
    tables = [
        _groups("by size", summary["by_size"], list(names)),
        _groups("by folder", summary["by_folder"], list(names)),
    ]
    if not measured:
        return (
            "<section><h2>Images</h2>"
            "<p class=soft>Nothing was measured: there was no reference.</p>"
            f"<div class=columns>{''.join(tables)}</div></section>"
        )
    shares = ("mean", "min", "p5", "p25", "median", "p75", "p95", "max")
    spread = _table(
        "mean and percentiles of the PSNR of the images, in dB",
        ["", *shares],
        [
            [escape(name), *(_decibels(found[share]) for share in shares)]
            for name, found in measured.items()
        ],
    )
    of_mean = {
        name: summary[key + "_of_mean_mse"]
        for name, key in names.items()
        if summary.get(key + "_of_mean_mse") is not None
    }
    told = ", ".join(f"{name} {_decibels(value)} dB" for name, value in of_mean.items())
    notes = [f"PSNR of the mean MSE: {told}."] if told else []
    if summary["identical"]:
        notes.append(f"{_count(summary['identical'])} images are identical to their reference.")
    return (
        f"<section><h2>Quality</h2>{histogram(summary)}{spread}<p class=soft>{' '.join(notes)}</p>"
        f"<div class=columns>{''.join(tables)}</div></section>"
    )


def _groups(caption: str, groups: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    keys = {"noisy": "psnr" if names == ["noisy"] else "psnr_noisy", "denoised": "psnr"}
    shown = [name for name in names if any(group[keys[name]] is not None for group in groups)]
    rows = [
        [
            escape(group["name"]),
            _count(group["images"]),
            _count(group["failed"]),
            *(_decibels(group[keys[name]]) for name in shown),
        ]
        for group in groups
    ]
    return _table(caption, ["", "images", "failed", *(f"{name}, dB" for name in shown)], rows)


def _speed(summary: Mapping[str, Any]) -> str:
    """Throughput over time, and the share of each stage."""
    parts = []
    if len(summary["throughput"]) > 1:
        parts.append(curve(summary["throughput"]))
    total = sum(summary["stages"].values())
    if total:
        rows = [
            [escape(stage), f"{seconds:,.1f}", f"{seconds / total:.0%}"]
            for stage, seconds in sorted(summary["stages"].items(), key=lambda item: -item[1])
        ]
        parts.append(_table("where the workers' time went", ["stage", "seconds", "share"], rows))
    formats = [[escape(name), _count(count)] for name, count in summary["formats"].items()]
    parts.append(_table("formats of the input", ["format", "images"], formats))
    return f"<section><h2>Work</h2><div class=columns>{''.join(map(_boxed, parts))}</div></section>"


def _boxed(content: str) -> str:
    return f"<div>{content}</div>"


def _errors(summary: Mapping[str, Any]) -> str:
    if not summary["failed"]:
        return ""
    rows = [
        [
            escape(error),
            _count(count),
            "<br>".join(escape(path) for path in summary["error_examples"].get(error, [])),
        ]
        for error, count in summary["errors"].items()
    ]
    table = _table("failed images, by kind", ["error", "images", "for example"], rows)
    return f"<section><h2>Errors</h2>{table}</section>"


def _settings(run: Mapping[str, Any]) -> str:
    """Every setting, and what it was made with."""
    settings = [[escape(k), escape(str(v))] for k, v in run.get("settings", {}).items()]
    versions = [[escape(k), escape(str(v))] for k, v in run.get("versions", {}).items()]
    return (
        "<section><h2>Settings</h2><div class=columns>"
        + _boxed(_table("flags", ["flag", "value"], settings))
        + _boxed(_table("versions", ["package", "version"], versions))
        + "</div></section>"
    )


def _table(caption: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are escaped already; those that look like numbers stand right."""
    numeric = [
        i > 0 and all(row[i][:1] in "-+0123456789\u2013" for row in rows) for i in range(len(names))
    ]
    kinds = [" class=number" if is_number else "" for is_number in numeric]
    head = "".join(f"<th{kind}>{name}</th>" for kind, name in zip(kinds, names, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f"<div class=scroll><table><caption>{caption}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _count(number: int) -> str:
    return f"{number:,}"


def _decibels(value: float | Mapping[str, float] | None) -> str:
    """A PSNR, or the mean of a spread of them."""
    if isinstance(value, Mapping):
        value = value["mean"]
    if value is None:
        return "\u2013"
    return "\u221e" if value == float("inf") else f"{value:.2f}"
