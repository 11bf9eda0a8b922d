"""An output folder: one driver at a time, one set of settings."""

import errno
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from denoise.errors import SettingsError, WriteError
from denoise.output import discard, folder, lock, tables
from denoise.output.discard import CHECKPOINT, SPLIT
from denoise.output.folder import Output, run_of, run_to_resume
from denoise.output.lock import Lock
from denoise.storage import files, stores
from tests.running import wait_until, write_part

SETTINGS = {"images": "/in", "sigma": 0.1, "seed": 0}


def finished(folder: Path) -> None:
    with Output(str(folder), "noise", SETTINGS) as output:
        output.begin(3)
        output.end()
        output.finish()


def test_a_run_is_recorded_from_start_to_end(tmp_path: Path):
    finished(tmp_path)
    run = run_of(str(tmp_path)) or {}
    assert run["settings"] == SETTINGS and run["state"] == "done" and run["inputs"] == 3
    assert run["started"] <= run["ended"] and run["seconds"] >= 0 and run["versions"]["denoise"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "_SUCCESS",
        "_log.txt",
        "_manifest",
        "_run.json",
    ]


def test_other_settings_are_refused_and_named(tmp_path: Path):
    finished(tmp_path)
    with pytest.raises(SettingsError, match=r"seed was 0, now 7; sigma was 0.1, now 0.2"):
        Output(str(tmp_path), "noise", SETTINGS | {"sigma": 0.2, "seed": 7}).__enter__()
    with pytest.raises(SettingsError, match="output of `noise`, not of `infer`"):
        Output(str(tmp_path), "infer", SETTINGS).__enter__()
    assert not (tmp_path / "_lock.json").exists()


def test_overwrite_discards_what_was_there_and_nothing_else(tmp_path: Path):
    finished(tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    with Output(str(tmp_path), "noise", SETTINGS | {"seed": 7}, overwrite=True) as output:
        assert not output.is_finished
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_overwrite_gets_rid_of_a_record_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "_run.json").write_text("{")
    with pytest.raises(SettingsError, match="holds no JSON object"):
        Output(str(tmp_path), "noise", SETTINGS).__enter__()
    with Output(str(tmp_path), "noise", SETTINGS, overwrite=True):
        assert json.loads((tmp_path / "_run.json").read_text())["state"] == "running"


