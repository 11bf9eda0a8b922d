"""What the command writes on a terminal: log on stderr, result on stdout, and why it failed."""

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from denoise.errors import printable
from denoise.reports.progress import is_live

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


def log_to_stderr(verbose: bool) -> None:
    """Send our log to stderr, a line a message; that of stores' libraries only where verbose."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("denoise").setLevel(logging.DEBUG if verbose else logging.INFO)
    for name in () if verbose else _STORES:
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Keep stdout for the result: what Ray says of lost nodes, say, goes to stderr."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def show(verb: str, found: dict[str, Any], config: Any, *, as_json: bool) -> None:
    """Print what a verb returned: one line of JSON, the last words of a job, or a short table."""
    if as_json:
        print(json.dumps(found, default=str))
        return
    if words := _last_words(verb, found, config):
        for line in words:
            _print(line)
        return
    for name, value in (found | found.get("metrics", {})).items():
        if isinstance(value, dict) and "mean" in value:
            value = f"mean {_short(value['mean'])}, median {_short(value['median'])}"
        if value is not None and not isinstance(value, dict | list):
            _print(f"{name.replace('_', ' '):24}{_short(value)}")
    for error, count in found.get("errors", {}).items():
        _print(f"{count} failed: {error}")
    for row in found.get("table", []):
        _print(row)


def _last_words(verb: str, found: dict[str, Any], config: Any) -> list[str]:
    """What a job says at its end; nothing of those that have a table only."""
    from denoise.reports.closing import last_words
    from denoise.storage import uris

    output = getattr(config, "output", None)
    return last_words(verb, found, uris.absolute(output) if output else None)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print(line: object) -> None:
    """A line of the result, which may name what a stranger named."""
    print(printable(line))


def fail(words: str, code: int) -> int:
    """Print why the command failed; returns its exit code."""
    print(_clear_line() + printable(words), file=sys.stderr)
    return code


def print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print what Python prints of a bug, with no escapes for the terminal in it."""
    lines = "".join(traceback.format_exception(kind, error, trace)).splitlines()
    print(*map(printable, lines), sep="\n", file=sys.stderr)


class _OneLine(logging.Formatter):
    """A message of the log on one line of the terminal, a traceback below it on several."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _clear_line() + printable(record.message)

    def formatException(self, ei: Any) -> str:
        return "\n".join(map(printable, super().formatException(ei).splitlines()))


def _clear_line() -> str:
    """What makes room for words where a line of progress stands on a terminal."""
    return "\r\x1b[K" if is_live(sys.stderr) else ""
