"""Encoders and their levels, side by side on photographs, clean and noisy: speed and size.

python -m tests.bench.encode [FOLDER]    (the sample photographs without a folder)
"""

import sys
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from isal import isal_zlib
from PIL import Image

from denoise.images.codec import Picture, decode, encode, to_floats, to_pixels
from denoise.images.noise import add_noise
from denoise.images.png import sub_filtered

SAMPLES = Path(__file__).parents[2] / "denoise" / "samples"
SUFFIXES = {".jpg", ".jpeg", ".png"}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)[:24]
    clean = [decode(path.read_bytes()).pixels for path in files]
    noisy = [to_pixels(add_noise(to_floats(p), sigma=0.1, seed=1), 8) for p in clean]
    deep = [to_pixels(to_floats(p), 16) // 3 * 2 for p in clean]
    for name, pictures, encoders in (
        ("clean", clean, ENCODERS),
        ("noisy, sigma 0.1", noisy, ENCODERS),
        ("16 bits", deep, {"ours: png": lambda p: encode(Picture(p))} | DEEP),
    ):
        megapixels = sum(p.shape[0] * p.shape[1] for p in pictures) / 1e6
        print(f"\n{name}: {len(pictures)} photographs, {megapixels:.1f} megapixels, one core")
        print(f"{'encoder':38}{'MP/s':>8}{'x':>7}{'bytes/pixel':>13}{'size':>8}")
        first: tuple[float, float] | None = None
        for encoder, encoded in encoders.items():
            seconds, size = _measured(encoded, pictures)
            first = first or (seconds, size)
            print(
                f"{encoder:38}{megapixels / seconds:8.1f}{first[0] / seconds:7.1f}"
                f"{size / megapixels / 1e6:13.2f}{size / first[1] - 1:+8.0%}"
            )


def _measured(encoder: Callable[[np.ndarray], bytes], pictures: list[np.ndarray]) -> tuple:
    """Seconds (the best of two) and bytes."""
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        size = sum(len(encoder(pixels)) for pixels in pictures)
        best = min(best, time.perf_counter() - start)
    return best, size


def _pillow(format: str, **options: object) -> Callable[[np.ndarray], bytes]:
    def encoded(pixels: np.ndarray) -> bytes:
        out = BytesIO()
        Image.fromarray(pixels.squeeze()).save(out, format, **options)
        return out.getvalue()

    return encoded


def _sub_with(deflate: Callable[[bytes], bytes]) -> Callable[[np.ndarray], bytes]:
    """The compressed scan lines of a PNG: nearly all of the file."""
    return lambda pixels: deflate(sub_filtered(pixels))


def _zlib_rle(lines: bytes) -> bytes:
    deflate = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    return deflate.compress(lines) + deflate.flush()


ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    "Pillow png, default": _pillow("png"),
    "Pillow png, level 1": _pillow("png", compress_level=1),
    "Pillow png, level 1, RLE": _pillow("png", compress_level=1, compress_type=3),
    "Sub filter, zlib level 1 RLE": _sub_with(_zlib_rle),
    "Sub filter, isal level 0": _sub_with(lambda lines: isal_zlib.compress(lines, 0)),
    "Sub filter, isal level 1": _sub_with(lambda lines: isal_zlib.compress(lines, 1)),
    "Sub filter, isal level 2": _sub_with(lambda lines: isal_zlib.compress(lines, 2)),
    "Sub filter, isal level 3": _sub_with(lambda lines: isal_zlib.compress(lines, 3)),
    "ours: png": lambda pixels: encode(Picture(pixels)),
    "ours: tiff": lambda pixels: encode(Picture(pixels), format="tiff"),
    "ours: webp, lossless": lambda pixels: encode(Picture(pixels), format="webp"),
    "Pillow webp, lossless, method 4": _pillow("webp", lossless=True, method=4),
    "ours: jpeg, quality 95": lambda pixels: encode(Picture(pixels), format="jpeg"),
}
DEEP: dict[str, Callable[[np.ndarray], bytes]] = {
    "ours: tiff": lambda pixels: encode(Picture(pixels), format="tiff"),
}

if __name__ == "__main__":
    main()
