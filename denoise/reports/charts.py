"""Charts as SVG text, of bars over an axis; colours are the page's (`fill-noisy`, ...)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from denoise.reports.progress import words_of_time

_WIDTH, _HEIGHT = 640, 220  # of a chart, in its own units
_LEFT, _BOTTOM = 44, 28  # room for the axes
_FLOOR = _HEIGHT - _BOTTOM


@dataclass(frozen=True)
class Chart:
    """A drawing, what it is of, and the names of its series."""

    svg: Markup
    caption: str
    names: tuple[str, ...] = ()


def psnr_histogram(summary: Mapping[str, Any]) -> Chart:
    """How many images have which PSNR, noisy and denoised."""
    found = summary["histogram"]
    edges: Sequence[float] = found["edges"]
    series = {"noisy": found["noisy"], "denoised": found["denoised"]}
    if summary["verb"] == "noise":
        series = {"noisy": found["denoised"]}
    series = {name: counts for name, counts in series.items() if any(counts)}
    most = max(max(counts) for counts in series.values())
    step = (_WIDTH - _LEFT) / (len(edges) - 1)
    bars = "".join(
        _bar(name, _LEFT + i * step, max(step - 1, 0.5), count / most, words)
        for name, counts in series.items()
        for i, count in enumerate(counts)
        if count
        for words in (f"{name}: {count:,} images from {edges[i]:g} to {edges[i + 1]:g} dB",)
    )
    every = max(1, len(edges) // 12)
    ticks = [(_LEFT + i * step, f"{edges[i]:g}") for i in range(0, len(edges), every)]
    caption = "PSNR of the images, in dB"
    return Chart(_drawing(caption, bars, ticks, f"{most:,}"), caption, tuple(series))


def pace_chart(pace: Sequence[Mapping[str, float]]) -> Chart:
    """Megapixels a second over the time of work, as steps."""
    most = max(span["megapixels_per_second"] for span in pace) or 1.0
    step = (_WIDTH - _LEFT) / len(pace)
    bars = "".join(
        _bar("denoised", _LEFT + i * step, step, span["megapixels_per_second"] / most, words)
        for i, span in enumerate(pace)
        for words in (
            f"{span['megapixels_per_second']:.2f} megapixels/s, "
            f"{span['images_per_second']:.2f} images/s",
        )
    )
    every = max(1, len(pace) // 6)
    ticks = [
        (_LEFT + i * step, words_of_time(pace[i]["second"])) for i in range(0, len(pace), every)
    ]
    caption = "megapixels per second, over the time of work"
    return Chart(_drawing(caption, bars, ticks, f"{most:.3g}"), caption)


def _bar(name: str, left: float, width: float, share: float, words: str) -> str:
    """A bar of a share 0..1 of the height."""
    return (
        f'<rect class="fill-{name}" x="{left:.1f}" y="{_FLOOR * (1 - share):.1f}" '
        f'width="{width:.2f}" height="{_FLOOR * share:.1f}"><title>{words}</title></rect>'
    )


def _drawing(caption: str, content: str, ticks: Sequence[tuple[float, str]], most: str) -> Markup:
    """An SVG with a left axis from 0 to `most` and a bottom axis."""
    marks = "".join(
        f'<text x="{x:.1f}" y="{_FLOOR + 16}" text-anchor="middle"{between}>{text}</text>'
        for number, (x, text) in enumerate(ticks)
        for between in (' class="between"' if number % 2 else "",)  # left out on a narrow screen
    )
    return Markup(  # numbers and words of ours
        f'<svg viewBox="0 -12 {_WIDTH + 14} {_HEIGHT + 12}" role="img" '
        f'aria-label="{escape(caption)}">{content}'
        f'<path class="axis" d="M{_LEFT} 0V{_FLOOR}H{_WIDTH}" fill="none"/>'
        f'<text x="{_LEFT - 6}" y="8" text-anchor="end">{most}</text>'
        f'<text x="{_LEFT - 6}" y="{_FLOOR}" text-anchor="end">0</text>{marks}</svg>'
    )
