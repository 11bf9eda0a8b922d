"""The demo: every job on the sample photographs, and again where it was left."""

import json
import re
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageOps

import denoise
from denoise.errors import SettingsError
from denoise.images.codec import decode
from denoise.output import tables
from denoise.output.folder import FORMAT
from denoise.verbs.demo import DemoConfig, _discard_trained, demo

SAMPLES = Path(denoise.__file__).parent / "samples"
PHOTOGRAPHS = sorted(path for path in SAMPLES.iterdir() if path.suffix != ".md")


@pytest.fixture(scope="module")
def shown(tmp_path_factory, ray_session):
    """A demo with hardly any training, and its folder."""
    folder = tmp_path_factory.mktemp("demo")
    return demo(DemoConfig(output=str(folder), steps=2)), folder


@pytest.mark.slow
def test_every_photograph_gains(shown):
    said, _ = shown
    assert said["images"] == len(PHOTOGRAPHS) == len(said["gains_db"])
    assert min(said["gains_db"].values()) > 3


@pytest.mark.slow
def test_it_leaves_a_table_a_report_and_a_contact_sheet(shown):
    said, folder = shown
    assert {row["path"] for row in tables.rows(str(folder / "denoised"))} == {
        path.name for path in PHOTOGRAPHS
    }
    assert Path(said["report"]).read_text().startswith("<!doctype html>")
    assert Image.open(said["contact_sheet"]).width > 900
    assert len(said["table"]) == len(PHOTOGRAPHS) + 1


@pytest.mark.slow
def test_running_it_again_says_the_same_and_works_no_more(shown):
    said, folder = shown
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    again = demo(DemoConfig(output=str(folder), steps=2))
    assert again["gains_db"] == said["gains_db"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == before


@pytest.mark.slow
def test_to_overwrite_takes_only_what_jobs_made(shown):
    said, folder = shown
    mine = [folder / name / "mine.txt" for name in ("pairs", "denoised")]
    for file in mine:
        file.write_text("kept")
    before = (folder / "model" / "config.json").stat().st_mtime_ns
    again = demo(DemoConfig(output=str(folder), steps=3, overwrite=True))
    assert all(file.read_text() == "kept" for file in mine)
    assert (folder / "model" / "config.json").stat().st_mtime_ns > before
    assert again["gains_db"].keys() == said["gains_db"].keys()


def test_a_folder_that_another_job_made_is_not_taken_for_a_model(tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    run = {"format_version": FORMAT, "verb": "infer", "settings": {}}
    (folder / "_run.json").write_text(json.dumps(run))
    with pytest.raises(SettingsError, match=r"/model is the output of `infer`"):
        _discard_trained(str(folder))
    assert (folder / "_run.json").exists()


def test_the_photographs_are_small_and_each_names_its_licence():
    assert sum(path.stat().st_size for path in PHOTOGRAPHS) < 2_000_000
    named = re.findall(r"^\| `(.+?)` \|", (SAMPLES / "LICENSES.md").read_text(), re.MULTILINE)
    assert sorted(named) == [path.name for path in PHOTOGRAPHS]


def test_among_the_photographs_are_a_gray_a_turned_and_a_transparent_one():
    pictures = {path.name: decode(path.read_bytes()) for path in PHOTOGRAPHS}
    assert pictures["camera.png"].pixels.shape[2] == 1
    assert pictures["retina.png"].alpha is not None
    stored = Image.open(BytesIO((SAMPLES / "coffee.jpg").read_bytes()))
    assert ImageOps.exif_transpose(stored).size == stored.size[::-1]
    assert pictures["coffee.jpg"].pixels.shape[:2] == stored.size  # upright: [W, H] of the stored


@pytest.mark.parametrize(
    ("flags", "words"),
    [({"steps": 0}, "steps must be at least 1, got 0"), ({"sigma": 0.0}, "sigma must be above 0")],
)
def test_what_would_show_nothing_is_refused(flags, words):
    with pytest.raises(ValueError, match=words):
        DemoConfig(**flags)
