"""What `--images` may be: folder, glob, file, list, table; as a stream of entries."""

import csv
import re
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain, groupby, islice
from typing import Any

import pyarrow as pa

from denoise import errors
from denoise.errors import ImageError, SettingsError
from denoise.images.codec import IMAGE_SUFFIXES, looks_like_image
from denoise.images.pairs import Source
from denoise.images.sniff import HEAD
from denoise.storage import archives, arrow, columns, files, listing, lists, pages, rows, uris
from denoise.storage.columns import NO_COLUMNS, Columns, NoImagesError
from denoise.storage.disk import Found
from denoise.storage.left_out import leave_out
from denoise.storage.stores import ask, filesystem, pattern
from denoise.storage.tars import Member

_UNKNOWN = 2 << 20  # bytes that an image of unknown size counts as
# Files and folders of thumbnails, deleted files and such, in small letters: what Windows, macOS,
# Synology and QNAP leave behind. Those whose names begin with a dot are hidden anyway.
_OF_A_SYSTEM = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "lost+found"),
        *("system volume information", "found.000", "__macosx", "network trash folder"),
        *("temporary items", "@eadir", "#recycle", "#snapshot", "@tmp", "@sharebin", "@database"),
        *("@recycle", "@recently-snapshot", "@upload_cache", "@qmap", "@transcode"),
    )
)
_UNFINISHED = {".crdownload", ".part", ".partial", ".download", ".opdownload", ".filepart"}
# What stands beside an image in WebDataset's archives, and is known by its name: a million of them
# need no look.
_BESIDE = frozenset(
    ".json .jsonl .txt .cls .cls2 .csv .tsv .xml .yaml .yml .html .md .npy .npz .pt .pth .pkl"
    " .index .parquet .safetensors .mp3 .wav .flac .mp4".split()
)
_CHAIN = re.compile(r"(zip|tar)://(.*?)::(.+)", re.DOTALL)  # an archive by fsspec's words
_UNSURE = "its name does not tell"
_UNREADABLE = (OSError, EOFError, UnicodeError, zlib.error, pa.ArrowException, csv.Error)


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
    error: str = ""  # why it cannot be read, where the listing has shown that
    stem: str = ""  # of its file's name, where another input has the usual name

    @property
    def likely_size(self) -> int:
        """In bytes; an ordinary photograph's where it is not known."""
        return self.size or _UNKNOWN


def entries(
    images: str,
    left_out: Counter[str],
    *,
    output: str | None = None,
    column: str | None = None,
    kept: Columns = NO_COLUMNS,
) -> Generator[Entry, None, None]:
    """Every input image that a URI stands for, each path once, in a stable order.

    What is no image is left out and counted by reason in `left_out`; so is what lies in the output
    folder. `column` is the one of tables that holds the images, or of lists that names them; `kept`
    are those of lists to carry along. Raises SettingsError where there is nothing to do, or the
    place cannot be listed.
    """
    chosen = _Chosen(column, kept, output)
    try:
        anything = False
        for entry in _entries_of(images, left_out, chosen):
            anything = True
            yield entry
    except _UNREADABLE as error:
        raise SettingsError(
            f"cannot list {uris.shown(images)}: {errors.words_of(error)}"
        ) from error
    if not anything:
        looked_for = ", ".join(sorted(IMAGE_SUFFIXES & {".jpg", ".png", ".tif", ".webp"}))
        hint = "is the prefix right?"
        if "**" not in images and _is_glob(images):
            hint = (
                "it is a glob, which names files: `/**` at its end takes those of all folders below"
            )
        raise SettingsError(
            f"no images under {uris.shown(images)} (looked for {looked_for}, ...); {hint}"
        )


def columns_of(
    images: str, *, output: str | None = None, column: str | None = None
) -> pa.Schema | None:
    """The columns that stand beside the images in the first of the tables or lists that a URI
    stands for; None where the images are files by themselves, or there is none. Raises
    SettingsError."""
    chosen = _Chosen(column, NO_COLUMNS, output)
    try:
        first = next(_entries_of(images, Counter(), chosen), None)
        if first is not None and first.listed_in:
            return lists.schema_of(first.listed_in, column)
        is_in_table = first is not None and first.row >= 0
        return rows.schema_beside(first.uri, first.column) if first and is_in_table else None
    except _UNREADABLE as error:
        raise SettingsError(
            f"cannot list {uris.shown(images)}: {errors.words_of(error)}"
        ) from error


