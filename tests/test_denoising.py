"""Pairs on their way through the network."""

from typing import Any

import numpy as np

from denoise.images.pairs import Pair
from denoise.verbs.denoising import each_denoised


class Small:
    """A denoiser with room for so many pixels at once; it gives back what it is given."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.asked: list[int] = []  # pictures at a time

    def denoise(self, noisy: list[Any]) -> list[Any]:
        self.asked.append(len(noisy))
        if sum(picture.size for picture in noisy) > self.room:
            raise MemoryError
        return noisy


def pairs(*sides: int) -> list[Pair]:
    return [
        Pair(f"{side}.png", noisy=np.zeros((side, side, 1), np.uint8))
        if side
        else Pair("x.png", error="broken")
        for side in sides
    ]


def test_small_images_go_together_and_each_gets_its_own_pixels():
    denoiser = Small(10_000)
    done = list(each_denoised(pairs(4, 6, 0, 8, 30, 5), denoiser, 100))
    assert [pixels is not None and len(pixels) for _, pixels in done] == [4, 6, False, 8, 30, 5]
    assert denoiser.asked == [3, 1, 1]  # 116 pixels, 900, what is left
    assert all(pair.seconds["network"] >= 0 for pair, _ in done if not pair.error)


def test_of_a_batch_that_does_not_fit_only_what_does_not_fit_alone_fails():
    denoiser = Small(500)
    done = list(each_denoised(pairs(20, 30, 10), denoiser, 10_000))
    assert [pair.error for pair, _ in done] == [
        None,
        "not enough memory for an image of this size",
        None,
    ]
    assert [pixels is None for _, pixels in done] == [False, True, False]
    assert denoiser.asked == [3, 1, 1, 1]
