"""Tile sides against time, and how far tiles are from the whole picture, side by side.

python -m tests.bench.tiles [MODEL] [SIDE] [PRECISION]    (unet, 2400x2400 pixels, auto)

One thread, as in a worker; seconds of the processor, so that a busy machine disturbs little.
"""

import sys
import time
from functools import partial

import numpy as np
import torch

from denoise.nets.denoiser import Denoiser
from tests.conftest import photo

SIDES = (256, 384, 576, 768, 1024, 1536, 2048, 10_000)
WHOLES = ((321, 481), (600, 600), (600, 1000), (800, 1200), (1200, 1600))


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "unet"
    side = int(sys.argv[2]) if len(sys.argv) > 2 else 2400
    asked = sys.argv[3] if len(sys.argv) > 3 else "auto"
    torch.set_num_threads(1)
    load = partial(Denoiser.load, model, precision=asked)
    reach = load().package.model.reach
    print(f"{model}, reach {reach}, {load().precision}, one thread, {side}x{side}")
    print(f"{'tile':>8}{'with halo':>12}{'s':>8}{'MP/s':>8}{'largest difference':>22}", flush=True)
    picture = photo(side, side).astype(np.float32) / 255
    whole = load(tile=10_000)(picture)
    for tile in SIDES:
        seconds, tiled = _measured(load(tile=tile), picture)
        shown = min(tile + 2 * reach, side)
        speed, off = side**2 / 1e6 / seconds, np.abs(tiled - whole).max()
        print(f"{tile:8}{shown:12}{seconds:8.1f}{speed:8.2f}{off:22.1e}", flush=True)
    print(f"\n{'size':>12}{'whole MP/s':>14}{'tiles of 1024 MP/s':>20}", flush=True)
    for height, width in WHOLES:
        small = photo(height, width)
        speeds = [
            height * width / 1e6 / _measured(load(tile=tile), small)[0] for tile in (10_000, 1024)
        ]
        print(f"{width:>7}x{height:<4}{speeds[0]:14.2f}{speeds[1]:20.2f}", flush=True)


def _measured(denoiser: Denoiser, picture: np.ndarray) -> tuple[float, np.ndarray]:
    """Seconds of the processor, after a first small picture, and what came out."""
    denoiser(picture[:64, :64])
    start = time.process_time()
    denoised = denoiser(picture)
    return time.process_time() - start, denoised


if __name__ == "__main__":
    main()