def source_of(
    entry: Entry, *, beside: tuple[str, ...] = (), allow_elsewhere: bool = False
) -> Source:
    """Fetch the bytes of an entry. Raises OSError, or ImageError where a table's row has none, or
    names a file elsewhere. Of a table's row the columns `beside` are read too, for `beside_of`."""
    if entry.error:
        raise ImageError(entry.error)
    if entry.archive:
        place = archives.Place(entry.archive, entry.offset, entry.stored)
        mark = entry.mark.rpartition("@")[0]
        return Source(archives.content(entry.uri, mark, place, entry.size))
    if entry.row < 0:
        return Source(files.read(entry.uri))
    image = entry.column, entry.row, entry.item
    return rows.image_in(
        entry.uri, entry.mark, image, beside=beside, allow_elsewhere=allow_elsewhere
    )


def beside_of(entry: Entry, names: columns.Names, *, alone: bool = False) -> dict[str, Any]:
    """What stands beside an image in its table or list, as the output calls it.

    With `alone` the image is not read with it. Raises OSError, ImageError.
    """
    if entry.row < 0 or not names:
        return dict(entry.beside or {})
    image, inner = (entry.column, entry.row, entry.item), tuple(name for name, _ in names)
    found = rows.values_in(entry.uri, entry.mark, image, inner, alone=alone)
    return {new: found[name] for name, new in names}


@dataclass(frozen=True)
class _Chosen:
    """What was said of the inputs beside their URI."""

    column: str | None
    kept: Columns
    output: str | None

    def seen_from(self, root: str) -> "_Chosen":
        """With the output folder as a listing of the root calls it."""
        return replace(self, output=self.output and uris.by_way_of(root, self.output))


def _entries_of(images: str, left_out: Counter[str], chosen: _Chosen) -> Iterator[Entry]:
    """Tells the kinds of inputs apart."""
    if chained := _CHAIN.fullmatch(images):
        return _members(chained[1], chained[2], chained[3], left_out)
    if (braced := uris.expand_braces(images)) and not files.exists(images):
        base = uris.glob_base(images.partition("{")[0])
        found = _each(braced, base, left_out)
        return _searched(found, base, left_out, chosen.seen_from(base))
    if _is_glob(images):
        base = uris.glob_base(images)
        found = listing.matches(images, left_out)
        return _searched(found, base, left_out, chosen.seen_from(base))
    if files.is_folder(images):
        return _folder(images, left_out, chosen.seen_from(images))
    folder = uris.folder_of(images)
    if lists.is_text_list(images):
        return _once(_listed_in(images, left_out, chosen), folder, left_out)
    if rows.is_table(images):
        found = iter([files.info(images)])
        return _once(_tables(found, left_out, chosen, alone=True), folder, left_out)
    name = uris.shown(images).rsplit("/", 1)[-1]
    one = replace(files.info(images), path=name)
    if archives.is_archive(name):
        return _unpacked(iter([one]), folder, left_out)
    if name.lower().endswith(archives.OTHERS):
        raise SettingsError(
            f"{uris.shown(images)}: archives are read that are {', '.join(archives.SUFFIXES)}; "
            "unpack it, or pack it as one of them"
        )
    # also a hidden one: somebody has named it
    if uris.suffix(name) in IMAGE_SUFFIXES and not one.is_special:
        return iter([Entry(uris.key(name), one.uri, one.size, one.mark)])
    return _images_among(iter([one]), left_out, chosen.output)


