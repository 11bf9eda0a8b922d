"""The clean image of a path: under `--reference`, by the same path or the same stem.

References may lie in archives, as images may: `--reference clean.tar` has the members' own paths,
and `--reference folder` may hold an archive of the same name as the one of the images.
"""

from functools import lru_cache
from threading import Lock

from denoise.errors import ImageError
from denoise.images.codec import IMAGE_SUFFIXES
from denoise.storage import archives, files, uris
from denoise.storage.entry import Entry

_MANY = 10_000  # names in a store's folder of references: of more each is asked for by itself
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
    archive = archives.name_in(path)
    inner = path[len(archive) + 1 :] if archive else path
    if _is_one(reference, archives.SUFFIXES):
        return _member(reference, inner)
    if archive and _is_one(uris.join(reference, archive), archives.SUFFIXES):
        return _member(uris.join(reference, archive), inner)
    try:
        return _file(reference, path)
    except ImageError:
        if not archive:
            raise
    return _file(reference, inner)


def _file(reference: str, path: str) -> Entry:
    """The clean image of a path in a folder. Raises ImageError."""
    folder, _, name = path.rpartition("/")
    beside = uris.join(reference, folder) if folder else reference
    with _reading:
        known = _names(beside)
    there, by_stem = known or _by_key(_alike(beside, name))
    return Entry(path, uris.join(beside, _match(there, by_stem, name)), 0, "")


def _member(archive: str, path: str) -> Entry:
    """The clean image of a path in an archive. Raises ImageError."""
    with _reading:
        index, names = _archive(archive)
    try:
        one = index.members[_match(*names, path)]
    except ImageError as error:
        if not index.error:
            raise
        raise ImageError(f"the archive of its reference: {index.error}") from error
    return Entry(
        path,
        archive,
        one.size,
        f"{index.mark}@{one.offset}",
        archive=index.kind,
        offset=one.offset,
        stored=one.stored,
        error=one.error,
    )


def _match(there: dict[str, str], by_stem: dict[str, list[str]], key: str) -> str:
    """The name of a key, else the one image of the same stem. Raises ImageError."""
    if key in there:
        return there[key]
    alike = by_stem.get(_bare(key), [])
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


@lru_cache(maxsize=8)
def _archive(uri: str) -> tuple[archives.Index, _Names]:
    """The members of an archive, and their names. Raises OSError."""
    index = archives.index_of(uri)
    return index, _by_key(list(index.members))


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
            by_stem.setdefault(_bare(key), []).append(name)
    return there, by_stem


def _bare(key: str) -> str:
    """A path without its suffix."""
    folder, slash, _ = key.rpartition("/")
    return folder + slash + uris.stem(key)
