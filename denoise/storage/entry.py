"""One input image: what it is, how its bytes are fetched, and a path that no other one has."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from denoise.errors import ImageError
from denoise.images.pairs import Source
from denoise.storage import archives, rows, uris
from denoise.storage.columns import Names
from denoise.storage.found import Found, LeftOut
from denoise.storage.hashes import HashMap, hash_of
from denoise.storage.spans import Member

_UNKNOWN = 2 << 20  # bytes that an image of unknown size counts as
_BATCH = 1 << 14  # paths that are looked up at once


@dataclass(frozen=True, slots=True)
class Entry:
    """One input image: a file, one in a row of a table, or a member of an archive."""

    path: str  # its name relative to the input root: the key of every table, the seed of its noise
    uri: str  # where its bytes lie
    size: int  # in bytes, 0 where it is not known
    mark: str  # tells one version of the file from another, empty where it is not known
    row: int = -1  # the row of the table, -1 where the file itself is the image
    column: str = ""  # the table's column
    item: int = -1  # its number in the row's list of images, -1 where that is one image
    listed_in: str = ""  # the URI of the list that names it, if any
    beside: dict[str, Any] | None = None  # what is carried along of that list
    archive: str = ""  # the kind of archive that it is a member of, if of any
    offset: int = -1  # bytes of the archive before it
    stored: int = 0  # bytes that it takes there
    error: str = ""  # why it cannot be read, where the listing found out
    stem: str = ""  # of its file's name, where another input has the usual name

    @property
    def likely_size(self) -> int:
        """In bytes; an ordinary photograph's where it is not known."""
        return self.size or _UNKNOWN


def entry_of_member(path: str, archive: Found, kind: str, member: Member) -> Entry:
    """A member of an archive as an input. It is as old as its archive, and as its offset there."""
    return Entry(
        path,
        archive.uri,
        member.size,
        f"{archive.mark}@{member.offset}",
        archive=kind,
        offset=member.offset,
        stored=member.stored,
        error=member.error,
    )


def source_of(
    entry: Entry, *, beside: tuple[str, ...] = (), allow_elsewhere: bool = False
) -> Source:
    """Fetch the bytes of an entry. Raises OSError, or ImageError where a table's row has none, or
    names a file elsewhere. Of a table's row the columns `beside` are read too, for `beside_of`."""
    if entry.error:
        raise ImageError(entry.error)
    if entry.archive:
        extent = archives.Extent(entry.archive, entry.offset, entry.stored)
        mark = entry.mark.rpartition("@")[0]
        return Source(archives.content(entry.uri, mark, extent, entry.size))
    if entry.row < 0:
        return Source(archives.read(entry.uri))  # a list may name a member by a path
    image = entry.column, entry.row, entry.item
    return rows.image_in(
        entry.uri, entry.mark, image, beside=beside, allow_elsewhere=allow_elsewhere
    )


def beside_of(entry: Entry, names: Names, *, alone: bool = False) -> dict[str, Any]:
    """The values that stand beside an image in its table or list, by the output's names.

    With `alone` the image is not read with them. Raises OSError, ImageError.
    """
    if entry.row < 0 or not names:
        return dict(entry.beside or {})
    image, inner = (entry.column, entry.row, entry.item), tuple(name for name, _ in names)
    found = rows.values_in(entry.uri, entry.mark, image, inner, alone=alone)
    return {new: found[name] for name, new in names}


def unique(
    found: Iterator[Entry],
    root: str,
    left_out: LeftOut,
    *,
    may_collide: Callable[[Entry], bool] = lambda entry: True,
) -> Iterator[Entry]:
    """Drop images that are named twice and make paths unique, as lists and tables need it.

    Of two images with one path the second gets a hash of its URI below the root, the same wherever
    the root is moved to. A path that cannot collide is not looked at.
    """
    root = uris.absolute(root)
    seen = HashMap()  # of each path what has it
    size = 1  # the first image is there at once
    while batch := list(islice(found, size)):
        size = min(2 * size, _BATCH)
        keys = [hash_of(entry.path) if may_collide(entry) else None for entry in batch]
        settled = seen.settled([key for key in keys if key is not None])
        for entry, key in zip(batch, keys, strict=True):
            if key is None:
                yield entry
                continue
            home = hash_of(_identity(entry, root))
            holder = settled.get(key, seen.latest(key))
            while holder is not None and holder != home:
                entry = replace(entry, path=f"{entry.path}~{home & 0xFFFFFFFF:08x}")
                key = hash_of(entry.path)
                holder = seen.get(key)
            if holder is not None:
                left_out.add("named twice")
                continue
            seen.add(key, home)
            yield entry
        seen.settle()


def _identity(entry: Entry, root: str) -> str:
    """What tells an image from all others, as seen from the root."""
    identity = repr((uris.identity(entry.uri, root), entry.row, entry.item))
    return identity + str(entry.offset) if entry.archive else identity
