"""OUTPUT/_log.txt: the driver's messages of a run, each with its time, of bounded size.

On a cluster it outlives the machine that the driver ran on, whose own log goes with it.
"""

import logging
import os
import threading
from datetime import UTC, datetime

from denoise.errors import printable, without_secrets
from denoise.storage import files, uris

NAME = "_log.txt"
FIRST, LAST = 500, 2500  # lines of the beginning and of the end: 20 hours, one each 30 s
_LONGEST = 500  # characters of a line
_MOST = (FIRST + LAST + 1) * (_LONGEST + 25) * 4  # bytes of a file that we wrote


class RunLog(logging.Handler):
    """The lines of a run, in memory until `save`: those it is given, and those of our loggers."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: list[str] = []
        self._guard = threading.Lock()  # Progress has a thread of its own

    def emit(self, record: logging.LogRecord) -> None:
        self.line(record.getMessage())

    def line(self, text: str) -> None:
        """Add a line, with the time in UTC, without secrets and without escapes for a terminal."""
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        # cut first: looking for secrets in a long word takes time by the square of its length
        line = f"{now} {printable(without_secrets(text[:_LONGEST]))}\n"
        with self._guard:
            self._lines.append(line)
            if len(self._lines) > 2 * (FIRST + LAST):  # now and then, not at each line
                self._lines = shorten(self._lines)

    def save(self, output: str) -> None:
        """Write it into an output folder, after what earlier runs left there. Raises OSError."""
        uri = uris.join(output, NAME)
        lines = shorten([*_earlier(uri), *self.lines()])
        files.write(uri, "".join(lines).encode(errors="replace"))

    def lines(self) -> list[str]:
        with self._guard:
            return shorten(self._lines)


def shorten(lines: list[str]) -> list[str]:
    """The first and the last lines, with a word between them where some are left out."""
    if len(lines) <= FIRST + LAST:
        return lines
    return [*lines[:FIRST], "... lines are left out here ...\n", *lines[1 - LAST :]]


def _earlier(uri: str) -> list[str]:
    """The lines that are there; none of a link, which in a stranger's folder may lead anywhere."""
    if uris.is_local(uri) and os.path.islink(uri):
        return []
    try:
        return files.head(uri, _MOST).decode(errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        return []
