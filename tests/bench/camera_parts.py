"""What each part of the camera noise is worth: equally long trainings that leave one part out.

    python -m tests.bench.camera_parts PHOTOS VALIDATION NOISY CLEAN [--steps 1500] [--init cae-s]

Each begins with the same weights and sees the same patches of PHOTOS. CLEAN has the images of NOISY
under the same paths: real pairs, none of which is learned from.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from denoise import Denoiser, TrainConfig, train
from denoise.images.camera import CameraNoise
from denoise.training import camera
from tests.bench import real


def without_coarse_grain(noise: CameraNoise) -> CameraNoise:
    fine = (0.0,) * (len(noise.grain.luma) - 1)
    chroma = sum(noise.grain.chroma), *fine
    return replace(noise, grain=replace(noise.grain, luma=(1.0, *fine), chroma=chroma))


def without_demosaicing(noise: CameraNoise) -> CameraNoise:
    """And without the smoothing or sharpening of fine grain."""
    return replace(noise, grain=replace(noise.grain, demosaic="none", smooth=0.0))


def with_colour_as_brightness(noise: CameraNoise) -> CameraNoise:
    """The noise of colour as fine or coarse as that of brightness."""
    chroma = tuple(sum(noise.grain.chroma) * share for share in noise.grain.luma)
    return replace(noise, grain=replace(noise.grain, chroma=chroma))


FLAT = "as strong in light as in shadow"
PARTS: dict[str, Callable[[CameraNoise], CameraNoise]] = {
    "all of it": lambda noise: noise,
    "without JPEG": lambda noise: replace(noise, jpeg=()),
    "without demosaicing and smoothing": without_demosaicing,
    "without coarse grain": without_coarse_grain,
    "white": lambda noise: without_demosaicing(without_coarse_grain(noise)),
    "colour as coarse as brightness": with_colour_as_brightness,
    FLAT: lambda noise: noise,  # of which `trained` changes the strengths
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("photos", "validation", "noisy", "clean"):
        parser.add_argument(name)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--init", default="cae-s")
    given = parser.parse_args()
    pairs = list(real.pairs_of(given.noisy, given.clean, None))
    print(f"{len(pairs)} pairs, noisy: {quality(lambda pixels: pixels, pairs):.2f} dB", flush=True)
    for part in PARTS:
        with tempfile.TemporaryDirectory(prefix="camera-parts-") as folder:
            trained(part, given, folder)
            print(f"{part:34} {quality(Denoiser.load(folder), pairs):.2f} dB", flush=True)


def quality(method: real.Method, pairs: Sequence[tuple[real.Pixels, real.Pixels]]) -> float:
    """The mean PSNR in dB."""
    each, _, _ = real.measured(method, pairs)
    return float(np.mean(each))


def trained(part: str, given: argparse.Namespace, output: str) -> None:
    """Trains in this process, with other noise in place of what samples would get."""
    draw, strengths = camera.draw_camera_noise, camera.strengths
    try:
        camera.draw_camera_noise = lambda seed, iso=None: PARTS[part](draw(seed, iso))
        if part == FLAT:
            camera.strengths = lambda *asked: np.ones_like(strengths(*asked))
        train(
            TrainConfig(
                images=given.photos,
                validation=given.validation,
                output=output,
                kind="camera",
                init=given.init,
                steps=given.steps,
                save_every=given.steps,
                patch=96,
                batch_size=12,
                learning_rate=0.001,
                loss="rmse",
                seed=5,
            )
        )
    finally:
        camera.draw_camera_noise, camera.strengths = draw, strengths


if __name__ == "__main__":
    main()
