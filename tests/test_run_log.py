"""OUTPUT/_log.txt: what a run said, whatever became of it."""

import logging
from pathlib import Path

import pytest

from denoise import InferConfig, infer
from denoise.errors import SettingsError
from denoise.output.folder import Output
from denoise.output.run_log import FIRST, LAST, RunLog
from tests import running


def test_a_run_leaves_its_phases_and_its_last_words_beside_its_record(tmp_path: Path):
    running.pictures(tmp_path / "in", 2)
    model = running.tiny_model(tmp_path / "model")
    flags = InferConfig(images=str(tmp_path / "in"), output=str(tmp_path / "out"), model=model)
    infer(flags)
    said = (tmp_path / "out/_log.txt").read_text()
    for words in ("infer: listing", "infer: starting", "the first images are done", "Denoised 2"):
        assert words in said
    infer(flags)  # nothing is left to do
    assert (tmp_path / "out/_log.txt").read_text() == said


def test_a_run_that_fails_says_why_and_the_next_one_goes_on_below(tmp_path: Path):
    for cause in (KeyboardInterrupt, ConnectionError):
        with pytest.raises(cause), Output(str(tmp_path / "out"), "infer", {}) as output:
            output.begin(1)
            logging.getLogger("denoise.storage").warning("slow store %s", cause.__name__)
            raise cause("https://host/a?X-Amz-Signature=abc broke off")
    said = (tmp_path / "out/_log.txt").read_text()
    assert said.index("slow store Key") < said.index("ended by Key") < said.index("slow store Conn")
    assert "ended by ConnectionError: https://host/a?... broke off" in said


def test_a_new_folder_that_is_refused_gets_no_log(tmp_path: Path):
    with pytest.raises(SettingsError), Output(str(tmp_path / "out"), "infer", {}):
        raise SettingsError("no images")
    assert not (tmp_path / "out").exists()


def test_a_log_has_a_bounded_size_and_keeps_its_beginning_and_its_end(tmp_path: Path):
    for run in range(2):
        log = RunLog()
        for number in range(7000):
            log.line(f"{run} {number} \x1b[31m")
        log.line("long " * 1000)
        log.save(str(tmp_path))
    lines = (tmp_path / "_log.txt").read_text().splitlines()
    assert len(lines) <= FIRST + LAST and max(map(len, lines)) < 600
    assert " 0 0 " in lines[0] and " 1 6999 " in lines[-2]
    assert "lines are left out" in lines[FIRST] and "\x1b" not in "".join(lines)


def test_of_a_link_in_a_strangers_folder_nothing_is_read_and_nothing_written_over(tmp_path: Path):
    (tmp_path / "mine").write_text("secret\n")
    (tmp_path / "_log.txt").symlink_to(tmp_path / "mine")
    log = RunLog()
    log.line("infer: listing")
    log.save(str(tmp_path))
    assert "secret" not in (tmp_path / "_log.txt").read_text()
    assert (tmp_path / "mine").read_text() == "secret\n"
