"""What half precision costs in dB, by model, folder and noise level, beside float32 in one run.

python -m tests.bench.precision FOLDER ... [--models unet ...] [--sigmas 0.1 0] [--limit 4]
    [--precision auto]

Noise is clipped and rounded to 8 bits as on files, and so is what comes out. At sigma 0 the clean
picture goes in. "moved" is the share of the values of 8 bits that differ, "most" by how many
levels. Mean PSNR over the pictures, RGB.
"""

import argparse

import numpy as np

from denoise.images.codec import to_floats, to_pixels
from denoise.images.metrics import mse, psnr
from denoise.images.noise import add_noise, seed_of
from denoise.nets import package
from denoise.nets.denoiser import Denoiser
from tests.bench.quality import pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--models", nargs="*", default=package.shipped_names())
    parser.add_argument("--sigmas", nargs="*", type=float, default=[0.1, 0.0])
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--precision", default="auto")
    asked = parser.parse_args()
    print("| model | folder | sigma | float32, dB | in half | cost, dB | moved | most |")
    print("|---|---|---|---|---|---|---|---|")
    for model in asked.models:
        full = Denoiser.load(model, precision="float32")
        half = Denoiser.load(model, precision=asked.precision)
        for folder in asked.folders:
            images = list(pictures(folder, asked.limit))
            for sigma in asked.sigmas:
                figures = compared(full, half, images, sigma)
                name = folder.rstrip("/").rsplit("/", 1)[-1]
                print(f"| {model} | {name} | {sigma:g} | {figures} |", flush=True)


def compared(
    full: Denoiser, half: Denoiser, images: list[tuple[str, np.ndarray]], sigma: float
) -> str:
    """The columns of a row from the PSNR in float32 on."""
    qualities: list[tuple[float, float]] = []
    moved, most = [], 0
    for path, clean in images:
        noise = add_noise(to_floats(clean), sigma=sigma, seed=seed_of(path, 0))
        noisy = to_pixels(noise, 8)
        exact, rough = full(noisy), half(noisy)
        qualities.append((psnr(mse(clean, exact)), psnr(mse(clean, rough))))
        gap = np.abs(exact.astype(int) - rough)
        moved.append((gap > 0).mean())
        most = max(most, int(gap.max()))
    before, after = np.mean(qualities, axis=0)
    share = np.mean(moved)
    cost = before - after
    return f"{before:.2f} | {half.precision} {after:.2f} | {cost:.4f} | {share:.0%} | {most}"


if __name__ == "__main__":
    main()
