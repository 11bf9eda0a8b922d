"""What `--images` may be: folder, glob, file, manifest, Parquet table; as a stream of entries."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from io import TextIOWrapper
from itertools import chain, islice

import pyarrow as pa
import pyarrow.parquet as pq

from denoise import errors
from denoise.errors import SettingsError
from denoise.images.codec import IMAGE_SUFFIXES, looks_like_image
from denoise.images.pairs import Source
from denoise.images.sniff import HEAD
from denoise.storage import files, listing, pages, uris
from denoise.storage.disk import Found
from denoise.storage.parquet import image_in, rows_in
from denoise.storage.stores import ask, filesystem, pattern

_UNKNOWN = 2 << 20  # bytes that an image of unknown size counts as
_MANIFESTS = (".txt", ".csv", ".parquet")
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
_CHAIN = re.compile(r"(zip|tar)://(.*?)::(.+)", re.DOTALL)  # an archive by fsspec's words
_UNSURE = "its name does not tell"


@dataclass(frozen=True, slots=True)
class Entry:
    """One input image: a file, or a row of a Parquet file."""

    path: str  # its name relative to the input root: the key of every table, the seed of its noise
    uri: str  # where its bytes lie
    size: int  # in bytes, 0 where it is not known
    mark: str  # tells one version of the file from another, empty where it is not known
    row: int = -1  # the row of the Parquet file, -1 where the file itself is the image
    stem: str = ""  # of its file's name, where another input has the usual name

    @property
    def likely_size(self) -> int:
        """In bytes; an ordinary photograph's where it is not known."""
        return self.size or _UNKNOWN


def entries(
    images: str, left_out: Counter[str], *, output: str | None = None
) -> Generator[Entry, None, None]:
    """Every input image that a URI stands for, each path once, in a stable order.

    What is no image is left out and counted by reason in `left_out`; so is what lies in the output
    folder. Raises SettingsError where there is nothing to do, or the place cannot be listed.
    """
    try:
        anything = False
        for entry in _entries_of(images, left_out, output):
            anything = True
            yield entry
    except (OSError, pa.ArrowException, csv.Error) as error:
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


def source_of(entry: Entry, *, allow_elsewhere: bool = False) -> Source:
    """Fetch the bytes of an entry. Raises OSError, or ImageError where a table's row has none, or
    names a file elsewhere."""
    if entry.row < 0:
        return Source(files.read(entry.uri))
    return image_in(entry.uri, entry.mark, entry.row, allow_elsewhere=allow_elsewhere)


def _entries_of(images: str, left_out: Counter[str], output: str | None) -> Iterator[Entry]:
    """Tells the kinds of inputs apart."""
    if chained := _CHAIN.fullmatch(images):
        return _members(chained[1], chained[2], chained[3], left_out)
    if _is_glob(images):
        base = uris.glob_base(images)
        output = output and uris.by_way_of(base, output)
        return _searched(listing.matches(images, left_out), base, left_out, output)
    if files.is_folder(images):
        return _folder(images, left_out, output and uris.by_way_of(images, output))
    if images.lower().endswith(_MANIFESTS):
        return _once(_manifest(images, left_out), uris.folder_of(images), left_out)
    name = uris.shown(images).rsplit("/", 1)[-1]
    found = replace(files.info(images), path=name)
    # also a hidden one: somebody has named it
    if uris.suffix(name) in IMAGE_SUFFIXES and not found.is_special:
        return iter([Entry(uris.key(name), found.uri, found.size, found.mark)])
    return _images_among(iter([found]), left_out, output)


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


def _folder(root: str, left_out: Counter[str], output: str | None) -> Iterator[Entry]:
    """A folder, searched recursively; of what a job of ours has written the table alone."""
    if files.exists(uris.join(root, "_run.json")):
        rows = _tables(listing.listing(uris.join(root, "data"), left_out), left_out)
        return _once(rows, root, left_out)
    return _searched(listing.listing(root, left_out), root, left_out, output)


def _looks_escaped(path: str) -> bool:
    return "\\" in path or f"{pages.NAMELESS}/" in path


