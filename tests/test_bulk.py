"""The noise and infer jobs: one row an image, metrics of what is stored, resume without a trace."""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from denoise import InferConfig, infer
from denoise.errors import ImageError, SettingsError
from denoise.images.codec import Picture, decode, to_floats, to_pixels
from denoise.images.metrics import mse, psnr
from denoise.images.noise import add_noise, seed_of
from denoise.nets import networks, package
from denoise.output import tables
from denoise.reports import progress
from denoise.runners import ray_data, ray_session
from denoise.storage import files
from denoise.verbs import bulk
from denoise.verbs.infer import job_of, prepare
from denoise.verbs.noise import NoiseConfig, noise
from denoise.verbs.save import save as save_picture
from tests.conftest import encoded, make_photos, photo


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model package with fresh weights: how badly it denoises is all the same to these tests."""
    uri = str(tmp_path_factory.mktemp("models") / "fresh")
    package.save(uri, networks.build("classic"), {"architecture": "classic", "card": "fresh"})
    return uri


def rows_of(output: object) -> dict[str, dict[str, Any]]:
    rows = list(tables.rows(str(output)))
    by_path = {row["path"]: row for row in rows}
    assert len(by_path) == len(rows), "a path has two rows"
    return by_path


def parts_of(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "data").iterdir()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def denoised(tmp_path_factory: pytest.TempPathFactory, pictures: Path, network: str) -> InferConfig:
    """A finished run, for tests that only read it."""
    output = tmp_path_factory.mktemp("denoised") / "out"
    config = InferConfig(
        images=str(pictures), output=str(output), model=network, add_noise=0.1, save="both"
    )
    infer(config)
    return config


def test_every_input_has_one_row_and_a_broken_one_says_why(denoised: InferConfig):
    rows = rows_of(denoised.output)
    assert len(rows) == 8
    assert [path for path, row in rows.items() if row["error"]] == ["broken.png"]
    assert rows["broken.png"]["image"] is None and rows["broken.png"]["psnr"] is None


def test_metrics_are_those_of_the_stored_bytes(denoised: InferConfig, pictures: Path):
    for path, row in rows_of(denoised.output).items():
        if row["error"]:
            continue
        clean = decode((pictures / path).read_bytes())
        stored = decode(row["image"]["bytes"])
        error = mse(stored.pixels, clean.pixels)
        assert row["mse"] == pytest.approx(error, abs=1e-9)
        assert row["psnr"] == pytest.approx(psnr(error), abs=1e-9)
        noisy = add_noise(to_floats(clean.pixels), sigma=0.1, seed=seed_of(path, 0))
        assert row["mse_noisy"] == pytest.approx(mse(to_pixels(noisy, 8), clean.pixels), abs=1e-9)
        assert (row["height"], row["width"], row["bit_depth"]) == (*clean.pixels.shape[:2], 8)


def test_the_record_holds_every_flag(denoised: InferConfig):
    run = json.loads((Path(denoised.output) / "_run.json").read_text())
    assert set(run["flags"]) == {field.name for field in fields(InferConfig)}
    assert run["settings"]["add_noise"] == 0.1 and run["state"] == "done"


def test_the_summary_counts_what_the_table_holds(denoised: InferConfig):
    summary = json.loads((Path(denoised.output) / "summary.json").read_text())
    rows = [row for row in rows_of(denoised.output).values() if not row["error"]]
    assert (summary["images"], summary["failed"]) == (8, 1)
    assert summary["psnr"]["mean"] == pytest.approx(np.mean([row["psnr"] for row in rows]))
    assert summary["left_out"] == {"hidden": 1, "no image": 1}


def test_a_finished_run_does_nothing_and_says_so(denoised: InferConfig):
    before = parts_of(Path(denoised.output))
    assert infer(denoised)["nothing_to_do"]
    assert parts_of(Path(denoised.output)) == before


def test_images_added_to_a_run_in_a_precision_that_this_machine_lacks_are_refused(
    tmp_path: Path, network: str
):
    """Before any work, and a run without new ones is finished here too."""
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(encoded(photo()))
    config = InferConfig(
        images=str(images), output=str(tmp_path / "out"), model=network, device="cpu"
    )
    infer(config)
    record = tmp_path / "out" / "_run.json"
    run = json.loads(record.read_text())
    run["settings"]["precision"] = "float16"  # which no CPU is made for
    record.write_text(json.dumps(run))
    assert infer(config)["nothing_to_do"]
    (images / "b.png").write_bytes(encoded(photo(seed=2)))
    with pytest.raises(SettingsError, match=r"was started in float16, which this machine cannot"):
        infer(config)
    assert json.loads(record.read_text())["state"] == "done"
    assert len(rows_of(config.output)) == 1


def test_an_interrupted_run_goes_on_and_leaves_no_trace_of_it(
    denoised: InferConfig, tmp_path: Path
):
    copy = replace(denoised, output=str(tmp_path / "copy"))
    shutil.copytree(denoised.output, copy.output)
    sorted((tmp_path / "copy" / "data").iterdir())[0].unlink()
    (tmp_path / "copy" / "_SUCCESS").unlink()  # as a kill leaves it
    infer(copy)
    assert rows_of(copy.output) == rows_of(denoised.output)


@pytest.mark.slow
@pytest.mark.ray
def test_shards_are_done_a_few_at_a_time_where_there_are_many(
    ray_session: object,
    denoised: InferConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(ray_data, "_AT_ONCE", 1)
    monkeypatch.setattr(progress, "_PLAIN", 0.0)
    infer(replace(denoised, output=str(tmp_path / "out"), workers=1))
    assert len(parts_of(tmp_path / "out")) > 1
    assert rows_of(tmp_path / "out") == rows_of(denoised.output)
    total = len(rows_of(denoised.output))
    assert f"infer {total}/{total} images" in capfd.readouterr().err  # counted on and on


def test_what_changed_since_is_done_and_errors_are_tried_again(
    photos: Path, tmp_path: Path, network: str
):
    config = InferConfig(images=str(photos), output=str(tmp_path / "out"), model=network)
    infer(config)
    before = rows_of(config.output)
    (photos / "new.png").write_bytes(encoded(photo(seed=20)))
    (photos / "0.png").write_bytes(encoded(photo(30, 30, seed=21)))
    for number in range(1, 5):
        (photos / f"{number}.png").unlink()
    assert infer(config)["failed"] == 1
    since = rows_of(config.output)
    assert set(since) == set(before) | {"new.png"}
    assert since["0.png"]["height"] == 30
    assert {path: row for path, row in since.items() if path not in ("0.png", "new.png")} == {
        path: row for path, row in before.items() if path != "0.png"
    }, "what is gone or as it was keeps its row"
    assert infer(config)["nothing_to_do"]

    assert infer(replace(config, retry_errors=True))["failed"] == 1  # nothing was mended
    mended = photos / "broken.png"
    stat = mended.stat()
    mended.write_bytes(encoded(np.zeros((8, 8, 3), np.uint8)).ljust(stat.st_size, b"\0"))
    os.utime(mended, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # not told from before by its mark
    assert infer(replace(config, retry_errors=True))["failed"] == 0
    after = rows_of(config.output)
    assert after.pop("broken.png")["height"] == 8
    since.pop("broken.png")
    assert after == since


def test_infer_with_noise_equals_infer_on_the_noise_jobs_output(
    denoised: InferConfig, pictures: Path, tmp_path: Path, network: str
):
    pairs = tmp_path / "pairs"
    noise(NoiseConfig(images=str(pictures), output=str(pairs), sigma=0.1))
    infer(InferConfig(images=str(pairs), output=str(tmp_path / "from_pairs"), model=network))
    one, two = rows_of(denoised.output), rows_of(tmp_path / "from_pairs")
    assert set(one) == set(two)
    for path, row in one.items():
        for column in ("image", "mse", "psnr", "mse_noisy", "psnr_noisy", "sigma", "seed"):
            assert row[column] == two[path][column], (path, column)


def test_noise_is_that_of_path_and_seed_whatever_the_folder_around(
    many: Callable[[int], Path], tmp_path: Path
):
    root = many(12)
    noise(NoiseConfig(images=str(root), output=str(tmp_path / "all"), seed=5))
    for number in range(0, 12, 2):
        (root / f"{number:04d}.png").unlink()
    noise(NoiseConfig(images=str(root), output=str(tmp_path / "half"), seed=5, workers=1))
    every, half = rows_of(tmp_path / "all"), rows_of(tmp_path / "half")
    assert len(half) == 6
    assert all(every[path] == row for path, row in half.items())
    clean = photo(24, 32, seed=1)
    noisy = add_noise(to_floats(clean), sigma=0.1, seed=seed_of("0001.png", 5))
    stored = decode(every["0001.png"]["noisy"]["bytes"]).pixels
    assert np.array_equal(stored, to_pixels(noisy, 8))


def test_a_reference_is_compared_with_and_its_troubles_are_rows(tmp_path: Path, network: str):
    noisy, clean = tmp_path / "noisy", tmp_path / "clean"
    for folder in (noisy, clean):
        folder.mkdir()
    for name in ("same", "missing", "small", "gray"):
        (noisy / f"{name}.png").write_bytes(encoded(photo(20, 30, seed=1)))
    (clean / "same.bmp").write_bytes(encoded(photo(20, 30, seed=1), "BMP"))
    (clean / "small.png").write_bytes(encoded(photo(19, 30, seed=1)))
    (clean / "gray.png").write_bytes(encoded(photo(20, 30, channels=1)))
    infer(
        InferConfig(
            images=str(noisy), output=str(tmp_path / "out"), model=network, reference=str(clean)
        )
    )
    rows = rows_of(tmp_path / "out")
    assert rows["same.png"]["psnr_noisy"] == inf and rows["same.png"]["sigma"] is None
    assert {path: row["error"] for path, row in rows.items()} == {
        "same.png": None,
        "missing.png": "no references of that name",
        "small.png": "its reference has another size",
        "gray.png": "one of image and reference is gray, the other in colour",
    }


def test_images_are_saved_where_they_were_asked_for(
    denoised: InferConfig, pictures: Path, tmp_path: Path, network: str
):
    folder = Path(denoised.output)
    rows = [row for row in rows_of(folder).values() if not row["error"]]
    assert {folder / row["file"] for row in rows} == set(folder.rglob("*.png"))
    assert all((folder / row["file"]).read_bytes() == row["image"]["bytes"] for row in rows)
    assert (folder / "images" / "more" / "wide.png").exists()
    for save, has_files in (("files", True), ("none", False)):
        out = tmp_path / save
        infer(InferConfig(images=str(pictures / "more"), output=str(out), model=network, save=save))
        assert bool(list(out.rglob("*.png"))) == has_files
        assert all(row["image"] is None and row["psnr"] is None for row in rows_of(out).values())


@pytest.mark.parametrize("save", ["files", "none"])
def test_noise_that_keeps_no_pairs_in_its_table_is_measured_and_drawn_all_the_same(
    pictures: Path, tmp_path: Path, save: bulk.Save
):
    config = NoiseConfig(images=str(pictures), output=str(tmp_path / "out"), save=save)
    summary = noise(config)
    assert (summary["images"], summary["failed"]) == (8, 1) and summary["psnr"]["mean"] > 15
    assert (tmp_path / "out" / "_SUCCESS").exists()
    assert 'data-panel="noisy"' in (tmp_path / "out" / "report.html").read_text()


def test_a_file_in_the_way_of_an_images_folder_is_that_images_error(tmp_path: Path):
    config = NoiseConfig(images="photos", output=str(tmp_path), save="files")
    save_picture(Picture(photo()), "a.png", config)
    for inside in ("a.png/b.png", "a.png/more/b.png"):
        with pytest.raises(ImageError, match="cannot be a file's"):
            save_picture(Picture(photo()), inside, config)


def test_lossy_files_are_measured_as_they_are_stored(photos: Path, tmp_path: Path, network: str):
    config = InferConfig(
        images=str(photos / "more"), output=str(tmp_path / "out"), model=network,
        add_noise=0.05, format="same", quality=50, ssim=True,
    )  # fmt: skip
    infer(config)
    row = rows_of(config.output)["wide.jpg"]
    assert row["image"]["path"].endswith(".jpg")
    clean = decode((photos / "more" / "wide.jpg").read_bytes()).pixels
    assert row["mse"] == pytest.approx(mse(decode(row["image"]["bytes"]).pixels, clean), abs=1e-9)
    assert 0 < row["ssim_noisy"] <= 1 and row["ssim"] is not None


def test_the_noise_jobs_metrics_are_of_both_stored_images(pictures: Path, tmp_path: Path):
    noise(
        NoiseConfig(
            images=str(pictures / "more"), output=str(tmp_path / "out"), format="jpeg", quality=60
        )
    )
    for row in rows_of(tmp_path / "out").values():
        clean, noisy = (decode(row[name]["bytes"]).pixels for name in ("clean", "noisy"))
        assert row["mse"] == pytest.approx(mse(noisy, clean), abs=1e-9)


def test_unrounded_noise_is_that_of_the_literature(tmp_path: Path, network: str):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "black.png").write_bytes(encoded(np.zeros((64, 64, 3), np.uint8)))
    found = {}
    for float_noise in (False, True):
        output = tmp_path / f"out-{float_noise}"
        infer(
            InferConfig(
                images=str(tmp_path / "in"),
                output=str(output),
                model=network,
                add_noise=0.1,
                float_noise=float_noise,
            )
        )
        found[float_noise] = rows_of(output)["black.png"]["mse_noisy"]
    assert found[True] == pytest.approx(0.01, rel=0.05)
    assert found[False] == pytest.approx(0.005, rel=0.05)  # clipping halves it on black


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": "nowhere"}, "nowhere"),
        ({"images": "{out}/images"}, "lies inside the output folder"),
        ({"model": "no_such_model"}, "no_such_model"),
        ({"reference": "nowhere", "add_noise": None}, "no references under"),
    ],
)
def test_wrong_uris_are_refused_before_any_work(
    photos: Path, tmp_path: Path, network: str, change: dict[str, Any], words: str
):
    config = InferConfig(images=str(photos), output=str(tmp_path / "out"), model=network)
    with pytest.raises(SettingsError, match=words):
        infer(replace(config, **{k: v and v.format(out=config.output) for k, v in change.items()}))
    assert not files.exists(str(tmp_path / "out" / "data"))


@pytest.mark.parametrize(
    ("images", "address", "words"),
    [
        ("nowhere", "", "nowhere"),
        ("{0}", "127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("{0}", "nobody://there", "cannot start or reach the Ray cluster at nobody://there"),
    ],
)
def test_nothing_is_discarded_before_what_may_be_wrong_was_looked_at(
    denoised: InferConfig, monkeypatch: pytest.MonkeyPatch, images: str, address: str, words: str
):
    monkeypatch.setattr(ray_session, "_ANSWER", 0.5)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    before = rows_of(denoised.output)
    changed = replace(denoised, images=images.format(denoised.images), seed=9, overwrite=True)
    with pytest.raises(SettingsError, match=words):
        infer(changed)
    assert rows_of(denoised.output) == before


def test_a_model_that_is_replaced_during_a_run_ends_it(pictures: Path, tmp_path: Path):
    uri = str(tmp_path / "model")
    package.save(uri, networks.build("classic"), {"architecture": "classic"})
    config, name, needed = prepare(
        InferConfig(images=str(pictures), output=str(tmp_path / "out"), model=uri)
    )
    package.save(uri, networks.build("classic"), {"architecture": "classic"})
    job = job_of(config, name, needed)
    with pytest.raises(SettingsError, match=f"this run's is {name}: it was replaced"):
        sizes, schema = bulk.Sizes(here=1 << 30), tables.INFER_SCHEMA
        bulk.run(config, "infer", config.settings() | {"model": name}, job, sizes, schema)
    assert not tables.parts(config.output)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"save": "all"}, "save must be one of parquet, files, both, tar, none, got all"),
        ({"format": "gif"}, "format must be one of png.*got gif"),
        ({"add_noise": 25.0}, "add-noise must lie in 0..1.*25"),
        ({"add_noise": 0.1, "reference": "x"}, "not both"),
        ({"float_noise": True}, "needs add-noise"),
        ({"tile": 4}, "tile must be at least 16.*4"),
        ({"quality": 0}, "quality must lie in 1..100, got 0"),
        ({"quality": 90}, "quality is for jpeg and webp, and format is png"),
        ({"workers": (3, 2)}, "workers must be N or MIN MAX"),
        ({"workers": 0}, "workers must be N or MIN MAX"),
        ({"max_error_rate": 2.0}, "max-error-rate must lie in 0..1, got 2"),
        ({"gpus_per_worker": float("nan")}, "gpus-per-worker must lie in 0..1.*got nan"),
        ({"gpus_per_worker": 0.0}, "gpus-per-worker must lie in 0..1.*got 0"),
        ({"max_seconds": 0}, "max-seconds must be above 0 and at most 1,000,000, got 0"),
        ({"max_seconds": math.inf}, "max-seconds must be above 0 and at most 1,000,000, got inf"),
        ({"device": "tpu"}, "device must be one of auto, cpu, gpu, got tpu"),
        ({"output": ""}, "output must not be empty"),
        ({"seed": 2**63}, "seed must fit in 64 bits"),
    ],
)
def test_nonsense_is_refused_with_its_value(change: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        InferConfig(**{"images": "a", "output": "b"} | change)


def test_an_image_whose_name_leaves_no_room_for_a_suffix_is_saved_under_a_shorter_one(
    tmp_path: Path,
):
    config = NoiseConfig(images="a", output=str(tmp_path / "out"), save="files")
    names = ["n" * 251 + ".jpg", "n" * 250 + "m.jpg"]
    saved = [save_picture(Picture(photo(8, 8)), name, config) for name in names]
    assert saved[0].file != saved[1].file
    for one in saved:
        assert one.file is not None
        assert np.array_equal(decode((tmp_path / "out" / one.file).read_bytes()).pixels, one.pixels)