def _members(kind: str, inner: str, archive: str, left_out: Counter[str]) -> Iterator[Entry]:
    """The images in an archive that a chained URI names: one of them, a folder of it or a glob."""
    archive = uris.absolute(archive)
    whole = f"{kind}://::{archive}"
    fs, _ = filesystem(whole)
    details = ask(fs, whole, fs.find, "", detail=True)
    mark = files.info(archive).mark  # members have none of their own
    inner = inner.strip("/")
    if inner in details:
        like = re.compile(re.escape(inner))
    elif re.search(r"[*?\[]", inner):
        like = pattern(inner)
    else:
        like = re.compile(re.escape(inner + "/" if inner else "") + ".*", re.DOTALL)
    members = [name for name in sorted(details) if like.fullmatch(name)]
    images = [name for name in members if uris.suffix(name) in IMAGE_SUFFIXES]  # by name alone
    if len(images) < len(members):
        left_out["no image"] += len(members) - len(images)
    found = (pages.found(one, f"{kind}://{one}::{archive}", details[one]) for one in images)
    return (replace(one, mark=mark) for one in _images_among(found, left_out, None))


def _is_glob(images: str) -> bool:
    wildcards = r"[*\[]" if images.startswith("http") else r"[*?\[]"
    return bool(re.search(wildcards, images)) and not files.exists(images)


def _folder(root: str, left_out: Counter[str], chosen: _Chosen) -> Iterator[Entry]:
    """A folder, searched recursively; of what a job of ours has written the table alone."""
    if files.exists(uris.join(root, "_run.json")):
        found = _tables(listing.listing(uris.join(root, "data"), left_out), left_out, chosen)
        return _once(found, root, left_out)
    return _searched(listing.listing(root, left_out), root, left_out, chosen)


def _looks_escaped(path: str) -> bool:
    return "\\" in path or f"{pages.NAMELESS}/" in path


def _searched(
    found: Iterator[Found], root: str, left_out: Counter[str], chosen: _Chosen
) -> Iterator[Entry]:
    """The images among what was found, then those in its archives; the rows of its tables where it
    holds neither."""
    tables: list[Found] = []
    packed: list[Found] = []
    loose = _without(found, tables, packed, chosen.output)
    images = _images_among(loose, left_out, chosen.output)
    unpacked = _unpacked(iter(packed), root, left_out)  # of the list as it is when it is asked for
    folders: set[str] = set()  # of loose images, that are called like archives
    anything = False

    def may_collide(entry: Entry) -> bool:
        """Of a folder's paths those alone that are escaped, or look so, and those in archives that
        have a folder's name, may be called alike."""
        folder = archives.name_in(entry.path)
        if folder and not entry.archive:
            folders.add(folder)
        return folder in folders or _looks_escaped(entry.path)

    for entry in _once(chain(images, unpacked), root, left_out, may_collide=may_collide):
        anything = True
        yield entry
    if not anything:
        yield from _once(_tables(iter(tables), left_out, chosen), root, left_out)
        return
    for table in tables:
        leave_out(left_out, "no image", table.path)


def _without(
    found: Iterator[Found], tables: list[Found], packed: list[Found], output: str | None
) -> Iterator[Found]:
    """All but the tables and the archives, which are put aside."""
    for one in found:
        aside: list[Found] | None = None
        if rows.is_table(one.path):
            aside = tables
        elif archives.is_archive(one.path):
            aside = packed
        is_wanted = aside is not None and _reason_by_name(one) is _UNSURE
        if aside is not None and is_wanted and not _is_inside(one.uri, output):
            aside.append(one)
        else:
            yield one


def _each(named: list[str], base: str, left_out: Counter[str]) -> Iterator[Found]:
    """What each of several URIs below a folder stands for; of a file that is missing its row will
    tell. Raises FileNotFoundError where none is there."""

    def look(uri: str) -> list[Found]:
        path = uri[len(uris.join(base, "")) :]
        if _is_glob(uri):
            inside = uris.glob_base(uri)[len(uris.join(base, "")) :]
            there = listing.matches(uri, left_out)
            return [replace(one, path=f"{inside}/{one.path}".lstrip("/")) for one in there]
        try:
            one = replace(files.info(uri), path=path)
        except FileNotFoundError:
            return [Found(path, uri, -1, "")]
        if not one.is_folder:
            return [one]
        below = listing.listing(uri, left_out)
        return [replace(each, path=f"{path}/{each.path}") for each in below]

    with ThreadPoolExecutor(16) as pool:
        some = [one for found in pool.map(look, named) for one in found]
    if not any(one.size >= 0 for one in some):
        raise FileNotFoundError(named[0])
    return (replace(one, size=max(0, one.size)) for one in some)


