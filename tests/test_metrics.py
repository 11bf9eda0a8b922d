"""Metrics are those of scikit-image, and exact on integers."""

from math import inf, isnan, nan

import numpy as np
import pytest
from conftest import photo
from skimage import metrics as reference

from denoise.images.metrics import mse, psnr, ssim


@pytest.fixture(params=[np.uint8, np.uint16])
def pair(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    top = np.iinfo(request.param).max
    shape = (37, 53, 3)
    return tuple(rng.integers(0, top, shape, request.param, endpoint=True) for _ in "ab")


def test_mse_is_that_of_the_pixels_scaled_by_their_maximum(pair):
    a, b = (pixels / np.iinfo(pixels.dtype).max for pixels in pair)
    assert mse(*pair) == pytest.approx(reference.mean_squared_error(a, b), rel=1e-12)


def test_psnr_is_scikit_images(pair):
    top = float(np.iinfo(pair[0].dtype).max)
    a, b = (pixels.astype(np.float64) for pixels in pair)
    wanted = reference.peak_signal_noise_ratio(a, b, data_range=top)
    assert psnr(mse(*pair)) == pytest.approx(wanted, abs=1e-9)


def test_the_largest_error_there_is_is_one(pair):
    kind = pair[0].dtype
    black, white = np.zeros((4, 4, 3), kind), np.full((4, 4, 3), np.iinfo(kind).max, kind)
    assert mse(black, white) == 1.0 and psnr(1.0) == 0.0


def test_equal_images_are_infinitely_good(pair):
    assert mse(pair[0], pair[0]) == 0.0 and psnr(0.0) == inf and isnan(psnr(nan))
    assert ssim(pair[0], pair[0]) == pytest.approx(1.0)


def test_ssim_is_that_of_the_paper_through_scikit_image():
    clean = photo(64, 80)
    noisy = np.clip(clean + np.random.default_rng(1).normal(0, 20, clean.shape), 0, 255)
    noisy = noisy.round().astype(np.uint8)
    channels = [
        reference.structural_similarity(
            clean[..., c], noisy[..., c], gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, data_range=255,
        )
        for c in range(3)
    ]  # fmt: skip
    assert ssim(clean, noisy) == pytest.approx(np.mean(channels), abs=1e-12)


def test_images_of_different_shapes_or_kinds_are_refused():
    a = photo(8, 8)
    with pytest.raises(ValueError, match=r"\(8, 8, 3\).*\(8, 9, 3\)"):
        mse(a, photo(8, 9))
    with pytest.raises(ValueError, match=r"uint8.*uint16"):
        mse(a, a.astype(np.uint16))
