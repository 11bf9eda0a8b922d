"""The command line: every flag explains itself, and shells complete verbs and flags."""

import dataclasses
import errno
import io
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import pytest
import ray

from denoise.__main__ import VERBS, _words_of, main
from denoise.errors import SettingsError, WriteError
from denoise.flags import most_values_of
from denoise.typed import spell_out


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `denoise completion SHELL` prints, by shell."""
    folder = tmp_path_factory.mktemp("completion")
    files = {}
    for shell in ("bash", "zsh"):
        command = [sys.executable, "-m", "denoise", "completion", shell]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        files[shell] = folder / shell
        files[shell].write_text(done.stdout)
    return files


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
_tyro_denoise denoise "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
echo "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        (["inf"], "infer"),
        (["d"], "demo doctor"),
        (["infer", "--mod"], "--model"),
        (["train", "--archi"], "--architecture"),
        (["infer", "--format", ""], "png webp jpeg tiff same"),
    ],
    ids=" ".join,
)
def test_bash_completes_verbs_flags_and_values(
    scripts: dict[str, Path], typed: list[str], completed: str
):
    command = ["bash", "-c", COMPLETE, "bash", str(scripts["bash"]), "denoise", *typed]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == completed


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_completion_is_a_script_of_its_shell(scripts: dict[str, Path], shell: str):
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    subprocess.run([shell, "-n", str(scripts[shell])], check=True)
    assert all(f"'{verb}'" in scripts[shell].read_text() for verb in VERBS)


BULK = """images output seed save format quality strip_metadata white_level include exclude limit
    max_pixels max_seconds workers allow_elsewhere column keep_columns max_error_rate retry_errors
    overwrite"""
INFER = f"""{BULK} model add_noise float_noise reference strength
    precision ssim tile device gpus_per_worker"""
FLAGS = {
    "demo": "output overwrite sigma steps",
    "noise": f"{BULK} kind sigma iso",
    "train": """images column output reference white_level validation architecture init workers
        memory max_error_rate compile kind sigma steps batch_size patch seed learning_rate loss
        optimizer precision
        accumulate save_every patience""",
    "infer": INFER,
    "plan": INFER,
    "extract": "output into save",
    "compare": "images models reference add_noise seed limit white_level max_seconds output",
    "report": "output allow_elsewhere",
    "models": "",
    "export": "model output to",
    "doctor": "images output no_ray",
}


def config_of(verb: str) -> type:
    name, _ = VERBS[verb]
    found: type = getattr(import_module(f"denoise.verbs.{verb}"), name)
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_the_flags_are_these_and_a_new_one_is_thought_about_twice(verb: str):
    assert {flag.name for flag in dataclasses.fields(config_of(verb))} == set(FLAGS[verb].split())


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "models"])
def test_every_flag_is_explained(verb: str):
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit):
        main([verb, "--help"])
    words = " ".join(out.getvalue().partition("\nexamples:")[0].split())
    for flag in dataclasses.fields(config_of(verb)):
        name = "--" + flag.name.replace("_", "-")
        assert name in words
        after = words.split(f" {name} ")[-1].split(" --")[0]
        explained = after.split(" (default:")[0].split(" (required)")[0]
        assert any(word.islower() and word.isalpha() for word in explained.split()), name


def help_of(verb: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main(["help", verb])
    assert not ended.value.code
    return out.getvalue()


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_for_people(verb: str):
    words = help_of(verb)
    assert not re.search(r"\{|None|default: False|\b(STR|INT|FLOAT)\b", words)
    assert words.count(f"  denoise {verb}") >= 1 and "examples:\n" in words
    assert "see also: " in words and "--help-verbose" not in words
    assert max(map(len, words.splitlines())) <= 100


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_stands_once_in_a_group_of_its_kind(verb: str):
    flags = re.findall(r"^  (?:-\w, )?--(\S+)", help_of(verb), re.MULTILINE)
    own = {flag.name.replace("_", "-") for flag in dataclasses.fields(config_of(verb))}
    short = {"dry-run"} if verb == "infer" else set()
    assert sorted(flags) == sorted(own | short | {"json", "verbose", "help"})
    assert "\nmore:" not in help_of(verb)


def test_the_flags_that_everybody_needs_come_first():
    words = help_of("infer")
    groups = re.findall(r"^(\S.*):$", words, re.MULTILINE)
    assert groups == [
        *("input and output", "denoising", "noise", "saving", "measuring", "machine", "messages"),
        *("examples", "environment"),
    ]
    first = re.findall(r"^  (?:-o, )?--(\S+ \S+)", words, re.MULTILINE)[:3]
    assert first == ["images FOLDER", "output FOLDER", "model NAME"]


@pytest.mark.parametrize("verb", ["noise", "infer", "train"])
def test_the_help_names_the_variables_that_a_verb_reads(verb: str):
    _, _, after = help_of(verb).partition("\nenvironment:\n")
    names = re.findall(r"^  ([A-Z_]+) ", after, re.MULTILINE)
    source = "".join(
        file.read_text() for file in Path("denoise").rglob("*.py") if file.name != "helptext.py"
    )
    assert "RAY_ADDRESS" in names
    assert [name for name in names if f'"{name}"' not in source] == []


@pytest.mark.parametrize("typed", ["completion", "completion csh", "completion bash zsh"])
def test_completion_is_for_shells_that_it_knows(typed: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(typed.split())
    assert ended.value.code == 2
    assert "name the shell: `denoise completion bash`" in capsys.readouterr().err


class OfRay(RuntimeError):
    """As Ray raises what one of its tasks raised: with all of the traceback for a text."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("Traceback ...")
        self.cause = cause


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("training failed"), "training failed"),
        (OfRay(WriteError("part-1: no space\nTo change retry ...")), "part-1: no space"),
        (OSError(errno.ENOSPC, "No space left on device"), "OSError: no space left on device"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "FileNotFoundError: no such file"),
        (OfRay(SettingsError("s3:// needs a package more")), "s3:// needs a package more"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: permission denied"),
        (ConnectionError("Client is shutting down."), "Client is shutting down."),
        (OfRay(RuntimeError("shapes differ")), None),
        (KeyError("bug"), None),
    ],
)
def test_what_fails_is_said_in_words_but_a_bug_shows_where_it_is(error: Exception, words):
    assert _words_of(error) == words


