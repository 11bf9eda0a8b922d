"""Damaged files of every kind: decoding gives a picture or an ImageError, soon, in little memory.

DENOISE_FUZZ=20000 sets the number of files; python -m tests.bench.fuzz prints the figures.
"""

import os
import random
import resource
import time
import warnings
from base64 import b85decode
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from denoise.errors import ImageError
from denoise.images.codec import FORMATS, Picture, decode, encode, is_lossy
from tests import pictures

COUNT = int(os.environ.get("DENOISE_FUZZ", "2000"))
EXTREMES = [
    b"\x00",
    b"\xff",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80",
]


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_a_picture_or_an_image_error_soon_and_in_little_memory():
    outcomes, slowest, grown = fuzz(COUNT, seed=0)
    assert sum(outcomes.values()) == COUNT
    assert slowest < 5
    assert grown < 1 << 30
    assert len(outcomes) < 60  # equal causes have equal words
    assert not [words for words in outcomes if "0x7" in words or "object at" in words]


def fuzz(count: int, seed: int) -> tuple[Counter[str], float, int]:
    """Outcomes by their words, the most seconds of a CPU, how the memory grew in bytes."""
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    before = _peak()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for damaged in _damaged_files(count, random.Random(seed)):
            start = time.process_time()
            outcomes[_outcome(damaged)] += 1
            slowest = max(slowest, time.process_time() - start)
    return outcomes, slowest, _peak() - before


def _outcome(damaged: bytes) -> str:
    try:
        picture = decode(damaged)
    except ImageError as error:
        return str(error)
    height, width, channels = picture.pixels.shape
    assert height >= 1 and width >= 1 and channels in (1, 3)
    assert picture.pixels.dtype in (np.uint8, np.uint16)
    assert picture.alpha is None or picture.alpha.shape == (height, width)
    if height * width < 1 << 16:
        _check_written(picture)
    return "a picture"


def _check_written(picture: Picture) -> None:
    """What was decoded can be written, with what a damaged file says about it."""
    for format in FORMATS:
        try:
            again = decode(encode(picture, format=format))
        except ImageError as error:
            assert "choose" in str(error), error
        else:
            assert is_lossy(format, None) or np.array_equal(again.pixels, picture.pixels)


def _damaged_files(count: int, chance: random.Random) -> Iterator[bytes]:
    whole = [*pictures.good().values(), b85decode(pictures.PROFILED_JXL)]
    for number in range(count):
        yield _damaged(whole[number % len(whole)], chance, whole)


def _damaged(encoded: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """One to four wounds, more of them near the beginning, where the headers lie."""
    damaged = bytearray(encoded)
    for _ in range(chance.randint(1, 4)):
        at = min(int(len(damaged) * chance.random() ** 2), len(damaged) - 1)
        wound = chance.randrange(6)
        if wound == 0:
            damaged[at] ^= 1 << chance.randrange(8)
        elif wound == 1:
            extreme = chance.choice(EXTREMES)
            damaged[at : at + len(extreme)] = extreme
        elif wound == 2:
            damaged[at : at + chance.randrange(1, 64)] = b""
        elif wound == 3:
            damaged[at:at] = chance.randbytes(chance.randrange(1, 16))
        elif wound == 4:
            other = chance.choice(others)
            damaged[at : at + 64] = other[at : at + 64]
        else:
            del damaged[max(at, len(damaged) // 2) :]
        if not damaged:
            return b""
    return bytes(damaged)


def _peak() -> int:
    """The most memory that this process ever held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
