"""The doctor: it finds what is wrong and says so, and can itself not be brought down."""

import json

import pytest

from denoise.nets.networks import device
from denoise.nets.precision import resolve_precision
from denoise.verbs.doctor import DoctorConfig, doctor


def checks(**config):
    found = doctor(DoctorConfig(no_ray=True, **config))
    return found["ok"], {check["name"]: check for check in found["checks"]}


def test_a_machine_that_runs_the_tests_is_well(tmp_path):
    ok, found = checks(images=str(tmp_path), output=str(tmp_path / "out"))
    assert ok, [check for check in found.values() if check["state"] == "bad"]
    assert {"python", "torch", "device", "network", "s3://", "shared memory"} <= found.keys()


def test_it_says_which_precisions_there_are_and_which_one_is_used():
    _, found = checks()
    best = resolve_precision("auto", device())
    assert f"denoises in {best}" in found["network"]["found"]
    assert "float32" in found["device"]["found"] and best in found["device"]["found"]


def test_what_it_says_is_json():
    found = doctor(DoctorConfig(no_ray=True))
    assert json.loads(json.dumps(found)) == found


def test_a_uri_that_does_not_answer_is_bad(tmp_path):
    ok, found = checks(images=str(tmp_path / "nowhere"))
    assert not ok
    assert found["images"]["state"] == "bad" and "nothing at" in found["images"]["found"]


def test_an_output_that_cannot_be_written_is_bad(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    ok, found = checks(output=str(tmp_path / "file" / "out"))
    assert not ok
    assert found["output"]["state"] == "bad" and "cannot write" in found["output"]["found"]


def test_it_leaves_nothing_behind_where_it_tried_to_write(tmp_path):
    checks(output=str(tmp_path))
    checks(output=str(tmp_path / "fresh" / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_uri_of_an_unknown_store_is_bad_and_no_crash():
    ok, found = checks(images="nosuchstore://bucket/x")
    assert not ok and found["images"]["state"] == "bad"


def test_an_empty_uri_is_refused():
    with pytest.raises(ValueError, match="images must not be empty"):
        DoctorConfig(images="")
