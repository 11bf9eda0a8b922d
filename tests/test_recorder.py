"""A training's records: where they go, under which name, and that nothing of them stays behind."""

import json
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest

from denoise.errors import SettingsError
from denoise.output.folder import Output
from denoise.reports.progress import Progress
from denoise.training.metrics_log import Recorder, show_latest, tracking_variables, words_of
from denoise.training.recipe import Recipe

RECORD = {"step": 20, "loss": 0.5, "psnr": 30.0, "images_per_second": 8.0, "seconds_per_step": 2.0}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker's folder, and an environment that asks for no tracker."""
    for name in ("MLFLOW_TRACKING_URI", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_records_go_to_the_output_and_leave_nothing_where_the_worker_stands(here: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = []
    with Recorder(str(here.parent / "out"), Recipe(), shown.append, {}) as recorder:
        recorder.log(RECORD)
        recorder.write([RECORD])
    assert shown == [RECORD] and not list(here.iterdir())
    assert json.loads((here.parent / "out" / "metrics.jsonl").read_text()) == RECORD
    events = EventAccumulator(str(here.parent / "out" / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("psnr")] == [(20, 30.0)]


def test_nothing_stays_behind_when_training_fails(here: Path):
    with pytest.raises(ZeroDivisionError), Recorder("out", Recipe(), print, {}) as recorder:
        recorder.log(RECORD)
        raise ZeroDivisionError
    assert not list(here.iterdir())


def test_a_run_has_the_same_id_whenever_it_goes_on_and_another_folder_has_another():
    ids = [Recorder(uri, Recipe(), print, {}).id for uri in ("s3://a/x", "s3://a/x", "/a/x")]
    assert ids[0] == ids[1] != ids[2] and ids[0].isalnum()


def test_trackers_are_told_on_any_node_what_the_driver_was_told(monkeypatch: pytest.MonkeyPatch):
    assert tracking_variables() == {}
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert tracking_variables() == {"WANDB_API_KEY": "secret"}


def test_a_tracker_that_is_not_installed_is_named_with_the_way_out(monkeypatch):
    pytest.importorskip("torch", reason="TensorBoard's writer is torch's")
    monkeypatch.setenv("WANDB_PROJECT", "denoise")
    if find_spec("wandb"):
        assert tracking_variables() == {"WANDB_PROJECT": "denoise"}
        return
    with pytest.raises(SettingsError, match=r"WANDB_PROJECT is set, but wandb .*denoise\[track"):
        tracking_variables()


def test_mlflow_goes_on_in_the_run_of_the_same_output(here: Path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra `track`")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "runs")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    environment = tracking_variables()
    assert environment["MLFLOW_TRACKING_URI"] == str(here / "runs")
    for step in (20, 40):
        with Recorder("s3://bucket/out", Recipe(), print, environment) as recorder:
            recorder.log(RECORD | {"step": step})
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.run_name == "out" and run.info.status == "FINISHED"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in history] == [20, 40]


def test_weights_and_biases_goes_on_in_the_run_of_the_same_output(here: Path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra `track`")
    for name, value in {"MODE": "offline", "PROJECT": "denoise", "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for step in (20, 40):
        with Recorder("s3://bucket/out", Recipe(), print, tracking_variables()) as recorder:
            recorder.log(RECORD | {"step": step})
    logs = list(here.glob("wandb/offline-run-*/*.wandb"))
    assert {log.name for log in logs} == {f"run-{recorder.id}.wandb"}
    assert all(b"learning_rate" in log.read_bytes() for log in logs)


def test_the_live_line_says_how_good_and_how_long():
    assert words_of(RECORD, 120) == ", loss 0.50000, 30.00 dB, 3 min 20 s left, 8 images/s"


def test_the_last_record_is_shown_too():
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    progress = Progress("train", 20, "steps", stream=Terminal())
    with show_latest(lambda: RECORD, progress):
        pass  # sooner than the first look
    assert "20/20 steps, loss 0.5" in progress.stream.getvalue()


def test_what_a_killed_run_left_of_its_events_is_swept_by_the_next(tmp_path: Path):
    with Output(str(tmp_path), "train", {}) as output:
        output.begin()
        before = {*tmp_path.iterdir()}
        killed = Recorder(str(tmp_path), Recipe(), print, {}).__enter__()
        killed.log(RECORD)
        assert {*tmp_path.iterdir()} > before  # on this very disk: a node's own may be small
    with Output(str(tmp_path), "train", {}) as output:
        output.begin()
        assert {*tmp_path.iterdir()} == before
