"""The clean image of a path: where `--reference` says, by the same path or the same stem."""

from functools import lru_cache
from threading import Lock

from denoise.errors import ImageError
from denoise.images.codec import IMAGE_SUFFIXES
from denoise.storage import files, uris

_MANY = 10_000  # names in a store's folder of references: of more each is asked for by itself
_Names = tuple[dict[str, str], dict[str, list[str]]]  # by key; the images by their keys' stems
_reading = Lock()  # else all threads that fetch ahead read the same names at once


def forget() -> None:
    """Forget what was listed: in one process a later run may find more."""
    _names.cache_clear()
    _is_one_image.cache_clear()


def reference_of(reference: str, path: str) -> str:
    """The URI of a path's clean image: under the same path, else the same stem.

    Raises ImageError where there is none or more than one.
    """
    folder, _, name = path.rpartition("/")
    beside = uris.join(reference, folder) if folder else reference
    with _reading:
        if _is_one_image(reference):
            return reference
        known = _names(beside)
    there, by_stem = known or _by_key(_alike(beside, name))
    if name in there:
        return uris.join(beside, there[name])
    alike = by_stem.get(uris.stem(name), [])
    if len(alike) != 1:
        raise ImageError(f"{len(alike) or 'no'} references of that name")
    return uris.join(beside, alike[0])


@lru_cache(maxsize=16)
def _is_one_image(reference: str) -> bool:
    return uris.suffix(reference) in IMAGE_SUFFIXES and not files.is_folder(reference)


@lru_cache(maxsize=256)
def _names(folder: str) -> _Names | None:
    """A folder's names; None of a store's folder where that is much."""
    found = files.names_if_few(folder, _MANY)
    return None if found is None else _by_key(found)


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
            by_stem.setdefault(uris.stem(key), []).append(name)
    return there, by_stem
