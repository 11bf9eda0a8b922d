"""12 bits in files of 16: levels stay as they are, and 1.0 of the working scale is the white level.

A network that is a fixed mixture stands in for a trained one: how well it denoises is all the same.
"""

from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from denoise import InferConfig, infer
from denoise.errors import ImageError, SettingsError
from denoise.images.codec import Picture, decode, encode, to_floats, to_pixels
from denoise.images.metrics import estimate_noise, mse, psnr, ssim
from denoise.images.pairs import PairConfig, Source, with_white_level
from denoise.nets.denoiser import Denoiser
from denoise.output.folder import run_of
from denoise.reports.closing import closing_words
from denoise.reports.gallery import views_of
from denoise.reports.stats import table_statistics
from denoise.storage.found import LeftOut
from denoise.storage.inputs import entries
from denoise.training.photos import decode_photos
from denoise.verbs.compare import CompareConfig, compare
from denoise.verbs.noise import NoiseConfig, noise
from tests.conftest import encoded, photo
from tests.running import rows_of

WHITE = 4095


def twelve_bits(seed: int, *, channels: int = 1) -> np.ndarray:
    """[48, 64, C] uint16 of 0..4095, the brightest of them 4095."""
    pixels = photo(seed=seed, channels=channels).astype(np.uint16) * 16
    pixels[0, 0] = WHITE
    return pixels


@pytest.fixture
def scope(tmp_path: Path) -> Path:
    """A microscope's folder: 12 bits in TIFF and PNG, one of 16 bits indeed, one of 8."""
    root = tmp_path / "scope"
    root.mkdir()
    for seed, (name, format) in enumerate((("a.tif", "tiff"), ("b.png", "png"))):
        picture = Picture(twelve_bits(seed, channels=1 + 2 * seed))
        (root / name).write_bytes(encode(picture, format=format))
    full = Picture(photo(seed=2).astype(np.uint16) * 257)
    (root / "full.png").write_bytes(encode(full))
    (root / "eight.png").write_bytes(encoded(photo(seed=3)))
    return root


def rows(config: InferConfig | NoiseConfig) -> dict[str, dict[str, Any]]:
    (noise if isinstance(config, NoiseConfig) else infer)(config)
    return {row["path"]: row for row in rows_of(config.output)}


def inferring(scope: Path, model: str, name: str = "out", **more: Any) -> InferConfig:
    flags = {"images": str(scope), "output": str(scope.parent / name), "model": model}
    return InferConfig(**flags | {"white_level": "auto"} | more)


def test_levels_stay_as_they_are_and_the_network_sees_them_on_0_to_1(scope: Path, model: str):
    found = rows(inferring(scope, model, format="same"))
    assert {name: row["white_level"] for name, row in found.items()} == {
        "a.tif": WHITE,
        "b.png": WHITE,
        "full.png": None,
        "eight.png": None,
    }
    for name in ("a.tif", "b.png"):
        given = decode((scope / name).read_bytes()).pixels
        stored = decode(found[name]["image"]["bytes"]).pixels
        assert stored.dtype == np.uint16 and stored.max() <= WHITE
        seen = Denoiser.load(model)(given.astype(np.float32) / np.float32(WHITE))
        assert np.array_equal(stored, to_pixels(seen, 16, WHITE))


def test_what_is_not_denoised_comes_back_level_for_level(scope: Path, model: str):
    found = rows(inferring(scope, model, strength=0.0))
    for name, row in found.items():
        given = decode((scope / name).read_bytes()).pixels
        assert np.array_equal(decode(row["image"]["bytes"]).pixels, given), name


def test_metrics_are_those_of_the_stored_levels_over_the_white_level(scope: Path, model: str):
    found = rows(inferring(scope, model, add_noise=0.05, ssim=True))
    for name in ("a.tif", "b.png"):
        row, clean = found[name], decode((scope / name).read_bytes()).pixels
        stored = decode(row["image"]["bytes"]).pixels
        gap = stored.astype(np.float64) / WHITE - clean.astype(np.float64) / WHITE
        assert row["mse"] == pytest.approx(np.mean(gap**2), abs=1e-9)
        assert row["psnr"] == pytest.approx(psnr(mse(stored, clean, WHITE)), abs=1e-9)
        assert row["psnr_noisy"] == pytest.approx(26.0, abs=0.3)  # -20 log10(0.05)
        assert row["noise_after"] == estimate_noise(stored, WHITE)
        assert row["ssim"] == ssim(stored, clean, WHITE)


