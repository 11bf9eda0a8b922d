"""The clean image of a path: under `--reference`, by the same path or the same stem.

References may lie in archives, as images may: `--reference clean.tar` has the members' own paths,
and `--reference folder` may hold an archive of the same name as the one of the images.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from threading import Lock
from typing import TypeVar

from denoise.errors import ImageError
from denoise.images.codec import IMAGE_SUFFIXES
from denoise.storage import archives, files, uris
from denoise.storage.entry import Entry, entry_of_member
from denoise.storage.found import Found

_MANY = 10_000  # names in a store's folder of references: of more each is asked for by itself
_T = TypeVar("_T")
_Names = tuple[dict[str, str], dict[str, list[str]]]  # by key; the images by their keys' stems
_reading = Lock()  # else all threads that fetch ahead read the same names at once


def forget() -> None:
    """Forget what was listed: in one process a later run may find more."""
    _names.cache_clear()
    _archive.cache_clear()
    _is_file.cache_clear()


def reference_of(reference: str, path: str) -> Entry:
    """The clean image of a path: under the same path, else the same stem.

    Of a member of an archive that is looked for in an archive of the same name, else under the path
    that it has in its own archive. Raises OSError, and ImageError where there is none or more than
    one.
    """
    if _is_one(reference, tuple(IMAGE_SUFFIXES)):
        return Entry(path, reference, 0, "")
    # what a path leads through may be a folder that is called like an archive
    through = [
        one
        for one in archives.names_in(path)
        if _is_one(uris.join(reference, one), archives.SUFFIXES)
    ]
    inner = [path[len(one) + 1 :] for one in archives.names_in(path)]
    if _is_one(reference, archives.SUFFIXES):
        return _first(partial(_member, reference), inner or [path])
    if through:
        return _member(uris.join(reference, through[0]), path[len(through[0]) + 1 :])
    return _first(partial(_file, reference), [path, *inner])


def _first(find: Callable[[str], Entry], paths: list[str]) -> Entry:
    """What is found under the first of several paths. Raises ImageError."""
    for path in paths[:-1]:
        with suppress(ImageError):
            return find(path)
    return find(paths[-1])


def _file(reference: str, path: str) -> Entry:
    """The clean image of a path in a folder. Raises ImageError."""
    folder, _, name = path.rpartition("/")
    beside = uris.join(reference, folder) if folder else reference
    with _reading:
        known = _names(beside)
    there, by_stem = known or _by_key(_alike(beside, name))
    return Entry(path, uris.join(beside, _match(there, by_stem, name)), 0, "")


def _member(archive: str, path: str) -> Entry:
    """The clean image of a path in an archive. Raises OSError, ImageError."""
    with _reading:
        found = _archive(archive)
        index = archives.index_of(found)
    named = index.members.get(path)
    try:
        one = named or _only(index.members.alike(path))
    except ImageError as error:
        if not index.error:
            raise
        raise ImageError(f"the archive of its reference: {index.error}") from error
    return entry_of_member(path, found, index.kind, one)


def _match(there: dict[str, str], by_stem: dict[str, list[str]], key: str) -> str:
    """The name of a key, else the one image of the same stem. Raises ImageError."""
    return there[key] if key in there else _only(by_stem.get(uris.without_suffix(key), []))


def _only(alike: list[_T]) -> _T:
    if len(alike) != 1:
        raise ImageError(f"{len(alike) or 'no'} references of that name")
    return alike[0]


@lru_cache(maxsize=256)
def _is_file(uri: str) -> bool:
    return files.exists(uri) and not files.is_folder(uri)


def _is_one(uri: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a URI that ends so is no folder; one that ends otherwise costs no request."""
    with _reading:
        return uri.lower().endswith(suffixes) and _is_file(uri)


@lru_cache(maxsize=256)
def _names(folder: str) -> _Names | None:
    """The names in a folder; None of a store's folder where these are many."""
    found = files.names_if_few(folder, _MANY)
    return None if found is None else _by_key(found)


@lru_cache(maxsize=256)
def _archive(uri: str) -> Found:
    """An archive's version: asked for once, as a store takes a request. Raises OSError."""
    return files.info(uri)


def _alike(folder: str, name: str) -> list[str]:
    """A name and those with another suffix, as far as a folder has them."""
    alike = files.names(folder, uris.stem(name) + ".")
    is_bare = "." not in name and files.exists(uris.join(folder, name))
    return [name, *alike] if is_bare else alike


def _by_key(names: list[str]) -> _Names:
    there: dict[str, str] = {}
    for name in names:
        there.setdefault(uris.key(name), name)  # the first of two, as in a listing
    by_stem: dict[str, list[str]] = {}
    for key, name in there.items():
        if uris.suffix(name) in IMAGE_SUFFIXES:
            by_stem.setdefault(uris.without_suffix(key), []).append(name)
    return there, by_stem
