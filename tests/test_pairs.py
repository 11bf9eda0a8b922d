"""A pair: an image fetched, decoded and paired, or the words for why not."""

import gc
import time
from pathlib import Path
from weakref import ref

import numpy as np
import pytest

from denoise.images.codec import decode
from denoise.images.pairs import PairConfig, errors_of
from denoise.output import tables
from denoise.storage.entry import Entry
from denoise.storage.fetch import load_pair
from denoise.storage.found import LeftOut
from denoise.storage.inputs import entries
from denoise.training.photos import decode_photos
from denoise.verbs.infer import InferConfig
from denoise.verbs.infer_shard import pairing_of
from denoise.verbs.infer_shard import row_of as inferred_row
from denoise.verbs.noise import NoiseConfig, noise, row_of
from tests.conftest import encoded, photo
from tests.running import write_part


def entry(folder: Path, name: str = "a.png") -> Entry:
    return Entry(name, str(folder / name), 0, "")


def test_a_noisy_image_brings_its_clean_self_along(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded(photo()))
    pair = load_pair(entry(tmp_path), PairConfig(sigma=0.1, seed=3))
    assert pair.error is None and (pair.sigma, pair.seed) == (0.1, 3)
    assert np.array_equal(pair.clean, photo())
    assert pair.noisy.dtype == np.uint8
    assert errors_of(pair.noisy, pair.clean)[1] == pytest.approx(20.3, abs=0.5)
    assert set(pair.seconds) == {"fetch", "decode", "noise"}


def test_alpha_gets_no_noise_and_is_carried_along(tmp_path: Path):
    pixels = np.dstack([photo(), photo(channels=1)])
    (tmp_path / "a.png").write_bytes(encoded(pixels))
    pair = load_pair(entry(tmp_path), PairConfig(sigma=0.1))
    assert np.array_equal(pair.picture.alpha, pixels[..., 3])
    assert pair.noisy.shape[2] == 3


def test_without_noise_or_reference_there_is_nothing_to_compare_with(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded(photo()))
    pair = load_pair(entry(tmp_path), PairConfig())
    assert pair.clean is None and pair.sigma is None and pair.seed is None
    assert errors_of(pair.noisy, pair.clean) == (None, None)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.mkdir(), "a folder, not a file"),
        (lambda path: path.symlink_to("nowhere"), "no such file"),
        (lambda path: None, "no such file"),
    ],
)
def test_what_goes_wrong_with_one_image_is_its_error(tmp_path: Path, make, words: str):
    make(tmp_path / "a.png")
    pair = load_pair(entry(tmp_path), PairConfig(sigma=0.1))
    assert pair.error == words
    assert pair.noisy is None and pair.clean is None
    assert pair.about()["path"] == "a.png" and pair.about()["error"] == words


def test_equal_causes_have_equal_words(tmp_path: Path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded(photo(seed=len(name)))[:300])
    errors = {load_pair(entry(tmp_path, name), PairConfig()).error for name in ("a.png", "b.png")}
    assert len(errors) == 1 and None not in errors


def test_an_image_over_the_limit_is_refused_before_it_is_decoded(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded(photo(48, 64)))
    assert load_pair(entry(tmp_path), PairConfig(max_pixels=48 * 64)).error is None
    assert load_pair(entry(tmp_path), PairConfig(max_pixels=48 * 64 - 1)).error is not None


def test_without_its_reference_an_image_still_says_what_it_is(tmp_path: Path):
    (tmp_path / "clean").mkdir()
    (tmp_path / "a.png").write_bytes(encoded(photo(20, 30)))
    pair = load_pair(entry(tmp_path), PairConfig(reference=str(tmp_path / "clean")))
    assert pair.error == "no references of that name"
    assert (pair.about()["height"], pair.about()["width"]) == (20, 30)


def test_the_pixels_of_an_image_without_its_reference_are_let_go_of_at_once(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded(photo()))
    gc.disable()  # it may not come by for many images
    try:
        pair = load_pair(entry(tmp_path), PairConfig(reference=str(tmp_path / "nowhere")))
        pixels = ref(pair.picture.pixels)
        del pair
        assert pixels() is None
    finally:
        gc.enable()


def test_noisy_files_without_their_clean_selves_are_never_taken_for_clean_ones(tmp_path: Path):
    out = tmp_path / "out"
    (tmp_path / "a.png").write_bytes(encoded(photo()))
    config = NoiseConfig(images=str(tmp_path), output=str(out), sigma=0.2, seed=3, save="files")
    pair = load_pair(entry(tmp_path), PairConfig(sigma=0.2, seed=3))
    write_part(str(out), 0, [row_of(pair, config)[0]], tables.NOISE_SCHEMA, {})
    (out / "_run.json").write_text("{}")
    (listed,) = entries(str(out), LeftOut())
    again = load_pair(listed, PairConfig())
    assert (again.sigma, again.seed, again.clean, again.error) == (0.2, 3, None, None)
    assert np.array_equal(again.noisy, decode((out / "images/a.png").read_bytes()).pixels)
    assert load_pair(listed, PairConfig(sigma=0.1)).error == "noisy already, as its table says"
    assert decode_photos([listed], 16)[1].errors == {
        listed.path: "noisy, and its table brings no clean image along"
    }


def test_files_with_camera_noise_are_never_taken_for_clean_ones(tmp_path: Path):
    out = tmp_path / "pairs"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded(photo()))
    noise(NoiseConfig(images=str(tmp_path / "in"), output=str(out), kind="camera", save="files"))
    (listed,) = entries(str(out), LeftOut())
    assert load_pair(listed, PairConfig(sigma=0.1)).error == "noisy already, as its table says"


def test_no_second_of_an_image_counts_for_two_stages(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded(photo(200, 300)))
    config = InferConfig(images=str(tmp_path), output=str(tmp_path / "out"), add_noise=0.1)
    start = time.perf_counter()
    pair = load_pair(entry(tmp_path), pairing_of(config))
    pair.denoised = pair.noisy
    row, _ = inferred_row(pair, config, "model")
    spent = time.perf_counter() - start
    assert row["mse"] == row["mse_noisy"] > 0
    assert {"encode", "measure"} <= pair.seconds.keys()
    assert sum(pair.seconds.values()) <= spent


def test_a_broken_image_is_told_before_its_missing_reference(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"")
    pair = load_pair(entry(tmp_path), PairConfig(reference=str(tmp_path / "nowhere")))
    assert pair.error == "empty file"
