"""The ICC profile in the head of a JPEG XL codestream, where it is entropy-coded and predicted.

ISO/IEC 18181-1, annex E. No library gives it that could be shipped along.
"""

import struct
from collections.abc import Sequence

from denoise.images.jxl_bits import Bits, damaged
from denoise.images.jxl_codes import Numbers

_LONGEST = 1 << 19  # bytes of a profile, which take two seconds
_HEADER = 128
_UNKNOWN, _CURVES, _COLUMNS, _FIRST_TAG = 1, 2, 3, 4  # commands of the list of tags
_TAGS = b"cprtwtptbkptrXYZgXYZbXYZkXYZrTRCgTRCbTRCkTRCchaddescchrmdmnddmddlumi"
_OF_20_BYTES = (b"rXYZ", b"gXYZ", b"bXYZ", b"kXYZ", b"wtpt", b"bkpt", b"lumi")
_INSERT, _PREDICT, _XYZ, _FIRST_KIND = 1, 4, 10, 16
_INTERLEAVE = {2: 2, 3: 4}  # commands, and the bytes of a number
_KINDS = b"XYZ desctextmlucparacurvsf32gbd "


def read_profile(bits: Bits) -> bytes | None:
    """The profile that comes next; None where it is longer than is read here.

    Raises ImageError, IndexError or ValueError for bytes that are none.
    """
    length = bits.long()
    if length > _LONGEST:
        return None
    numbers = Numbers(bits, 41)
    packed = bytearray(2)  # two zeros stand before the first byte
    for position in range(length):
        packed.append(numbers.next(_context(position, packed[-1], packed[-2])))
    numbers.check_end()
    return _unpacked(bytes(packed[2:]))


def _context(position: int, last: int, before: int) -> int:
    """Which distribution a byte has, by the two in front of it."""
    if position <= _HEADER:
        return 0
    if chr(last).isascii() and chr(last).isalpha():
        kind = 0
    elif last in b"0123456789.,":
        kind = 1
    elif last < 16:
        kind = min(last, 2) + 2
    else:
        kind = 6 if last == 255 else 5 if last > 240 else 7
    if chr(before).isascii() and chr(before).isalpha():
        return 1 + kind
    number = 1 if before in b"0123456789.," else 2 if before < 16 else 3 if before > 240 else 4
    return 1 + kind + 8 * number


