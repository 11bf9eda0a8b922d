"""Statistics of our camera noise beside those of real photographs whose clean selves are known.

    python -m tests.bench.camera NOISY CLEAN [--iso 3200] [--quality 75]

CLEAN has the images of NOISY under the same paths. Ours is put on the same clean images, each with
its own seed; both sides of both are compressed alike (the real ones are as they lie there, at 75 on
the public pairs), and only patches without detail are compared: at edges, the difference of two
shots is mostly that they do not lie upon each other. A plane is taken off each patch, so that light
that changed between shots does not count.
"""

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from denoise.images.camera import compress, draw_camera_noise, expose
from denoise.images.codec import decode
from denoise.images.grain import to_ycc
from denoise.images.noise import seed_of
from denoise.storage.entry import source_of
from denoise.storage.found import LeftOut
from denoise.storage.inputs import entries
from denoise.storage.uris import absolute

SIDE = 64
FLAT = 0.7  # levels a pixel that a smoothed patch may change by, on the mean
BANDS = (1 / 48, 1 / 24, 1 / 16, 1 / 12, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 1)  # cycles a pixel
LEVELS = (16, 45, 85, 145, 195, 235)
SHIFTS = ((0, 1), (1, 0), (1, 1), (0, 2), (0, 4), (0, 8))
Pixels = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("noisy")
    parser.add_argument("clean", type=Path)
    parser.add_argument("--iso", type=float, help="of ours; else drawn")
    parser.add_argument("--quality", type=int, default=75, help="of the JPEG that pairs ended as")
    asked = parser.parse_args()
    real, ours = [], []
    for entry in entries(absolute(asked.noisy), LeftOut()):
        clean = decode((asked.clean / entry.path).read_bytes()).pixels
        real += flat_patches(clean, decode(source_of(entry).encoded).pixels)
        noise = draw_camera_noise(seed_of(entry.path, 0), asked.iso)
        last = ((asked.quality, "420"),)
        noisy = expose(clean, replace(noise, jpeg=(*noise.jpeg[:1], *last)))
        ours += flat_patches(compress(clean, last), noisy)
    print(f"{len(real)} flat patches of {SIDE} pixels | real | ours")
    for (name, theirs), (_, own) in zip(statistics(real), statistics(ours), strict=True):
        print(f"| {name} | {theirs:.3f} | {own:.3f} |")


def flat_patches(clean: Pixels, noisy: Pixels) -> list[tuple[float, NDArray[np.float64]]]:
    """The level and the noise [SIDE, SIDE, 3] of patches without detail, a plane taken off."""
    found = []
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    plane = np.stack([np.ones(SIDE**2), rows.ravel(), columns.ravel()], 1)
    for top in range(0, clean.shape[0] - SIDE + 1, SIDE // 2):
        for left in range(0, clean.shape[1] - SIDE + 1, SIDE // 2):
            window = slice(top, top + SIDE), slice(left, left + SIDE)
            smooth = uniform_filter(clean[window].mean(2), 5)
            detail = sum(np.abs(np.diff(smooth, axis=axis)).mean() for axis in (0, 1))
            level = float(clean[window].mean())
            if detail < FLAT and LEVELS[0] <= level < LEVELS[-1]:
                noise = (noisy[window].astype(float) - clean[window]).reshape(-1, 3)
                noise -= plane @ np.linalg.lstsq(plane, noise, rcond=None)[0]
                found.append((level, noise.reshape(SIDE, SIDE, 3)))
    return found


def statistics(
    patches: list[tuple[float, NDArray[np.float64]]],
) -> Iterator[tuple[str, float]]:
    """Names and values, means over the patches weighted by their power."""
    noise = np.stack([one for _, one in patches])
    levels = np.array([level for level, _ in patches])
    ycc = to_ycc(noise)
    for channel, name in enumerate(("red", "green", "blue")):
        yield f"deviation of {name}, of 255", float(noise[..., channel].std())
    for channel, name in enumerate(("brightness", "Cb", "Cr")):
        yield f"deviation of {name}, of 255", float(ycc[..., channel].std())
    for low, high in itertools.pairwise(LEVELS):
        inside = ycc[(levels >= low) & (levels < high), ..., 0]
        yield f"deviation of brightness at {low} to {high}", float(inside.std())
    for down, right in SHIFTS:
        moved = noise[:, down:, right:] * noise[:, : SIDE - down, : SIDE - right]
        yield (
            f"correlation {down} down, {right} right",
            float((moved.mean((0, 1, 2)) / noise.var((0, 1, 2))).mean()),
        )
    for one, other, name in ((0, 1, "red, green"), (1, 2, "green, blue"), (0, 2, "red, blue")):
        pair = np.corrcoef(noise[..., one].ravel(), noise[..., other].ravel())
        yield f"correlation of {name}", float(pair[0, 1])
    window = np.outer(np.hanning(SIDE), np.hanning(SIDE))[..., None]
    power = (np.abs(np.fft.fft2(ycc * window, axes=(1, 2))) ** 2).mean(0)
    pitch = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE))
    for name, which in (("brightness", [0]), ("colour", [1, 2])):
        for low, high in itertools.pairwise(BANDS):
            share = power[(pitch >= low) & (pitch < high)][:, which].sum() / power[..., which].sum()
            yield f"share of {name} at {low:.3f} to {high:.3f} cycles a pixel", float(share)


if __name__ == "__main__":
    main()