def test_what_a_worker_lacks_is_a_failure_and_no_wrong_flag(
    ray_session: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    @ray.remote
    def late() -> None:
        raise SettingsError("s3:// needs a package more")

    monkeypatch.setattr("denoise.verbs.doctor.doctor", lambda config: ray.get(late.remote()))
    monkeypatch.setattr("denoise.__main__._set_up_ray", lambda verbose: None)  # it is there already
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "denoise doctor: s3:// needs a package more (-v shows where)"


@pytest.mark.parametrize("flags", [[], ["-v"]])
def test_the_stores_libraries_are_silent_unless_asked(flags: list[str]):
    """What they raise is told in a line of ours; their own words for it are whole tracebacks."""
    code = "import logging, sys; from denoise.terminal import log_to_stderr as log\n"
    code += "log(bool(sys.argv[1:])); logging.getLogger('gcsfs.retry').error('all of it')"
    said = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True)
    assert ("all of it" in said.stderr) == bool(flags)


@pytest.mark.parametrize(
    ("typed", "flags"),
    [
        ("infer photos out", "--images photos --output out"),
        ("infer photos -o out", "--images photos --output out"),
        ("noise a b --sigma 25/255", f"--images a --output b --sigma {25 / 255!r}"),
        ("train a b --sigma 0 51/255", "--images a --output b --sigma 0 0.2"),
        ("infer a b --format jpg", "--images a --output b --format jpeg"),
        ("infer a b --format TIF", "--images a --output b --format tiff"),
        ("infer 1/2 b --reference 3/4", "--images 1/2 --output b --reference 3/4"),
        ("infer a --output=b --format=jpg", "--images a --output b --format jpeg"),
        ("report out", "--output out"),
        ("export unet", "--model unet"),
        ("infer --overwrite a b", "--images a --output b --overwrite"),
        ("infer a --model m b", "--images a --output b --model m"),
        ("infer --workers 2 8 a b", "--images a --output b --workers 2 8"),
        ("infer --workers 2 a b --json", "--images a --output b --workers 2 --json"),
        ("infer a b --include x y", "--images a --output b --include x y"),
        ("infer a b --seed -1", "--images a --output b --seed -1"),
        ("infer a b --add_noise=25/250", "--images a --output b --add-noise 0.1"),
        ("train --sigma 0 51/255 a b -v", "--images a --output b --sigma 0 0.2 -v"),
        ("infer a b --bogus c", "--images a --output b --bogus c"),
        (
            "infer a b --exclude x --json --exclude y z",
            "--images a --output b --exclude x y z --json",
        ),
        ("infer a b --seed 1 --seed 2", "--images a --output b --seed 2"),
        ("infer a --output=-b", "--images a --output=-b"),
        ("infer --exclude=x a b", "--images a --output b --exclude x"),
        ("infer --images a b", "--output b --images a"),
        ("infer b --images=a", "--output b --images a"),
        ("infer a b --strength 1E-1 --seed +3", "--images a --output b --strength 1E-1 --seed +3"),
        ("infer a b c --help", "--help"),
        ("infer --exclude x -- a -b", "--images a --output=-b --exclude x"),
    ],
)
def test_names_fractions_and_short_forms_are_flags(typed: str, flags: str):
    verb, *given = typed.split()
    assert spell_out(verb, given, most_values_of(config_of(verb))) == (verb, flags.split())


