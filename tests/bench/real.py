"""How well models denoise real photographs whose clean selves are known, beside the classics.

`python -m tests.bench.quality --pairs NOISY CLEAN` calls this. CLEAN has the images of NOISY under
the same paths. Nobody is told how strong the noise is. A classic has three strengths: the best of
them, on the mean PSNR of all images, is shown. PSNR and SSIM are means over the images, RGB, of
results rounded to 8 bits; megapixels/s are of one pass.
"""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from denoise.images.codec import decode, to_floats, to_pixels
from denoise.images.metrics import mse, psnr, ssim
from denoise.nets.denoiser import Denoiser
from denoise.storage.entry import source_of
from denoise.storage.found import LeftOut
from denoise.storage.inputs import entries
from denoise.storage.uris import absolute, join

Pixels = np.ndarray  # [H, W, 3] uint8
Method = Callable[[Pixels], Pixels]
STRENGTHS = (2, 4, 7)  # of 255: sigma for those that take one
OPENCV = (3, 6, 10)  # its h


def main(
    noisy: str, clean: str, models: Sequence[str], peers: Sequence[str], limit: int | None
) -> None:
    pairs = list(pairs_of(noisy, clean, limit))
    megapixels = sum(a.shape[0] * a.shape[1] for a, _ in pairs) / 1e6
    print(f"{len(pairs)} pairs of {noisy}, {megapixels:.1f} megapixels\n")
    print("| method | strength | PSNR | SSIM | worst gain dB | megapixels/s |")
    print("|---|---|---|---|---|---|")
    baseline, likeness, _ = measured(lambda pixels: pixels, pairs)
    print(f"| noisy | - | {np.mean(baseline):.2f} | {likeness:.4f} | - | - |", flush=True)
    for name, methods in everything(models, peers):
        found = [(strength, *measured(method, pairs)) for strength, method in methods]
        strength, quality, likeness, seconds = max(found, key=lambda one: np.mean(one[1]))
        worst = min(np.array(quality) - baseline)
        speed = megapixels / seconds
        print(
            f"| {name} | {strength} | {np.mean(quality):.2f} | {likeness:.4f} | {worst:.2f} "
            f"| {speed:.2f} |",
            flush=True,
        )


def pairs_of(noisy: str, clean: str, limit: int | None) -> Iterator[tuple[Pixels, Pixels]]:
    found = list(entries(absolute(noisy), LeftOut()))
    step = max(1, len(found) // limit) if limit else 1
    for entry in found[::step]:
        with open(join(absolute(clean), entry.path), "rb") as file:
            yield decode(source_of(entry).encoded).pixels, decode(file.read()).pixels


def measured(
    method: Method, pairs: Sequence[tuple[Pixels, Pixels]]
) -> tuple[list[float], float, float]:
    """Each image's PSNR, the mean SSIM, the seconds that the method took."""
    qualities, likenesses, seconds = [], [], 1e-9
    for noisy, clean in pairs:
        start = time.perf_counter()
        denoised = method(noisy)
        seconds += time.perf_counter() - start
        qualities.append(psnr(mse(clean, denoised)))
        likenesses.append(ssim(clean, denoised))
    return qualities, float(np.mean(likenesses)), seconds


def everything(
    models: Sequence[str], peers: Sequence[str]
) -> Iterator[tuple[str, list[tuple[str, Method]]]]:
    """Each method with its strengths."""
    for name in models:
        yield name, [("blind", Denoiser.load(name))]
    known = {"opencv": opencv, "nlm": nlm, "wavelets": wavelets, "bm3d": bm3d}
    for peer in peers:
        try:
            yield peer, known[peer]()
        except ImportError:
            print(f"| {peer} is not installed |")


def opencv() -> list[tuple[str, Method]]:
    import cv2

    def at(h: int) -> Method:
        return lambda noisy: cv2.fastNlMeansDenoisingColored(noisy, None, h, h, 7, 21)

    return [(f"h {h}", at(h)) for h in OPENCV]


def nlm() -> list[tuple[str, Method]]:
    """scikit-image's, as its documentation has it."""
    from skimage.restoration import denoise_nl_means

    def at(sigma: float, noisy: np.ndarray) -> np.ndarray:
        return denoise_nl_means(
            noisy,
            h=0.8 * sigma,
            sigma=sigma,
            channel_axis=2,
            patch_size=5,
            patch_distance=6,
            fast_mode=True,
        )

    return _on_floats(at)


def wavelets() -> list[tuple[str, Method]]:
    """BayesShrink in YCbCr."""
    import pywt  # noqa: F401  # scikit-image needs it for this alone
    from skimage.restoration import denoise_wavelet

    return _on_floats(
        lambda sigma, noisy: denoise_wavelet(
            noisy, sigma=sigma, channel_axis=2, convert2ycbcr=True, rescale_sigma=True
        )
    )


def bm3d() -> list[tuple[str, Method]]:
    """CBM3D of its authors (Makinen, Azzari, Foi 2020)."""
    import bm3d

    return _on_floats(lambda sigma, noisy: bm3d.bm3d_rgb(noisy, sigma))


def _on_floats(
    method: Callable[[float, np.ndarray], np.ndarray],
) -> list[tuple[str, Method]]:
    def at(strength: int) -> Method:
        return lambda noisy: to_pixels(
            np.asarray(method(strength / 255, to_floats(noisy)), np.float32), 8
        )

    return [(f"sigma {strength}", at(strength)) for strength in STRENGTHS]