def _unpacked(packed: Iterator[Found], root: str, left_out: Counter[str]) -> Iterator[Entry]:
    """The images in archives, each archive's in its own order and each under a path of its own. One
    that cannot be listed is an entry itself, and its error says why."""

    def wants_head(name: str) -> int:
        return HEAD if _reason_of_member(uris.key(name)) is _UNSURE else 0

    listed = archives.members(packed, wants_head)
    for _, of_one in groupby(listed, key=lambda each: each[0].uri):
        yield from _once(_images_of(of_one, left_out), root, left_out)


def _images_of(
    listed: Iterator[tuple[Found, str, Member]], left_out: Counter[str]
) -> Iterator[Entry]:
    """The images among the members of an archive: by their names, and by their first bytes where
    these tell nothing."""
    for archive, kind, one in listed:
        if not one.name:
            yield Entry(uris.key(archive.path), archive.uri, 0, archive.mark, error=one.error)
            continue
        name = uris.key(one.name)
        reason = one.left_out or _reason_of_member(name)
        if reason is _UNSURE:
            reason = None if looks_like_image(one.head) else "no image"
        if reason is not None:
            leave_out(left_out, reason, f"{uris.key(archive.path)}/{name}")
            continue
        mark, path = f"{archive.mark}@{one.offset}", uris.key(f"{archive.path}/{name}")
        yield Entry(
            path,
            archive.uri,
            one.size,
            mark,
            archive=kind,
            offset=one.offset,
            stored=one.stored,
            error=one.error,
        )


def _reason_of_member(name: str) -> str | None:
    if archives.is_archive(name):
        return "an archive in an archive"
    reason = _reason_by_name(Found(name, name, 0, ""))
    return "no image" if reason is _UNSURE and uris.suffix(name) in _BESIDE else reason


def _images_among(
    found: Iterator[Found], left_out: Counter[str], output: str | None
) -> Iterator[Entry]:
    """The images among files: by suffix, and by content where the suffix tells nothing."""
    with ThreadPoolExecutor(16) as pool:
        while batch := list(islice(found, 1000)):
            by_name = [_reason_by_name(one) for one in batch]
            unsure = [one for one, why in zip(batch, by_name, strict=True) if why is _UNSURE]
            by_content = pool.map(_reason_by_content, unsure)  # a thread each, for the store's sake
            for one, why in zip(batch, by_name, strict=True):
                reason = next(by_content) if why is _UNSURE else why
                if _is_inside(one.uri, output):
                    reason = "" if one.is_folder else "inside the output folder"
                if reason is None:
                    yield Entry(uris.key(one.path), one.uri, one.size, one.mark)
                elif reason:
                    leave_out(left_out, reason, one.path)


def _reason_by_name(found: Found) -> str | None:
    """Why a file is no input; None if it is one, empty for a folder, which counts as nothing."""
    if found.is_folder:
        return ""  # also one that is named like an image: what lies in it is listed
    if found.path.startswith(".") or "/." in found.path:
        return "hidden"
    if found.is_special:
        return "neither file nor folder"
    if not _OF_A_SYSTEM.isdisjoint(found.path.lower().split("/")):
        return "made by a system (thumbnails, deleted files)"
    if uris.suffix(found.path) in _UNFINISHED:
        return "unfinished download"
    return None if uris.suffix(found.path) in IMAGE_SUFFIXES else _UNSURE


def _reason_by_content(found: Found) -> str | None:
    """As by name; what cannot be read now may be an image: its row will tell."""
    if not found.size and not found.uri.startswith("http"):  # which does not say
        return "no image"  # stores refuse to give a part of nothing
    try:
        return None if looks_like_image(files.head(found.uri, HEAD)) else "no image"
    except (FileNotFoundError, PermissionError):
        return "no image"  # neither its name nor its content says that it is one
    except OSError:
        return None


def _is_inside(uri: str, folder: str | None) -> bool:
    """As `uris.lies_in`, of places that are called by the same way: asked for every file."""
    return folder is not None and uris.join(uri, "").startswith(uris.join(folder, ""))


