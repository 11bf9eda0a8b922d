"""Shards that are begun again because a worker died: here, because an exception ended it."""

from collections.abc import Iterator

import pytest

from denoise.runners import crash_guard
from denoise.runners.crash_guard import Attempts, carefully


class Died(Exception):
    pass


def outcome(counter: object, deadly: str, paths: str = "abcd") -> tuple[list[str], int]:
    """What becomes of a shard with images that kill, and how many attempts it took."""

    def make(items: list[str]) -> Iterator[str]:
        for item in items:
            if item in deadly:
                raise Died
            yield item

    for tries in range(1, 40):
        try:
            items = dict(zip(paths, paths, strict=True))
            done = list(carefully(counter, (0, "all"), items, make, lambda path: f"not {path}"))
        except Died:
            continue
        return done, tries
    raise AssertionError("it never ends")


@pytest.fixture
def counter(ray_session: object) -> object:
    return crash_guard.counter(pause=0.0)


@pytest.mark.parametrize(
    ("deadly", "done", "tries"),
    [
        ("", ["a", "b", "c", "d"], 1),
        ("b", ["a", "not b", "c", "d"], 7),
        ("ad", ["not a", "b", "c", "not d"], 10),
        ("abcd", ["not a", "not b", "not c", "not d"], 16),
    ],
)
def test_of_a_shard_only_the_images_that_kill_are_left_out(
    counter: object, deadly: str, done: list[str], tries: int
):
    assert outcome(counter, deadly) == (done, tries)


def test_an_image_gets_more_time_with_each_death_and_the_next_one_none_of_it():
    known, key = Attempts(2.0), (0, "all")
    assert [known.begin(key)[0] for _ in range(3)] == [None, None, None]
    waits = []
    for path in ("", "b", "b", "b", "c"):  # where the attempt before ended
        if path:
            known.announce(key, path)
        waits.append(known.begin(key)[0])
    assert waits == [2.0, 6.0, 18.0, 0.0, 6.0]


def test_a_shard_that_is_done_is_forgotten(counter: object):
    assert outcome(counter, "b")[1] == 7
    assert outcome(counter, "b")[1] == 1, "it is known until its part file is there"
    counter.end.remote(0)
    assert outcome(counter, "b")[1] == 7


def test_without_ray_nobody_counts():
    with pytest.raises(AssertionError, match="never ends"):
        outcome(None, "b")
    assert outcome(None, "") == (["a", "b", "c", "d"], 1)