def test_what_a_part_file_names_stays_known_where_the_store_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A part file that is damaged names no more; one that cannot be read is tried by the next."""
    finished(tmp_path)
    row = {"path": "a.png", "file": "images/a.png.png"}
    write_part(str(tmp_path), 0, [row], tables.INFER_SCHEMA, {})
    files.write(str(tmp_path / "images" / "a.png.png"), b"")
    (part,) = tables.parts(str(tmp_path))

    def refuse(*_: object, **__: object) -> object:
        raise stores._translate(Exception("slowdown"), "s3")

    with monkeypatch.context() as while_it_is_slow:
        while_it_is_slow.setattr(files, "ask", refuse)
        with pytest.raises(OSError, match="slowdown"):
            list(discard._files_of(part))
    assert list(discard._files_of(part)) == [row["file"]]
    whole = Path(part).read_bytes()
    Path(part).write_bytes(whole[: len(whole) // 2])
    assert list(discard._files_of(part)) == []


def test_overwrite_takes_of_data_and_images_only_what_jobs_made(tmp_path: Path):
    finished(tmp_path)
    row = {"path": "a/b.png", "file": "images/a/b.png.png"}
    write_part(str(tmp_path), 0, [row, {"path": "c.png"}], tables.INFER_SCHEMA, {})
    for name in ("images/a/b.png.png", "images/a/mine.png", "data/mine.csv", "images/c.png"):
        files.write(str(tmp_path / name), b"")
    with Output(str(tmp_path), "noise", SETTINGS, overwrite=True):
        pass
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"images/a/mine.png", "data/mine.csv", "images/c.png", "_run.json"}


def test_overwrite_leaves_no_empty_folder_and_gets_rid_of_a_part_that_cannot_be_read(
    tmp_path: Path,
):
    finished(tmp_path)
    row = {"path": "a/b.png", "file": "images/a/b.png.png"}
    write_part(str(tmp_path), 0, [row], tables.INFER_SCHEMA, {})
    files.write(str(tmp_path / "images/a/b.png.png"), b"")
    files.write(tables.part_uri(str(tmp_path), 1), b"")
    with Output(str(tmp_path), "noise", SETTINGS, overwrite=True):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_manifest", "_run.json"]


HOSTILE = [
    "../victim/home",
    "../victim/home/thesis.txt",
    "images/../../victim/home",
    "images/../../victim/home/thesis.txt",
    "images/a/../../mine.txt",
    "images/./mine.png",
    "images//mine.png",
    "images",
    "images/",
    "images/a",
    "images/[a-z]*.png",
    "images/*",
    "mine.txt",
    "data/mine.csv",
    ".",
    "..",
    "",
    "/",
    "~",
    "{root}/victim/home",
    "{root}/victim/home/thesis.txt",
    "{scheme}{root}/victim/home/thesis.txt",
    "images/\0",
]


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_overwrite_removes_nothing_that_a_hostile_table_names(tmp_path: Path, scheme: str):
    root = f"{scheme}{tmp_path}"
    output = f"{root}/out"
    mine = ["victim/home/thesis.txt", "out/mine.txt", "out/data/mine.csv"]
    mine += [f"out/images/{name}" for name in ("mine.png", "a/mine.png")]
    for one in mine:
        files.write(f"{root}/{one}", b"mine")
    with Output(output, "noise", SETTINGS):
        pass
    names = [name.format(root=tmp_path, scheme=scheme or "file://") for name in HOSTILE]
    rows = [{"path": f"{number:02}", "file": name} for number, name in enumerate(names)]
    write_part(output, 0, rows, tables.INFER_SCHEMA, {})
    with Output(output, "noise", SETTINGS, overwrite=True):
        pass
    assert {one: files.exists(f"{root}/{one}") for one in mine} == dict.fromkeys(mine, True)
    assert tables.parts(output) == []


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_overwrite_removes_one_file_a_name_whatever_the_name(tmp_path: Path, scheme: str):
    output = f"{scheme}{tmp_path}/out"
    with Output(output, "noise", SETTINGS):
        pass
    names = ["a.png", "b/[1].png", "b/*.png", "..c.png", "d../e.png"]
    for name in (*names, "b/1.png"):
        files.write(f"{output}/images/{name}", b"")
    rows = [{"path": name, "file": f"images/{name}"} for name in sorted(names)]
    write_part(output, 0, rows, tables.INFER_SCHEMA, {})
    with Output(output, "noise", SETTINGS, overwrite=True):
        pass
    assert files.names(f"{output}/images/b") == ["1.png"]
    assert not files.exists(f"{output}/images/a.png")
    assert not files.exists(f"{output}/images/d../e.png")


def test_overwrite_removes_nothing_through_a_symbolic_link(tmp_path: Path):
    output, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    (home / "a.png").write_bytes(b"mine")
    with Output(str(output), "noise", SETTINGS):
        pass
    (output / "images").mkdir()
    (output / "images" / "deep").symlink_to(home)
    (output / "images" / "b.png").symlink_to(home / "a.png")
    names = ["images/b.png", "images/deep", "images/deep/a.png"]
    rows = [{"path": name, "file": name} for name in names]
    write_part(str(output), 0, rows, tables.INFER_SCHEMA, {})
    with Output(str(output), "noise", SETTINGS, overwrite=True):
        pass
    assert (home / "a.png").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["data", "images", "_manifest", "_unfinished"])
def test_an_output_folder_with_a_link_in_place_of_a_folder_of_ours_is_refused(
    tmp_path: Path, name: str
):
    finished(tmp_path / "theirs")
    row = {"path": "a.png", "file": "images/a.png"}
    write_part(str(tmp_path / "theirs"), 0, [row], tables.INFER_SCHEMA, {})
    for path in ("images/a.png", f"_manifest/.denoise-{'0' * 32}", "_unfinished/a"):
        files.write(str(tmp_path / "theirs" / path), b"mine")
    before = sorted(tmp_path.rglob("*"))
    finished(tmp_path / "new")
    files.remove(str(tmp_path / "new" / name))
    (tmp_path / "new" / name).symlink_to(tmp_path / "theirs" / name)
    for overwrite in (False, True):
        with pytest.raises(SettingsError, match=f"new/{name} is a symbolic link"):
            Output(str(tmp_path / "new"), "noise", SETTINGS, overwrite=overwrite).__enter__()
    assert [path for path in sorted(tmp_path.rglob("*")) if "new" not in path.parts] == before


@pytest.mark.parametrize("kind", [pa.int64(), pa.binary(), pa.list_(pa.string())])
def test_overwrite_stands_a_table_whose_names_are_no_text(tmp_path: Path, kind: pa.DataType):
    with Output(str(tmp_path), "noise", SETTINGS):
        pass
    values = {pa.int64(): 1, pa.binary(): b"images/a", pa.list_(pa.string()): ["images"]}
    table = pa.table({"file": pa.array([values[kind], None], kind)})
    (tmp_path / "data").mkdir()
    pq.write_table(table, tables.part_uri(str(tmp_path), 0))
    with Output(str(tmp_path), "noise", SETTINGS, overwrite=True):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_manifest", "_run.json"]


def test_a_folder_whose_name_is_no_valid_text_is_recorded_and_known_again(tmp_path: Path):
    settings = SETTINGS | {"images": os.fsdecode(b"/in/caf\xe9")}
    for _ in range(2):
        with Output(str(tmp_path), "noise", settings):
            pass
    assert (run_of(str(tmp_path)) or {})["settings"] == settings


def test_overwrite_takes_nothing_from_a_folder_that_no_job_made(tmp_path: Path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.png").write_bytes(b"mine")
    with Output(str(tmp_path), "noise", SETTINGS, overwrite=True):
        pass
    assert (tmp_path / "images" / "mine.png").read_bytes() == b"mine"


MINE = ["_unfinished/a", ".denoise-mine", ".denoise-0/a", "report.html", "summary.json"]
MINE += ["_SUCCESS", "_manifest/a", "_split.parquet", "data/part-00000000.parquet"]


@pytest.mark.parametrize("overwrite", [None, False, True])
@pytest.mark.parametrize("name", MINE)
def test_a_first_run_is_refused_where_something_of_a_users_own_is_in_its_way(
    tmp_path: Path, name: str, overwrite: bool | None
):
    files.write(str(tmp_path / name), b"mine")
    words = f"holds {name.split('/')[0]}, but no _run.json"
    with pytest.raises(SettingsError, match=words) as caught:
        Output(str(tmp_path), "noise", SETTINGS, overwrite=overwrite).__enter__()
    assert "\n" not in str(caught.value)
    assert (tmp_path / name).read_bytes() == b"mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_a_first_run_on_a_store_is_refused_where_something_is_in_its_way():
    files.write("memory://theirs/report.html", b"mine")
    with pytest.raises(SettingsError, match=r"holds report\.html, but no _run\.json"):
        Output("memory://theirs", "noise", SETTINGS).__enter__()
    assert files.read("memory://theirs/report.html") == b"mine"


def test_files_that_no_job_writes_are_in_nobodys_way(tmp_path: Path):
    mine = ["notes.txt", "data/mine.csv", "data/part-0.parquet", "images/a.png", "README.md"]
    for name in mine:
        files.write(str(tmp_path / name), b"mine")
    finished(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in mine} == dict.fromkeys(mine, b"mine")


def test_a_folder_with_images_is_refused_where_the_run_would_write_files_among_them(tmp_path: Path):
    files.write(str(tmp_path / "images" / "a.png"), b"mine")
    with pytest.raises(SettingsError, match=r"holds images, but no _run\.json"):
        Output(str(tmp_path), "infer", SETTINGS | {"save": "files"}).__enter__()


def test_training_is_refused_where_another_model_lies(tmp_path: Path):
    files.write(str(tmp_path / "model.safetensors"), b"mine")
    with pytest.raises(SettingsError, match=r"holds model\.safetensors, but no _run\.json"):
        Output(str(tmp_path), "train", SETTINGS).__enter__()


def test_the_manifest_is_its_owners_alone(tmp_path: Path):
    finished(tmp_path)
    assert stat.S_IMODE((tmp_path / "_manifest").stat().st_mode) == 0o700
    (tmp_path / "_manifest").chmod(0o755)
    finished(tmp_path)
    assert stat.S_IMODE((tmp_path / "_manifest").stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt, WriteError])
def test_a_run_that_ended_before_its_first_row_locks_nobody_out(tmp_path: Path, kind):
    with pytest.raises(kind), Output(str(tmp_path), "noise", SETTINGS) as output:
        files.write(str(tmp_path / "_manifest" / "generation-00000.json"), b"{}")
        output.begin()
        raise kind
    others = SETTINGS | {"seed": 7}
    assert run_to_resume(str(tmp_path), "noise", others, overwrite=False) is None
    with Output(str(tmp_path), "noise", others) as output:
        assert (run_of(str(tmp_path)) or {})["settings"] == others
        assert list((tmp_path / "_manifest").iterdir()) == []
        write_part(str(tmp_path), 0, [{"path": "a.png"}], tables.NOISE_SCHEMA, {})
    with pytest.raises(SettingsError, match="seed was 7, now 0"):
        run_to_resume(str(tmp_path), "noise", SETTINGS, overwrite=False)
    assert run_to_resume(str(tmp_path), "noise", others, overwrite=False) is not None
    assert run_to_resume(str(tmp_path), "noise", SETTINGS, overwrite=True) is None


def test_a_training_that_ended_before_its_first_checkpoint_locks_nobody_out(tmp_path: Path):
    with Output(str(tmp_path), "train", SETTINGS) as output:
        output.begin()
        files.write(str(tmp_path / SPLIT), b"of other photos")
    with Output(str(tmp_path), "train", SETTINGS | {"seed": 7}):
        assert not (tmp_path / SPLIT).exists()
        files.write(str(tmp_path / CHECKPOINT), b"")
    with pytest.raises(SettingsError, match="seed was 7, now 0"):
        Output(str(tmp_path), "train", SETTINGS).__enter__()


def test_a_run_that_lost_its_lock_leaves_its_successors_alone(tmp_path: Path):
    with Output(str(tmp_path), "noise", SETTINGS):
        (tmp_path / "_lock.json").write_text(json.dumps({"token": "another's"}))
    assert (tmp_path / "_lock.json").exists()


def test_what_a_killed_write_left_is_swept_away(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f".denoise-{'0' * 32}").write_bytes(b"half a part")
    finished(tmp_path)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_second_driver_is_refused_while_the_first_lives(tmp_path: Path):
    with (
        Output(str(tmp_path), "noise", SETTINGS),
        pytest.raises(SettingsError, match=r"being written by process \d+"),
    ):
        Output(str(tmp_path), "noise", SETTINGS).__enter__()
    finished(tmp_path)


def test_the_lock_of_a_killed_driver_is_free_at_once(tmp_path: Path):
    code = (
        "import os, signal\n"
        "from denoise.output.folder import Output\n"
        f"Output({str(tmp_path)!r}, 'noise', {SETTINGS!r}).__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert (tmp_path / "_lock.json").exists()
    finished(tmp_path)


def lock_of(**fields: object) -> str:
    """A lock as a living driver elsewhere writes it, but for these fields."""
    holder = {"host": "elsewhere", "system": "another", "process": 1, "born": 1.0, "token": "x"}
    return json.dumps(holder | {"beat": time.time()} | fields)


def here(**fields: object) -> str:
    """A lock as this very process writes it, but for these fields."""
    held = json.loads(Lock("")._heartbeat())
    return json.dumps(held | {"token": "an earlier run's"} | fields)


def test_a_lock_from_another_machine_is_free_when_its_heart_stopped(tmp_path: Path):
    (tmp_path / "_lock.json").write_text(lock_of())
    with pytest.raises(SettingsError, match="being written by process 1 on elsewhere"):
        finished(tmp_path)
    (tmp_path / "_lock.json").write_text(lock_of(beat=0.0))
    finished(tmp_path)


def test_a_process_number_of_another_namespace_or_boot_says_nothing(tmp_path: Path):
    # two containers with one host name on a shared disk: this number is nobody's here
    elsewhere = {"host": socket.gethostname(), "process": 4_000_000}
    for system in ("another", ""):
        (tmp_path / "_lock.json").write_text(lock_of(**elsewhere, system=system))
        with pytest.raises(SettingsError, match="being written by process 4000000"):
            finished(tmp_path)
    (tmp_path / "_lock.json").write_text(here(process=4_000_000))
    finished(tmp_path)


def test_a_driver_in_another_namespace_of_processes_keeps_its_lock(tmp_path: Path):
    code = (
        "from denoise.output.folder import Output\n"
        f"Output({str(tmp_path)!r}, 'noise', {SETTINGS!r}).__enter__()\n"
        "print('taken', flush=True)\n"
        "input()"
    )
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a namespace of processes")
    command = [*apart, sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline() == b"taken\n"
        with pytest.raises(SettingsError, match="being written by process"):
            finished(tmp_path)
        other.communicate(b"\n")


def test_a_lock_that_an_earlier_run_of_this_process_could_not_remove_is_free_after_a_while(
    tmp_path: Path,
):
    (tmp_path / "_lock.json").write_text(here())
    with pytest.raises(SettingsError, match="being written by process"):
        finished(tmp_path)
    (tmp_path / "_lock.json").write_text(here(beat=0.0))
    finished(tmp_path)
    # a container that is started again has the name and the process numbers of the one before
    (tmp_path / "_lock.json").write_text(here(born=json.loads(here())["born"] - 100))
    finished(tmp_path)


@pytest.mark.parametrize("ahead", [3600.0, 1e17])
def test_a_heartbeat_from_the_future_holds_a_folder_only_while_others_follow(
    tmp_path: Path, ahead: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock, "_BEAT", 0.2)
    (tmp_path / "_lock.json").write_text(lock_of(beat=time.time() + ahead))
    finished(tmp_path)
    (tmp_path / "_lock.json").write_text(lock_of(beat=time.time() + ahead))
    beat = threading.Timer(
        0.1, files.write, (str(tmp_path / "_lock.json"), lock_of(beat=1e17).encode())
    )
    beat.start()
    with pytest.raises(SettingsError, match="being written by process"):
        finished(tmp_path)
    beat.join()


def test_the_heart_beats_while_a_large_output_is_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    finished(tmp_path)
    monkeypatch.setattr(lock, "_BEAT", 0.02)

    def slowly(_: str) -> None:
        first = (tmp_path / "_lock.json").read_text()
        wait_until(lambda: (tmp_path / "_lock.json").read_text() != first, 20)

    monkeypatch.setattr(folder.discard, "discard", slowly)
    with Output(str(tmp_path), "noise", SETTINGS, overwrite=True):
        pass
    assert not (tmp_path / "_lock.json").exists()


def test_folders_that_were_made_for_a_run_that_is_refused_are_gone(tmp_path: Path):
    with (
        pytest.raises(SettingsError, match="no images"),
        Output(str(tmp_path / "fresh" / "deep" / "out"), "noise", SETTINGS),
    ):
        raise SettingsError("no images")
    assert list(tmp_path.iterdir()) == []


def test_folders_that_a_user_has_made_or_filled_stay_where_a_run_is_refused(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    with (
        pytest.raises(SettingsError, match="no images"),
        Output(str(tmp_path / "mine" / "fresh" / "out"), "noise", SETTINGS),
    ):
        (tmp_path / "mine" / "fresh" / "note.txt").write_text("written meanwhile")
        raise SettingsError("no images")
    assert [path.name for path in (tmp_path / "mine").rglob("*")] == ["fresh", "note.txt"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError), Output(str(tmp_path / "empty"), "noise", SETTINGS):
        raise SettingsError("no images")
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("content", ["[]", "7", "null", "{", "", "[" * 100_000, '"\xff"'])
def test_a_record_that_none_of_ours_wrote_is_refused(tmp_path: Path, content: str):
    (tmp_path / "_run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingsError, match=r"_run.json holds no JSON object"):
        Output(str(tmp_path), "noise", SETTINGS).__enter__()


RECORD = {"format_version": folder.FORMAT, "verb": "noise", "settings": SETTINGS}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"format_version": 0}, "was made by an older version of denoise"),
        ({"format_version": folder.FORMAT + 1}, "was made by a newer version of denoise"),
        ({"format_version": "1"}, "its format_version is no number"),
        ({"format_version": True}, "its format_version is no number"),
        ({"verb": None}, "its verb is missing or wrong"),
        ({"verb": ["noise"]}, "its verb is missing or wrong"),
        ({"settings": "x"}, "its settings is missing or wrong"),
        ({"settings": None}, "its settings is missing or wrong"),
    ],
)
def test_a_record_of_another_format_is_refused_in_one_line(tmp_path: Path, fields, words: str):
    (tmp_path / "_run.json").write_text(json.dumps(RECORD | fields))
    with pytest.raises(SettingsError, match=words) as caught:
        run_of(str(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match=words):
        Output(str(tmp_path), "noise", SETTINGS).__enter__()


def test_a_record_without_a_format_is_an_older_one(tmp_path: Path):
    (tmp_path / "_run.json").write_text(json.dumps({"verb": "noise", "settings": SETTINGS}))
    with pytest.raises(SettingsError, match=r"made by an older version of denoise \(format 0"):
        run_of(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{", '{"host": "elsewh', "[" * 100_000])
def test_a_lock_that_was_cut_off_is_free(tmp_path: Path, content: str):
    (tmp_path / "_lock.json").write_text(content)
    finished(tmp_path)


def test_a_lock_that_cannot_be_read_may_be_held_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "_lock.json").write_text(held := lock_of())

    def read(uri: str) -> bytes:
        raise OSError(errno.EIO, "Input/output error", uri)

    with monkeypatch.context() as broken, pytest.raises(OSError, match="Input/output"):
        broken.setattr(files, "read", read)
        finished(tmp_path)
    assert (tmp_path / "_lock.json").read_text() == held


MALFORMED = [
    *("[1]", "7", "{}", '"x"', "null"),
    lock_of(host=7),
    lock_of(process="1"),
    lock_of(process=1.5),
    lock_of(process=True),
    lock_of(process=10**40),
    lock_of(born=None),
    lock_of(born=[1]),
    lock_of(beat="now"),
    lock_of(beat=float("nan")),
    lock_of(beat=float("inf")),
    lock_of(token={}),
    lock_of(system=None),
]


@pytest.mark.parametrize("content", MALFORMED, ids=map(str, range(len(MALFORMED))))
def test_a_lock_that_no_driver_of_ours_can_have_written_is_refused_and_stays(
    tmp_path: Path, content: str
):
    (tmp_path / "_lock.json").write_text(content)
    with pytest.raises(SettingsError, match=r"_lock\.json is no lock of this version"):
        finished(tmp_path)
    assert (tmp_path / "_lock.json").read_text() == content


@pytest.mark.parametrize("process", [0, -1, 2**31, 10**17])
def test_a_lock_of_a_process_that_cannot_be_goes_by_its_heartbeat(tmp_path: Path, process: int):
    (tmp_path / "_lock.json").write_text(here(process=process, beat=0.0))
    finished(tmp_path)


@pytest.mark.parametrize("content", ["[1]", "{", "{}"])
def test_a_lock_that_is_written_over_is_lost(tmp_path: Path, content: str):
    with Output(str(tmp_path), "noise", SETTINGS):
        (tmp_path / "_lock.json").write_text(content)
    assert (tmp_path / "_lock.json").read_text() == content


def test_a_failed_run_says_so_and_can_go_on(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), Output(str(tmp_path), "noise", SETTINGS) as output:
        output.begin()
        raise ZeroDivisionError
    assert (run_of(str(tmp_path)) or {})["state"] == "failed"
    finished(tmp_path)


def test_an_interrupted_run_is_running_no_more_and_one_that_did_nothing_leaves_the_record_alone(
    tmp_path: Path,
):
    with pytest.raises(KeyboardInterrupt), Output(str(tmp_path), "noise", SETTINGS) as output:
        output.begin()
        raise KeyboardInterrupt
    assert (run_of(str(tmp_path)) or {})["state"] == "failed"
    finished(tmp_path)
    with pytest.raises(KeyboardInterrupt), Output(str(tmp_path), "noise", SETTINGS):
        raise KeyboardInterrupt
    assert (run_of(str(tmp_path)) or {})["state"] == "done"


def test_rows_keep_their_settings_where_a_worker_finds_out_late_that_it_lacks_something(
    tmp_path: Path,
):
    with (
        pytest.raises(SettingsError, match="needs a package"),
        Output(str(tmp_path), "noise", SETTINGS) as output,
    ):
        output.begin()
        write_part(str(tmp_path), 0, [{"path": "a.png"}], tables.NOISE_SCHEMA, {})
        raise SettingsError("s3:// needs a package more")
    assert (run_of(str(tmp_path)) or {})["state"] == "failed"
    with pytest.raises(SettingsError, match="seed was 0, now 7"):
        Output(str(tmp_path), "noise", SETTINGS | {"seed": 7}).__enter__()


def test_a_run_whose_folder_was_taken_over_writes_no_more(tmp_path: Path):
    theirs = lock_of(token="theirs")
    with pytest.raises(WriteError, match="another run took over"):
        with Output(str(tmp_path), "noise", SETTINGS) as output:
            output.begin()
            output.check()
            (tmp_path / "_lock.json").write_text(theirs)
            (tmp_path / "_run.json").write_text("theirs")
            output.finish()
    assert (tmp_path / "_run.json").read_text() == "theirs"
    assert (tmp_path / "_lock.json").read_text() == theirs
    assert not (tmp_path / "_SUCCESS").exists()
    with pytest.raises(WriteError, match="another run took over"):
        output.check()


def test_what_killed_processes_left_half_written_is_gone(tmp_path: Path):
    finished(tmp_path)
    for name in ("", "data", "_manifest"):
        files.write(str(tmp_path / name / f".denoise-{'0' * 32}"), b"half")
    finished(tmp_path)
    assert list(tmp_path.rglob(".denoise-*")) == []


def test_an_end_that_cannot_be_noted_does_not_hide_why_the_run_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(ZeroDivisionError), Output(str(tmp_path), "noise", SETTINGS) as output:
        output.begin()
        for name in ("_run.json", "_lock.json"):
            (tmp_path / name).unlink()
            (tmp_path / name).mkdir()
        raise ZeroDivisionError
    assert "its end could not be noted: a folder, not a file" in caplog.text
    assert "its lock could not be removed: a folder, not a file" in caplog.text
