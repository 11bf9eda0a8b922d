"""The bytes of an archive by their place in it: read by ranges, or decompressed from the beginning.

Both kinds have `read(start, size)`, which gives fewer bytes at the end, and `reaches(end)`.
"""

import zlib
from contextlib import ExitStack
from typing import IO, Any, Protocol, Self

import pyarrow as pa
from isal import igzip, isal_zlib

from denoise.errors import SettingsError
from denoise.storage import files, uris

_LOCAL, _REMOTE = 16 << 10, 1 << 20  # bytes of a range: what a store needs a round trip for
_CHUNK = 1 << 20
# A stream may decompress to so much and no more: deflate cannot reach it, a bomb of zstd can
_MOST_TIMES, _MOST_MORE = 1200, 1 << 30
_BROKEN = (EOFError, zlib.error, isal_zlib.error, igzip.BadGzipFile, pa.ArrowException)
MAGIC = {b"\x1f\x8b": "tar.gz", b"\x28\xb5\x2f\xfd": "tar.zst"}  # of what is a stream


class DamagedError(Exception):
    """An archive that does not hold what it says."""


class Span(Protocol):
    """Bytes of an archive, or of what it decompresses to, by their place."""

    def read(self, start: int, size: int) -> bytes: ...

    def reaches(self, end: int) -> bool: ...


class Ranges:
    """A file that is read by ranges; what lies close to the last one read is there already."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri, self._size = uri, size
        self._block = _LOCAL if uris.is_local(uri) else _REMOTE
        self._first, self._held = 0, b""

    def read(self, start: int, size: int) -> bytes:
        """Raises OSError."""
        size = max(0, min(size, self._size - start))
        if not size:
            return b""
        at = start - self._first
        if at < 0 or at + size > len(self._held):
            stop = min(self._size, start + max(size, self._block))
            self._first, self._held, at = start, files.read_range(self._uri, start, stop), 0
        return self._held[at : at + size]

    def reaches(self, end: int) -> bool:
        return end <= self._size


class Stream:
    """What a compressed file decompresses to; the bytes read last are held, as so many may be asked
    for again. Whoever asks for earlier ones has all of it decompressed again."""

    def __init__(self, uri: str, size: int, kind: str, hold: int) -> None:
        self._uri, self._kind, self._hold = uri, kind, hold
        self._most = _MOST_TIMES * size + _MOST_MORE
        self._open = ExitStack()
        self._file: IO[bytes] | Any = None
        self._first, self._held = 0, bytearray()
        self._is_at_end = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()
        self._file = None

    def read(self, start: int, size: int) -> bytes:
        """Raises OSError, and DamagedError where it does not decompress."""
        if self._file is None or start < self._first:
            self._begin()
        self._advance(start, start + size)
        at = start - self._first
        return bytes(self._held[at : at + size]) if at >= 0 else b""

    def reaches(self, end: int) -> bool:
        """Whether there are so many bytes: it decompresses up to there."""
        if self._file is None:
            self._begin()
        try:
            self._advance(end, end)
        except DamagedError:
            return False
        return self._first + len(self._held) >= end

    def _begin(self) -> None:
        self.close()
        self._first, self._held, self._is_at_end = 0, bytearray(), False
        file = self._open.enter_context(files.open_input(self._uri))
        if self._kind == "tar.gz":
            self._file = igzip.IGzipFile(fileobj=file)
        else:
            self._file = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")

    def _advance(self, start: int, stop: int) -> None:
        """Read on until `stop`; what lies before `start` need not stay."""
        while not self._is_at_end and self._first + len(self._held) < stop:
            try:
                chunk = self._file.read(_CHUNK)
            except _BROKEN as error:
                raise DamagedError from error
            if not chunk:
                self._is_at_end = True
            self._held += chunk
            spare = min(len(self._held) - self._hold, start - self._first)
            if spare > 0:
                del self._held[:spare]
                self._first += spare
            if self._first > self._most:
                raise DamagedError  # it claims to hold what nobody packs


def check_kind(kind: str) -> None:
    """Raise SettingsError where no library here decompresses archives of a kind."""
    if kind == "tar.zst" and not pa.Codec.is_available("zstd"):
        raise SettingsError("this pyarrow reads no zstd: unpack .tar.zst archives to .tar first")
