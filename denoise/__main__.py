"""The `denoise` command: a verb, the function that does it, and flags made from its config."""

import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import field, make_dataclass
from functools import partial, reduce
from importlib import import_module
from io import StringIO
from operator import or_
from textwrap import shorten
from typing import Annotated, Any

from denoise import __version__
from denoise.display.progress import is_live

# verb -> (module, function, config, what it does)
VERBS = {
    "demo": ("demo", "demo", "DemoConfig", "noise, train, infer and report on sample photographs"),
    "noise": ("noising", "noise", "NoisingConfig", "images -> a table of clean and noisy pairs"),
    "train": ("training", "train", "TrainConfig", "images or pairs -> a model package"),
    "infer": ("inference", "infer", "InferConfig", "images + model -> denoised images and metrics"),
    "plan": ("plan", "plan", "PlanConfig", "what `infer` with these flags would do, and cost"),
    "report": ("report", "report", "ReportConfig", "write report.html and summary.json again"),
    "models": ("network.package", "models", "ModelsConfig", "the shipped models, with their PSNR"),
    "export": ("export", "export", "ExportConfig", "a model package -> ONNX or torch.export"),
    "doctor": (
        "doctor",
        "doctor",
        "DoctorConfig",
        "versions, devices, Ray, stores: for bug reports",
    ),
}
_HELP = "usage: denoise VERB FLAGS (denoise VERB --help explains a verb's flags)\n\nverbs:\n"
# Libraries of object stores log whole tracebacks of what they raise as well
_STORES = (
    "fsspec",
    "s3fs",
    "botocore",
    "aiobotocore",
    "gcsfs",
    "google",
    "adlfs",
    "azure",
    "urllib3",
)
_REPEATED = r"\s*(For full helptext|Argument helptext|Got errors)"  # what --help says too


