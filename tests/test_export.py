"""Exported models: they give the model's pixels, at sizes they were not exported with."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from denoise.errors import SettingsError, WriteError
from denoise.nets import package
from denoise.nets.networks import build
from denoise.verbs.export import ExportConfig, export
from tests.running import ROOT, clean_environment


def saved(folder, architecture):
    """A package with weights that do something."""
    torch.manual_seed(0)
    model = build(architecture)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.03)
    package.save(str(folder), model, {"architecture": architecture})
    return str(folder)


@pytest.fixture
def onnxruntime():
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    return pytest.importorskip("onnxruntime", reason="needs the extra `export`")


def pictures(*shape):
    noisy = np.random.default_rng(1).random((shape[0], 3, *shape[1:]), np.float32)
    return noisy, np.full(shape[0], 0.07, np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["classic", "unet"])
def test_a_torch_export_gives_the_same_pixels_at_any_size(tmp_path, architecture):
    model = saved(tmp_path / "model", architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # torch's words to itself are no user's
        said = export(ExportConfig(model=model, to="torch", output=str(tmp_path / "m.pt2")))
    loaded = torch.export.load(tmp_path / "m.pt2").module()
    for shape in [(1, 9, 200), (3, 40, 40)]:
        noisy, sigma = map(torch.from_numpy, pictures(*shape))
        with torch.inference_mode():
            gap = (loaded(noisy, sigma) - package.load(model).model(noisy, sigma)).abs().max()
        assert gap <= 1e-5
    assert said["largest_difference"] <= 1e-5


@pytest.mark.parametrize("architecture", ["classic", "unet"])
def test_an_onnx_model_gives_the_same_pixels_at_any_size(tmp_path, architecture, onnxruntime):
    model = saved(tmp_path / "model", architecture)
    export(ExportConfig(model=model, to="onnx", output=str(tmp_path / "m.onnx")))
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for shape in [(1, 9, 200), (3, 40, 40)]:
        noisy, sigma = pictures(*shape)
        [denoised] = session.run(None, {"noisy": noisy, "sigma": sigma})
        with torch.inference_mode():
            expected = package.load(model).model(torch.from_numpy(noisy), torch.from_numpy(sigma))
        np.testing.assert_allclose(denoised, expected.numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("onnxruntime")
def test_an_export_writes_nothing_into_the_home(tmp_path):
    flags = ["--model", "classic", "--to", "onnx", "--output", str(tmp_path / "m.onnx")]
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-m", "denoise", "export", *flags]
    env = clean_environment() | {"HOME": str(home)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "m.onnx").is_file(), done.stderr
    assert not list(home.iterdir())


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="nosuchmodel"):
        export(ExportConfig(model="nosuchmodel", to="torch", output=str(tmp_path / "m.pt2")))


def test_an_image_is_not_replaced_by_a_model():
    with pytest.raises(ValueError, match=r"output is the file of a model, got .* keep\.jpg"):
        ExportConfig(output="keep.jpg")


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    model = saved(tmp_path / "model", "classic")
    monkeypatch.setattr("denoise.nets.export.graph_of", lambda *_, **__: pytest.fail("begun"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match="cannot write"):
        export(ExportConfig(model=model, to="torch", output=str(tmp_path / "file" / "m.pt2")))


def test_an_output_that_fails_at_the_end_is_told_in_words(tmp_path):
    model = saved(tmp_path / "model", "classic")
    (tmp_path / "m.pt2").mkdir()
    with pytest.raises(WriteError, match=r"m\.pt2 could not be written: "):
        export(ExportConfig(model=model, to="torch", output=str(tmp_path / "m.pt2")))
