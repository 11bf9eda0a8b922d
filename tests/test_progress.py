"""Progress: a bar or lines of what a user wants to know; and the last words of a run."""

import threading
from io import StringIO
from typing import Any

import pytest

from denoise.output.run_log import RunLog
from denoise.reports.closing import closing_words, last_words, left_out_words, words_of_bytes
from denoise.reports.progress import Progress, words_of_time


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """The time, set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def line_of(shown: Progress, *counts: Any) -> str:
    """What a line says after these counts of a run."""
    shown.show(*counts)
    return shown._line()


def test_a_line_counts_rates_time_left_and_the_slowest_stage(clock: Clock):
    shown = Progress("infer", 100, clock=clock)
    assert line_of(shown, 10, 0, 10**6, {}) == "infer 10/100 images"
    clock.now += 5
    line = line_of(shown, 20, 1, 3 * 10**6, {"network": 9.0, "decode": 1.0})
    assert line == (
        "infer 20/100 images, 1 failed, 40 s left, 2.0 images/s, 0.40 megapixels/s, "
        "network takes 90%"
    )


def test_a_terminal_has_one_live_bar_over_the_whole_job(clock: Clock):
    shown = Progress("infer", 15, stream=Terminal(), clock=clock, before=12)
    for done in (0, 1, 2, 3):
        shown.show(done, 0, 0, {})
        clock.now += 1
    shown.end()
    said = shown.stream.getvalue()
    assert said.count("\r") == 4 and said.count("\n") == 1
    assert "80%" in said and "12/15 images" in said and "15/15 images" in said


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (120, "3 failed, 40 s left, 2.0 images/s, 0.40 megapixels/s, network takes 90%"),
        (100, "3 failed, 40 s left, 2.0 images/s, 0.40 megapixels/s"),
        (70, "3 failed, 40 s left"),
        (20, "3 failed"),
    ],
)
def test_a_narrow_terminal_has_a_bar_and_what_is_wanted_most(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, columns: int, shown: str
):
    monkeypatch.setenv("COLUMNS", str(columns))
    progress = Progress("infer", 100, stream=Terminal(), clock=clock)
    progress.show(10, 0, 10**6, {})
    clock.now += 5
    progress.show(20, 3, 3 * 10**6, {"network": 9.0, "decode": 1.0})
    line = progress.stream.getvalue().rpartition("\r\x1b[K")[2]
    assert len(line) < columns and (columns < 70 or line.endswith(f" images, {shown}"))


def test_what_an_earlier_run_did_is_said_once_and_is_no_part_of_the_rate(clock: Clock):
    shown = Progress("infer", stream=StringIO(), clock=clock)
    with shown:
        shown.begin("listing")
        shown.expect(299, before=12)
        shown.begin("starting workers")
    assert shown.stream.getvalue() == (
        "infer: listing\ninfer: 12 of 299 were done before\ninfer: starting workers\n"
    )
    line_of(shown, 0, 0, 0, {})
    clock.now += 1
    assert "infer 19/299 images, 40 s left, 7.0 images/s" in line_of(shown, 7, 0, 0, {})
    assert "40 s left" in line_of(shown, 7, 0, 0, {})


def test_a_clock_runs_on_a_terminal_while_nothing_can_be_counted(clock: Clock):
    with Progress("infer", 3, stream=Terminal(), clock=clock) as shown:
        shown.begin("starting Ray")
        for _ in range(3):
            clock.now += 1
            shown.tick()
    assert "starting Ray, 3.0 s" in shown.stream.getvalue()
    assert shown.stream.getvalue().count("\n") == 0


def test_a_log_has_a_line_at_each_phase_and_then_one_every_half_minute(clock: Clock):
    with Progress("infer", 100, stream=StringIO(), clock=clock) as shown:
        shown.begin("starting workers")
        for _ in range(31):
            clock.now += 1
            shown.tick()
        for done in range(1, 62):
            shown.show(done, 0, 0, {})
            clock.now += 1
    lines = shown.stream.getvalue().splitlines()
    assert lines[:3] == [
        "infer: starting workers",
        "infer 0/100 images, starting workers, 30 s",
        "infer: the first images are done",
    ]
    assert [line.partition(",")[0] for line in lines[3:]] == [
        "infer 31/100 images",
        "infer 61/100 images",
    ]
    assert "\x1b" not in shown.stream.getvalue() and "\r" not in shown.stream.getvalue()


def test_listing_says_how_many_images_were_found_so_far(clock: Clock):
    with Progress("infer", stream=StringIO(), clock=clock) as shown:
        shown.begin("listing")
        for _ in shown.count_found(range(1200)):
            clock.now += 0.05
        shown.tick()
    assert shown.stream.getvalue().splitlines() == [
        "infer: listing",
        "infer: listing, 1,200 images, 1 min 00 s",
    ]


def test_the_log_of_a_run_on_a_terminal_has_the_lines_that_a_job_would_have_had(clock: Clock):
    logs = []
    for stream in (StringIO(), Terminal()):
        log = RunLog()
        with Progress("infer", stream=stream, clock=clock, log=log) as shown:
            shown.begin("listing")
            shown.expect(100, before=0)
            shown.begin("starting workers")
            for done in range(1, 100):
                clock.now += 1
                shown.show(done, 0, 0, {})
            shown.failed("a.png", "empty file")
        logs.append([line[20:] for line in log.lines()])
    assert logs[0] == logs[1]
    assert [line.partition(",")[0] for line in logs[0]] == [
        "infer: listing\n",
        "infer: starting workers\n",
        "infer: the first images are done\n",
        "infer 31/100 images",
        "infer 61/100 images",
        "infer 91/100 images",
        "infer: failed: a.png: empty file\n",
    ]


def test_a_failure_is_named_as_it_happens_and_the_bar_stays_below(clock: Clock):
    shown = Progress("infer", 3, stream=Terminal(), clock=clock)
    shown.show(1, 1, 0, {})
    shown.failed("a/b.png", "the file is cut off")
    *_, named, bar = shown.stream.getvalue().replace("\r", "").split("\x1b[K")
    assert named == "infer: failed: a/b.png: the file is cut off\n" and "1/3 images" in bar


def test_the_clock_ends_with_who_holds_the_progress():
    before = set(threading.enumerate())
    shown = Progress("infer", 3, stream=StringIO())
    shown.begin("starting Ray")
    (clock,) = set(threading.enumerate()) - before
    assert clock.is_alive()
    shown.end()
    clock.join(10)
    assert not clock.is_alive()


def test_no_color_means_no_escapes_on_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    shown = Progress("infer", 100, stream=Terminal(), clock=clock)
    shown.show(1, 0, 0, {})
    clock.now += 31
    shown.show(5, 0, 0, {})
    said = shown.stream.getvalue()
    assert said.startswith("infer 5/100 images, ") and said.count("\n") == 1
    assert "\x1b" not in said and "\r" not in said


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (9.6, "9.6 s"), (59.7, "1 min 00 s"), (61, "1 min 01 s"), (7300, "2 h 01 min")],
)
def test_times_are_in_the_two_units_that_matter(seconds: float, words: str):
    assert words_of_time(seconds) == words


SUMMARY = {
    "verb": "infer", "images": 299, "done": 299, "failed": 0, "error_examples": {},
    "psnr_noisy": None, "psnr": None, "changed": None, "advice": None, "identical": 0,
    "seconds": 140.0, "save": "parquet",
}  # fmt: skip


def test_a_run_ends_with_one_sentence_and_the_paths():
    summary = SUMMARY | {"elapsed_seconds": 150.0, "start_up_seconds": 9.0, "save": "both"}
    assert closing_words(summary, "out") == [
        "Denoised 299 images in 2 min 30 s (9.0 s of it to start up).",
        "images  out/images",
        "table   out/data",
        "report  out/report.html",
    ]
    resumed = closing_words(summary | {"done_before": 12})
    assert resumed[0].endswith("to start up). 12 of them were done before.")
    assert closing_words(summary | {"nothing_to_do": True})[0] == (
        "Nothing was left to do: 299 images were done before."
    )


def test_up_to_five_failures_are_named_and_the_rest_counted():
    examples = {"empty file": list("abcd"), "no image": list("ef")}
    summary = SUMMARY | {"done": 291, "failed": 8, "error_examples": examples}
    sentence, failures = closing_words(summary)
    assert sentence == "Denoised 291 of 299 images in 2 min 20 s."
    assert failures == (
        "8 failed: a (empty file), b (empty file), c (empty file), d (empty file), "
        "e (no image), and 3 more."
    )


def test_the_verdict_is_the_psnr_or_else_how_much_changed():
    changed = {"strongly": 3, "slightly": 40, "hardly": 256}
    without = SUMMARY | {"changed": changed, "advice": "Try another."}
    assert closing_words(without)[1:] == [
        "3 changed strongly, 40 slightly, 256 hardly (less than 1 level of 255).",
        "Try another.",
    ]
    measured = without | {"psnr_noisy": {"mean": 20.2}, "psnr": {"mean": 30.1}, "advice": None}
    assert closing_words(measured)[1:] == ["PSNR 20.20 -> 30.10 dB, mean of the images."]


ONE = {
    "path": "Dog.jpg", "output": "/x/clean.jpg", "model": "photo@1a2b", "strength": 1.0,
    "elapsed_seconds": 4.0, "start_up_seconds": 3.0, "psnr": None, "psnr_noisy": None,
    "removed": 12 / 255, "noise_before": 15 / 255, "noise_after": 3 / 255,
}  # fmt: skip


def test_one_photograph_ends_with_its_time_its_verdict_and_its_file():
    assert last_words("infer", ONE) == [
        "Denoised Dog.jpg in 4.0 s (3.0 s of it to start up).",
        "It changed strongly: 12.0 levels of 255 were removed (root mean square); its noise, "
        "estimated: 15.0 -> 3.0.",
        "file    /x/clean.jpg",
    ]
    measured = last_words("infer", ONE | {"psnr_noisy": 20.0, "psnr": 31.5})
    assert measured[1] == "PSNR 20.00 -> 31.50 dB."


def test_one_that_hardly_changed_says_what_to_try():
    hardly = ONE | {"removed": 0.5 / 255, "noise_before": None, "noise_after": None}
    _, verdict, advice, _ = last_words("infer", hardly | {"strength": 0.1})
    assert verdict == "It hardly changed: 0.5 levels of 255 were removed (root mean square)."
    assert advice.startswith("The noise may be of a kind that photo does not remove. Try --stren")
    quiet = last_words("infer", hardly | {"noise_before": 0.3 / 255, "noise_after": 0.2 / 255})
    assert quiet[2].startswith("There is little noise (about 0.3 levels of 255). Try another")


PLAN = {
    "images": 299, "left_out": {"no image": 2}, "left_out_names": {"no image": ["a.NEF", "b.txt"]},
    "already_done": 0, "to_do": 299, "input_bytes": 700e6, "model": "photo@1a2b", "workers": 2,
    "where": "this machine", "sampled": 64, "sample_errors": {}, "megapixels": 1234.5,
    "output_bytes": 362e6, "start_up_seconds": 18.0, "seconds": 150.0, "memory_bytes": 1.3e9,
}  # fmt: skip


def test_a_plan_is_in_units_for_people():
    assert last_words("plan", PLAN) == [
        "299 images, 1,234.5 megapixels, 700 MB, to denoise with photo.",
        "2 left out, no image: a.NEF, b.txt",
        "About 2 min 30 s (18 s of it to start up) with 2 workers on this machine; 362 MB of "
        "output, 1.3 GB of memory.",
    ]
    done = PLAN | {"already_done": 299, "to_do": 0, "sample_errors": {"no whole PNG": 3}}
    assert last_words("plan", done)[2:] == [
        "299 were done before; nothing is left to do.",
        "3 of 64 that were tried fail: no whole PNG (3).",
    ]


def test_what_is_left_out_is_named_up_to_five():
    names = {"hidden": list("abcde")}
    assert left_out_words({"hidden": 7, "named twice": 1}, names) == [
        "7 left out, hidden: a, b, c, d, e, and 2 more",
        "1 left out, named twice",
    ]


@pytest.mark.parametrize(
    ("size", "words"), [(999, "999 bytes"), (1500, "1.5 kB"), (362e6, "362 MB"), (2e12, "2000 GB")]
)
def test_sizes_are_in_the_unit_that_suits_them(size: float, words: str):
    assert words_of_bytes(size) == words


def test_a_training_and_an_extraction_end_with_a_sentence_and_paths_too():
    training = {"last_step": 1200, "photos": 9, "validated_on": 1}
    metrics = {"validation_psnr": 31.7, "validation_psnr_noisy": 31, "validation_psnr_start": 31.5}
    trained = {"training": training, "metrics": metrics, "output": "/x/m", "elapsed_seconds": 29.0}
    assert last_words("train", trained) == [
        "Trained 1,200 steps on 9 photographs in 29 s.",
        "Validation PSNR 31.70 dB on 1 photograph (noisy 31.00, before the first step 31.50).",
        "model   /x/m",
        "card    /x/m/README.md",
    ]
    counts = {"written": 1, "already_there": 0, "renamed": 0, "failed": 2}
    assert last_words("extract", counts | {"into": "/x", "list": "/x/extracted.csv"}) == [
        "Wrote 1 image; 2 have no image to write.",
        "images  /x",
        "list    /x/extracted.csv",
    ]
