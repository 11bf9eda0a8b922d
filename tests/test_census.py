"""What decoding has shown, and when it is too little to train on."""

from typing import Any

import pytest

from denoise.errors import SettingsError
from denoise.training.decode_statistics import Census, check


def row(path: str, **known: Any) -> dict[str, Any]:
    return {"path": path, "shape": [9, 9, 3], "padded": False, "sigma": None, "error": None} | known


def counted(listed: int, *rows: dict[str, Any]) -> Census:
    census = Census(listed)
    census.add(rows)
    return census


BROKEN = row("b.png", error="cut off", shape=None)


def test_photos_that_come_again_are_counted_once():
    small = row("s.png", padded=True)
    census = counted(9, BROKEN, small, BROKEN, small, row("a.png"))
    assert census.counts() == {"photos": 8, "undecodable": 1, "mirrored": 1}


def test_the_share_of_broken_photos_is_of_all_those_listed():
    seen_so_far = counted(100, BROKEN)
    check([seen_so_far], 0.01)
    with pytest.raises(SettingsError, match=r"1 of 100 images do not decode, such as b.png \(cut"):
        check([seen_so_far], 0.009)
    check([counted(90, BROKEN), counted(10)], 0.01)


def test_photos_of_which_none_decodes_are_refused_at_any_rate():
    with pytest.raises(SettingsError, match="some must be left"):
        check([counted(5), counted(1, BROKEN)], 1.0)


def test_pairs_tell_the_range_of_their_noise_and_do_not_mix_with_single_photos():
    pairs = [row(f"{s}.png", shape=[9, 9, 6], sigma=s) for s in (0.2, 0.1, 0.3)]
    census = counted(3, *pairs, row("unknown.png", shape=[9, 9, 6]))
    assert census.is_pairs and census.sigmas == (0.1, 0.3)
    check([census], 0.0)
    census.add([row("alone.png")])
    with pytest.raises(SettingsError, match=r"0.2.png comes with .* alone.png without"):
        check([census], 0.0)