def _searched(
    found: Iterator[Found],
    root: str,
    left_out: Counter[str],
    output: str | None,
) -> Iterator[Entry]:
    """The images among what was found; the rows of its Parquet tables where it holds no images."""
    tables: list[Found] = []
    images = _images_among(_without_tables(found, tables, output), left_out, output)
    anything = False
    # of a folder's paths those alone that are escaped, or look so, may be called alike
    for entry in _once(images, root, left_out, may_collide=_looks_escaped):
        anything = True
        yield entry
    if not anything:
        yield from _once(_tables(iter(tables), left_out), root, left_out)
    elif tables:
        left_out["no image"] += len(tables)


def _without_tables(
    found: Iterator[Found], tables: list[Found], output: str | None
) -> Iterator[Found]:
    """All but the Parquet tables, which are put aside."""
    for one in found:
        is_table = uris.suffix(one.path) == ".parquet" and _reason_by_name(one) is _UNSURE
        if is_table and not _is_inside(one.uri, output):
            tables.append(one)
        else:
            yield one


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
                    left_out[reason] += 1


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


def _manifest(uri: str, left_out: Counter[str]) -> Iterator[Entry]:
    """The entries that a manifest names, relative ones resolved against the manifest's folder."""
    if uri.lower().endswith(".parquet"):
        with files.open_input(uri) as file:
            if "uri" not in pq.read_schema(file).names:
                yield from _tables(iter([files.info(uri)]), left_out)
                return
    folder = uris.folder_of(uri)
    for named in _uris_in(uri):
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
        yield Entry(uris.key(called.split("://", 1)[-1]), where, size, mark)


def _uris_in(uri: str) -> Iterator[str]:
    """The `uri` column of a manifest, or the lines of a text file."""
    with files.open_input(uri) as file:
        if uri.lower().endswith(".parquet"):
            yield from _uris_in_table(uri, pq.ParquetFile(file))
            return
        lines = TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        if uri.lower().endswith(".csv"):
            rows = csv.DictReader(lines)
            if "uri" not in (rows.fieldnames or []):
                raise SettingsError(
                    f"{uris.shown(uri)} has no column `uri` (it has {rows.fieldnames})"
                )
            yield from (row["uri"] for row in rows if row["uri"])
            return
        for line in lines:
            if "\0" in line:
                raise SettingsError(f"{uris.shown(uri)} is no UTF-8 text: save it as UTF-8")
            named = line.rstrip("\r\n")
            if named.strip() and named != "uri":
                yield named


def _uris_in_table(uri: str, table: pq.ParquetFile) -> Iterator[str]:
    """The `uri` column. Raises SettingsError where it holds anything but text."""
    kind = table.schema_arrow.field("uri").type
    if not _is_text(kind):
        raise SettingsError(f"{uris.shown(uri)}: its column `uri` must hold text, not {kind}")
    for batch in table.iter_batches(columns=["uri"]):
        yield from filter(None, batch.column(0).to_pylist())


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):  # as pandas writes a categorical column
        return _is_text(kind.value_type)
    return kind in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def _tables(found: Iterator[Found], left_out: Counter[str]) -> Iterator[Entry]:
    """The rows of Parquet files that hold encoded images.

    A table without images among others is counted. Raises SettingsError where none has any.
    """
    anything, without = False, ""
    for one in found:
        if uris.suffix(one.path) != ".parquet":
            continue
        rows = enumerate(rows_in(one, left_out))
        try:
            first = next(rows, None)
        except SettingsError as error:
            without = without or f"{uris.shown(one.uri)}: {error}"
            left_out["table without images"] += 1
            continue
        anything = True
        for row, (name, size) in chain([first] if first else [], rows):
            yield Entry(uris.key(name), one.uri, size, one.mark, row)
    if without and not anything:
        raise SettingsError(without)


def _once(
    found: Iterator[Entry],
    root: str,
    left_out: Counter[str],
    *,
    may_collide: Callable[[str], bool] = lambda path: True,
) -> Iterator[Entry]:
    """Each image once, each under a path of its own: manifests and tables may name one twice, and
    two that differ only in what the path leaves out, where a listing cannot. Of two that are called
    alike the second is told by its place below the root: it is the same wherever all of it lies."""
    root = uris.absolute(root)
    seen: dict[int, int] = {}  # hashes: of a hundred million names they fit into memory
    for entry in found:
        if not may_collide(entry.path):
            yield entry
            continue
        place = repr((uris.identity(entry.uri, root), entry.row))
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
