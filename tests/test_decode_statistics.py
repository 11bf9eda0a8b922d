"""What decoding has shown, and when it is too little to train on."""

from typing import Any

import numpy as np
import pytest

from denoise.errors import SettingsError
from denoise.images.pairs import Source
from denoise.training.photos import DecodeStatistics, Photo, check


def redact(listed: int, *broken: str, **known: Any) -> DecodeStatistics:
    return DecodeStatistics(listed, dict.fromkeys(broken, "cut off"), **known)


def test_photos_that_come_again_are_counted_once():
    window = redact(2, "b.png", mirrored={"s.png"})
    statistics = redact(9)
    statistics.merge([window, window, redact(1)])
    assert statistics.counts() == {"photos": 8, "undecodable": 1, "mirrored": 1}


def test_the_share_of_broken_photos_is_of_all_those_listed():
    seen_so_far = redact(100, "b.png")
    check([seen_so_far], 0.01)
    with pytest.raises(SettingsError, match=r"1 of 100 images do not decode, such as b.png \(cut"):
        check([seen_so_far], 0.009)
    check([redact(90, "b.png"), redact(10)], 0.01)


def test_photos_of_which_none_decodes_are_refused_at_any_rate():
    with pytest.raises(SettingsError, match="some must be left"):
        check([redact(5), redact(1, "b.png")], 1.0)


def test_pairs_give_the_range_of_their_noise_and_do_not_mix_with_single_photos():
    pair, alone = (np.zeros((9, 9, channels), np.uint8) for channels in (6, 3))
    statistics, others = redact(3), redact(2)
    for sigma in (0.2, 0.1, 0.3):
        statistics.add(Photo(f"{sigma}.png", pair), Source(b"", sigma=sigma), is_mirrored=False)
    statistics.add(Photo("unknown.png", pair), Source(b""), is_mirrored=False)
    assert statistics.is_pairs and statistics.sigmas == (0.1, 0.3) and statistics.noise is None
    others.add(Photo("c.png", pair), Source(b"", noise="camera iso=800"), is_mirrored=False)
    statistics.merge([others])
    assert statistics.noise == "camera"
    check([statistics], 0.0)
    others.add(Photo("alone.png", alone), Source(b""), is_mirrored=False)
    statistics.merge([others])
    assert statistics.sigmas == (0.1, 0.3)
    with pytest.raises(SettingsError, match=r"0.2.png comes with .* alone.png without"):
        check([statistics], 0.0)
