"""The `denoise` command: a verb, the function that does it, and flags made from its config."""

import atexit
import gc
import os
import shlex
import signal
import sys
import time
from functools import partial
from importlib import import_module
from typing import Any

from denoise import __version__, flags, helptext
from denoise.terminal import fail, log_to_stderr, print_traceback, quiet_stdout, show
from denoise.typed import spell_out

# verb -> (its config, what it does); `denoise.verbs.VERB` has the config and a function VERB
VERBS = {
    "demo": ("DemoConfig", "noise, train, infer and report on sample photographs"),
    "noise": ("NoiseConfig", "images -> a table of clean and noisy pairs"),
    "train": ("TrainConfig", "images or pairs -> a model package"),
    "infer": ("InferConfig", "images + model -> denoised images and metrics"),
    "compare": ("CompareConfig", "models side by side: quality, speed, a contact sheet"),
    "plan": ("PlanConfig", "what `infer` with these flags would do, and cost"),
    "extract": ("ExtractConfig", "the images of a finished table as files"),
    "report": ("ReportConfig", "write report.html and summary.json again"),
    "models": ("ModelsConfig", "the shipped models, with their PSNR"),
    "export": ("ExportConfig", "a model package -> ONNX or torch.export"),
    "doctor": ("DoctorConfig", "versions, devices, Ray, stores: for bug reports"),
}
_HELP = "usage: denoise VERB FLAGS (denoise VERB --help explains a verb's flags)\n\nverbs:\n"
_SHELLS = ("bash", "zsh")
_MORE = """
  completion SHELL   a script that completes verbs and flags: put
                     eval "$(denoise completion bash)" into ~/.bashrc
  help VERB          the same as denoise VERB --help
  --version, -V      the version

begin with: denoise infer photo.jpg clean.jpg
"""