def _listed_in(uri: str, left_out: Counter[str], chosen: _Chosen) -> Iterator[Entry]:
    """The entries that a list names, relative ones resolved against the list's folder."""
    folder = uris.folder_of(uri)
    for named, beside in lists.named_in(uri, chosen.column, chosen.kept, left_out):
        where = uris.resolved(folder, named)
        size, mark = 0, ""
        if uris.is_local(where):  # on a store this would be a request an image
            try:
                found = files.info(where)
                size, mark = found.size, found.mark
            except OSError:
                pass  # reading it will tell, in its own row
        called = uris.relative(where, folder)
        if called.startswith("../") and not uris.is_relative(named):
            called = uris.shown(where)
        path = uris.key(called.split("://", 1)[-1])
        yield Entry(path, where, size, mark, listed_in=uri, beside=beside)


def _tables(
    found: Iterator[Found], left_out: Counter[str], chosen: _Chosen, *, alone: bool = False
) -> Iterator[Entry]:
    """The images in the rows of tables. A table without any, among others, is counted; where all of
    them are without, they are lists: of a file that was named, by `uri` even if it holds images.

    Raises SettingsError where there are neither images nor names of images.
    """
    anything, without, refused = False, list[Found](), ""
    for one in _saved(found):
        if alone and lists.names_uris(one.uri, chosen.column):
            yield from _listed_in(one.uri, left_out, chosen)
            return
        images = _images_in(one, left_out, chosen.column)
        try:
            first = next(images, None)
        except NoImagesError as error:
            refused = refused or f"{uris.shown(one.uri)}: {error}"
            without.append(one)
            continue
        anything = True
        yield from chain([first] if first else [], images)
    named = [one for one in without if lists.names_images(one.uri, chosen.column)]
    named = [] if anything else named
    if without and not anything and not named:
        raise SettingsError(refused)
    if len(named) < len(without):
        left_out["table without images"] += len(without) - len(named)
    for one in named:
        yield from _listed_in(one.uri, left_out, chosen)


def _images_in(table: Found, left_out: Counter[str], column: str | None) -> Iterator[Entry]:
    """The entries of one table. Raises OSError, and SettingsError where it is no whole table, has
    no images, or is written so that no worker had the memory for it."""
    try:
        for image in rows.images_in(table, column, left_out):
            path, mark = uris.key(image.path), table.mark
            yield Entry(path, table.uri, image.size, mark, image.row, image.column, image.item)
    except pa.ArrowException as error:
        words = errors.words_of(error)
        raise SettingsError(f"{uris.shown(table.uri)} is no whole table ({words})") from error


def _saved(found: Iterator[Found]) -> Iterator[Found]:
    """The tables among what was found; of a saved dataset its own files, not the caches beside."""
    own: dict[str, set[str] | None] = {}
    for one in found:
        if not rows.is_table(one.path):
            continue
        folder, _, name = one.uri.rpartition("/")
        if uris.suffix(name) in arrow.SUFFIXES:
            if folder not in own:
                own[folder] = arrow.data_files(folder)
            named = own[folder]
            if named is not None and name not in named:
                continue
        yield one


def _once(
    found: Iterator[Entry],
    root: str,
    left_out: Counter[str],
    *,
    may_collide: Callable[[Entry], bool] = lambda entry: True,
) -> Iterator[Entry]:
    """Each image once, each under a path of its own: manifests and tables may name one twice, and
    two that differ only in what the path leaves out, where a listing cannot. Of two that are called
    alike the second is told by its place below the root: it is the same wherever all of it lies."""
    root = uris.absolute(root)
    seen: dict[int, int] = {}  # hashes: of a hundred million names they fit into memory
    for entry in found:
        if not may_collide(entry):
            yield entry
            continue
        place = repr((uris.identity(entry.uri, root), entry.row, entry.item))
        if entry.archive:
            place += str(entry.offset)
        key, home = _hash(entry.path), _hash(place)
        while seen.get(key, home) != home:
            entry = replace(entry, path=f"{entry.path}~{home & 0xFFFFFFFF:08x}")
            key = _hash(entry.path)
        if key in seen:
            left_out["named twice"] += 1
            continue
        seen[key] = home
        yield entry


def _hash(text: str) -> int:
    """64 bits, the same in every process."""
    return int.from_bytes(blake2b(uris.to_bytes(text), digest_size=8).digest())
