"""What serving clipped and unclipped noise with the same weights costs either.

python -m tests.bench.mixture IMAGES TEST [--init cae-s] [--steps 5000] [--limit N]

A shipped model is trained on three times, by the same steps on the same patches: with the mixture
of `denoise train`, with noise that is always clipped and rounded, as in a file, and with noise that
never is, as in the literature. The PSNR of each on TEST, level not told, at sigma 25/255.
"""

import argparse
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch

from denoise.nets import package
from denoise.nets.denoiser import Denoiser
from denoise.training import samples
from denoise.training.loop import learn
from denoise.training.recipe import Recipe
from denoise.training.samples import Sampler
from tests.bench.quality import measured, pictures
from tests.bench.train import decoded

SIGMA = 25 / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images")
    parser.add_argument("test")
    parser.add_argument("--init", default="cae-s")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--limit", type=int)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(
        sigma=(0.0, 0.2),
        steps=asked.steps,
        batch_size=8,
        learning_rate=3e-4,
        loss="mse",
        optimizer="adamw",
        save_every=asked.steps,
        seed=3,
    )
    photos, tested = decoded(asked.images, recipe.patch), list(pictures(asked.test, asked.limit))
    started = package.load(asked.init)
    print(f"{asked.init}, {asked.steps} steps on {len(photos)} photos; {len(tested)} images\n")
    print("| trained on noise that is | clipped | unclipped |")
    print("|---|---|---|")
    mixture = samples.UNCLIPPED
    for name, share in (("the mixture", mixture), ("clipped", 0.0), ("unclipped", 1.0)):
        samples.UNCLIPPED = share
        model = deepcopy(started.model)
        learner = learn(
            recipe, model, Sampler(recipe, lambda _: photos), photos[:8], lambda _: None
        )
        denoiser = Denoiser(replace(started, model=learner.average))
        clipped, unclipped = (
            psnr_of(denoiser, tested, noise) for noise in ("clipped", "unclipped")
        )
        print(f"| {name} | {clipped:.3f} | {unclipped:.3f} |", flush=True)


def psnr_of(denoiser: Denoiser, images: list[tuple[str, np.ndarray]], noise: str) -> float:
    return measured(lambda noisy, sigma: denoiser(noisy), images, SIGMA, noise)[0]


if __name__ == "__main__":
    main()
