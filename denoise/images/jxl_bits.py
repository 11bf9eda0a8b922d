"""Bits of a JPEG XL codestream, and numbers in prefix codes.

ISO/IEC 18181-1, annex B and C.2. Everything raises ImageError for bytes that are none.
"""

from typing import NoReturn

from denoise.errors import ImageError

LONGEST_CODE = 15  # bits
_CODE_LENGTHS = (1, 2, 3, 4, 0, 5, 17, 6, 16, 7, 8, 9, 10, 11, 12, 13, 14, 15)  # Brotli's order
# The code of those lengths: how many bits, and which, of each
_LENGTH_CODE = {(2, 0): 0, (2, 2): 3, (2, 1): 4, (3, 3): 2, (4, 7): 1, (4, 15): 5}


def damaged() -> NoReturn:
    raise ImageError("truncated or damaged JXL")


class Bits:
    """A codestream's bits from behind its first two bytes on, the lowest of each byte first."""

    def __init__(self, codestream: bytes) -> None:
        self._bytes, self._end = codestream[2:], 8 * (len(codestream) - 2)
        self.taken = 0

    def peek(self, count: int) -> int:
        """Up to 32 bits that come next; zeros behind the end."""
        at = self.taken >> 3
        some = int.from_bytes(self._bytes[at : at + 5], "little")
        return (some >> (self.taken & 7)) & ((1 << count) - 1)

    def skip(self, count: int) -> None:
        self.taken += count
        if self.taken > self._end:
            damaged()

    def take(self, count: int) -> int:
        """Up to 64 bits."""
        if count > 32:
            low = self.take(32)
            return low | self.take(count - 32) << 32
        taken = self.peek(count)
        self.skip(count)
        return taken

    def one_of(self, *choices: tuple[int, int]) -> int:
        """A number in one of four forms: what is added, and how many bits follow (U32)."""
        added, count = choices[self.take(2)]
        return added + self.take(count)

    def long(self) -> int:
        """A number of up to 64 bits (U64)."""
        kind = self.take(2)
        if kind < 3:
            return (0, 1, 17)[kind] + self.take(4 * kind)
        value, shift = self.take(12), 12
        while shift < 64 and self.take(1):
            value |= self.take(4 if shift == 60 else 8) << shift
            shift += 8
        return value

    def coded(self, code: dict[tuple[int, int], int]) -> int:
        """A value by its prefix code: {(length, bits): value}."""
        for length in range(LONGEST_CODE + 1):
            value = code.get((length, self.peek(length)))
            if value is not None:
                self.skip(length)
                return value
        damaged()


def prefix_code(bits: Bits, size: int) -> dict[tuple[int, int], int]:
    """The code of an alphabet, as Brotli stores it (RFC 7932, section 3)."""
    if size == 1:
        return {(0, 0): 0}
    kind = bits.take(2)
    if kind == 1:
        return _simple_code(bits, size)
    lengths = [0] * 18
    left = 32
    for symbol in _CODE_LENGTHS[kind:]:
        lengths[symbol] = bits.coded(_LENGTH_CODE)
        left -= 32 >> lengths[symbol] if lengths[symbol] else 0
        if left <= 0:
            break
    used = [symbol for symbol, length in enumerate(lengths) if length]
    code = _code_of(lengths) if len(used) > 1 else {(0, 0): used[0]} if used else damaged()
    return _code_of(_lengths_of(bits, code, size))


def _lengths_of(bits: Bits, code: dict[tuple[int, int], int], size: int) -> list[int]:
    """The length of each symbol's code; those of 16 and 17 repeat the last one, and 0."""
    lengths: list[int] = []
    last, left, run, repeated = 8, 1 << LONGEST_CODE, 0, -1
    while len(lengths) < size and left > 0:
        length = bits.coded(code)
        if length < 16:
            lengths.append(length)
            last, run = length or last, 0
            left -= (1 << LONGEST_CODE) >> length if length else 0
            continue
        value = last if length == 16 else 0
        extra = length - 14
        run = run if repeated == value and run else 0
        before = run
        run = ((run - 2) << extra if run else 0) + bits.take(extra) + 3
        lengths += [value] * (run - before)
        left -= ((1 << LONGEST_CODE) >> value) * (run - before) if value else 0
        repeated = value
    if left or len(lengths) > size:
        damaged()
    return lengths


def _simple_code(bits: Bits, size: int) -> dict[tuple[int, int], int]:
    count = bits.take(2) + 1
    symbols = [bits.take((size - 1).bit_length()) for _ in range(count)]
    if max(symbols) >= size or len(set(symbols)) < count:
        damaged()
    if count == 1:
        return {(0, 0): symbols[0]}
    shapes = {2: (1, 1), 3: (1, 2, 2), 4: (1, 2, 3, 3)}
    shape = shapes[count] if count < 4 or bits.take(1) else (2, 2, 2, 2)
    lengths = [0] * size
    for symbol, length in zip(symbols, shape, strict=True):
        lengths[symbol] = length
    return _code_of(lengths)


def _code_of(lengths: list[int]) -> dict[tuple[int, int], int]:
    """{(length, bits): symbol}, the bits as they are read, the first the lowest."""
    code, word, before = {}, 0, 0
    for length in range(1, LONGEST_CODE + 1):
        word <<= length - before
        before = length
        for symbol, one in enumerate(lengths):
            if one == length:
                backwards = int(f"{word:0{length}b}"[::-1], 2)
                code[length, backwards] = symbol
                word += 1
        if word > 1 << length:
            damaged()
    return code