@pytest.mark.parametrize("typed", ["a b --dry-run", "--dry-run a b", "a --dry-run b"])
def test_a_dry_run_is_a_plan(typed: str):
    found = spell_out("infer", typed.split(), most_values_of(config_of("infer")))
    assert found == ("plan", ["--images", "a", "--output", "b"])


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("infer a.png b.png c.png", r"3 names \(a.png b.png c.png\), .* put a pattern in quotes"),
        ("train --sigma 1 2 3 a b", r"3 names \(3 a b\), and it takes images and output"),
        ("infer a b --images c", "--images is given twice"),
        ("infer a b --output=c", "--output is given twice"),
        ("infer a --images=c -- b", "--images is given twice"),
        ("infer a b --dry-run=no", "--dry-run takes no value, got no"),
        ("models x", "it takes no names, got x"),
        ("noise a b --sigma 25/0", "--sigma takes a number such as 0.1 or 25/255, got 25/0"),
    ],
)
def test_names_that_make_no_sense_are_refused_in_one_sentence(typed: str, words: str):
    verb, *given = typed.split()
    with pytest.raises(ValueError, match=words):
        spell_out(verb, given, most_values_of(config_of(verb)))


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("infre", "did you mean infer?"),
        ("photo.jpg clean.jpg", "did you mean denoise infer photo.jpg clean.jpg?"),
        ("--model unet infer a b", "the verb comes first: denoise infer --model ..."),
        ("-v", "the verb comes first: denoise VERB -v ..."),
        ("demo.jpg clean.jpg", "did you mean denoise infer demo.jpg clean.jpg?"),
        ("everything", "no verb 'everything' (one of demo, noise, train"),
    ],
)
def test_a_first_word_that_is_no_verb_is_put_right(
    typed: str, words: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as ended:
        main(typed.split())
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "usage"),
    [
        ("infer", "usage: denoise infer IMAGES OUTPUT [FLAGS]"),
        ("demo", "usage: denoise demo [OUTPUT] [FLAGS]"),
        ("extract", "usage: denoise extract OUTPUT [INTO] [FLAGS]"),
        ("export", "usage: denoise export MODEL OUTPUT [FLAGS]"),
        ("models", "usage: denoise models [FLAGS]"),
    ],
)
def test_the_usage_has_in_brackets_what_may_be_left_out(verb: str, usage: str):
    assert help_of(verb).splitlines()[0] == usage


