"""Progress: one line, of what a user wants to know."""

from io import StringIO

import pytest

from denoise.report.progress import Progress, words_of_time


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


def test_a_line_counts_rates_time_left_and_the_slowest_stage(clock: Clock):
    shown = Progress("infer", 100, clock=clock)
    assert shown.line(10, 0, 10**6, {}) == "infer 10/100 images"
    clock.now += 5
    line = shown.line(20, 1, 3 * 10**6, {"network": 9.0, "decode": 1.0})
    assert line == (
        "infer 20/100 images, 1 failed, 2.0 images/s, 0.40 megapixels/s, 40 s left, "
        "network takes 90%"
    )


def test_a_terminal_has_one_live_line(clock: Clock):
    shown = Progress("infer", 3, stream=Terminal(), clock=clock)
    for done in (0, 1, 2, 3):
        shown.show(done, 0, 0, {})
        clock.now += 1
    shown.end()
    said = shown.stream.getvalue()
    assert said.count("\r") == 3 and said.count("\n") == 1 and "infer 3/3" in said


def test_a_terminal_is_told_what_takes_a_while_at_first_and_a_log_is_not(clock: Clock):
    on_terminal, in_log = (
        Progress("infer", 3, stream=stream, clock=clock) for stream in (Terminal(), StringIO())
    )
    for shown in (on_terminal, in_log):
        shown.begin("starting Ray")
        shown.show(1, 0, 0, {})
    assert on_terminal.stream.getvalue().startswith("\rinfer 0/3 images, starting Ray\x1b[K")
    assert in_log.stream.getvalue() == ""


def test_a_log_has_a_plain_line_every_half_minute(clock: Clock):
    shown = Progress("infer", 100, stream=StringIO(), clock=clock)
    for done in range(61):
        shown.show(done, 0, 0, {})
        clock.now += 1
    assert shown.stream.getvalue().count("\n") == 2
    assert "\x1b" not in shown.stream.getvalue() and "\r" not in shown.stream.getvalue()


def test_no_color_means_no_escapes_on_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    shown = Progress("infer", 100, stream=Terminal(), clock=clock)
    shown.show(1, 0, 0, {})
    clock.now += 31
    shown.show(5, 0, 0, {})
    assert shown.stream.getvalue() == "infer 5/100 images\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (9.6, "9.6 s"), (59.7, "1 min 00 s"), (61, "1 min 01 s"), (7300, "2 h 01 min")],
)
def test_times_are_in_the_two_units_that_matter(seconds: float, words: str):
    assert words_of_time(seconds) == words
