"""A report's drawings, as SVG: how many images have which PSNR, and the pace of the work."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from denoise.report.progress import words_of_time

_WIDTH, _HEIGHT = 640, 220  # of the drawings, in their own units
_LEFT, _BOTTOM = 44, 28  # room for the axes


def histogram(summary: Mapping[str, Any]) -> str:
    """How many images have which PSNR."""
    found = summary["histogram"]
    edges = found["edges"]
    series = {"noisy": found["noisy"], "denoised": found["denoised"]}
    if summary["verb"] == "noise":
        series = {"noisy": found["denoised"]}
    most = max(max(counts) for counts in series.values()) or 1
    step = (_WIDTH - _LEFT) / (len(edges) - 1)
    bars = [
        f'<rect class="fill-{name}" x="{_LEFT + i * step:.1f}" '
        f'y="{(_HEIGHT - _BOTTOM) * (1 - count / most):.1f}" width="{max(step - 1, 0.5):.1f}" '
        f'height="{(_HEIGHT - _BOTTOM) * count / most:.1f}"><title>{name}: {count:,} images from '
        f"{edges[i]:g} to {edges[i + 1]:g} dB</title></rect>"
        for name, counts in series.items()
        for i, count in enumerate(counts)
        if count
    ]
    every = max(1, len(edges) // 12)
    ticks = [(_LEFT + i * step, f"{edge:g}") for i, edge in enumerate(edges) if i % every == 0]
    keys = "".join(f"<span class={name}>{name}</span>" for name in series if any(series[name]))
    return f"<p class=key>{keys}</p>" + _drawing(
        "PSNR of the images, in dB", "".join(bars), ticks, f"{most:,}"
    )


def curve(pace: Sequence[Mapping[str, float]]) -> str:
    """Megapixels a second over time, as steps."""
    most = max(span["megapixels_per_second"] for span in pace) or 1.0
    step = (_WIDTH - _LEFT) / len(pace)
    bars = "".join(
        f'<rect class="fill-denoised" x="{_LEFT + i * step:.1f}" width="{step:.2f}" '
        f'y="{(_HEIGHT - _BOTTOM) * (1 - span["megapixels_per_second"] / most):.1f}" '
        f'height="{(_HEIGHT - _BOTTOM) * span["megapixels_per_second"] / most:.1f}">'
        f"<title>{span['megapixels_per_second']:.2f} megapixels/s, "
        f"{span['images_per_second']:.2f} images/s</title></rect>"
        for i, span in enumerate(pace)
    )
    every = max(1, len(pace) // 6)
    ticks = [
        (_LEFT + i * step, words_of_time(span["second"]))
        for i, span in enumerate(pace)
        if i % every == 0
    ]
    return _drawing("megapixels per second, over the time of work", bars, ticks, f"{most:.3g}")


def _drawing(caption: str, content: str, ticks: Iterable[tuple[float, str]], most: str) -> str:
    """An SVG with a left and a bottom axis."""
    floor = _HEIGHT - _BOTTOM
    marks = "".join(
        f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle"{between}>{text}</text>'
        for number, (x, text) in enumerate(ticks)
        for between in (' class="between"' if number % 2 else "",)  # left out on a narrow screen
    )
    return (
        f'<figure><svg viewBox="0 -12 {_WIDTH + 8} {_HEIGHT + 12}" role=img aria-label="{caption}">'
        f'{content}<path class="axis" d="M{_LEFT} 0V{floor}H{_WIDTH}" fill="none"/>'
        f'<text x="{_LEFT - 6}" y="8" text-anchor="end">{most}</text>'
        f'<text x="{_LEFT - 6}" y="{floor}" text-anchor="end">0</text>{marks}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
