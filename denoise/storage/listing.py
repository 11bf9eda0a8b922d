"""Lists the files and folders below a folder, or those that match a glob, on a disk or a store."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any

from denoise.errors import SettingsError
from denoise.storage import disk, pages
from denoise.storage.found import Found, LeftOut
from denoise.storage.stores import WHOLE_UPLOADS, ask, filesystem, is_disk, pattern
from denoise.storage.uris import before_wildcards, glob_parts, is_local, local_path, redact, split

_LISTERS = 16  # folders of a store listed ahead
_counting = Lock()  # folders are listed by threads
_Listed = tuple[Any, Iterable[Found]]  # a folder's identity, and its children
_Asked = tuple[str, ...]  # what `_inside` is given


def listing(
    root: str,
    left_out: LeftOut | None = None,
    *,
    begins: str = "",
    enters: Callable[[str], Hashable] = lambda path: True,
) -> Iterator[Found]:
    """Every file and folder below a folder, in the order of names (of keys, where a store lists
    them in pages), listed ahead in parallel.

    Links are followed; a folder that several names lead to is entered by the first of them. What a
    dangling link names is listed with size 0, so that reading it tells. Raises OSError where a
    folder cannot be listed; but with `left_out` the folders below the root that may not be read are
    counted there and passed over. Folders are entered if `enters` says anything of their paths; by
    several names, if it says different things. `begins` spares a store those directly in the root
    that begin otherwise.
    """
    fs, top = filesystem(root)
    # identities by what `enters` returned; in the order of names, whatever is listed ahead
    seen: dict[Hashable, set[Any]] = defaultdict(set)
    children = partial(_inside, fs, left_out)
    with ThreadPoolExecutor(1 if is_disk(fs) else _LISTERS) as pool:
        first = top if is_disk(fs) else root  # what is found keeps the store's protocol
        waiting: list[tuple[Hashable, _Asked | Future[_Listed]]]  # the next one last
        waiting = [(enters(""), ("", first, begins))]
        while waiting:
            for k, (matched, one) in enumerate(
                waiting[-_LISTERS:], max(0, len(waiting) - _LISTERS)
            ):
                if isinstance(one, tuple):
                    waiting[k] = matched, pool.submit(children, *one)
            matched, folder = waiting.pop()
            assert isinstance(folder, Future)
            identity, found = folder.result()
            if identity in seen[matched]:
                continue
            seen[matched].add(identity)
            folders = []
            for child in found:
                yield child
                if child.is_folder and (matched := enters(child.path)):
                    folders.append((matched, (child.path + "/", child.uri)))
            waiting += reversed(folders)


def _inside(
    fs: Any,
    left_out: LeftOut | None,
    prefix: str,
    folder: str,
    begins: str = "",
) -> _Listed:
    """The folder's own identity and its direct children; none where it may not be read and that is
    forgiven."""
    try:
        if is_disk(fs):
            return disk.identity(folder), disk.children(prefix, folder)
        return folder, pages.children(fs, prefix, folder, partial(ask, fs, folder), begins)
    except PermissionError:
        if prefix.startswith(".") or "/." in prefix:
            return folder, []  # as a system keeps its own on a camera's card
        if left_out is None or not prefix:
            raise
        with _counting:
            left_out.add("folders that may not be read")
        return folder, []


def matches(glob: str, left_out: LeftOut | None = None) -> Iterator[Found]:
    """The files and folders a glob stands for, as `listing` gives them; their paths are relative to
    its part before the first wildcard. Raises OSError; SettingsError where it is no glob."""
    base, like = glob_parts(local_path(glob) if is_local(glob) else glob)
    if split(glob)[0] in WHOLE_UPLOADS and "://" not in base:
        raise SettingsError(f"{redact(glob)}: a bucket's name has no wildcards")
    parts = like.split("/")
    try:
        whole, *each = [pattern(one) for one in (like, *parts)]
    except ValueError as error:
        raise SettingsError(f"{redact(glob)}: {error}") from error

    def awaited(folder: str) -> frozenset[int]:
        """The parts of the pattern that a folder's children may match, if the folder's own
        parts are like those before: a link may lead to it from where others are."""
        numbers = _or_next({0}, parts)
        for name in folder.split("/") if folder else ():
            like_it = {k for k in numbers if each[k].fullmatch(name)}
            after = {k if parts[k] == "**" else k + 1 for k in like_it}
            numbers = _or_next(after - {len(parts)}, parts)
        return frozenset(numbers)

    found = listing(base, left_out, begins=before_wildcards(parts[0]), enters=awaited)
    return (one for one in found if whole.fullmatch(one.path))


def _or_next(numbers: set[int], parts: list[str]) -> set[int]:
    """Parts of a pattern, and those behind a `**` among them, which stands for no folder too."""
    for k, part in enumerate(parts[:-1]):
        if part == "**" and k in numbers:
            numbers = numbers | {k + 1}
    return numbers
