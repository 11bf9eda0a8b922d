"""Pairs of one's own: noisy images here, clean ones there, for training as for denoising."""

import json
from pathlib import Path

import numpy as np
import pytest

from denoise.errors import SettingsError
from denoise.output import tables
from denoise.output.folder import FORMAT
from denoise.storage import files, references
from denoise.storage.entry import Entry
from denoise.training.photos import decode_photos
from denoise.verbs.checks import check_reference
from denoise.verbs.infer import InferConfig
from denoise.verbs.train import TrainConfig, train
from tests.conftest import encoded, photo
from tests.running import write_part


def run_of_verb(verb: str) -> bytes:
    return json.dumps({"format_version": FORMAT, "verb": verb, "settings": {}}).encode()


@pytest.fixture
def own_pairs(tmp_path: Path) -> Path:
    """noisy/N.png and clean/N.tif, twelve of them."""
    for kind in ("noisy", "clean"):
        (tmp_path / kind).mkdir()
    for number in range(12):
        clean = photo(40, 40, seed=number)
        noise = np.random.default_rng(number).integers(-20, 21, clean.shape)
        noisy = np.clip(clean.astype(int) + noise, 0, 255).astype(np.uint8)
        (tmp_path / f"clean/{number}.tif").write_bytes(encoded(clean, "TIFF"))
        (tmp_path / f"noisy/{number}.png").write_bytes(encoded(noisy))
    references.forget()
    return tmp_path


def test_a_photo_comes_with_its_clean_self(own_pairs: Path):
    entry = Entry("3.png", str(own_pairs / "noisy/3.png"), 1, "")
    (pair,), statistics = decode_photos([entry], 16, reference=str(own_pairs / "clean"))
    assert np.array_equal(pair.pixels[..., :3], photo(40, 40, seed=3)) and statistics.is_pairs
    assert not np.array_equal(pair.pixels[..., 3:], pair.pixels[..., :3])
    _, statistics = decode_photos([entry], 16, reference=str(own_pairs / "noisy/more"))
    assert list(statistics.errors) == ["3.png"]


def test_training_on_own_pairs_says_how_noisy_they_were(own_pairs: Path):
    config = TrainConfig(
        images=str(own_pairs / "noisy"), reference=str(own_pairs / "clean"), steps=2, save_every=1,
        output=str(own_pairs / "model"), architecture="classic", batch_size=2, patch=16,
    )  # fmt: skip
    found = train(config)
    assert found["training"]["photos"] == 11 and found["sigma"] is None
    assert 20 < found["metrics"]["validation_psnr_noisy"] < 30
    assert found["metrics"]["validation_psnr_start"] is not None
    card = (own_pairs / "model/README.md").read_text()
    assert "that removes noise like that of its pairs from photographs" in card
    assert "| noise | that of the pairs |" in card and ", noise of the pairs |" in card
    assert "train --images NOISY --reference CLEAN --architecture classic --steps 2" in card


def test_the_card_of_a_network_of_ones_own_says_how_to_load_it(own_pairs: Path):
    name = "tests.test_imported:Net"
    config = TrainConfig(
        images=str(own_pairs / "clean"), architecture=name, output=str(own_pairs / "model"),
        steps=2, save_every=1, batch_size=2, patch=16,
    )  # fmt: skip
    assert train(config)["architecture"] == name
    card = " ".join((own_pairs / "model/README.md").read_text().split())
    assert (
        f"A network of one's own, `{name}` (to load it, allow it by DENOISE_NETWORKS={name}),"
        in card
    )
    assert "that removes Gaussian noise from photographs" in card and "autoencoder" not in card


def test_references_that_make_no_sense_are_refused_in_one_sentence(own_pairs: Path):
    with pytest.raises(ValueError, match="leave sigma and kind out"):
        TrainConfig(images="a", output="b", reference="c", sigma=0.1)
    with pytest.raises(ValueError, match="leave sigma and kind out"):
        TrainConfig(images="a", output="b", reference="c", kind="camera")
    with pytest.raises(ValueError, match="not both"):
        InferConfig(images="a", output="b", reference="c", add_noise=0.1)
    with pytest.raises(SettingsError, match="no references under"):
        check_reference(str(own_pairs / "noisy"), str(own_pairs / "nowhere"))
    write_part(str(own_pairs / "table"), 0, [], tables.NOISE_SCHEMA, {})
    files.write(str(own_pairs / "table/_run.json"), run_of_verb("noise"))
    with pytest.raises(SettingsError, match="brings its clean images along: leave reference out"):
        check_reference(str(own_pairs / "table"), str(own_pairs / "clean"))


def test_training_on_denoised_images_is_warned_of(
    own_pairs: Path, caplog: pytest.LogCaptureFixture
):
    files.write(str(own_pairs / "noisy/_run.json"), run_of_verb("infer"))
    with pytest.raises(SettingsError):
        train(TrainConfig(images=str(own_pairs / "noisy"), output=str(own_pairs / "model")))
    assert "is the output of `infer`" in caplog.text
