"""What would be uploaded to PyPI: it builds, its description renders, and it is whole."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import denoise
from tests.running import ROOT

NOT_OURS = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "demo", "shared")


@pytest.mark.slow
def test_the_distribution_builds_its_description_renders_and_the_models_are_in_it(tmp_path: Path):
    source, built = tmp_path / "source", tmp_path / "built"
    shutil.copytree(ROOT, source, ignore=NOT_OURS)  # setuptools leaves files beside the source
    run("build", "--outdir", str(built), str(source))
    wheel, archive = sorted(built.iterdir(), key=lambda path: path.suffix, reverse=True)
    run("twine", "check", "--strict", str(wheel), str(archive))
    assert wheel.name == f"bulk_denoise-{denoise.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    for kind in ("*.py", "*.safetensors", "config.json", "report.*", "py.typed", "samples/*"):
        ours = {path.relative_to(source).as_posix() for path in (source / "denoise").rglob(kind)}
        assert ours and ours <= names
    assert not any(name.startswith(("tests/", "jobs/", "cluster/")) for name in names)


def run(module: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
