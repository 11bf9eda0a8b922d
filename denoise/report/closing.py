"""The last words of a run: one sentence, the verdict, and where everything is."""

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

from denoise.images.pairs import DIM_NOTE
from denoise.report.progress import words_of_time
from denoise.storage.uris import join, shown

_NAMED = 5  # failed images
_DONE = {"noise": "Added noise to", "infer": "Denoised"}


def closing_words(summary: Mapping[str, Any], output: str | None = None) -> list[str]:
    """Lines to end a run of `noise` or `infer` with.

    `summary` is as in summary.json; what a verb knows besides may stand in it: `elapsed_seconds`
    (on the clock), `start_up_seconds` (a part of them), `nothing_to_do`. `output` is the folder's
    URI; without it no paths are named.
    """
    return [
        _sentence(summary),
        *_failures(summary),
        *_verdict(summary),
        *_dim(summary),
        *_paths(summary, output),
    ]


def _sentence(summary: Mapping[str, Any]) -> str:
    """How many images were done, in what time."""
    images, done = summary["images"], summary["done"]
    if summary.get("nothing_to_do"):
        return f"Nothing was left to do: {_images(done)} were done before."
    count = _images(done) if done == images else f"{done:,} of {_images(images)}"
    return f"{_DONE.get(str(summary['verb']), 'Did')} {count}{_time(summary)}."


def _time(summary: Mapping[str, Any]) -> str:
    elapsed = summary.get("elapsed_seconds") or summary.get("seconds")
    if not elapsed:
        return ""
    start = summary.get("start_up_seconds")
    named = f" ({words_of_time(start)} of it to start up)" if start and start >= 1 else ""
    return f" in {words_of_time(elapsed)}{named}"


def _failures(summary: Mapping[str, Any]) -> Iterator[str]:
    """The names of up to five images that failed."""
    failed = summary["failed"]
    if not failed:
        return
    names = (
        f"{path} ({error})" for error, paths in summary["error_examples"].items() for path in paths
    )
    named = list(islice(names, _NAMED))
    rest = [f"and {failed - len(named):,} more"] if failed > len(named) else []
    yield f"{failed:,} failed: {', '.join(chain(named, rest))}."


def _verdict(summary: Mapping[str, Any]) -> Iterator[str]:
    """How much better the images are, or how much they changed, and what to try."""
    noisy, denoised, changed = (summary.get(name) for name in ("psnr_noisy", "psnr", "changed"))
    if summary["verb"] == "infer" and noisy and denoised:
        yield f"PSNR {noisy['mean']:.2f} -> {denoised['mean']:.2f} dB, mean of the images."
    elif changed:
        yield (
            f"{changed['strongly']:,} changed strongly, {changed['slightly']:,} slightly, "
            f"{changed['hardly']:,} hardly (less than 1 level of 255)."
        )
    if summary.get("advice"):
        yield str(summary["advice"])


def _dim(summary: Mapping[str, Any]) -> Iterator[str]:
    """How many images are dark for their depth, and the flag that may be missing."""
    notes = summary.get("notes", {})
    if count := sum(times for words, times in notes.items() if DIM_NOTE in words):
        have = "has" if count == 1 else "have"
        yield (
            f"{_images(count)} of 16 bits {have} no level above 4095: "
            "if these are 12-bit data, give --white-level auto."
        )


def _paths(summary: Mapping[str, Any], output: str | None) -> Iterator[str]:
    if output is None:
        return
    if summary.get("save") in ("files", "both", "tar"):
        yield f"images  {shown(join(output, 'images'))}"
    yield f"table   {shown(join(output, 'data'))}"
    yield f"report  {shown(join(output, 'report.html'))}"


def _images(count: int) -> str:
    return f"{count:,} image" if count == 1 else f"{count:,} images"
