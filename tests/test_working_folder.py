"""A submitted job survives that Ray takes away the folder it was started in."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from denoise.runners.private_ray import away_from_users_modules
from denoise.runners.working_folder import outside_the_upload


@dataclass(frozen=True)
class Config:
    """Some of what a job is told."""

    images: str = "photos"
    output: str = "s3://bucket/out"
    reference: str | None = None
    model: str = "unet"
    init: str = "mine"


@pytest.fixture
def upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, as on a cluster: what was uploaded, unpacked by Ray."""
    folder = tmp_path / "working_dir_files" / "_ray_pkg_1"
    (folder / "mine").mkdir(parents=True)
    (folder / "unet").mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_current_folder_is_still_one_when_the_upload_is_gone(upload: Path):
    with outside_the_upload(Config()):
        shutil.rmtree(upload)
        assert os.path.isdir(os.getcwd())


def test_a_relative_path_means_what_it_meant_and_a_name_stays_a_name(upload: Path):
    with outside_the_upload(Config()) as config:
        assert config.images == str(upload / "photos")
        assert config.init == str(upload / "mine")
        assert config.output == "s3://bucket/out"
        assert (config.reference, config.model) == (None, "unet")
    assert Path.cwd() == upload


def test_elsewhere_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    given = Config()
    with outside_the_upload(given) as config:
        assert config is given
        assert Path.cwd() == tmp_path


def test_modules_of_ones_own_are_found_from_the_folder_that_workers_start_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", "mods", "", "/elsewhere"]))
    with away_from_users_modules(str(tmp_path / "ray")):
        assert Path.cwd() == tmp_path / "ray"
        found = os.environ["PYTHONPATH"].split(os.pathsep)
    assert found[-3:] == [str(tmp_path), str(tmp_path / "mods"), "/elsewhere"]
    assert "" not in found  # which would be the folder itself
