"""The bytes of an archive by offset, read by ranges or decompressed, and what a member may claim.

Both kinds of spans have `read(start, size)`, with fewer bytes at the end, and `reaches(end)`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from io import BytesIO
from typing import IO, NamedTuple, Protocol, Self

import pyarrow as pa
from isal import isal_zlib
from isal.igzip_lib import IsalError

from denoise.errors import ImageError, SettingsError
from denoise.images.sniff import kind_of
from denoise.storage import files, uris

_LOCAL, _REMOTE = 16 << 10, 1 << 20  # bytes of a range: what a store needs a round trip for
_CHUNK = 1 << 18
# A stream may decompress to so much and no more: deflate cannot reach it, a bomb of zstd can
_MOST_TIMES, _MOST_MORE = 1200, 1 << 30
MAGIC = {b"\x1f\x8b": "tar.gz", b"\x28\xb5\x2f\xfd": "tar.zst"}  # of what is a stream
LARGEST = 1 << 31  # bytes of a member when it is decompressed
_TOO_LARGE = f"it claims to have more than {LARGEST >> 30} GiB"
UNSEEN = 1 << 26  # bytes of a member that are decompressed whatever it begins like
NAMELESS = "__"  # a member without a name
DAMAGED = "truncated or damaged archive"


class DamagedError(Exception):
    """An archive that is no archive, or is not whole."""

    def __init__(self, words: str = DAMAGED) -> None:
        super().__init__(words)


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    offset: int = 0  # in bytes, of its content; of its local header in a zip
    stored: int = 0  # bytes that it takes there
    size: int = 0  # bytes that it has
    head: bytes = b""  # its first bytes, where they were asked for
    left_out: str = ""  # why it is no file at all
    error: str = ""  # why it cannot be read


def error_of_size(size: int) -> str:
    """Why a member of so many bytes is not read, empty where it is."""
    return _TOO_LARGE if size > LARGEST else ""


def check_head(size: int, head: Callable[[], bytes]) -> None:
    """Raise ImageError where a member of more than UNSEEN bytes begins like no image: a bomb."""
    if size > UNSEEN and kind_of(head()) is None:
        raise ImageError("no image, or of a format that is not read")


class Span(Protocol):
    """Bytes of an archive, or of what it decompresses to, by their offset."""

    def read(self, start: int, size: int) -> bytes: ...

    def reaches(self, end: int) -> bool: ...


class Ranges:
    """A file read by ranges, each larger than was asked for: the next bytes are asked for next."""

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
            # whoever skips much reads headers of large members, and needs little of each
            is_near = 0 <= at <= len(self._held) + self._block
            block = self._block if is_near else _LOCAL
            stop = min(self._size, start + max(size, block))
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
        self._chunks: Iterator[bytes] | None = None
        self._first, self._held = 0, bytearray()
        self._is_at_end = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()
        self._chunks = None

    def read(self, start: int, size: int) -> bytes:
        """Raises OSError, and DamagedError where it does not decompress."""
        if self._chunks is None or start < self._first:
            self._begin()
        if size > self._hold:
            return self._read_large(start, start + size)
        self._advance(start, start + size)
        at = start - self._first
        with memoryview(self._held) as held:
            return bytes(held[at : at + size]) if at >= 0 else b""

    def _read_large(self, start: int, stop: int) -> bytes:
        """More bytes than are held: into one piece of memory, as there may be a gigabyte. Of them
        no more is held than the last."""
        self._advance(start, start)
        whole = BytesIO()
        with memoryview(self._held) as held:
            whole.write(held[start - self._first : stop - self._first])
        while not self._is_at_end and self._first + len(self._held) < stop:
            self._first += len(self._held)
            self._held = bytearray()
            self._advance(self._first, self._first + 1)
            whole.write(self._held[: stop - self._first])
        return whole.getvalue()

    def reaches(self, end: int) -> bool:
        """Whether there are so many bytes: it decompresses up to there."""
        if self._chunks is None:
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
        self._chunks = _gunzip(file) if self._kind == "tar.gz" else _unpack_zstd(file)

    def _advance(self, start: int, stop: int) -> None:
        """Read on until `stop`; what lies before `start` need not stay."""
        assert self._chunks is not None
        while not self._is_at_end and self._first + len(self._held) < stop:
            chunk = next(self._chunks, b"")
            if not chunk:
                self._is_at_end = True
            self._held += chunk
            spare = min(len(self._held) - self._hold, start - self._first)
            if spare > 0:
                del self._held[:spare]
                self._first += spare
            if self._first > self._most:
                raise DamagedError  # it claims to hold what nobody packs


def _gunzip(file: IO[bytes]) -> Iterator[bytes]:
    """What a gzip file decompresses to, as far as it goes. Raises DamagedError where it breaks."""
    inflate, packed = isal_zlib.decompressobj(wbits=31), b""
    while True:
        packed = packed or file.read(_CHUNK)
        if inflate.eof:
            if not packed.strip(b"\0"):
                return
            inflate = isal_zlib.decompressobj(wbits=31)  # one file behind the other
        elif not packed:
            raise DamagedError
        try:
            chunk = inflate.decompress(packed, _CHUNK)
        except IsalError as error:  # type: ignore[misc]  # its stub says no exception
            raise DamagedError from error
        packed = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        if chunk:
            yield chunk


def _unpack_zstd(file: IO[bytes]) -> Iterator[bytes]:
    """As `_gunzip`, of a zstd file."""
    with pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd") as stream:
        while True:
            try:
                chunk = stream.read(_CHUNK)
            except (OSError, pa.ArrowException) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # of the disk
                raise DamagedError from error
            if not chunk:
                return
            yield bytes(chunk)


def check_kind(kind: str) -> None:
    """Raise SettingsError where no library here decompresses archives of a kind."""
    if kind == "tar.zst" and not pa.Codec.is_available("zstd"):
        raise SettingsError("this pyarrow reads no zstd: unpack .tar.zst archives to .tar first")
