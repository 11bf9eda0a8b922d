"""Charts as SVG text: bars and lines over one axis, for the report's page and a model's card.

Colours come from classes (`fill-noisy`, `line-denoised`, ...) of the page that a chart stands in;
`standalone` gives a chart the same ones for a file of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from denoise.report.progress import words_of_time

_WIDTH, _HEIGHT = 640, 220  # of a chart, in its own units
_LEFT, _BOTTOM = 44, 28  # room for the axes
_FLOOR = _HEIGHT - _BOTTOM
_STYLE = """<style>
text { font: 11px sans-serif; fill: #6b6862; } .axis { stroke: #c8c4bb; }
.fill-noisy { fill: #c2571a; } .fill-denoised { fill: #0f766e; }
.line-noisy { stroke: #c2571a; } .line-denoised { stroke: #0f766e; }
.line-noisy, .line-denoised { fill: none; stroke-width: 2; }
text.noisy { fill: #c2571a; } text.denoised { fill: #0f766e; }
</style><rect x="-40" y="-24" width="760" height="280" fill="#fbfaf7"/>"""


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


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], caption: str, last: float
) -> Chart:
    """Lines over 0..last, each on a scale of its own: the first's at the left, another's at the
    right. `series` gives the points (x, y) of `denoised` or `noisy`, which are colours here."""
    width, content = _WIDTH - 2 * _LEFT, []
    for number, (name, points) in enumerate(series.items()):
        low, high = min(y for _, y in points), max(y for _, y in points)
        span = (high - low) or 1.0
        path = " ".join(
            f"{_LEFT + width * x / (last or 1.0):.1f},{_FLOOR * (high - y) / span:.1f}"
            for x, y in points
        )
        content.append(f'<polyline class="line-{name}" points="{path}"/>')
        x, anchor = (_LEFT - 6, "end") if number == 0 else (_LEFT + width + 6, "start")
        content += [
            f'<text class="{name}" x="{x}" y="{y}" text-anchor="{anchor}">{value:.4g}</text>'
            for y, value in ((8, high), (_FLOOR, low))
        ]
    ticks = [(_LEFT + width * part, f"{last * part:g}") for part in (0, 0.25, 0.5, 0.75, 1)]
    return Chart(_drawing(caption, "".join(content), ticks), caption, tuple(series))


def standalone(chart: Chart) -> bytes:
    """An SVG file: light, with its colours inside and its caption above."""
    title = f'<text x="{_LEFT}" y="-10">{escape(chart.caption)}</text>'
    opening, _, rest = str(chart.svg).partition(">")
    opening = opening.replace('viewBox="0 -12', 'viewBox="0 -24').replace(
        f'{_HEIGHT + 12}"', f'{_HEIGHT + 24}"'
    )
    return f'{opening} xmlns="http://www.w3.org/2000/svg">{_STYLE}{title}{rest}'.encode()


def _bar(name: str, left: float, width: float, share: float, words: str) -> str:
    """A bar of a share 0..1 of the height."""
    return (
        f'<rect class="fill-{name}" x="{left:.1f}" y="{_FLOOR * (1 - share):.1f}" '
        f'width="{width:.2f}" height="{_FLOOR * share:.1f}"><title>{words}</title></rect>'
    )


def _drawing(
    caption: str, content: str, ticks: Sequence[tuple[float, str]], most: str | None = None
) -> Markup:
    """An SVG with a bottom axis and, where the left one has a most, that and 0."""
    marks = "".join(
        f'<text x="{x:.1f}" y="{_FLOOR + 16}" text-anchor="middle"{between}>{text}</text>'
        for number, (x, text) in enumerate(ticks)
        for between in (' class="between"' if number % 2 else "",)  # left out on a narrow screen
    )
    if most is not None:
        marks += f'<text x="{_LEFT - 6}" y="8" text-anchor="end">{most}</text>'
        marks += f'<text x="{_LEFT - 6}" y="{_FLOOR}" text-anchor="end">0</text>'
    return Markup(  # numbers and words of ours
        f'<svg viewBox="0 -12 {_WIDTH + 14} {_HEIGHT + 12}" role="img" '
        f'aria-label="{escape(caption)}">{content}'
        f'<path class="axis" d="M{_LEFT} 0V{_FLOOR}H{_WIDTH}" fill="none"/>{marks}</svg>'
    )
