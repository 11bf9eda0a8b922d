"""What a network may be made of and may cost, checked before anything of it is built.

The arguments of a package's config.json may come from anybody: 300,000 blocks take minutes to make
and wide layers gigabytes, whatever the weights beside them hold.
"""

from collections.abc import Sequence
from itertools import pairwise

_LEVELS = 8
_WIDTH = 4096  # channels
_BLOCKS = 1000  # in all
PARAMETERS = 100_000_000  # 400 MB; the largest that is shipped has 2 million
_MACS = 10_000_000  # a pixel; the largest that is shipped takes 306 thousand
_RADIUS = 4096  # pixels: a tile sees so much on each side of it


def check_width(width: object, name: str = "width") -> None:
    """Raise ValueError where a number of channels is none."""
    if type(width) is not int or not 1 <= width <= _WIDTH:
        raise ValueError(f"{name} must be whole numbers of 1..{_WIDTH}, got {_short(width)}")


def check_widths(widths: object) -> None:
    """Raise ValueError where these are no channels of the levels of a U-Net."""
    if not isinstance(widths, list | tuple) or not 1 <= len(widths) <= _LEVELS:
        raise ValueError(f"widths must be 1..{_LEVELS} numbers, got {_short(widths)}")
    for width in widths:
        check_width(width, "widths")


def check_blocks(blocks: object) -> None:
    """Raise ValueError where these are no numbers of residual blocks."""
    counts = blocks if isinstance(blocks, list | tuple) else [blocks]
    if len(counts) >= 2 * _LEVELS or any(type(count) is not int for count in counts):
        raise ValueError(f"blocks must be a whole number or a few, got {_short(blocks)}")


def check_unet(
    widths: Sequence[int], blocks: Sequence[int], macs_per_pixel: float, radius: int
) -> None:
    """Raise ValueError where a U-Net would have too many blocks or parameters, take too many
    multiply-adds for each pixel, or look too far for tiles. `blocks` are those of each stage."""
    check_cost(sum(blocks), "residual blocks", _BLOCKS)
    check_cost(unet_parameters(widths, blocks), "parameters", PARAMETERS)
    check_cost(macs_per_pixel, "multiply-adds a pixel", _MACS)
    check_cost(radius, "pixels of receptive radius", _RADIUS)


def check_cost(cost: float, what: str, most: int) -> None:
    """Raise ValueError where a network would cost more than it may."""
    if cost > most:
        raise ValueError(f"the network would have {cost:,.0f} {what}, at most {most:,} may be")


def unet_parameters(widths: Sequence[int], blocks: Sequence[int]) -> int:
    """The parameters of a U-Net of these widths, with so many blocks in each stage."""
    total = 9 * 13 * widths[0] + widths[0] + 9 * 12 * widths[0] + 12  # head and tail
    for width, count in zip([*widths, *widths[-2::-1]], blocks, strict=True):
        total += count * 2 * (9 * width**2 + width)
    for a, b in pairwise(widths):
        total += 4 * a * b + b + 4 * a * b + 4 * a  # 2x2 down, 1x1 up
    return total


def _short(value: object) -> str:
    """A value from a stranger's file, in a few characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
