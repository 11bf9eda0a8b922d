"""Images that lie in archives: `.tar`, `.zip`, and `.tar` compressed as a whole.

A member is read by its offset, and no archive is ever unpacked. In one that is compressed as a
whole offsets are those of the stream that it decompresses to. Every worker that needs a part of the
stream reads it from the beginning, once, as long as it asks in the stream's order.
"""

import re
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from threading import Lock

from denoise.errors import ImageError, SettingsError, words_of
from denoise.images.sniff import HEAD
from denoise.storage import files, tars, uris, zips
from denoise.storage.found import Found
from denoise.storage.member_table import MemberTable
from denoise.storage.spans import (
    DAMAGED,
    MAGIC,
    DamagedError,
    Member,
    Ranges,
    Stream,
    check_head,
    check_kind,
    error_of_size,
)
from denoise.storage.stores import ASKERS

# the endings of names -> what is expected; the first bytes decide
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".zip")
OTHERS = (".7z", ".rar", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.lz4", ".cpio")
_ENDS = re.compile(rf"(?:{'|'.join(map(re.escape, SUFFIXES))})(?=/)", re.IGNORECASE)
_PAGE = 1000  # members listed ahead of each
_HOLD = 64 << 20  # bytes of a stream behind the one read last: a shard's images are among them
_OPEN = 2  # streams that stay open: of the images and of their references
_INDEXED = 4_000_000  # members of all archives that a process has an index of: 250 MB
_indexes: dict[tuple[str, int, str], "Index"] = {}  # the one used last is last
_streams: dict[tuple[str, str], Stream] = {}  # the one read last is last
_reading, _indexing = Lock(), Lock()
_is_version = lru_cache(maxsize=1000)(files.is_version)


@dataclass(frozen=True, slots=True)
class Extent:
    """The bytes of an archive that a member takes."""

    kind: str  # of archive: tar, zip, tar.gz, tar.zst
    offset: int
    stored: int  # bytes that it takes there


@dataclass(frozen=True, slots=True)
class Index:
    """The members of an archive."""

    kind: str  # of archive
    mark: str  # of its version
    members: MemberTable
    error: str  # why it could not be listed to its end, empty where it was


def is_archive(name: str) -> bool:
    """Whether a file is one that is read, by its name."""
    return name.lower().endswith(SUFFIXES)


def names_in(path: str) -> Iterator[str]:
    """The beginnings of a path that are called like an archive: any of them may be a folder."""
    return (path[: end.end()] for end in _ENDS.finditer(path))


def members(
    found: Iterator[Found], wants_head: Callable[[str], int]
) -> Iterator[tuple[Found, str, Member]]:
    """Each archive with its kind and its members in their order, some archives listed ahead.

    An archive that cannot be listed, or from some byte on cannot, has a member without a name that
    says why. Raises OSError where a store does not answer.
    """
    with ThreadPoolExecutor(ASKERS) as pool:
        waiting: deque[tuple[Found, _Listing, Future[list[Member]]]] = deque()
        while True:
            for one in islice(found, ASKERS - len(waiting)):
                listing = _Listing(one, wants_head)
                waiting.append((one, listing, pool.submit(listing.page)))
            if not waiting:
                return
            one, listing, page = waiting.popleft()
            while some := page.result():
                page = pool.submit(listing.page)
                yield from ((one, listing.kind, member) for member in some)


def content(uri: str, mark: str, extent: Extent, size: int) -> bytes:
    """The bytes of a member. Raises OSError, and ImageError where the archive is damaged or is no
    longer the version that was listed, whose members lay elsewhere in it."""
    if not _is_as_listed(uri, mark):
        raise ImageError("its archive has changed since it was listed: run again")

    def read(start: int, stop: int) -> bytes:
        return files.read_range(uri, start, stop)

    if extent.kind == "zip":
        return zips.content(read, Member("", extent.offset, extent.stored, size))
    if extent.kind == "tar":
        whole = read(extent.offset, extent.offset + size)
    else:
        whole = _read_stream(uri, mark, extent, size)
    if len(whole) != size:
        raise ImageError(DAMAGED)
    return whole


def _is_as_listed(uri: str, mark: str) -> bool:
    """Whether an archive still is the version of a mark: a disk is asked each time, a store once in
    each process."""
    is_version = files.is_version if uris.is_local(uri) else _is_version
    return not mark or is_version(uri, mark)


def index_of(archive: str | Found) -> Index:
    """The members of an archive, which each process lists once. Raises OSError."""
    found = files.info(archive) if isinstance(archive, str) else archive
    key = found.uri, found.size, found.mark
    with _indexing:  # else all threads that fetch ahead list the same one at once
        if key in _indexes:
            _indexes[key] = _indexes.pop(key)
            return _indexes[key]
        index = _indexes[key] = _list_whole(found)
        while len(_indexes) > 1 and sum(map(_weight, _indexes.values())) > _INDEXED:
            _indexes.pop(next(iter(_indexes)))
        return index


def _weight(index: Index) -> int:
    return 1000 + len(index.members)  # many small ones take memory too


def _list_whole(archive: Found) -> Index:
    kind = error = ""

    def files_in() -> Iterator[Member]:
        nonlocal kind, error
        for _, kind, one in members(iter([archive]), lambda name: 0):  # noqa: B007
            error = one.error if one.error == DAMAGED or not one.name else error
            if one.name and not one.left_out:
                yield one

    table = MemberTable(files_in())  # which finds out the rest
    return Index(kind, archive.mark, table, error)


def read(uri: str) -> bytes:
    """The bytes of a file, or of a member: of a URI that leads through an archive to its name.

    Raises OSError, and ImageError where the archive is damaged.
    """
    try:
        return files.read(uri)
    except (FileNotFoundError, NotADirectoryError):
        archive = _archive_in(uri)
        if archive is None:
            raise
    index = index_of(archive)
    one = index.members.get(uri[len(archive.uri) + 1 :])
    if one is None:
        raise FileNotFoundError(uri)
    if one.error:
        raise ImageError(one.error)
    extent = Extent(index.kind, one.offset, one.stored)
    return content(archive.uri, index.mark, extent, one.size)


def _archive_in(uri: str) -> Found | None:
    """The archive that a URI leads through, None where there is none."""
    for name in names_in(uri):
        with suppress(FileNotFoundError, NotADirectoryError):
            found = files.info(name)
            if not found.is_folder:
                return found
    return None


class _Listing:
    """One archive on its way of being listed."""

    def __init__(self, found: Found, wants_head: Callable[[str], int]) -> None:
        self.kind = ""
        self._members = self._listed(found, wants_head)

    def page(self) -> list[Member]:
        """Some more of its members, none at the end."""
        return list(islice(self._members, _PAGE))

    def _listed(self, found: Found, wants_head: Callable[[str], int]) -> Iterator[Member]:
        try:
            if found.size <= 0:  # not known, or not there
                found = files.info(found.uri)
            ranges = Ranges(found.uri, found.size)
            start = ranges.read(0, 4)
            self.kind = "zip" if start[:2] == b"PK" else _streams_as(start) or "tar"
            if self.kind in MAGIC.values():
                check_kind(self.kind)
                with Stream(found.uri, found.size, self.kind, 1 << 20) as stream:
                    yield from map(_within_limit, tars.members(stream, wants_head))
            elif self.kind == "zip":
                yield from zips.members(ranges, found.size, wants_head)
            else:
                yield from tars.members(ranges, wants_head)
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            yield Member("", error=words_of(error))
        except SettingsError as error:
            yield Member("", error=str(error))
        except DamagedError as error:
            yield Member("", error=str(error))


def _within_limit(member: Member) -> Member:
    """A member of a stream, which may decompress to anything."""
    if error := error_of_size(member.size):
        return Member(member.name, member.offset, head=member.head, error=error)
    return member


def _streams_as(start: bytes) -> str | None:
    return next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), None)


def _read_stream(uri: str, mark: str, extent: Extent, size: int) -> bytes:
    """The bytes of a member of a stream, which stays open for those that follow."""
    key = uri, mark
    with _reading:
        stream = _streams.pop(key, None)
        if stream is None:
            while len(_streams) >= _OPEN:
                _streams.pop(next(iter(_streams))).close()
            stream = Stream(uri, files.info(uri).size, extent.kind, _HOLD)
        try:
            check_head(size, lambda: stream.read(extent.offset, HEAD))
            whole = stream.read(extent.offset, size)
        except DamagedError as error:
            stream.close()
            raise ImageError(DAMAGED) from error
        except ImageError:
            _streams[key] = stream
            raise
        except BaseException:
            stream.close()
            raise
        _streams[key] = stream
        return whole
