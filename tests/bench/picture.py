"""The picture of the README: left with noise of sigma 0.1, right denoised by the default model.

python -m tests.bench.picture
"""

from pathlib import Path

import numpy as np
from PIL import Image

from denoise import Denoiser
from denoise.images.codec import decode, to_floats, to_pixels
from denoise.images.noise import add_noise, seed_of

ROOT = Path(__file__).parents[2]
NAME = "chelsea.png"
LINE = 3  # pixels between the halves


def main() -> None:
    clean = decode((ROOT / "denoise" / "samples" / NAME).read_bytes()).pixels
    noisy = to_pixels(add_noise(to_floats(clean), sigma=0.1, seed=seed_of(NAME, 0)), 8)
    both = np.array(noisy)
    middle = both.shape[1] // 2
    both[:, middle:] = Denoiser.load()(noisy)[:, middle:]
    both[:, middle - LINE // 2 : middle + LINE // 2 + 1] = 255
    target = ROOT / ".github" / "noisy-denoised.jpg"
    target.parent.mkdir(exist_ok=True)
    Image.fromarray(both).save(target, quality=92, subsampling=0, optimize=True)
    print(f"{target}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