@pytest.mark.parametrize("level", ["auto", WHITE])
def test_adding_noise_first_equals_noise_and_then_infer(scope: Path, model: str, level: Any):
    (scope / "full.png").unlink()  # above 4095
    at_once = rows(inferring(scope, model, "once", add_noise=0.1, seed=3, white_level=level))
    pairs = str(scope.parent / "pairs")
    rows(NoiseConfig(images=str(scope), output=pairs, sigma=0.1, seed=3, white_level=level))
    in_two = rows(inferring(scope, model, "two", images=pairs, white_level=None))
    assert in_two.keys() == at_once.keys()
    for name, row in at_once.items():
        same = ("image", "white_level", "mse", "mse_noisy", "removed", "sigma", "seed", "error")
        assert {key: row[key] for key in same} == {key: in_two[name][key] for key in same}


def test_the_noise_of_files_beside_a_table_is_of_its_white_level_too(scope: Path, model: str):
    pairs = str(scope.parent / "pairs")
    rows(NoiseConfig(images=str(scope), output=pairs, save="files", white_level="auto"))
    found = rows(inferring(scope, model, images=pairs, white_level=None))
    assert found["a.tif"]["white_level"] == WHITE and found["full.png"]["white_level"] is None


def test_camera_noise_is_that_of_the_same_picture_in_all_16_bits(scope: Path):
    flags = {"kind": "camera", "iso": 3200.0, "white_level": "auto"}
    low = rows(NoiseConfig(images=str(scope), output=str(scope.parent / "low"), **flags))["a.tif"]
    full = decode((scope / "a.tif").read_bytes())
    full = replace(full, pixels=to_pixels(to_floats(full.pixels, WHITE), 16))
    (scope / "a.tif").write_bytes(encode(full, format="tiff"))
    high = rows(NoiseConfig(images=str(scope), output=str(scope.parent / "high"), **flags))["a.tif"]
    assert low["noise"] == high["noise"]
    ours, theirs = (decode(row["noisy"]["bytes"]).pixels for row in (low, high))
    assert ours.max() <= WHITE
    assert np.abs(ours / WHITE - theirs / 65535).max() <= 0.5 / WHITE + 1e-6  # rounded, no more


def test_levels_above_it_are_an_error_row_and_never_cut_off(scope: Path, model: str):
    found = rows(inferring(scope, model, white_level=WHITE))
    words = "levels above the white level 4095: give a higher one, or auto"
    assert [name for name, row in found.items() if row["error"] == words] == ["full.png"]
    assert found["eight.png"]["error"] is None and found["eight.png"]["white_level"] is None


def test_a_reference_brighter_than_white_is_an_error_row(scope: Path, model: str):
    references = scope.parent / "references"
    references.mkdir()
    for name, brightest in (("a.png", WHITE + 1), ("b.png", WHITE)):
        bright = twelve_bits(5, channels=1 + 2 * (name == "b.png"))
        bright[0, 0] = brightest
        (references / name).write_bytes(encode(Picture(bright)))
    found = rows(inferring(scope, model, reference=str(references)))
    assert found["a.tif"]["error"] == "its reference has levels above the white level 4095"
    assert found["b.png"]["error"] is None and found["b.png"]["mse"] < 1


@pytest.mark.parametrize(
    ("brightest", "wanted"),
    [(1, 1023), (1023, 1023), (1024, 4095), (4096, 16383), (16384, None), (65535, None)],
)
def test_auto_takes_the_least_that_holds_the_brightest(
    tmp_path: Path, brightest: int, wanted: int | None
):
    (tmp_path / "in").mkdir()
    pixels = np.full((4, 4, 1), brightest, np.uint16)
    (tmp_path / "in" / "a.png").write_bytes(encode(Picture(pixels)))
    config = NoiseConfig(
        images=str(tmp_path / "in"), output=str(tmp_path / "out"), white_level="auto"
    )
    assert rows(config)["a.png"]["white_level"] == wanted


def test_without_the_flag_dark_images_of_16_bits_are_counted_and_the_flag_is_named(
    scope: Path, model: str
):
    summary = infer(inferring(scope, model, white_level=None))
    assert summary["notes"] == {"16 bits, with no level above 4095: see --white-level": 2}
    (line,) = (line for line in closing_words(summary) if "--white-level" in line)
    assert line.startswith("2 images of 16 bits have no level above 4095")
    again = infer(inferring(scope, model, "auto"))
    assert not [line for line in closing_words(again) if "--white-level" in line]