def main(arguments: list[str] | None = None, *, verb: str | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 failed, 2 wrong flags or URIs, 3 too many images
    failed, 130 interrupted."""
    start, given = time.monotonic(), sys.argv[1:] if arguments is None else arguments
    if verb is None:
        verb, given = _verb_of(given)
    interrupted: list[int] = []  # not an Event, whose lock a handler must not wait for
    for sign in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs begin without SIGINT
        signal.signal(sign, partial(_interrupt, interrupted))
    sys.excepthook = print_traceback
    # spares Python's last garbage collection, over all that torch and Ray have made: 0.6 s
    atexit.register(gc.freeze)
    sys.exit(_run(verb, given, interrupted, start))


def _verb_of(given: list[str]) -> tuple[str, list[str]]:
    """The verb, and what follows it; --help, --version and a wrong verb end here."""
    if not given:
        sys.exit(
            fail(
                f"denoise: a verb is missing (one of {', '.join(VERBS)}); "
                "denoise help explains them",
                2,
            )
        )
    if given[0] == "help" and len(given) > 1:
        given = [given[1], "--help"]
    if given[0] in ("-h", "--help", "help"):
        listed = "".join(f"  {name:8}{about}\n" for name, (_, about) in VERBS.items())
        sys.stdout.write(f"{_HELP}{listed}{_MORE}exit codes: {helptext.EXIT_CODES}\n")
        sys.exit(0)
    if given[0] in ("-V", "--version"):
        print(f"denoise {__version__}")
        sys.exit(0)
    if given[0] == "completion":
        given = _completion(given[1:])
    if given[0].startswith("--tyro-"):
        flags.complete(
            {name: (_config_of(name), about) for name, (_, about) in VERBS.items()}, given
        )
    if given[0] not in VERBS:
        sys.exit(fail(f"denoise: {_no_verb(given)}", 2))
    return given[0], given[1:]


def _no_verb(given: list[str]) -> str:
    """The message for a first word that is no verb."""
    from difflib import get_close_matches

    first = given[0]
    if first.startswith("-"):
        verb = next((one for one in given if one in VERBS), "VERB")
        return f"the verb comes first: denoise {verb} {first} ..."
    if {".", "/"} & set(first):
        return f"no verb {first!r}; did you mean denoise infer {shlex.join(given)}?"
    if meant := get_close_matches(first, VERBS, 1):
        return f"no verb {first!r}; did you mean {meant[0]}?"
    return f"no verb {first!r} (one of {', '.join(VERBS)})"


def _completion(shells: list[str]) -> list[str]:
    """What makes tyro print the script that completes verbs and flags in a shell."""
    if len(shells) != 1 or shells[0] not in _SHELLS:
        known = " or ".join(f"`denoise completion {shell}`" for shell in _SHELLS)
        sys.exit(fail(f"denoise completion: name the shell: {known}", 2))
    return ["--tyro-print-completion", shells[0]]


def _run(verb: str, given: list[str], interrupted: list[int], start: float) -> int:
    """Reads the flags, does the work, shows the result; the exit code."""
    try:
        return _done(verb, given, interrupted, start)
    except KeyboardInterrupt:
        return fail(f"denoise {verb}: interrupted; the same command goes on from here", 130)


def _done(verb: str, given: list[str], interrupted: list[int], start: float) -> int:
    try:
        verb, given = spell_out(verb, given, flags.most_values_of(_config_of(verb)))
        config, as_json, verbose = flags.read(verb, _config_of(verb), given)
    except ValueError as error:
        return fail(f"denoise {verb}: {error}", 2)
    log_to_stderr(verbose)
    _set_up_ray(verbose)
    from denoise.errors import SettingsError
    from denoise.runners.working_folder import outside_the_upload

    try:
        with quiet_stdout(), outside_the_upload(config) as config:
            found = getattr(import_module(f"denoise.verbs.{verb}"), verb)(config)
    except Exception as error:
        # what a task of Ray's raised is a SettingsError too, and has a cause: work had started
        is_refused = isinstance(error, SettingsError) and not hasattr(error, "cause")
        # A signal to the whole group, as from a terminal or systemd, ends Ray's processes too: the
        # job may fail of that before it knows itself
        if not interrupted and not is_refused:
            time.sleep(1)
        if interrupted:
            raise KeyboardInterrupt from error
        if is_refused:
            return fail(f"denoise {verb}: {error}", 2)
        words = _words_of(error)
        if verbose or words is None:
            raise
        return fail(f"denoise {verb}: {words} (-v shows where)", 1)
    try:
        show(verb, found | _on_the_clock(found, start), config, as_json=as_json)
        sys.stdout.flush()
    except BrokenPipeError:  # of `denoise models | head`; nor does Python's end write the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if found.get("ok") is False:
        return 1
    limit = getattr(config, "max_error_rate", 1.0)
    return 3 if found.get("failed", 0) > limit * max(1, found.get("images", 0)) else 0


def _words_of(error: Exception) -> str | None:
    """What went wrong, on one line, or nothing: then it is a bug, and where it happened matters."""
    from denoise import errors
    from denoise.storage import uris

    cause = getattr(error, "cause", error)  # of what a task of Ray's raised
    text = errors.without_secrets(str(cause).partition("\n")[0])  # Ray puts its own advice below
    if isinstance(cause, OSError):
        name = uris.redact(str(cause.filename or ""))
        words = errors.words_of(cause) if cause.errno else text
        # without a name, what kind of error it is at least says where to look
        return f"{name or type(cause).__name__}: {words}" if name or cause.errno else words
    if isinstance(cause, errors.WriteError | errors.ReadError | errors.SettingsError):
        return text
    return str(error) if cause is error and isinstance(error, RuntimeError) else None


def _config_of(verb: str) -> type:
    name, _ = VERBS[verb]
    found: type = getattr(import_module(f"denoise.verbs.{verb}"), name)
    return found


def _set_up_ray(verbose: bool) -> None:
    """What Ray looks for in the environment when it is imported."""
    # At an early end a thread of Ray Data's may outlive the session, and would begin another one
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    if not verbose:  # nor does Ray say of each worker that it ended itself that it is tried again
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "killed by `ray.kill`")


def _on_the_clock(found: dict[str, Any], start: float) -> dict[str, float]:
    """The time that a user waited: Python and its libraries are loaded before a job starts."""
    elapsed = found.get("elapsed_seconds")
    if elapsed is None:
        return {}
    waited = time.monotonic() - start
    before = max(0.0, waited - elapsed)
    return {
        "elapsed_seconds": waited,
        "start_up_seconds": found.get("start_up_seconds", 0.0) + before,
    }


def _interrupt(interrupted: list[int], sign: int, _: Any) -> None:
    interrupted.append(sign)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
