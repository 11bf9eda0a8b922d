"""The head of a JPEG XL codestream: size, depth, and the colours that a library gives of it.

ISO/IEC 18181-1, annexes B and D. Everything raises ImageError where the head is cut off. An ICC
profile behind the head is not read: it is compressed in a way of its own, and no library that could
be shipped along gives it.
"""

from typing import NamedTuple

from denoise.errors import ImageError
from denoise.images.named_colours import NOT_SRGB, PRIMARIES, WHITES, Colours, made_profile

DAMAGED = "truncated or damaged JXL"
_NO_PROFILE = "its ICC profile, which cannot be read, is left out"
_ALPHA, _BLACK = 0, 4  # kinds of channels beside colours
_GRAY, _CUSTOM = 1, 2  # a colour space; white, primaries
_BT_709, LINEAR, SRGB, _DCI = 1, 8, 13, 17  # curves
# None: sRGB's curve
_EXPONENTS: dict[int, float | None] = {_BT_709: None, LINEAR: 1.0, SRGB: None, _DCI: 2.6}
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


class Bits:
    """A codestream's bits from behind its first two bytes on, the lowest of each byte first."""

    def __init__(self, codestream: bytes) -> None:
        self._bytes, self._end = codestream[2:], 8 * (len(codestream) - 2)
        self.taken = 0

    def skip(self, count: int) -> None:
        self.taken += count
        if self.taken > self._end:
            raise ImageError(DAMAGED)

    def take(self, count: int) -> int:
        """Up to 32 bits that come next."""
        first, shift = divmod(self.taken, 8)
        self.skip(count)
        some = int.from_bytes(self._bytes[first : first + 5], "little")
        return (some >> shift) & ((1 << count) - 1)

    def one_of(self, *choices: tuple[int, int]) -> int:
        """A number in one of four forms: what is added, and how many bits follow (U32)."""
        added, count = choices[self.take(2)]
        return added + self.take(count)


def read_size(bits: Bits) -> tuple[int, int]:
    """Width and height (SizeHeader)."""
    is_small = bits.take(1)

    def side() -> int:
        if is_small:
            return 8 * (1 + bits.take(5))
        return 1 + bits.one_of((0, 9), (0, 13), (0, 18), (0, 30))

    height = side()
    ratio = bits.take(3)
    if ratio == 0:
        return side(), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height


class Head(NamedTuple):
    """What a codestream says of its pixels."""

    depth: int = 8  # bits a channel
    is_animated: bool = False
    colours: Colours = Colours()
    curve: int | None = None  # if it is by number, and so the last that was read


def read_metadata(bits: Bits) -> Head:
    """What follows the size, up to the colours (ImageMetadata)."""
    if bits.take(1):
        return Head()
    is_animated = False
    if bits.take(1):
        bits.take(3)  # orientation
        if bits.take(1):
            read_size(bits)  # as it is meant to be displayed
        if bits.take(1):
            _skip_preview(bits)
        is_animated = bool(bits.take(1))
        if is_animated:
            _skip_animation(bits)
    depth = _depth(bits)
    return Head(depth, is_animated, *_colours(bits))


def _depth(bits: Bits) -> int:
    """Bits a channel (BitDepth)."""
    if not bits.take(1):
        return bits.one_of((8, 0), (10, 0), (12, 0), (1, 6))
    depth = bits.one_of((32, 0), (16, 0), (24, 0), (1, 6))  # of floats
    bits.take(4)  # of the exponent
    return depth


def _colours(bits: Bits) -> tuple[Colours, int | None]:
    """What follows the depth, up to the curve and with its number (ColourEncoding)."""
    bits.take(1)  # whether 16 bits suffice to decode it
    for _ in range(bits.one_of((0, 0), (1, 0), (2, 4), (1, 12))):
        if _skip_channel(bits) == _BLACK:
            raise ImageError("unsupported variant of JXL: black ink beside its colours")
    is_xyb = bits.take(1)
    if bits.take(1):
        return Colours(), None
    has_profile, space = bits.take(1), _enum(bits)
    if has_profile:
        return Colours(note=None if is_xyb else _NO_PROFILE), None  # of XYB one makes sRGB
    return _named_colours(bits, space)


def _named_colours(bits: Bits, space: int) -> tuple[Colours, int | None]:
    """Colours that are given by their white, primaries and curve, and the curve's number."""
    white = _enum(bits)
    at_white = _chromaticity(bits) if white == _CUSTOM else WHITES.get(white)
    corners: tuple[tuple[float, float], ...] | None = None
    if space != _GRAY:
        primaries = _enum(bits)
        corners = PRIMARIES.get(primaries)
        if primaries == _CUSTOM:
            corners = (_chromaticity(bits), _chromaticity(bits), _chromaticity(bits))
    curve: int | None
    exponent: float | None
    if bits.take(1):
        curve, exponent = None, 1e7 / max(1, bits.take(24))
    else:
        curve = _enum(bits)
        exponent = _EXPONENTS.get(curve, 0)
    is_srgb = at_white == WHITES[1] and (space == _GRAY or corners == PRIMARIES[1])
    if is_srgb and curve in (_BT_709, SRGB):
        return Colours(), curve
    is_known = at_white and exponent != 0 and (space == _GRAY or (space == 0 and corners))
    try:
        if at_white and is_known:
            return Colours(made_profile(at_white, corners, exponent)), curve
    except ValueError:  # no colours that there can be
        pass
    return Colours(note=NOT_SRGB), curve


def _chromaticity(bits: Bits) -> tuple[float, float]:
    x, y = (bits.one_of((0, 19), (524288, 19), (1048576, 20), (2097152, 21)) for _ in "xy")
    return (x >> 1 ^ -(x & 1)) / 1e6, (y >> 1 ^ -(y & 1)) / 1e6


def _enum(bits: Bits) -> int:
    return bits.one_of((0, 0), (1, 0), (2, 4), (18, 6))


def _skip_channel(bits: Bits) -> int:
    """The kind of what there is beside colours: alpha, depth or another (ExtraChannelInfo)."""
    if bits.take(1):
        return _ALPHA
    kind = _enum(bits)
    _depth(bits)
    bits.one_of((0, 0), (3, 0), (4, 0), (1, 3))
    bits.skip(8 * bits.one_of((0, 0), (0, 4), (16, 5), (48, 10)))  # its name
    if kind == _ALPHA:
        bits.take(1)
    elif kind == 2:  # a spot colour
        bits.skip(64)
    elif kind == 5:  # a colour filter's
        bits.one_of((1, 0), (0, 2), (3, 4), (19, 8))
    return kind


def _skip_preview(bits: Bits) -> None:
    is_of_eights = bits.take(1)
    forms = (
        ((16, 0), (32, 0), (1, 5), (33, 9))
        if is_of_eights
        else ((1, 6), (65, 8), (321, 10), (1345, 12))
    )
    bits.one_of(*forms)
    if bits.take(3) == 0:
        bits.one_of(*forms)


def _skip_animation(bits: Bits) -> None:
    bits.one_of((100, 0), (1000, 0), (1, 10), (1, 30))
    bits.one_of((1, 0), (1001, 0), (1, 8), (1, 10))
    bits.one_of((0, 0), (0, 3), (0, 16), (0, 32))
    bits.take(1)
