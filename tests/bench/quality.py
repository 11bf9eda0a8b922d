"""How well each model denoises a folder, and at what price, beside the classics, in one run.

python -m tests.bench.quality IMAGES [--models unet cae-s ...] [--peers bm3d nlm wavelets]
    [--sigmas 15 25 50 25.5] [--noise unclipped clipped] [--limit N] [--level-given]
python -m tests.bench.quality --pairs NOISY CLEAN [--models ...] [--peers ...] [--limit N]

With --pairs, the images are noisy already (see `tests.bench.real`).
PSNR and SSIM are means over the images, RGB, no border cut off, of results rounded to 8 bits. The
networks get no noise level unless --level-given; the peers always do. bm3d and PyWavelets (for
wavelets) come from PyPI: `pip install bm3d PyWavelets`; what is not installed is left out.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch

from denoise.images.codec import decode, to_floats, to_pixels
from denoise.images.metrics import ssim
from denoise.images.noise import add_noise, seed_of
from denoise.nets.denoiser import Denoiser
from denoise.storage.entry import source_of
from denoise.storage.found import LeftOut
from denoise.storage.inputs import entries
from denoise.storage.uris import absolute
from denoise.verbs.compare import Score
from tests.bench import real

Method = Callable[[np.ndarray, float], np.ndarray]  # noisy [H, W, 3] float32, sigma -> denoised
PEERS = ("bm3d", "nlm", "wavelets", "opencv")


def main() -> None:
    asked = flags()
    if asked.pairs:
        real.main(*asked.pairs, asked.models, asked.peers, asked.limit)
        return
    images = list(pictures(asked.images, asked.limit))
    megapixels = sum(clean.shape[0] * clean.shape[1] for _, clean in images) / 1e6
    print(f"{len(images)} images of {asked.images}, {megapixels:.1f} megapixels")
    print(f"matrix multiplication: {peak():.0f} GMAC/s, {torch.get_num_threads()} threads\n")
    print("| method | kMAC/pixel | parameters | sigma | noise | PSNR | SSIM | megapixels/s |")
    print("|---|---|---|---|---|---|---|---|")
    for name, about, method in methods(asked):
        for noise in asked.noise:
            for sigma in asked.sigmas:
                quality, likeness, speed = measured(method, images, sigma / 255, noise)
                print(
                    f"| {name} | {about} | {sigma:g}/255 | {noise} | {quality:.2f} | "
                    f"{likeness:.4f} | {speed:.3f} |",
                    flush=True,
                )


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="?")
    parser.add_argument("--pairs", nargs=2, metavar=("NOISY", "CLEAN"))
    parser.add_argument("--models", nargs="*", default=["classic", "unet"])
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--sigmas", nargs="*", type=float, default=[15, 25, 50, 25.5])
    parser.add_argument("--noise", nargs="*", default=["unclipped", "clipped"])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--level-given", action="store_true")
    asked = parser.parse_args()
    if bool(asked.images) == bool(asked.pairs):
        parser.error("give either IMAGES, to add noise to, or --pairs NOISY CLEAN")
    return asked


def pictures(images: str, limit: int | None) -> Iterator[tuple[str, np.ndarray]]:
    """Paths and clean RGB pixels."""
    left_out = LeftOut()
    for number, entry in enumerate(entries(absolute(images), left_out)):
        if limit is not None and number >= limit:
            return
        pixels = decode(source_of(entry).encoded).pixels
        yield entry.path, np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def methods(asked: argparse.Namespace) -> Iterator[tuple[str, str, Method]]:
    yield "noisy", "- | -", lambda noisy, sigma: noisy
    for name in asked.models:
        found = Denoiser.load(name)
        network = found.package
        count = sum(weight.numel() for weight in network.model.parameters())
        about = f"{network.model.macs_per_pixel / 1e3:.0f} | {count / 1e6:.2f} M"
        yield network.name, about, network_method(name, level_given=asked.level_given)
    for peer in asked.peers:
        peers = {"bm3d": bm3d_method, "nlm": nlm_method, "wavelets": wavelets_method}
        method = peers[peer]() if peer in peers else None  # OpenCV's is for real pairs alone
        if method is not None:
            yield peer, "- | -", method


def network_method(name: str, *, level_given: bool) -> Method:
    load = cache(lambda sigma: Denoiser.load(name, sigma=sigma))
    load(None)(np.zeros((64, 64, 3), np.float32))  # the first call on a GPU prepares it
    return lambda noisy, sigma: load(sigma if level_given else None)(noisy)


def bm3d_method() -> Method | None:
    """CBM3D of its authors (Makinen, Azzari, Foi 2020)."""
    try:
        import bm3d
    except ImportError:
        return None
    return lambda noisy, sigma: bm3d.bm3d_rgb(noisy, sigma)


def nlm_method() -> Method:
    from skimage.restoration import denoise_nl_means

    options: dict[str, Any] = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
    return lambda noisy, sigma: denoise_nl_means(
        noisy, h=0.8 * sigma, sigma=sigma, channel_axis=2, **options
    )


def wavelets_method() -> Method | None:
    """BayesShrink in YCbCr."""
    try:
        import pywt  # noqa: F401  # scikit-image needs it for this alone
    except ImportError:
        return None
    from skimage.restoration import denoise_wavelet

    return lambda noisy, sigma: denoise_wavelet(
        noisy, sigma=sigma, channel_axis=2, convert2ycbcr=True, rescale_sigma=True
    )


def measured(
    method: Method, images: list[tuple[str, np.ndarray]], sigma: float, noise: str
) -> tuple[float, float, float]:
    """Mean PSNR, mean SSIM, and megapixels a second."""
    score, likenesses = Score("method"), []
    for path, clean in images:
        noisy = add_noise(to_floats(clean), sigma=sigma, seed=seed_of(path, 0))
        if noise == "clipped":
            noisy = to_floats(to_pixels(noisy, 8))
        start = time.perf_counter()
        denoised = method(noisy, sigma)
        spent = time.perf_counter() - start
        stored = to_pixels(np.asarray(denoised, np.float32), 8)
        score.add(stored, clean, seconds=spent)
        likenesses.append(ssim(clean, stored))
    return score.mean("psnr") or np.inf, float(np.mean(likenesses)), score.speed or np.inf


def peak(clock: Callable[[], float] = time.perf_counter) -> float:
    """The GMAC/s of a large single-precision matrix product: what there is to be had."""
    a = torch.rand(1024, 1024)
    a @ a
    rates = []
    for _ in range(5):
        start = clock()
        for _ in range(4):
            a @ a
        rates.append(4 * 1024**3 / (clock() - start) / 1e9)
    return max(rates)


if __name__ == "__main__":
    main()