def test_a_run_goes_on_with_the_white_level_that_it_began_with(scope: Path, model: str):
    infer(inferring(scope, model))
    with pytest.raises(SettingsError, match="white_level was 'auto', now 4095"):
        infer(inferring(scope, model, white_level=WHITE))
    assert infer(inferring(scope, model))["nothing_to_do"]


def test_one_file_keeps_its_levels(scope: Path, model: str):
    output = scope.parent / "clean.tif"
    infer(inferring(scope, model, images=str(scope / "a.tif"), output=str(output)))
    stored = decode(output.read_bytes()).pixels
    assert WHITE // 4 < stored.max() <= WHITE


def test_models_are_compared_on_the_scale_of_a_table(scope: Path, model: str):
    pairs = str(scope.parent / "pairs")
    rows(NoiseConfig(images=str(scope), output=pairs, sigma=0.1, white_level="auto"))
    sheet = str(scope.parent / "sheet.png")
    compared = compare(CompareConfig(images=pairs, models=(model,), output=sheet))
    found = rows(inferring(scope, model, images=pairs, precision="float32"))
    wanted = np.mean([row["psnr"] for row in found.values()])
    assert compared["models"][1]["psnr"] == pytest.approx(wanted, abs=0.01)


def test_training_sees_them_as_bright_as_they_are(scope: Path):
    (listed,) = (e for e in entries(str(scope), LeftOut()) if e.path == "a.tif")
    given = decode((scope / "a.tif").read_bytes()).pixels
    ((photo_,), _) = decode_photos([listed], 8, white_level="auto")
    assert np.array_equal(photo_.pixels, np.repeat(to_pixels(to_floats(given, WHITE), 8), 3, 2))
    pairs = scope.parent / "pairs"
    rows(NoiseConfig(images=str(scope), output=str(pairs), sigma=0.0, white_level="auto"))
    (listed,) = (e for e in entries(str(pairs), LeftOut()) if e.path == "a.tif")
    ((pair,), _) = decode_photos([listed], 8)  # its table says what is white
    assert np.array_equal(pair.pixels, np.dstack([photo_.pixels, photo_.pixels]))


def test_the_report_shows_them_as_bright_as_they_are(scope: Path, model: str):
    config = inferring(scope, model, strength=0.0)
    infer(config)
    stats, run = table_statistics(config.output), run_of(config.output)
    assert run is not None
    shown = views_of(config.output, run, stats, allow_elsewhere=True)
    (view,) = (one for some in shown.values() for one in some if one.path == "a.tif")
    panel = decode(b64decode(view.crops["denoised"].partition(",")[2])).pixels
    given = decode((scope / "a.tif").read_bytes()).pixels
    assert panel.mean() / 255 == pytest.approx(given.mean() / WHITE, abs=0.01)


@pytest.mark.parametrize("level", [0, -1, 65536, "most"])
def test_nonsense_is_refused(level: Any):
    with pytest.raises(ValueError, match=r"white-level must be auto or lie in 1\.\.65535, got"):
        PairConfig(white_level=level)


def test_compare_measures_and_denoises_on_the_scale_of_the_white_level(
    scope: Path, tmp_path: Path, model: str
):
    (scope / "full.png").unlink()
    (scope / "eight.png").unlink()
    pairs = str(tmp_path / "pairs")
    noise(NoiseConfig(images=str(scope), output=pairs, white_level=WHITE))
    measured = infer(InferConfig(images=pairs, output=str(tmp_path / "out"), model=model))
    sheet = str(tmp_path / "sheet.png")
    of_table = CompareConfig(images=pairs, models=(model,), output=sheet)
    of_files = CompareConfig(
        images=str(scope), models=(model,), add_noise=0.1, white_level=WHITE, output=sheet
    )
    for config in (of_table, of_files):
        before, after = compare(config)["models"]
        assert before["psnr"] == pytest.approx(measured["psnr_noisy"]["mean"], abs=0.001)
        assert after["psnr"] == pytest.approx(measured["psnr"]["mean"], abs=0.001)
        assert before["psnr"] < 25


@pytest.mark.parametrize("level", [[1], b"1", "auto", 4095.5, 0, True, 1 << 20])
def test_a_white_level_of_a_strangers_table_that_is_none_is_the_images_error(level: Any):
    picture = Picture(twelve_bits(0))
    with pytest.raises(ImageError, match="white level of its table must be a number"):
        with_white_level(picture, Source(b"", white_level=level), None)