def test_a_reader_of_the_result_may_stop_reading():
    command = [sys.executable, "-m", "denoise", "models"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # as `| head` does
        assert process.stderr.read() == b"" and process.wait() == 0


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("infer --bogus 3", "missing: --images, --output; unrecognized options: --bogus, 3"),
        ("infer --bogus 3", "(denoise infer IMAGES OUTPUT; denoise infer --help"),
        ("infer --images a --output b --bogus 3", "unrecognized options: --bogus, 3"),
        ("infer --images a", "missing: --output"),
        (
            "infer --images a --output b --save x",
            "--save must be one of parquet, files, both, tar, none, got x",
        ),
        ("infer --images a --output b --sav none", "perhaps you meant: --save"),
        ("noise --images a --output b --seed abc", "--seed takes a whole number, got abc"),
        ("infer a b --tile x", "--tile takes a whole number, got x"),
        ("infer a b --max-seconds soon", "--max-seconds takes a number, got soon"),
        ("infer a b --workers x", "--workers takes a whole number or two whole numbers, got x"),
        ("infer a b --white-level x", "--white-level takes a whole number or auto, got x"),
        ("train a b --sigma x", "--sigma takes a number or two numbers, got x"),
        ("train a b --sigma", "--sigma takes a number or two numbers, got nothing"),
        ("infer a b --model", "--model needs a value"),
        ("infer --include *.png photos out", "--include takes all that follows it: put names"),
        ("", "a verb is missing (one of demo, noise, train"),
    ],
)
def test_a_wrong_flag_is_one_clear_line_without_markup(
    capsys: pytest.CaptureFixture[str], typed: str, said: str
):
    with pytest.raises(SystemExit) as ended:
        main(typed.split())
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith(f"denoise {typed.split()[0]}: " if typed else "denoise: ")
    assert said in line and out == ""
    assert not any(mark in line for mark in ("[bold]", "\x1b", "\u2502", "  "))


HOSTILE = "\x1b]0;owned\x07 ruined\rdone\nall fine\u202e\x9b2J caf\udce9"


@pytest.mark.parametrize(
    "error",
    [SettingsError(HOSTILE), WriteError(HOSTILE), OSError(HOSTILE), KeyError(HOSTILE)],
    ids=lambda error: type(error).__name__,
)
def test_no_error_moves_the_terminal(error: Exception):
    """Also where it is a bug, and Python prints where it happened."""
    code = (
        "import sys, denoise.verbs.doctor as verb\n"
        "from denoise.__main__ import main\n"
        "from denoise.errors import SettingsError, WriteError\n"
        "def doctor(config): raise KIND(HOSTILE)\n"
        "verb.doctor = doctor\n"
        "main(['doctor'])\n"
    )
    code = code.replace("KIND", type(error).__name__).replace("HOSTILE", repr(HOSTILE))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert b"owned" in done.stderr and done.returncode in (1, 2)
    assert not set(done.stderr.decode()) & set("\x1b\x07\r\u202e\x9b")


def test_no_result_moves_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys):
    found = {HOSTILE: HOSTILE, "errors": {HOSTILE: 2}, "table": [HOSTILE], "ok": False}
    monkeypatch.setattr("denoise.verbs.doctor.doctor", lambda config: found)
    for flags in ([], ["--json"]):
        with pytest.raises(SystemExit):
            main(["doctor", *flags])
        out = capsys.readouterr().out
        assert "owned" in out and not set(out) & set("\x1b\x07\r\u202e\x9b\udce9")
        assert "\nall fine" not in out


def test_no_line_of_the_log_moves_the_terminal():
    code = (
        "import logging\n"
        "from denoise.terminal import log_to_stderr\n"
        "log_to_stderr(False)\n"
        f"text = {HOSTILE!r}\n"
        "logging.getLogger('denoise').info('of %s', text)\n"
        "logging.getLogger('PIL').warning(text)\n"
        "try:\n"
        "    raise KeyError(text) from ValueError(text)\n"
        "except KeyError:\n"
        "    logging.getLogger('denoise').exception(text)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stderr.count(b"owned") >= 5
    assert not set(done.stderr.decode()) & set("\x1b\x07\r\u202e\x9b")
