"""Entropy-coded numbers of a JPEG XL codestream.

ISO/IEC 18181-1, annex C: clustered distributions, prefix codes or ANS, and LZ77. Everything raises
ImageError for bytes that are none.
"""

from collections.abc import Callable
from typing import NamedTuple

from denoise.images.jxl_bits import LONGEST_CODE, Bits, damaged, prefix_code

_RANGE, _LOG_RANGE = 4096, 12  # what the counts of a distribution add up to
_LAST_STATE = 0x130000  # of ANS, where all was read
_MOST_CLUSTERS = 256
# The code of a distribution's logarithms: how many bits, and which, of each
_LOG_CODE = {
    **{(3, 0): 10, (3, 2): 7, (3, 4): 6, (3, 5): 8, (3, 6): 9},
    **{(4, 3): 3, (4, 7): 5, (4, 9): 4, (4, 11): 1, (4, 15): 2},
    **{(5, 17): 0, (6, 33): 11, (7, 1): 12, (7, 65): 13},
}
_REPEATED = 13


class _Form(NamedTuple):
    """How a symbol and bits behind it make a number (HybridUintConfig)."""

    split: int = 0
    top: int = 0
    low: int = 0

    def number(self, symbol: int, bits: Bits) -> int:
        if symbol < 1 << self.split:
            return symbol
        inside = self.top + self.low
        count = self.split - inside + ((symbol - (1 << self.split)) >> inside)
        if count > 32:
            damaged()
        lowest = symbol & ((1 << self.low) - 1)
        symbol >>= self.low
        high = 1 << self.top | (symbol & ((1 << self.top) - 1))
        return (high << count | bits.take(count)) << self.low | lowest


class Numbers:
    """A stream of numbers, each read in one of some contexts."""

    def __init__(self, bits: Bits, contexts: int, *, may_repeat: bool = True) -> None:
        self._bits, self._history, self._left, self._from = bits, list[int](), 0, 0
        self._first_copy = self._shortest = 0
        self._repeats = bool(bits.take(1))
        if self._repeats:
            if not may_repeat:
                damaged()
            self._first_copy = bits.one_of((224, 0), (512, 0), (4096, 0), (8, 15))
            self._shortest = bits.one_of((3, 0), (4, 0), (5, 2), (9, 8))
            self._copy_form = _form(bits, 8)
            contexts += 1
        self._cluster_of = _clusters(bits, contexts) if contexts > 1 else [0]
        count = max(self._cluster_of) + 1
        is_prefix = bits.take(1)
        log = LONGEST_CODE if is_prefix else 5 + bits.take(2)
        self._forms = [_form(bits, log) for _ in range(count)]
        self._symbol: list[Callable[[], int]]
        if is_prefix:
            sizes = [1 + _varied(bits, 4) for _ in range(count)]
            codes = [prefix_code(bits, size) for size in sizes]
            self._symbol = [lambda code=code: bits.coded(code) for code in codes]  # type: ignore[misc]
            self._state = _LAST_STATE
        else:
            tables = [_Aliases(_distribution(bits, log), log) for _ in range(count)]
            self._symbol = [lambda table=table: self._of_ans(table) for table in tables]  # type: ignore[misc]
            self._state = bits.take(32)

    def next(self, context: int = 0) -> int:
        """The next number, in its context."""
        if not self._left:
            cluster = self._cluster_of[context]
            symbol = self._symbol[cluster]()
            if not self._repeats or symbol < self._first_copy:
                number = self._forms[cluster].number(symbol, self._bits)
                self._history.append(number)
                return number
            self._left = self._shortest + self._copy_form.number(
                symbol - self._first_copy, self._bits
            )
            cluster = self._cluster_of[-1]
            back = 1 + self._forms[cluster].number(self._symbol[cluster](), self._bits)
            if not self._history:
                damaged()
            self._from = max(0, len(self._history) - back)
        number = self._history[self._from]
        self._from, self._left = self._from + 1, self._left - 1
        self._history.append(number)
        return number

    def check_end(self) -> None:
        """Raise ImageError where what was read was not what had been written."""
        if self._state != _LAST_STATE:
            damaged()

    def _of_ans(self, table: "_Aliases") -> int:
        symbol, frequency, offset = table.at(self._state & (_RANGE - 1))
        self._state = frequency * (self._state >> _LOG_RANGE) + offset
        if self._state < 1 << 16:
            self._state = self._state << 16 | self._bits.take(16)
        return symbol


