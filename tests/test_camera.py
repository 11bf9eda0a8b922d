"""Camera noise is a function of image, seed and strength, and has the statistics of real noise."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from denoise.images.camera import CameraNoise, add_camera_noise, draw_camera_noise, expose
from denoise.images.codec import Picture, encode
from denoise.images.grain import DEMOSAICS, Grain, GrainBands, to_rgb, to_ycc
from denoise.images.noise import seed_of
from denoise.images.pairs import Fetched, Pair, PairConfig, Source, decode_pair
from denoise.training import camera as on_device
from denoise.training.photos import Photo
from denoise.training.recipe import Recipe
from denoise.training.samples import CAMERA, GAUSSIAN, Sampler

SEED = seed_of("a.jpg", 0)
FOR_EVER = (0.31594056, -0.95247722, 0.26015291)
GRAY = np.full((256, 256, 3), 115, np.uint8)


def without_jpeg(seed: int, iso: float = 3200) -> CameraNoise:
    return replace(draw_camera_noise(seed, iso), jpeg=())


def correlation(residual: np.ndarray, down: int, right: int) -> float:
    """Of a channel with itself, so many pixels away."""
    height, width = residual.shape
    moved = residual[down:, right:] * residual[: height - down, : width - right]
    return float(moved.mean() / residual.var())


@cache
def residuals(count: int = 16) -> list[np.ndarray]:
    """The noise that as many cameras put on gray, less its mean, before JPEG."""
    drawn = [expose(GRAY, without_jpeg(seed)).astype(np.float64) - GRAY for seed in range(count)]
    return [residual - residual.mean((0, 1)) for residual in drawn]


def test_the_same_image_seed_and_strength_give_the_same_noise():
    first, noise = add_camera_noise(GRAY, seed=SEED)
    second, again = add_camera_noise(GRAY.copy(), seed=SEED)
    assert np.array_equal(first, second) and noise == again
    other, _ = add_camera_noise(GRAY, seed=seed_of("b.jpg", 0))
    assert not np.array_equal(first, other)


def test_its_grain_is_this_one_for_ever():
    grain = Grain(luma=(0.9, 0.04, 0.03, 0.02, 0.01), chroma=(0.05,) * 5, shift=(5, 10), seed=3)
    rows = GrainBands(4, 6, grain).rows(0, 4)
    assert rows[1, 2] == pytest.approx(FOR_EVER, abs=1e-5)


def test_a_band_of_rows_is_the_same_grain_as_the_whole():
    for name in (*DEMOSAICS, "none"):
        grain = replace(without_jpeg(5).grain, demosaic=name, shift=(7, 12))
        bands = GrainBands(100, 70, grain)
        parts = [bands.rows(top, min(top + 32, 100)) for top in range(0, 100, 32)]
        assert np.array_equal(np.concatenate(parts), bands.rows(0, 100))


@pytest.mark.parametrize("smooth", [-0.5, 0.0, 0.8])
@pytest.mark.parametrize("demosaic", [*DEMOSAICS, "none"])
def test_grain_has_the_variances_that_its_description_says(demosaic, smooth):
    grain = replace(without_jpeg(1).grain, demosaic=demosaic, smooth=smooth)
    rows = GrainBands(256, 256, grain).rows(0, 256)
    wanted = sum(grain.luma), sum(grain.chroma), sum(grain.chroma)
    assert rows.var((0, 1)) == pytest.approx(wanted, rel=0.15)


def test_colours_come_back_from_brightness_and_differences():
    rgb = np.random.default_rng(0).normal(size=(5, 7, 3)).astype(np.float32)
    assert to_rgb(to_ycc(rgb)) == pytest.approx(rgb, abs=1e-5)


def test_four_times_the_iso_is_twice_the_noise():
    deviations = [np.std(expose(GRAY, without_jpeg(2, iso)).astype(float)) for iso in (3200, 12800)]
    assert deviations[1] / deviations[0] == pytest.approx(2, rel=0.03)


def test_noise_is_as_correlated_as_on_real_photographs():
    # of flat parts of 55 real pairs: 0.72, 0.53, 0.41, 0.25, 0.14 (`tests.bench.camera`)
    found = {
        where: np.mean([correlation(one[..., c], *where) for one in residuals() for c in range(3)])
        for where in ((0, 1), (1, 1), (0, 2), (0, 4), (0, 8))
    }
    assert 0.55 < found[0, 1] < 0.8
    assert 0.35 < found[1, 1] < 0.62
    assert 0.25 < found[0, 2] < 0.5
    assert 0.12 < found[0, 4] < 0.33
    assert 0.04 < found[0, 8] < 0.2


def test_channels_are_as_alike_as_on_real_photographs():
    # 0.44 on one set of real pairs, 0.65 on another
    pairs = [np.corrcoef(one.reshape(-1, 3).T)[[0, 1, 0], [1, 2, 2]] for one in residuals()]
    assert 0.4 < np.mean(pairs) < 0.8


def test_little_of_its_power_is_as_fine_as_pixels():
    # white noise has 21.5 % above half a cycle a pixel, real noise 1.5 % after JPEG
    rows = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)) >= 0.5
    shares = []
    for residual in residuals():
        power = np.abs(np.fft.fft2(residual, axes=(0, 1))) ** 2
        shares.append(power[rows].sum() / power.sum())
    assert np.mean(shares) < 0.08


def test_noise_is_strongest_in_the_lower_mid_tones():
    levels = (28, 62, 113, 173, 214)
    deviations = []
    for level in levels:
        flat = np.full((64, 64, 3), level, np.uint8)
        noises = [expose(flat, without_jpeg(seed)).astype(float) for seed in range(24)]
        deviations.append(np.mean([noise.std((0, 1)) for noise in noises]))
    dark, low, _, light, white = np.array(deviations) / deviations[2]
    assert 0.7 < dark < 1.3 and 0.9 < low < 1.25 and 0.65 < light < 1 and 0.3 < white < 0.75


def test_batches_on_the_device_have_the_same_statistics():
    for seed in range(4):
        grain = without_jpeg(seed).grain
        whole = GrainBands(256, 256, grain).rows(0, 256)
        batch = on_device.batch_grain([grain], 256)[0].permute(1, 2, 0).numpy()
        assert batch.std((0, 1)) == pytest.approx(whole.std((0, 1)), rel=0.1)
        for where in ((0, 1), (1, 1), (0, 2), (4, 0)):
            for channel in range(3):
                ours, theirs = (correlation(g[..., channel], *where) for g in (batch, whole))
                assert ours == pytest.approx(theirs, abs=0.06)


def test_a_sample_does_not_depend_on_its_batch():
    grains = [without_jpeg(seed).grain for seed in range(4)]
    together = on_device.batch_grain(grains, 48)
    alone = on_device.batch_grain(grains[2:3], 48)
    assert together[2].numpy() == pytest.approx(alone[0].numpy(), abs=1e-5)


def test_a_sample_of_training_is_a_function_of_seed_and_number():
    sampler = sampler_of(Recipe(kind="camera", patch=32, seed=9))
    together = on_device.with_camera_noise(sampler.patches(0, 6)).pixels
    alone = on_device.with_camera_noise(sampler.patches(4, 1)).pixels
    # sums of float32 come in another order, and JPEG may turn that into a level or two
    assert np.abs(together[4].astype(int) - alone[0]).max() <= 3
    assert together.shape == (6, 32, 32, 6) and together.dtype == np.uint8


def test_samples_without_noise_are_their_own_clean_selves():
    patches = sampler_of(Recipe(kind="camera", patch=16)).patches(0, 300)
    pairs = on_device.with_camera_noise(patches).pixels
    same = (pairs[..., :3] == pairs[..., 3:]).all((1, 2, 3))
    assert patches.source is not None
    assert same[patches.source >= CAMERA + GAUSSIAN].all()
    assert same[patches.source < CAMERA].mean() < 0.05


def sampler_of(recipe: Recipe) -> Sampler:
    photo = np.random.default_rng(1).integers(60, 200, (64, 80, 3), dtype=np.uint8)
    return Sampler(recipe, lambda _: [Photo("a.jpg", photo)])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (3, 5, 3), (17, 2, 1), (2, 300, 3)])
def test_any_size_and_depth_gets_noise(shape, kind):
    clean = np.full(shape, np.iinfo(kind).max // 3, kind)
    for seed in range(4):
        noisy, _ = add_camera_noise(clean, seed=seed, iso=12800)
        assert noisy.shape == shape and noisy.dtype == kind


def test_sixteen_bits_keep_their_finer_ones():
    clean = np.full((64, 64, 3), 20000, np.uint16)
    noise = replace(draw_camera_noise(1, 3200), jpeg=((90, "420"),))
    assert np.unique(expose(clean, noise) % 257).size > 100


def test_a_pair_says_kind_and_parameters():
    encoded = encode(Picture(GRAY))
    pair = decode_pair(
        Fetched(Pair("a.png"), Source(encoded)), PairConfig(kind="camera", iso=1600, seed=4)
    )
    assert pair.error is None and pair.sigma is None
    assert pair.noise is not None and pair.noise.startswith("camera iso=1600 sigma=0.0083")
    noisy, _ = add_camera_noise(GRAY, seed=seed_of("a.png", 4), iso=1600)
    assert np.array_equal(pair.noisy, noisy) and np.array_equal(pair.clean, GRAY)


def test_camera_noise_with_a_sigma_is_refused_in_words():
    for wrong in ({"sigma": 0.1}, {"float_noise": True}):
        with pytest.raises(ValueError, match="camera noise has no sigma"):
            PairConfig(kind="camera", **wrong)
    with pytest.raises(ValueError, match="leave --sigma out"):
        Recipe(kind="camera", sigma=0.1)
    with pytest.raises(ValueError, match="iso must lie in"):
        draw_camera_noise(0, 0.5)
