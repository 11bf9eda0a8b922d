"""The last words of a verb: one sentence, the verdict, and where everything is."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from denoise.images.pairs import DIM_NOTE
from denoise.reports.progress import words_of_time
from denoise.reports.summary import HARDLY, STRONGLY, advice_on
from denoise.storage.uris import join, redact

_NAMED = 5  # failed images, and files that are none
_DONE = {"noise": "Added noise to", "infer": "Denoised"}
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
Found = Mapping[str, Any]  # what a verb returns


def last_words(verb: str, found: Found, output: str | None = None) -> list[str]:
    """Lines for people to end a verb with; none for a verb whose result is shown as a table.

    `output` is the URI of its output, where it has one.
    """
    words: list[str] = found.get("words", [])
    if verb in ("noise", "infer", "report"):
        return file_words(found) if "path" in found else closing_words(found, output)
    return words or list(_WORDS[verb](found) if verb in _WORDS else ())


def closing_words(summary: Found, output: str | None = None) -> list[str]:
    """Lines to end a run of `noise` or `infer` with.

    `summary` is as in summary.json; what a verb knows besides may stand in it: `elapsed_seconds`
    (on the clock), `start_up_seconds` (a part of them), `done_before` (images that an earlier run
    did), `nothing_to_do`. `output` is the folder's URI; without it no paths are named.
    """
    return [
        _sentence(summary),
        *_failures(summary),
        *_verdict(summary),
        *_dim(summary),
        *_paths(summary, output),
    ]


def file_words(found: Found) -> list[str]:
    """Lines to end `infer` with that wrote one file: what changed, and where it lies."""
    sentence = f"Denoised {found['path']}{_time(found)}."
    return [sentence, *_verdict_of_one(found), f"file    {found['output']}"]


def left_out_words(left_out: Mapping[str, int], names: Mapping[str, Iterable[str]]) -> list[str]:
    """A line for each reason to leave files out: how many, and the names of some."""
    return [
        f"{count:,} left out, {reason}{_list_of(list(names.get(reason, ())), count)}"
        for reason, count in sorted(left_out.items())
    ]


def _list_of(names: list[str], count: int) -> str:
    """A colon and the first names of many."""
    return f": {_first(names, count)}" if names else ""


def _first(names: Iterable[str], count: int) -> str:
    """The first of so many names, and how many more there are."""
    named = list(islice(names, _NAMED))
    return ", ".join([*named, *[f"and {count - len(named):,} more"] * (count > len(named))])


def _sentence(summary: Found) -> str:
    """How many images were done, in what time."""
    images, done = summary["images"], summary["done"]
    if summary.get("nothing_to_do"):
        return f"Nothing was left to do: {_images(done)} were done before."
    count = _images(done) if done == images else f"{done:,} of {_images(images)}"
    before = summary.get("done_before")
    of_them = f" {before:,} of them were done before." if before else ""
    return f"{_DONE.get(str(summary['verb']), 'Did')} {count}{_time(summary)}.{of_them}"


def _time(summary: Found) -> str:
    elapsed = summary.get("elapsed_seconds") or summary.get("seconds")
    if not elapsed:
        return ""
    start = summary.get("start_up_seconds")
    named = f" ({words_of_time(start)} of it to start up)" if start and start >= 1 else ""
    return f" in {words_of_time(elapsed)}{named}"


def _failures(summary: Found) -> Iterator[str]:
    """The names of up to five images that failed."""
    failed = summary["failed"]
    if not failed:
        return
    names = (
        f"{path} ({error})" for error, paths in summary["error_examples"].items() for path in paths
    )
    yield f"{failed:,} failed: {_first(names, failed)}."


def _verdict(summary: Found) -> Iterator[str]:
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


def _verdict_of_one(found: Found) -> Iterator[str]:
    """How much better an image is, or how much it changed, and what to try."""
    if found["psnr"] is not None:
        yield f"PSNR {found['psnr_noisy']:.2f} -> {found['psnr']:.2f} dB."
        return
    removed, noise = found["removed"], found["noise_before"]
    how = "changed slightly" if removed < STRONGLY else "changed strongly"
    how = "hardly changed" if removed < HARDLY else how
    estimated = [255 * found[name] for name in ("noise_before", "noise_after") if found[name]]
    left = "; its noise, estimated: {:.1f} -> {:.1f}".format(*estimated) if estimated[1:] else ""
    words = f"{255 * removed:.1f} levels of 255 were removed (root mean square){left}"
    yield f"It {how}: {words}."
    if removed < HARDLY:
        advice = advice_on(noise, found["model"], found["strength"])
        yield advice[:1].upper() + advice[1:]


def _dim(summary: Found) -> Iterator[str]:
    """How many images are dark for their depth, and the flag that may be missing."""
    notes = summary.get("notes", {})
    if count := sum(times for words, times in notes.items() if DIM_NOTE in words):
        have = "has" if count == 1 else "have"
        yield (
            f"{_images(count)} of 16 bits {have} no level above 4095: "
            "if these are 12-bit data, give --white-level auto."
        )


def _paths(summary: Found, output: str | None) -> Iterator[str]:
    if output is None:
        return
    if summary.get("save") in ("files", "both", "tar"):
        yield f"images  {redact(join(output, 'images'))}"
    yield f"table   {redact(join(output, 'data'))}"
    yield f"report  {redact(join(output, 'report.html'))}"


def _plan(found: Found) -> Iterator[str]:
    """What a run would do and cost, in units for people."""
    model, to_do = found["model"].partition("@")[0], found["to_do"]
    yield (
        f"{_images(found['images'])}{_megapixels(found)}, {words_of_bytes(found['input_bytes'])}, "
        f"to denoise with {model}."
    )
    yield from left_out_words(found["left_out"], found["left_out_names"])
    if found["already_done"]:
        rest = "nothing is left to do" if not to_do else f"{to_do:,} are left"
        yield f"{found['already_done']:,} were done before; {rest}."
    if found["sample_errors"]:
        errors = ", ".join(f"{error} ({n})" for error, n in found["sample_errors"].items())
        failed = sum(found["sample_errors"].values())
        yield f"{failed:,} of {found['sampled']:,} that were tried fail: {errors}."
    if to_do and found["seconds"] is not None:
        on = "in" if found["where"] == "this process" else "on"
        yield (
            f"About {words_of_time(max(1.0, found['seconds']))} "
            f"({words_of_time(found['start_up_seconds'])} of it to start up) with "
            f"{_count(found['workers'], 'worker')} {on} {found['where']}; "
            f"{words_of_bytes(found['output_bytes'])} of output, "
            f"{words_of_bytes(found['memory_bytes'])} of memory."
        )


def _megapixels(found: Found) -> str:
    return "" if found["megapixels"] is None else f", {found['megapixels']:,.1f} megapixels"


def _train(found: Found) -> Iterator[str]:
    """What a training came to."""
    training, metrics = found["training"], found["metrics"]
    if found.get("nothing_to_do"):
        yield f"Nothing was left to do: all {training['last_step']:,} steps were done before."
    else:
        steps, photos = training["last_step"], training["photos"]
        yield f"Trained {steps:,} steps on {_count(photos, 'photograph')}{_time(found)}."
    yield (
        f"Validation PSNR {metrics['validation_psnr']:.2f} dB on "
        f"{_count(training['validated_on'], 'photograph')} (noisy "
        f"{metrics['validation_psnr_noisy']:.2f}, before the first step "
        f"{metrics['validation_psnr_start']:.2f})."
    )
    yield f"model   {found['output']}"
    yield f"card    {join(found['output'], 'README.md')}"


def _extract(found: Found) -> Iterator[str]:
    """How many images became files."""
    notes = {
        "already_there": "were there already",
        "renamed": "have another name than usual",
        "failed": "have no image to write",
    }
    words = [f"{found[name]:,} {words}" for name, words in notes.items() if found[name]]
    yield f"Wrote {_images(found['written'])}{''.join(f'; {one}' for one in words)}."
    yield f"images  {found['into']}"
    yield f"list    {found['list']}"


def _images(count: int) -> str:
    return _count(count, "image")


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def words_of_bytes(size: float) -> str:
    """A size in the unit that suits it."""
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}" if size < 10 * unit else f"{size / unit:.0f} {name}"
    return f"{size:.0f} bytes"


_WORDS: dict[str, Callable[[Found], Iterator[str]]] = {
    "plan": _plan,
    "train": _train,
    "extract": _extract,
}
