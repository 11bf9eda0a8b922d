"""Camera noise for batches of training patches, on the device.

The same descriptions as `denoise.images.camera`, with other deviates: each sample's come from its
own seed, so that it does not depend on the batch. JPEG happens on the CPU, in the threads that make
batches.

Shapes: pixels [N, P, P, 3] uint8; grain [N, 3, P, P] float32: Y, Cb, Cr.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from denoise.images.camera import (
    CameraNoise,
    Compression,
    compress,
    draw_camera_noise,
    strengths,
)
from denoise.images.grain import DEMOSAICS, MARGIN, OCTAVES, PATTERN, Grain, octave_sizes
from denoise.nets.networks import device
from denoise.training.samples import CAMERA, GAUSSIAN, GAUSSIAN_SIGMA, Patches

_JPEG_THREADS = 4


def with_camera_noise(patches: Patches) -> Patches:
    """Patches [N, P, P, 3] of clean photos as pairs [N, P, P, 6]: clean, then noisy as stored.

    Most have camera noise, some Gaussian noise, and some none: those are compressed at most, and
    are their own clean selves. Pairs that bring noise along, and patches whose noise is Gaussian
    and still to be drawn, stay as they are.
    """
    if patches.source is None or patches.pixels.shape[3] != 3:
        return patches
    noises = [draw_camera_noise(seed) for seed in patches.seeds.tolist()]
    clean = _dim(patches)
    noisy = expose_patches(clean, noises)
    is_gaussian = (patches.source >= CAMERA) & (patches.source < CAMERA + GAUSSIAN)
    is_clean = patches.source >= CAMERA + GAUSSIAN
    plain = torch.from_numpy(clean).to(device()).permute(0, 3, 1, 2).float() / 255
    for index in np.flatnonzero(is_gaussian).tolist():
        noisy[index] = plain[index] + _gaussian(patches, index)
    noisy[np.flatnonzero(is_clean).tolist()] = plain[np.flatnonzero(is_clean).tolist()]
    jpeg = [() if alone else noise.jpeg for noise, alone in zip(noises, is_gaussian, strict=True)]
    stored = compress_patches(noisy, jpeg)
    clean[is_clean] = stored[is_clean]
    return replace(patches, pixels=np.concatenate([clean, stored], axis=3))


def _dim(patches: Patches) -> NDArray[np.uint8]:
    """The patches with less light, or gray, where their samples say so."""
    assert patches.light is not None
    floats = patches.pixels * patches.light[:, None, None, None]
    mean = floats.mean(3, keepdims=True)
    return np.rint(np.where(patches.gray[:, None, None, None], mean, floats)).astype(np.uint8)


def _gaussian(patches: Patches, index: int) -> Tensor:
    """Gaussian noise for one sample, of a level that is uniform in log."""
    assert patches.source is not None
    low, high = GAUSSIAN_SIGMA
    sigma = low * (high / low) ** ((patches.source[index] - CAMERA) / GAUSSIAN)
    generator = torch.Generator(device()).manual_seed(int(patches.seeds[index]))
    side = patches.pixels.shape[1]
    return sigma * torch.randn(3, side, side, generator=generator, device=device())


def expose_patches(pixels: NDArray[np.uint8], noises: Sequence[CameraNoise]) -> Tensor:
    """Noisy patches [N, 3, P, P] on the 0..1 scale, unclipped, before JPEG."""
    side = pixels.shape[1]
    index = torch.from_numpy(pixels).to(device()).permute(0, 3, 1, 2)  # [N, 3, P, P]
    grain = to_rgb(batch_grain([noise.grain for noise in noises], side))
    tables = np.stack([strengths(noise).T * noise.sigma for noise in noises])  # [N, 3, 256]
    table = torch.from_numpy(tables.astype(np.float32)).to(device())
    strength = torch.gather(table, 2, index.flatten(2).long()).view_as(grain)
    return index.float() / 255 + strength * grain


def batch_grain(grains: Sequence[Grain], side: int) -> Tensor:
    """The grain of square patches."""
    sizes = [size for size, _ in octave_sizes(side, side)]
    sizes += [octave_sizes(sizes[-1], sizes[-1])[1][0]]
    finest = side + 2 * MARGIN + 1  # one more for the phase of the pattern
    shapes = [(3, finest, finest)] + [(3, size, size) for size in sizes[1:OCTAVES]]
    white = _white(grains, shapes)
    amplitudes = torch.from_numpy(np.stack([grain.amplitudes() for grain in grains]))
    amplitude = amplitudes.float().to(device())[..., None, None]  # [N, OCTAVES, 3, 1, 1]
    coarse = torch.zeros(len(grains), 3, sizes[-1], sizes[-1], device=device())
    for octave in range(OCTAVES - 1, 0, -1):
        larger = _shift(_double(coarse), grains, octave, sizes[octave])
        coarse = larger + amplitude[:, octave] * white[octave]
    coarse = _shift(_double(coarse), grains, 0, side)
    phases = [grain.phase for grain in grains]
    fine = _cut(_finest(white[0], grains), phases, side)
    return coarse + amplitude[:, 0] * fine


def _white(grains: Sequence[Grain], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Standard normal deviates of each shape, [N, ...], each sample's from its own seed."""
    counts = [int(np.prod(shape)) for shape in shapes]
    generator = torch.Generator(device())
    drawn = torch.stack(
        [
            torch.randn(
                sum(counts),
                generator=generator.manual_seed(grain.seed % 2**63),
                device=device(),
            )
            for grain in grains
        ]
    )
    parts = drawn.split(counts, 1)
    return [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


def _finest(white: Tensor, grains: Sequence[Grain]) -> Tensor:
    """The finest octave [N, 3, h - 6, w - 6] of white noise [N, 3, h, w]."""
    colours = white[:, :, 2:-2, 2:-2].clone()
    for name in DEMOSAICS:
        chosen = [index for index, grain in enumerate(grains) if grain.demosaic == name]
        if chosen:
            colours[chosen] = demosaiced(white[chosen, :1], name)
    colours = to_ycc(colours)
    smooth = torch.tensor([grain.smooth for grain in grains], device=device())
    inner = colours[:, :, 1:-1, 1:-1]
    mean = F.avg_pool2d(colours, 3, 1)
    return inner + smooth[:, None, None, None] * (mean - inner)


def demosaiced(white: Tensor, name: str) -> Tensor:
    """[N, 1, h, w] behind a pattern that begins with red -> [N, 3, h - 4, w - 4]."""
    kernels = torch.from_numpy(np.stack(DEMOSAICS[name]))[:, None].to(device())
    found = F.conv2d(white, kernels)  # [N, 5, h - 4, w - 4]
    rgb = torch.empty_like(found[:, :3])
    for row, column, channel in np.ndindex(2, 2, 3):
        kernel = PATTERN[row][column][channel]
        rgb[:, channel, row::2, column::2] = found[:, kernel, row::2, column::2]
    return rgb


def to_ycc(rgb: Tensor) -> Tensor:
    """As in `denoise.images.grain`, along the second axis."""
    red, green, blue = rgb.unbind(1)
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([y, 0.564 * (blue - y), 0.713 * (red - y)], 1)


def to_rgb(ycc: Tensor) -> Tensor:
    """The inverse of `to_ycc`."""
    y, cb, cr = ycc.unbind(1)
    red, blue = y + cr / 0.713, y + cb / 0.564
    return torch.stack([red, (y - 0.299 * red - 0.114 * blue) / 0.587, blue], 1)


def _double(coarse: Tensor) -> Tensor:
    """[N, 3, h, w] -> [N, 3, 2h - 2, 2w - 2], by a quadratic B-spline."""
    # torch's bilinear weights are those of the spline, except at the rim, which is cut off
    larger = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    return larger[:, :, 1:-1, 1:-1]


def _shift(larger: Tensor, grains: Sequence[Grain], octave: int, side: int) -> Tensor:
    first = [(grain.shift[0] >> octave & 1, grain.shift[1] >> octave & 1) for grain in grains]
    return _cut(larger, first, side)


def _cut(batch: Tensor, first: Sequence[tuple[int, int]], side: int) -> Tensor:
    """Of each sample a square, from a row and column of its own on."""
    squares = [
        sample[:, row : row + side, column : column + side]
        for sample, (row, column) in zip(batch, first, strict=True)
    ]
    return torch.stack(squares)


def compress_patches(noisy: Tensor, jpeg: Sequence[tuple[Compression, ...]]) -> NDArray[np.uint8]:
    """[N, P, P, 3] as in a file: rounded to 8 bits, and each put through JPEG on the CPU."""
    rounded = (noisy.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    with ThreadPoolExecutor(_JPEG_THREADS) as threads:  # simplejpeg lets go of Python's lock
        return np.stack(list(threads.map(compress, rounded, jpeg)))