class _Reader:
    """Bytes, read one after the other, and numbers of seven bits a byte."""

    def __init__(self, content: bytes) -> None:
        self._content, self.at = content, 0

    def left(self) -> int:
        return len(self._content) - self.at

    def take(self, count: int) -> bytes:
        if count > self.left():
            damaged()
        self.at += count
        return self._content[self.at - count : self.at]

    def number(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        damaged()


def _unpacked(packed: bytes) -> bytes:
    """The profile: its header, its list of tags, and what they hold, each as predicted."""
    rest = _Reader(packed)
    size = rest.number()
    commands = _Reader(rest.take(rest.number()))
    if size > _LONGEST:
        damaged()
    made = _header(rest, size)
    if len(made) < size:
        _add_tags(made, commands, rest)
    while commands.left():
        _add_content(made, commands, rest)
        if len(made) > size:
            damaged()
    if len(made) != size:
        damaged()
    return bytes(made)


def _header(rest: _Reader, size: int) -> bytearray:
    """The first 128 bytes, each of which was written as its difference from what it mostly is."""
    usual = bytearray(_HEADER)
    usual[:4] = struct.pack(">L", size)
    usual[8], usual[12:24], usual[36:40] = 4, b"mntrRGB XYZ ", b"acsp"
    usual[68:80] = bytes.fromhex("0000f6d6000100000000d32d")
    made = bytearray()
    for at in range(min(size, _HEADER)):
        if at == 8:
            usual[80:84] = made[4:8]
        elif at == 41 and made[40:41] in b"AM":
            usual[41:44] = b"PPL" if made[40:41] == b"A" else b"SFT"
        elif at == 42 and bytes(made[40:42]) in (b"SG", b"SU"):
            usual[42:44] = b"I " if made[40:42] == b"SG" else b"NW"
        made.append((rest.take(1)[0] + usual[at]) & 255)
    return made


def _add_tags(made: bytearray, commands: _Reader, rest: _Reader) -> None:
    """The list of tags: name, position and length of each."""
    count = commands.number() - 1
    if count < 0:
        return
    made += struct.pack(">L", count)
    start, length = _HEADER + 12 * count, 0
    while commands.left():
        (command,) = commands.take(1)
        kind = command & 63
        if kind == 0:
            return
        name = {_UNKNOWN: b"", _CURVES: b"rTRC", _COLUMNS: b"rXYZ"}.get(kind)
        if name is None:
            name = _TAGS[4 * (kind - _FIRST_TAG) :][:4]
        name = name or (rest.take(4) if kind == _UNKNOWN else damaged())
        start = commands.number() if command & 64 else start + length
        length = 20 if name in _OF_20_BYTES else length
        length = commands.number() if command & 128 else length
        _add_tag(made, name, start, length)
        if kind == _CURVES:  # one for all colours
            _add_tag(made, b"gTRC", start, length)
            _add_tag(made, b"bTRC", start, length)
        elif kind == _COLUMNS:  # of a matrix, one behind the other
            _add_tag(made, b"gXYZ", start + length, length)
            _add_tag(made, b"bXYZ", start + 2 * length, length)


def _add_tag(made: bytearray, name: bytes, start: int, length: int) -> None:
    made += name + struct.pack(">LL", start & 0xFFFFFFFF, length & 0xFFFFFFFF)


def _add_content(made: bytearray, commands: _Reader, rest: _Reader) -> None:
    """What one command makes of the bytes that come next."""
    (command,) = commands.take(1)
    if command == _INSERT:
        made += rest.take(commands.number())
    elif command in _INTERLEAVE:
        made += _interleaved(rest.take(commands.number()), _INTERLEAVE[command])
    elif command == _PREDICT:
        (flags,) = commands.take(1)
        width, order = (flags & 3) + 1, (flags >> 2) & 3
        stride = commands.number() if flags & 16 else width
        if width == 3 or order == 3 or stride < width or 4 * stride >= len(made):
            damaged()
        _add_predicted(made, rest.take(commands.number()), width, order, stride)
    elif command == _XYZ:
        made += b"XYZ " + bytes(4) + rest.take(12)
    elif _FIRST_KIND <= command < _FIRST_KIND + len(_KINDS) // 4:
        made += _KINDS[4 * (command - _FIRST_KIND) :][:4] + bytes(4)
    else:
        damaged()


def _interleaved(content: bytes, width: int) -> bytes:
    """Bytes of numbers that were written the first of all, then the second of all, and so on."""
    step = -(-len(content) // width)
    made = bytearray()
    for first in range(step):
        made += content[first::step]
    return bytes(made)


def _add_predicted(made: bytearray, content: bytes, width: int, order: int, stride: int) -> None:
    """Numbers, each as its difference from what the last ones let expect."""
    first = len(made)
    for at, byte in enumerate(_interleaved(content, width)):
        begin = first + at - at % width
        last = [_number(made, begin - stride * back, width) for back in (1, 2, 3)]
        expected = _expected(last, order) >> (8 * (width - 1 - at % width))
        made.append((byte + expected) & 255)


def _number(made: bytearray, start: int, width: int) -> int:
    return int.from_bytes(made[start : start + width]) if start >= 0 else damaged()


def _expected(last: Sequence[int], order: int) -> int:
    if order == 0:
        return last[0]
    if order == 1:
        return 2 * last[0] - last[1]
    return 3 * last[0] - 3 * last[1] + last[2]
