"""`denoise compare`: the same images by several models, with scores and a contact sheet."""

import threading
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denoise.errors import SettingsError
from denoise.images.pairs import Fetched, Pair, PairConfig
from denoise.verbs import stages
from denoise.verbs.compare import CompareConfig, Score, compare
from tests.conftest import encoded, photo


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    folder = tmp_path / "clean"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encoded(photo(60, 80, seed=number)))
    return folder


def test_models_are_scored_on_the_same_noise_and_shown_side_by_side(clean: Path, tmp_path: Path):
    sheet = tmp_path / "sheet.png"
    found = compare(
        CompareConfig(
            images=str(clean), models=("unet", "classic"), add_noise=0.1, output=str(sheet)
        )
    )
    before, *models = found["models"]
    assert [one["name"] for one in found["models"]] == ["input", "unet", "classic"]
    assert before["psnr"] == pytest.approx(20.3, abs=0.5)
    for one in models:
        assert one["psnr"] > before["psnr"] + 3 and one["noise"] < before["noise"]
        assert one["megapixels_per_second"] > 0
    assert found["images"] == 3 and found["failed"] == 0
    assert len(found["table"]) == 5
    assert Image.open(sheet).width > 4 * 240  # input, two models, clean


def test_a_reference_tells_quality_and_without_one_there_is_what_was_removed(
    clean: Path, tmp_path: Path
):
    noisy = tmp_path / "noisy"
    noisy.mkdir()
    rng = np.random.default_rng(0)
    for path in clean.iterdir():
        pixels = np.asarray(Image.open(BytesIO(path.read_bytes())))
        rough = np.clip(pixels + rng.normal(0, 20, pixels.shape), 0, 255).round().astype(np.uint8)
        (noisy / path.name).write_bytes(encoded(rough))
    (noisy / "broken.png").write_bytes(encoded(photo())[:99])
    output = str(tmp_path / "sheet.png")
    paired, alone = (
        compare(
            CompareConfig(images=str(noisy), models=("classic",), reference=given, output=output)
        )
        for given in (str(clean), None)
    )
    assert paired["models"][1]["psnr"] > paired["models"][0]["psnr"] + 3
    assert alone["models"][1]["psnr"] is None and "PSNR" not in alone["table"][0]
    assert alone["models"][1]["removed"] == pytest.approx(paired["models"][1]["removed"])
    assert alone["failed"] == 1 and sum(alone["errors"].values()) == 1


def test_an_image_that_takes_too_long_to_decode_is_left_out_and_counted(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    decode, release = stages.decode_pair, threading.Event()

    def slowly(fetched: Fetched, config: PairConfig) -> Pair:
        if fetched.pair.path == "1.png":
            release.wait(60)
        return decode(fetched, config)

    monkeypatch.setattr(stages, "decode_pair", slowly)
    output = str(tmp_path / "sheet.png")
    found = compare(
        CompareConfig(images=str(clean), models=("classic",), output=output, max_seconds=0.5)
    )
    release.set()
    assert found["images"] == 3
    assert found["errors"] == {"it took longer than 0.5 s to decode (--max-seconds)": 1}


def test_a_score_is_the_mean_of_what_is_finite():
    score, pixels = Score("a"), photo(30, 40)
    other = pixels ^ 1  # every value one level off
    score.add(other, pixels, noisy=pixels, seconds=0.5)
    score.add(pixels, pixels, noisy=pixels, seconds=0.5)  # identical: no PSNR
    assert score.mean("psnr") == pytest.approx(20 * np.log10(255))
    assert score.mean("removed") == pytest.approx(0.5 / 255)
    assert score.speed == pytest.approx(2 * 30 * 40 / 1e6)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"models": ()}, "must not be empty"),
        ({"models": ("unet", "unet")}, "got unet twice"),
        ({"output": "sheet.jpg"}, "must be a .png file"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"add_noise": 0.1, "reference": "x"}, "not both"),
    ],
)
def test_what_makes_no_sense_is_refused(flags: dict, words: str):
    with pytest.raises(ValueError, match=words):
        CompareConfig(**({"images": "photos", "models": ("unet",)} | flags))


def test_the_contact_sheet_replaces_no_image(clean: Path):
    before = (clean / "1.png").read_bytes()
    for images, reference in ((clean, None), (clean / "0.png", clean)):
        with pytest.raises(SettingsError, match=r"1\.png is (the input itself|one of the ref)"):
            compare(
                CompareConfig(
                    images=images, reference=reference, models=("unet",), output=clean / "1.png"
                )
            )
    assert (clean / "1.png").read_bytes() == before


def test_images_or_references_that_are_not_there_are_one_sentence(tmp_path: Path):
    output = str(tmp_path / "sheet.png")
    (tmp_path / "a.png").write_bytes(encoded(photo())[:99])
    config = CompareConfig(images=str(tmp_path / "a.png"), models=("classic",), output=output)
    with pytest.raises(SettingsError, match="none of the images can be used"):
        compare(config)
    with pytest.raises(SettingsError, match="no references under"):
        compare(
            CompareConfig(
                images=str(tmp_path), models=("classic",), reference="/no/such", output=output
            )
        )
