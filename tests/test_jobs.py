"""The three jobs end to end, as processes: what they print, write, return and leave behind."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT, Done, rows_of, run, tiny_model


def refused(*arguments: str) -> str:
    """The one line that a command with wrong flags or URIs ends with, exit code 2."""
    done = subprocess.run(
        [sys.executable, "-m", "denoise", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    return done.stderr


def fine(done: Done) -> dict[str, object]:
    """The summary of a job that ended well and left nothing running."""
    assert done.code == 0, done.err
    assert done.left == []
    assert len(done.out.splitlines()) == 1
    return done.summary


def test_the_river_from_photographs_to_measured_denoised_ones(photos: Path, tmp_path: Path):
    (photos / "broken.png").unlink()
    home = tmp_path / "home"
    home.mkdir()
    env = {"HOME": str(home)}
    pairs, model, out = (str(tmp_path / name) for name in ("pairs", "model", "out"))

    noisy = fine(run("noise", "--images", str(photos), "--output", pairs, env=env))
    assert noisy["images"] == 7 and noisy["failed"] == 0

    flags = ["--architecture", "classic", "--steps", "3", "--patch", "16", "--batch-size", "4"]
    trained = run("train", "--images", pairs, "--output", model, *flags, env=env)
    fine(trained)
    assert (Path(model) / "model.safetensors").exists()

    denoised = fine(run("infer", "--images", pairs, "--model", model, "--output", out, env=env))
    assert denoised["images"] == 7 and denoised["failed"] == 0
    for row in rows_of(out):
        assert row["sigma"] == 0.1 and row["psnr_noisy"] > 15 and row["psnr"] > 0
        assert row["model"].startswith("model@")
    assert json.loads((Path(out) / "_run.json").read_text())["model"] == rows_of(out)[0]["model"]
    assert list(home.iterdir()) == [], "a local run writes nothing outside its output"


def test_more_errors_than_allowed_end_with_exit_code_3(photos: Path, tmp_path: Path):
    network = tiny_model(tmp_path / "network")
    flags = ["--images", str(photos), "--output", str(tmp_path / "out"), "--model", network]
    done = run("infer", *flags)
    assert done.code == 3
    assert done.summary["failed"] == 1 and (tmp_path / "out" / "_SUCCESS").exists()
    assert run("infer", *flags, "--max-error-rate", "0.5").code == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["infer", "--images", "nowhere", "--output", "{}/out"], "nowhere"),
        (
            ["infer", "--images", "{}", "--output", "{}/out"],
            "no images under .*is the prefix right",
        ),
        (["infer", "--images", "{}", "--output", "{}/out", "--add-noise", "25"], "0..1.*25"),
        (["infer", "--images", "{}", "--output", "{}/o", "--model", "nosuch"], "unet"),
        (
            ["infer", "--images", "{}", "--output", "/proc/nothing", "--model", "unet"],
            "cannot write to",
        ),
        (["infer", "--images", "{}", "--output", "{}/out", "--sav", "none"], "--save"),
        (["infer", "--images", "{}", "--output", "{}/out", "--save", "non"], "none"),
        (["noise", "--images", "{}", "--output", "{}/out", "--sigma", "-1"], "0..1.*-1"),
        (["noise", "--images", "{}"], "--output"),
        (["noise", "--images", "nosuch://b/x", "--output", "{}/out"], "cannot open nosuch://"),
        (["train", "--images", "nowhere", "--output", "{}/out"], "nowhere"),
        (["train", "--images", "{}", "--output", "{}/o", "--architecture", "x"], "classic"),
        (["nois"], "did you mean noise"),
        (["report", "--output", "{}"], "no output of a job"),
    ],
)
def test_wrong_flags_and_uris_end_with_one_clear_line(tmp_path: Path, flags: list[str], words: str):
    said = refused(*(flag.replace("{}", str(tmp_path)) for flag in flags))
    assert re.search(words, said), said


def test_every_verb_explains_its_flags():
    for verb in ("noise", "train", "infer", "plan", "report", "models", "doctor", "demo", "export"):
        done = subprocess.run(
            [sys.executable, "-m", "denoise", verb, "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and "--json" in done.stdout, verb