def main(arguments: list[str] | None = None, *, verb: str | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 failed, 2 wrong flags or places, 3 too many images
    failed, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    if verb is None:
        verb, given = _verb_of(given)
    interrupted: list[int] = []  # not an Event, whose lock a handler must not wait for
    for sign in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs begin without SIGINT
        signal.signal(sign, partial(_interrupt, interrupted))
    sys.exit(_run(verb, given, interrupted))


def _verb_of(given: list[str]) -> tuple[str, list[str]]:
    """The verb, and what follows it; --help, --version and a wrong verb end here."""
    if not given:
        sys.exit(_fail(f"denoise: a verb is missing (one of {', '.join(VERBS)})", 2))
    if given[0] in ("-h", "--help", "help"):
        listed = "".join(f"  {name:8}{about}\n" for name, (*_, about) in VERBS.items())
        sys.stdout.write(_HELP + listed)
        sys.exit(0)
    if given[0] in ("-V", "--version"):
        print(f"denoise {__version__}")
        sys.exit(0)
    if given[0].startswith("--tyro-"):
        _complete(given)
    if given[0] not in VERBS:
        from difflib import get_close_matches

        meant = get_close_matches(given[0], VERBS, 1)
        guess = f"; did you mean {meant[0]}?" if meant else f" (one of {', '.join(VERBS)})"
        print(f"denoise: no verb {given[0]!r}{guess}", file=sys.stderr)
        sys.exit(2)
    return given[0], given[1:]


def _run(verb: str, given: list[str], interrupted: list[int]) -> int:
    """Reads the flags, does the work, shows the result; the exit code."""
    try:
        return _done(verb, given, interrupted)
    except KeyboardInterrupt:
        return _fail(f"denoise {verb}: interrupted; the same command goes on from here", 130)


def _done(verb: str, given: list[str], interrupted: list[int]) -> int:
    module, function, config_name, _ = VERBS[verb]
    home = import_module(f"denoise.{module}")
    try:
        config, as_json, verbose = _flags(verb, getattr(home, config_name), given)
    except ValueError as error:
        return _fail(f"denoise {verb}: {error}", 2)
    _log_to_stderr(verbose)
    from denoise.places.storage import SettingsError

    try:
        with _quiet_stdout():
            found = getattr(home, function)(config)
    except SettingsError as error:
        return _fail(f"denoise {verb}: {error}", 2)
    except Exception as error:
        # A signal to the whole group, as from a terminal or systemd, ends Ray's processes too: the
        # job may fail of that before it is told itself
        if not interrupted:
            time.sleep(1)
        if interrupted:
            raise KeyboardInterrupt from error
        if verbose or not isinstance(error, RuntimeError):
            raise
        return _fail(f"denoise {verb}: {error} (-v shows where)", 1)
    _show(found, as_json=as_json)
    if found.get("ok") is False:
        return 1
    limit = getattr(config, "max_error_rate", 1.0)
    return 3 if found.get("failed", 0) > limit * max(1, found.get("images", 0)) else 0


@contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Keeps stdout for the result; what Ray says of lost nodes, say, goes to stderr."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def _flags(verb: str, config: type, given: list[str]) -> tuple[Any, bool, bool]:
    """A verb's config from its flags, by tyro. Raises ValueError where one is wrong or missing;
    --help ends here."""
    import tyro

    said = StringIO()
    try:
        with redirect_stderr(said):
            found: Any = tyro.cli(
                _command_of(config),
                prog=f"denoise {verb}",
                description=config.__doc__,
                args=given,
                config=(tyro.conf.FlagCreatePairsOff,),  # --ssim has no --no-ssim: as is usual
            )
    except SystemExit as ended:
        if not ended.code:
            raise
        raise ValueError(
            f"{_words_in(said.getvalue())} (denoise {verb} --help explains the flags)"
        ) from ended
    return found.config, found.json, found.verbose


def _words_in(box: str) -> str:
    """What tyro says in a box of many lines, without the help that it repeats there."""
    _, _, inner = box.partition("\n")  # a title stands in the first line
    bare = re.sub(r"^│| *│?$", "", inner, flags=re.MULTILINE)
    paragraphs = re.split(r"(?:\n|^)[-─╰╯\s]*(?:\n|$)", bare)
    said = [_line_of(one) for one in paragraphs if one.strip() and not re.match(_REPEATED, one)]
    return shorten("; ".join(said).rstrip("."), 300, placeholder=" ...")


def _line_of(paragraph: str) -> str:
    """A paragraph of tyro's on one line; of flags that it explains, their names."""
    heading, *rest = paragraph.strip().splitlines()
    flags = re.findall(r"^ {5,6}(\S+)", "\n".join(rest), re.MULTILINE)
    heading = re.sub("^missing from .*", "missing:", heading[:1].lower() + heading[1:])
    return " ".join([heading, *([", ".join(flags)] if flags else rest)])


def _complete(given: list[str]) -> None:
    """Prints what a shell needs to complete all verbs and flags, and exits."""
    import tyro

    verbs: list[Any] = [
        Annotated[
            _command_of(getattr(import_module(f"denoise.{module}"), config)),
            tyro.conf.subcommand(verb, description=about),
        ]
        for verb, (module, _, config, about) in VERBS.items()
    ]
    any_verb: Any = reduce(or_, verbs)
    tyro.cli(any_verb, prog="denoise", args=given, config=(tyro.conf.FlagCreatePairsOff,))


def _command_of(config: type) -> type:
    """What can be given to a verb: its config, and the flags that all of them have."""
    import tyro

    says = "one line of JSON on stdout and nothing else there"
    return make_dataclass(
        "Command",
        [
            ("config", Annotated[config, tyro.conf.arg(name="")]),
            ("json", Annotated[bool, tyro.conf.arg(help=says)], field(default=False)),
            (
                "verbose",
                Annotated[
                    bool, tyro.conf.arg(aliases=["-v"], help="Ray's own log and progress too")
                ],
                field(default=False),
            ),
        ],
        frozen=True,
    )


def _log_to_stderr(verbose: bool) -> None:
    logging.basicConfig(
        stream=sys.stderr, format=f"{_clear_line()}%(message)s", level=logging.WARNING
    )
    logging.getLogger("denoise").setLevel(logging.DEBUG if verbose else logging.INFO)
    for name in () if verbose else _STORES:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    """The result: one line of JSON, or a short table of what fits on a line."""
    if as_json:
        print(json.dumps(found, default=str))
        return
    for name, value in (found | found.get("metrics", {})).items():
        if isinstance(value, dict) and "mean" in value:
            value = f"mean {_short(value['mean'])}, median {_short(value['median'])}"
        if value is not None and not isinstance(value, dict | list):
            print(f"{name.replace('_', ' '):24}{_short(value)}")
    for error, count in found.get("errors", {}).items():
        print(f"{count} failed: {error}")
    for row in found.get("table", []):
        print(row)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _fail(words: str, code: int) -> int:
    print(_clear_line() + words, file=sys.stderr)
    return code


def _clear_line() -> str:
    """What makes room for words where a line of progress stands on a terminal."""
    return "\r\x1b[K" if is_live(sys.stderr) else ""


def _interrupt(interrupted: list[int], sign: int, _: Any) -> None:
    interrupted.append(sign)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
