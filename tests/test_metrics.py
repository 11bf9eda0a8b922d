"""Metrics are those of scikit-image, and exact on integers."""

from math import inf, isnan, nan

import numpy as np
import pytest
from skimage import metrics as reference

from denoise.images.metrics import estimate_noise, mse, psnr, ssim
from tests.conftest import photo


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


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("channels", [1, 3])
def test_white_noise_on_a_smooth_image_is_estimated_to_a_tenth(sigma: float, channels: int):
    rng = np.random.default_rng(0)
    slope = 0.4 + 0.2 * np.mgrid[0:300, 0:400][0][..., None].repeat(channels, 2) / 300
    noisy = slope + rng.normal(0, sigma, slope.shape)
    for pixels in (noisy.astype(np.float32), np.rint(noisy * 65535).astype(np.uint16)):
        assert estimate_noise(pixels) == pytest.approx(sigma, rel=0.1)


def test_noise_that_neighbours_share_is_estimated_to_a_quarter():
    white = np.random.default_rng(0).normal(0, 0.1, (300, 400, 3))
    smooth = sum(np.roll(white, (y, x), (0, 1)) for y in range(3) for x in range(3)) / 9
    pixels = np.rint(255 * (0.5 + smooth)).astype(np.uint8)
    assert estimate_noise(pixels) == pytest.approx(smooth.std(), rel=0.25)


def test_more_noise_is_estimated_as_more_and_none_as_none():
    clean = photo(200, 300)
    noise = np.random.default_rng(0).normal(0, 1, clean.shape)
    noisy = [np.clip(clean + s * noise, 0, 255).round().astype(np.uint8) for s in (0, 3, 9, 27)]
    found = [estimate_noise(pixels) for pixels in noisy]
    assert found == sorted(found) and found[0] < 1 / 255


def test_black_that_cuts_noise_off_is_not_taken_for_silence():
    rng = np.random.default_rng(0)
    pixels = np.full((300, 400, 3), 120.0)
    pixels[:, :300] = 0
    noisy = np.clip(pixels + rng.normal(0, 12, pixels.shape), 0, 255).round().astype(np.uint8)
    assert estimate_noise(noisy) == pytest.approx(12 / 255, rel=0.1)


def test_an_image_too_small_to_tell_has_no_estimate():
    assert isnan(estimate_noise(photo(19, 300)))
    assert estimate_noise(np.zeros((20, 20, 1), np.uint8)) == 0.0
