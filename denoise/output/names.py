"""Names of the files of images: the input's path with the format's suffix, no two alike."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from itertools import chain, islice
from unicodedata import normalize

from denoise.images.codec import FORMATS, suffix_of
from denoise.images.sniff import IMAGE_SUFFIXES
from denoise.storage import uris
from denoise.storage.entry import Entry
from denoise.storage.hashes import HashSet, hash_of

_ALIKE = {".jpeg": ".jpg", ".tiff": ".tif"}  # suffixes of one format
_WRITTEN = frozenset({*FORMATS.values(), *_ALIKE})
_BATCH = 1 << 16  # names that are looked up at once
_LONGEST_NAME = 255  # bytes of one part of a path, as file systems take it
_LONGEST_SUFFIX = 8  # bytes of what counts as a suffix there


def file_of(path: str, suffix: str, *, keep_name: bool = False, stem: str = "") -> str:
    """The name of an image's file: Dog.jpg as PNG is Dog.png. Never leads upward.

    `stem` is what `Names` gave an input whose usual name another one has. With `keep_name`
    (`--format same`) a.jpeg stays a.jpeg where that is what it holds; where it holds PNG it is
    a.jpeg.png, and so is a.jpeg.png itself a.jpeg.png.png. A name too long for a disk is shortened.
    """
    path = uris.key(path)
    if stem:
        return shorten(stem + suffix)
    if not keep_name:
        return shorten(_without_suffix(path) + suffix)
    if uris.suffix(path) not in _WRITTEN:  # of a.jpg.gif all stays: a.jpg may have to be a.jpg.png
        return shorten((path if _has_two_suffixes(path) else _without_suffix(path)) + suffix)
    is_true = _true_suffix(path) == suffix
    return shorten(path if is_true and not _has_two_suffixes(path) else path + suffix)


def _without_suffix(path: str) -> str:
    return uris.without_suffix(path) if uris.suffix(path) in IMAGE_SUFFIXES else path


def _true_suffix(path: str) -> str:
    """What a file is written with that holds what its name says."""
    own = uris.suffix(path)
    return _ALIKE.get(own, own)


def _has_two_suffixes(path: str) -> bool:
    return uris.suffix(_without_suffix(path)) in IMAGE_SUFFIXES


def shorten(name: str) -> str:
    """The name with each of its parts no longer than file systems take, 255 bytes.

    A longer part ends in a hash of all of it, and in its suffix: no two become one.
    """
    return "/".join(_shortened_part(part) for part in name.split("/"))


def _shortened_part(part: str) -> str:
    raw = part.encode(errors="surrogateescape")
    if len(raw) <= _LONGEST_NAME:
        return part
    end = b"~" + blake2b(raw, digest_size=8).hexdigest().encode()
    dot = raw.rfind(b".")
    end += raw[dot:] if 0 < len(raw) - dot <= _LONGEST_SUFFIX else b""
    begin = raw[: _LONGEST_NAME - len(end)].decode(errors="ignore")  # no half of a letter
    return begin + end.decode(errors="surrogateescape")


def _folders_like_files(path: str) -> list[str]:
    """The folders of a path that an image file may be called like, outermost first."""
    if "." not in path.rpartition("/")[0]:
        return []  # nearly always
    return [one for one in _folders(path) if uris.suffix(one) in _WRITTEN]


def _folders(path: str) -> list[str]:
    return [path[:end] for end, letter in enumerate(path) if letter == "/"]


class Names:
    """The names that files of images have, so that every further one gets a name of its own.

    Holds 8 bytes of each name, in sorted runs: fit for a hundred million. With `folds` names
    that differ by case or Unicode form alone are one name, as they are to some disks; with
    `in_tar` those that differ by suffix alone, which group the members of one image.
    """

    def __init__(self, format: str, *, folds: bool, in_tar: bool = False) -> None:
        self._format, self._folds, self._in_tar = format, folds, in_tar
        self._taken = HashSet()
        self._folders: set[int] = set()  # that are called like image files, which is rare

    def give(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """Yield the entries; those whose usual name is taken with another `stem`."""
        while batch := list(islice(entries, _BATCH)):
            usual = [self._keys(uris.key(entry.path)) for entry in batch]
            known = self._taken.settled(list(chain.from_iterable(usual)))
            for entry, keys in zip(batch, usual, strict=True):
                path = uris.key(entry.path)
                is_free = keys.isdisjoint(known) and keys.isdisjoint(self._taken.latest)
                if is_free and keys.isdisjoint(self._folders) and not self._bars(path):
                    self._note(path, keys)
                    yield entry
                else:
                    yield replace(entry, stem=self._stem_of(path))
            self._taken.settle()

    def claim(self, entry: Entry) -> None:
        """Note the names of an entry that has been given one."""
        path = uris.key(entry.path)
        self._note(entry.stem or path, self._keys(path, entry.stem))
        self._taken.settle()

    def name_of(self, path: str, usual: str) -> str:
        """A name for the file of a path: the usual one unless another file has that."""
        suffix = uris.suffix(usual)
        for name in (usual, *(shorten(stem + suffix) for stem in self._stems(uris.key(path)))):
            if not (self._is_taken(key := self._key(name)) or self._bars(name)):
                break
        self._note(name, {key})
        self._taken.settle()
        return name

    def _stem_of(self, path: str) -> str:
        """What the file of a path is called whose usual name is taken."""
        for stem in self._stems(path):
            keys = self._keys(path, stem)
            if not (any(map(self._is_taken, keys)) or self._bars(stem)):
                break
        self._note(stem, keys)
        return stem

    def _note(self, path: str, keys: set[int]) -> None:
        """Take names, and those of the folders that they need."""
        self._taken.latest |= keys
        self._folders |= {self._key(folder) for folder in _folders_like_files(path)}

    def _bars(self, path: str) -> str:
        """The first folder of a path that is a file already; empty where there is none."""
        return next((one for one in _folders_like_files(path) if self._key(one) in self._taken), "")

    def _stems(self, path: str) -> Iterator[str]:
        """Its whole name, which says where it came from; a hash where an input is called so."""
        while folder := self._bars(path):
            path = f"{folder}~{hash_of(folder) & 0xFFFFFFFF:08x}{path[len(folder) :]}"
            yield _without_suffix(path)
        yield path
        yield f"{path}~{hash_of(path) & 0xFFFFFFFF:08x}"
        yield f"{path}~{hash_of(path):016x}"

    def _names(self, path: str, stem: str) -> list[str]:
        """All names that the file of an input may come to have, as far as one can tell unread."""
        if self._format != "same":
            return [file_of(path, suffix_of(self._format), stem=stem)]
        if stem or uris.suffix(path) not in _WRITTEN:
            return [file_of(path, suffix, stem=stem) for suffix in FORMATS.values()]
        names = [file_of(path, _true_suffix(path), keep_name=True)]
        # where its name says something else than it holds: only folded another may be called so
        return names + [shorten(path + suffix) for suffix in FORMATS.values() if self._folds]

    def _keys(self, path: str, stem: str = "") -> set[int]:
        return {self._key(name) for name in self._names(path, stem)}

    def _key(self, name: str) -> int:
        name = _without_suffix(name) if self._in_tar else name
        if self._folds:
            name = normalize("NFD", normalize("NFD", name).casefold())
        return hash_of(name)

    def _is_taken(self, key: int) -> bool:
        return key in self._folders or key in self._taken
