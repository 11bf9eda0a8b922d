"""ICC profiles of colours that a file names by numbers, as HEIF, AVIF and JPEG XL do.

The numbers are those of ITU-T H.273. A profile is matrix and curves, as ICC.1:2022 has them.
"""

import struct
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from denoise.images.metadata import Metadata

_D65, _DCI, _EQUAL = (0.3127, 0.329), (0.314, 0.351), (1 / 3, 1 / 3)
WHITES = {1: _D65, 10: _EQUAL, 11: _DCI}  # by JPEG XL's numbers
_SRGB = ((0.64, 0.33), (0.3, 0.6), (0.15, 0.06))
_BT_2020 = ((0.708, 0.292), (0.17, 0.797), (0.131, 0.046))
_P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
PRIMARIES = {1: _SRGB, 9: _BT_2020, 11: _P3, 12: _P3}
_LIKE_SRGB = {1, 2, 5, 6}  # primaries of BT.709 and, nearly, BT.601, and none named
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
_CURVE_LIKE_SRGB = {1, 2, 6, 13, 14, 15}  # those of cameras, which screens show by sRGB's
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
NOT_SRGB = "its colours are not sRGB's, as which they are written"


class Colours(NamedTuple):
    """What a file says of its colours."""

    icc: bytes | None = None
    note: str | None = None


def with_named_colours(
    metadata: Metadata, numbers: tuple[int, int] | None, *, is_gray: bool
) -> tuple[Metadata, str | None]:
    """The metadata with a profile of primaries and a curve where it has none, and a note."""
    if metadata.icc or numbers is None:
        return metadata, None
    icc, note = colours_of(*numbers, is_gray=is_gray)
    return replace(metadata, icc=icc), note


def colours_of(primaries: int, curve: int, *, is_gray: bool) -> Colours:
    """A profile of named primaries and a named curve; nothing where they are sRGB's."""
    if curve in _CURVE_LIKE_SRGB and (is_gray or primaries in _LIKE_SRGB):
        return Colours()
    white = _DCI if primaries == 11 else _D65
    corners = PRIMARIES.get(1 if primaries in _LIKE_SRGB else primaries)
    gamma = None if curve in _CURVE_LIKE_SRGB else _GAMMAS.get(curve, 0.0)
    if corners is None or gamma == 0:  # brightness of HDR is no curve of a profile
        return Colours(note=NOT_SRGB)
    return Colours(made_profile(white, None if is_gray else corners, gamma))


@lru_cache(maxsize=64)  # a photo library names few; a hostile file, any number
def made_profile(
    white: tuple[float, float],
    primaries: tuple[tuple[float, float], ...] | None,
    gamma: float | None,
) -> bytes:
    """An ICC profile: chromaticities of white and of red, green and blue (None: of gray), and an
    exponent (None: sRGB's curve). Raises ValueError or LinAlgError where they span nothing."""
    adapt = _adaptation(white)
    curve = _curve(gamma)
    tags = {
        b"desc": _words("Made of the colours that an image file names"),
        b"cprt": _words("No copyright, use freely"),
        b"wtpt": _xyz(_D50),
        b"chad": b"sf32" + bytes(4) + _to_fixed_point(*adapt.flat),
    }
    if primaries is None:
        tags[b"kTRC"] = curve
    else:
        columns = np.array([_to_xyz(one) for one in primaries]).T
        columns = columns * np.linalg.solve(columns, _to_xyz(white))
        for name, column in zip((b"r", b"g", b"b"), (adapt @ columns).T, strict=True):
            tags[name + b"XYZ"] = _xyz(column)
            tags[name + b"TRC"] = curve
    return _with_header(tags, b"GRAY" if primaries is None else b"RGB ")


def _with_header(tags: dict[bytes, bytes], space: bytes) -> bytes:
    entries, content, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, held in tags.items():
        entries += name + struct.pack(">LL", start + len(content), len(held))
        content += held.ljust(-(-len(held) // 4) * 4, b"\0")
    header = struct.pack(">L4xL", start + len(content), 0x04300000) + b"mntr" + space + b"XYZ "
    header += struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _to_fixed_point(*_D50)
    return header.ljust(128, b"\0") + struct.pack(">L", len(tags)) + entries + content


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"para" + bytes(8) + _to_fixed_point(gamma)
    values = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # IEC 61966-2-1
    return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _to_fixed_point(*values)


def _words(text: str) -> bytes:
    encoded = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xLL4sLL", 1, 12, b"enUS", len(encoded), 28) + encoded


def _xyz(values: "np.ndarray | tuple[float, ...]") -> bytes:
    return b"XYZ " + bytes(4) + _to_fixed_point(*values)


def _to_fixed_point(*values: float) -> bytes:
    """Numbers of 16 bits before the point and 16 behind it. Raises ValueError beyond those."""
    whole = [round(float(value) * 65536) for value in values]
    if max(map(abs, whole)) >= 1 << 31:
        raise ValueError("colours outside of what a profile holds")
    return struct.pack(f">{len(whole)}l", *whole)


def _to_xyz(chromaticity: tuple[float, float]) -> "np.ndarray":
    x, y = chromaticity
    if not y:
        raise ValueError("a colour without brightness")
    return np.array([x / y, 1, (1 - x - y) / y])


def _adaptation(white: tuple[float, float]) -> "np.ndarray":
    """The matrix from XYZ below a white to XYZ below D50 (Bradford's)."""
    cones = (_BRADFORD @ np.array(_D50)) / (_BRADFORD @ _to_xyz(white))
    adapted: np.ndarray = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD
    return adapted
