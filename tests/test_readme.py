"""The README: every command in it runs, in order, and every file it names is there.

Blocks that cannot run here say why, in a comment right above them. Trainings are cut to two steps.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from denoise.storage import files
from tests import servers
from tests.conftest import encoded, photo
from tests.running import clean_environment

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(
    r"^(<!-- not run by the tests: .+? -->\n)?```(bash|python)\n(.+?)^```$",
    README,
    re.MULTILINE | re.DOTALL,
)

pytestmark = pytest.mark.slow
COMMANDS = [
    pytest.param(kind, code, id=code.strip().splitlines()[0][:50])
    for reason, kind, block in BLOCKS
    if not reason
    for code in (block.strip().splitlines() if kind == "bash" else [block])
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder like a reader's: photographs, pairs from a camera, and `denoise` on the path."""
    home = tmp_path_factory.mktemp("reader")
    for number in range(6):
        clean = photo(64, 80, seed=number)
        noise = np.random.default_rng(number).normal(0, 20, clean.shape)
        noisy = (clean + noise).clip(0, 255).astype("uint8")
        for name, pixels in (("photos", clean), ("camera/clean", clean), ("camera/noisy", noisy)):
            (home / name).mkdir(parents=True, exist_ok=True)
            (home / name / f"{number}.png").write_bytes(encoded(pixels))
    (home / "bin").mkdir()
    command = home / "bin" / "denoise"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m denoise "$@"\n')
    command.chmod(0o755)
    return home


@pytest.fixture(scope="module")
def bucket(folder):
    """An S3 server with the photographs in a bucket named `bucket`."""
    with servers.s3() as store, servers.visible(store):
        for file in (folder / "photos").iterdir():
            files.write(f"s3://bucket/photos/{file.name}", file.read_bytes())
        yield store


@pytest.mark.parametrize(("kind", "code"), COMMANDS)
def test_a_command_of_the_readme_runs(kind, code, folder, request):
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    home = {"HOME": str(folder), "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
    environment = clean_environment() | home | {"PYTHONPATH": str(ROOT), "PATH": path}
    if "s3://" in code:
        environment |= request.getfixturevalue("bucket").env
    short = re.sub(r"--steps \d+", "--steps 2", code)
    command = ["bash", "-euc", short] if kind == "bash" else [sys.executable, "-c", short]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_block_that_is_not_run_says_why():
    reasons = [reason for reason, _, _ in BLOCKS if reason]
    assert len(reasons) == README.count("<!-- not run by the tests: ") <= 4
    assert len(BLOCKS) >= 7


def test_every_file_that_the_readmes_link_to_is_there():
    rooms = [ROOT / name for name in (".github", "cluster", "denoise", "tests")]
    pages = [*ROOT.glob("*.md"), *(page for room in rooms for page in room.rglob("*.md"))]
    assert len(pages) > 10
    missing = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text())
        if not (page.parent / link).exists()
    ]
    assert missing == []


def test_every_benchmark_stands_in_its_readme():
    words = (ROOT / "tests" / "bench" / "README.md").read_text()
    names = [file.stem for file in (ROOT / "tests" / "bench").glob("*.py")]
    assert [name for name in names if f"tests.bench.{name}" not in words] == []


def test_the_tour_names_modules_that_are_there():
    for name in re.findall(r"\b(?:denoise|jobs|tests)(?:/\w+)+\.py", README):
        assert (ROOT / name).is_file(), name
    tour = README.partition("## How it works")[2].partition("## How it compares")[0]
    for line in tour.splitlines():
        if named := re.match(r"(?:denoise|jobs)/(?:\w+/)?", line):
            folder = ROOT / named[0]
            assert folder.is_dir(), folder
            for name in re.findall(r"\b(\w+\.py)\b", line):
                assert (folder / name).is_file(), (folder, name)
