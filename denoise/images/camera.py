"""Noise as cameras make it: a description drawn from a seed, and what it does to an image.

A camera counts photons behind a pattern of colour filters, so that noise grows with the light. It
then interpolates the missing colours, raises the shadows by a tone curve, smooths (colour more than
brightness, fine grain more than coarse) or sharpens, and compresses. Real noise is therefore
correlated between neighbours and between channels, strongest in the lower mid-tones.

Only the noise goes through demosaicing, smoothing and sharpening, as `grain`, and is scaled by what
light and tone curve make of it at each pixel: the clean image is the one that was given, no softer.
JPEG comes last, over both.

Shapes: pixels [H, W, C] uint8 or uint16, C 1 (gray) or 3 (RGB).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from denoise.images.codec import to_floats, to_pixels
from denoise.images.grain import OCTAVES, Demosaic, Grain, GrainBands, to_rgb

Pixels = NDArray[Any]
Subsampling = Literal["444", "422", "420"]
Compression = tuple[int, Subsampling]  # quality and subsampling of colour

ISO = (400.0, 25600.0)  # of strengths that are drawn
MIDDLE_GRAY = 0.45  # on the 0..1 scale of stored values
_SIGMA_AT_3200 = 0.0118  # about the mean of cameras of 2008 to 2016
_STRONGEST = 4.0  # times the noise of middle gray, in deep shadows
_TOE = 0.1  # keeps the slope of the tone curve finite at black
_BAND = 1 << 19  # values at a time
_LARGEST_JPEG = 65500
# What is left of each octave's variance, and by what factors cameras differ. Fitted to the flat
# parts of photographs whose clean selves are known, after JPEG (`tests/bench/camera.py`).
_LUMA = (0.92, 0.01, 0.035, 0.02, 0.015)
_CHROMA = (0.1, 0.1, 0.35, 0.27, 0.18)
_FACTORS = (0.35, 2.8)
_COLOUR = (0.2, 0.8)  # deviation of Cb and of Cr, that of brightness being 1
_QUALITY = (88, 98)  # of cameras' own JPEG
_LATER_QUALITY = (60, 96)  # of JPEG by those who pass pictures on


@dataclass(frozen=True, kw_only=True)
class CameraNoise:
    """What one camera at one exposure does to an image."""

    iso: float  # strength
    grain: Grain
    gamma: float  # of the tone curve
    contrast: float  # of the tone curve: how much of a smooth step it is, 0..1
    shoulder: float  # of the tone curve: how much it flattens the highlights, 0..0.8
    read: float  # variance of read noise, where that of shot noise at full light is 1
    gains: tuple[float, float, float]  # white balance of red, green and blue
    jpeg: tuple[Compression, ...] = ()

    @property
    def sigma(self) -> float:
        """Standard deviation of brightness at middle gray before JPEG, on the 0..1 scale."""
        return _SIGMA_AT_3200 * math.sqrt(self.iso / 3200)

    def __str__(self) -> str:
        """What the column `noise` of a table says."""
        jpeg = ",".join(f"{quality}/{colour}" for quality, colour in self.jpeg) or "none"
        colour = math.sqrt(sum(self.grain.chroma))
        return (
            f"camera iso={self.iso:.0f} sigma={self.sigma:.4f} gamma={self.gamma:.2f} "
            f"contrast={self.contrast:.2f} demosaic={self.grain.demosaic} "
            f"smooth={self.grain.smooth:.2f} colour={colour:.2f} jpeg={jpeg}"
        )


def add_camera_noise(
    clean: Pixels, *, seed: int, iso: float | None = None
) -> tuple[Pixels, CameraNoise]:
    """The image as a noisy camera would have stored it, and the noise that it got.

    `seed` is the image's own, from `seed_of`; iso is the strength, drawn from the seed where None.
    The result is a function of these three alone. Raises ValueError where iso is out of range.
    """
    noise = draw_camera_noise(seed, iso)
    return expose(clean, noise), noise


def draw_camera_noise(seed: int, iso: float | None = None) -> CameraNoise:
    """A camera, its exposure and how its picture was stored, drawn from a seed of any size.

    Raises ValueError where iso is out of range.
    """
    check_iso(iso)
    words = np.random.SFC64([1, seed]).random_raw(40) >> np.uint64(11)  # grain has other streams
    u = iter((words.astype(np.float64) * 2.0**-53).tolist())
    drawn = ISO[0] * (ISO[1] / ISO[0]) ** next(u)
    colour = _COLOUR[0] * (_COLOUR[1] / _COLOUR[0]) ** next(u)
    grain = Grain(
        luma=_scatter(_LUMA, [next(u) for _ in range(OCTAVES)], 1.0),
        chroma=_scatter(_CHROMA, [next(u) for _ in range(OCTAVES)], colour**2),
        demosaic=_demosaic(next(u)),
        smooth=_smoothing(next(u), next(u)),
        shift=(int(16 * next(u)), int(16 * next(u))),
        seed=seed,
    )
    return CameraNoise(
        iso=drawn if iso is None else iso,
        grain=grain,
        gamma=2.0 + 0.8 * next(u),
        contrast=0.2 + 0.8 * next(u),
        shoulder=0.8 * next(u),
        read=10 ** (-3.5 + 2 * next(u)),
        gains=(1 + 0.5 * next(u), 1.0, 1 + 0.7 * next(u)),
        jpeg=_compressions([next(u) for _ in range(6)]),
    )


def check_iso(iso: float | None) -> None:
    """Raises ValueError where a strength is out of range."""
    if iso is not None and not 1 <= iso <= 1_000_000:
        raise ValueError(f"iso must lie in 1..1000000 (3200: a dim room), got {iso}")


def expose(clean: Pixels, noise: CameraNoise) -> Pixels:
    """Add the noise to an image, a band of rows after the other, and compress it."""
    height, width, channels = clean.shape
    table = strengths(noise, clean.dtype)[:, :channels] * np.float32(noise.sigma)
    bands = GrainBands(height, width, noise.grain)
    noisy = np.empty_like(clean)
    rows = max(1, _BAND // (6 * width)) * 2
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        grain = bands.rows(band.start, band.stop)
        grain = grain[..., :1] if channels == 1 else to_rgb(grain)
        for channel in range(channels):
            grain[..., channel] *= table[:, channel].take(clean[band, :, channel])
        grain += to_floats(clean[band])
        noisy[band] = to_pixels(grain, 8 * clean.itemsize)
    return compress(noisy, noise.jpeg)


def strengths(noise: CameraNoise, dtype: Any = np.uint8) -> NDArray[np.float32]:
    """[256 or 65536, 3] how strong noise is at each stored value of red, green and blue, where
    that of middle gray is 1; the first column serves gray images.

    In linear light its variance is shot noise, proportional to the light, plus read noise; the
    slope of the tone curve brings it to stored values (Foi et al., Practical Poissonian-Gaussian
    noise modeling and fitting for single-image raw-data, 2008).
    """
    values = np.linspace(0, 1, np.iinfo(dtype).max + 1)[:, None]
    light, slope = _light_of(values, noise)
    gains = np.array(noise.gains)
    strength = np.sqrt(gains * light + gains**2 * noise.read) / slope
    middle, its_slope = _light_of(np.array([MIDDLE_GRAY]), noise)
    strength *= its_slope / np.sqrt(middle + noise.read)
    return np.minimum(strength, _STRONGEST).astype(np.float32)


def compress(pixels: Pixels, jpeg: tuple[Compression, ...]) -> Pixels:
    """The image after being stored as JPEG so many times.

    JPEG has 8 bits: the finer ones of a 16-bit image stay as they were. It has at most 65500 rows
    and columns: a larger image stays as it was.
    """
    if not jpeg or max(pixels.shape) > _LARGEST_JPEG:
        return pixels
    if pixels.dtype == np.uint16:
        coarse = (pixels >> 8).astype(np.uint8)
        change = compress(coarse, jpeg).astype(np.int32) - coarse
        return np.clip(pixels + 257 * change, 0, 65535).astype(np.uint16)
    space = "GRAY" if pixels.shape[2] == 1 else "RGB"
    for quality, colour in jpeg:
        pixels = simplejpeg.decode_jpeg(
            simplejpeg.encode_jpeg(
                np.ascontiguousarray(pixels),
                quality=quality,
                colorspace=space,
                colorsubsampling="Gray" if space == "GRAY" else colour,
            ),
            colorspace=space,
        )
    return pixels


def _light_of(values: NDArray[np.float64], noise: CameraNoise) -> tuple[Any, Any]:
    """Linear light of stored values, and its slope: the inverse of a tone curve that is a shoulder,
    then a power, then a smooth step in part."""
    angle = np.arcsin(1 - 2 * values) / 3
    level = (1 - noise.contrast) * values + noise.contrast * (0.5 - np.sin(angle))
    steep = np.sqrt(np.maximum(4 * values * (1 - values), 1e-3))
    slope = (1 - noise.contrast) + noise.contrast * np.cos(angle) * 2 / 3 / steep
    level = (level + _TOE) / (1 + _TOE)
    light = level**noise.gamma
    slope = slope * noise.gamma * light / (level * (1 + _TOE))
    rest = 1 - noise.shoulder * light
    return light / rest, slope / rest**2


def _scatter(shares: tuple[float, ...], u: list[float], total: float) -> tuple[float, ...]:
    """The shares, each times a factor of its own, brought to a total."""
    low, high = _FACTORS
    drawn = [share * low * (high / low) ** v for share, v in zip(shares, u, strict=True)]
    return tuple(total * share / sum(drawn) for share in drawn)


def _demosaic(u: float) -> Demosaic:
    if u < 0.35:
        return "bilinear"
    return "gradients" if u < 0.75 else "none"  # none: a camera of three chips, or scaled down


def _smoothing(u: float, v: float) -> float:
    """Most cameras smooth fine grain, some sharpen it."""
    if u < 0.65:
        return 0.2 + 0.6 * v
    return -0.5 * v if u < 0.8 else 0.0


def _compressions(u: list[float]) -> tuple[Compression, ...]:
    """The camera's own JPEG, if any, and that of somebody later, if any."""
    found: list[Compression] = []
    if u[0] < 0.7:
        found.append((_between(_QUALITY, u[1]), _subsampling(u[2])))
    if u[3] < 0.4:
        found.append((75, "420"))  # what most programs do
    elif u[3] < 0.65:
        found.append((_between(_LATER_QUALITY, u[4]), _subsampling(u[5])))
    return tuple(found)


def _between(limits: tuple[int, int], u: float) -> int:
    low, high = limits
    return low + int((high + 1 - low) * u)


def _subsampling(u: float) -> Subsampling:
    if u < 0.3:
        return "444"
    return "422" if u < 0.7 else "420"
