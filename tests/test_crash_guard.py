"""Shards that are begun again because a worker died: which image it was, and when to stop."""

from denoise.runners.crash_guard import CrashGuard


def outcome(deadly: str, paths: str = "abcd") -> tuple[list[str], int]:
    """The images that are given up on, and how many workers it took; workers die on the deadly."""
    guard = CrashGuard(pause=0.0)
    for tries in range(1, 40):
        wait, crashed = guard.begin(0)
        if wait is None:
            if not deadly:
                return crashed, tries
            continue  # all at once: a worker dies
        for path in paths:
            if path in crashed:
                continue
            guard.announce(0, path)
            if path in deadly:
                break
        else:
            return crashed, tries
    raise AssertionError("it never ends")


def test_of_a_shard_only_the_images_that_workers_die_on_are_left_out():
    assert outcome("") == ([], 1)
    assert outcome("b") == (["b"], 7)
    assert outcome("ad") == (["a", "d"], 10)
    assert outcome("abcd") == (["a", "b", "c", "d"], 16)


def test_an_image_gets_more_time_with_each_death_and_the_next_one_none_of_it():
    known = CrashGuard(2.0)
    assert [known.begin(0)[0] for _ in range(3)] == [None, None, None]
    waits = []
    for path in ("", "b", "b", "b", "c"):  # where the attempt before ended
        if path:
            known.announce(0, path)
        waits.append(known.begin(0)[0])
    assert waits == [2.0, 6.0, 18.0, 0.0, 6.0]


def test_a_shard_that_is_done_is_forgotten():
    known = CrashGuard(0.0)
    for _ in range(4):
        wait, _ = known.begin(0)
    assert wait == 0.0
    known.end(0)
    assert known.begin(0) == (None, [])