def _form(bits: Bits, log: int) -> _Form:
    split = bits.take(log.bit_length())
    if split == log:
        return _Form(split)
    top = bits.take(split.bit_length())
    low = bits.take((split - top).bit_length()) if top <= split else damaged()
    return _Form(split, top, low) if top + low <= split else damaged()


def _varied(bits: Bits, count: int) -> int:
    """A small number, in fewer bits the smaller it is."""
    if not bits.take(1):
        return 0
    length = bits.take(count)
    return (1 << length) + bits.take(length)


def _clusters(bits: Bits, contexts: int) -> list[int]:
    """The distribution of each context."""
    if bits.take(1):
        length = bits.take(2)
        return [bits.take(length) for _ in range(contexts)]
    is_moved = bits.take(1)
    numbers = Numbers(bits, 1, may_repeat=contexts > 2)
    clusters = [numbers.next() for _ in range(contexts)]
    numbers.check_end()
    if max(clusters) >= _MOST_CLUSTERS:
        damaged()
    if is_moved:  # each is its place in a list, of which it then becomes the first
        order = list(range(_MOST_CLUSTERS))
        for number, place in enumerate(clusters):
            clusters[number] = order.pop(place)
            order.insert(0, clusters[number])
    return clusters


def _distribution(bits: Bits, log: int) -> list[int]:
    """How often each symbol comes, of 4096 (ReadHistogram)."""
    if bits.take(1):  # of one or two symbols
        symbols = [_varied(bits, 3) for _ in range(bits.take(1) + 1)]
        counts = [0] * (max(symbols) + 1)
        if len(symbols) == 2:
            counts[symbols[0]] = bits.take(12)
        counts[symbols[-1]] = _RANGE - sum(counts)
    elif bits.take(1):  # of equally frequent ones
        size = 1 + _varied(bits, 3)
        counts = [_RANGE // size + (k < _RANGE % size) for k in range(size)]
    else:
        counts = _any_distribution(bits)
    if len(counts) > 1 << log or min(counts) < 0 or sum(counts) != _RANGE:
        damaged()
    return counts


def _any_distribution(bits: Bits) -> list[int]:
    length = 0
    while length < 3 and bits.take(1):
        length += 1
    shift = (1 << length | bits.take(length)) - 1
    size = 3 + _varied(bits, 3)
    logs: list[int] = []
    repeats: dict[int, int] = {}  # where the count before is repeated, and how often
    while len(logs) < size:
        log = bits.coded(_LOG_CODE)
        if log == _REPEATED:
            count = 4 + _varied(bits, 3)
            repeats[len(logs)] = count
            logs += [0] * count
        else:
            logs.append(log)
    logs = logs[:size]
    if not any(logs):
        damaged()
    rest = logs.index(max(logs))  # has what the others leave
    counts = [0] * size
    at = 0
    while at < size:
        if at in repeats:
            counts[at : at + repeats[at]] = [counts[at - 1] if at else 0] * repeats[at]
            at += repeats[at]
            continue
        if logs[at] and at != rest:
            log = logs[at] - 1
            more = max(0, min(log, shift - ((_LOG_RANGE - log) >> 1))) if log and shift else 0
            counts[at] = (1 << log) + (bits.take(more) << (log - more))
        at += 1
    counts = counts[:size]
    counts[rest] = _RANGE - sum(counts)
    return counts


class _Aliases:
    """Which symbol a state stands for: a table of as many slots as symbols, each of one or two."""

    def __init__(self, counts: list[int], log: int) -> None:
        size = 1 << log
        self._each = _RANGE >> log
        self._counts = counts + [0] * (size - len(counts))
        self._cuts, self._others = list(self._counts), list(range(size))
        self._offsets = [0] * size
        over = [k for k in range(size) if self._cuts[k] > self._each]
        under = [k for k in range(size) if self._cuts[k] < self._each]
        if _RANGE in counts:
            over, symbol = [], counts.index(_RANGE)
            self._cuts, self._others = [0] * size, [symbol] * size
            self._offsets = [self._each * k for k in range(size)]
        while over:
            more, less = over[-1], under.pop()
            self._cuts[more] -= self._each - self._cuts[less]
            self._others[less], self._offsets[less] = more, self._cuts[more] - self._cuts[less]
            if self._cuts[more] <= self._each:
                over.pop()
                under += [more] if self._cuts[more] < self._each else []

    def at(self, remainder: int) -> tuple[int, int, int]:
        """Symbol, its frequency and an offset."""
        slot, place = divmod(remainder, self._each)
        if place < self._cuts[slot]:
            return slot, self._counts[slot], place
        other = self._others[slot]
        return other, self._counts[other], self._offsets[slot] + place
