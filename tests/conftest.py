"""What the tests share: one Ray session, and pictures made on the spot."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denoise.runners.ray_session import connected
from denoise.runners.resources import Resources


@pytest.fixture(scope="session")
def ray_session() -> Iterator[Resources]:
    """One private Ray for all tests of this process that need one; `make test` has two."""
    with connected() as resources:
        yield resources


def photo(height: int = 48, width: int = 64, seed: int = 0, channels: int = 3) -> np.ndarray:
    """[H, W, C] uint8: smooth shapes with edges, as photographs have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    planes = []
    for _ in range(channels):
        a, b, c, d = rng.uniform(-4, 4, 4)
        wave = np.sin(a * x + b * y + c) + 0.6 * np.sign(np.sin(3 * d * x - 5 * a * y + b))
        planes.append(wave)
    scaled = np.stack(planes, axis=2)
    return np.round(40 + 160 * (scaled + 1.6) / 3.2).clip(0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    """An image file's bytes, by Pillow."""
    out = BytesIO()
    Image.fromarray(pixels.squeeze()).save(out, format, **options)
    return out.getvalue()


def make_photos(folder: Path) -> Path:
    """A folder of pictures: two folders deep, two formats, one gray, one broken, one no image."""
    root = folder / "photos"
    (root / "more").mkdir(parents=True)
    for number in range(5):
        (root / f"{number}.png").write_bytes(encoded(photo(seed=number)))
    (root / "more" / "wide.jpg").write_bytes(encoded(photo(40, 90, seed=7), "JPEG", quality=95))
    (root / "more" / "gray.png").write_bytes(encoded(photo(33, 21, seed=8, channels=1)))
    (root / "broken.png").write_bytes(encoded(photo(seed=9))[:200])
    (root / "notes.txt").write_text("no image\n")
    (root / ".hidden.png").write_bytes(encoded(photo(seed=10)))
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of pictures of the test's own."""
    return make_photos(tmp_path)


@pytest.fixture
def many(tmp_path: Path) -> Callable[[int], Path]:
    """Makes a folder of so many small pictures."""

    def make(count: int) -> Path:
        root = tmp_path / "many"
        root.mkdir()
        for number in range(count):
            (root / f"{number:04d}.png").write_bytes(encoded(photo(24, 32, seed=number)))
        return root

    return make


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model package that is small and fast, and no good."""
    from tests.running import tiny_model  # which imports this module

    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")
