"""What `--images` may be: folder, glob, file, archive, list, table; as a stream of entries."""

import csv
import re
import zlib
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain

import pyarrow as pa

from denoise import errors
from denoise.errors import SettingsError
from denoise.images.sniff import IMAGE_SUFFIXES
from denoise.storage import archives, files, listing, lists, pages, rows, uris
from denoise.storage.choosing import (
    CHAIN,
    UNSURE,
    images_among,
    images_in_archives,
    images_of_chain,
    is_inside,
    reason_by_name,
)
from denoise.storage.columns import NO_COLUMNS, Columns
from denoise.storage.entry import Entry, unique
from denoise.storage.found import Found, LeftOut
from denoise.storage.stores import ASKERS
from denoise.storage.table_entries import images_in_tables, images_of_list

_RUN = "_run.json"  # in every output folder of a job
# of what it writes beside that, what may look like an input
_WRITTEN = ("_manifest/", "data/", "images/", "curve.png", "samples.jpg")
_OUTPUT = "output of an earlier job"
_UNREADABLE = (OSError, EOFError, UnicodeError, zlib.error, pa.ArrowException, csv.Error)


def entries(
    images: str,
    left_out: LeftOut,
    *,
    output: str | None = None,
    column: str | None = None,
    beside: Columns = NO_COLUMNS,
) -> Generator[Entry, None, None]:
    """Every input image that a URI stands for, each path once, in a stable order.

    What is no image is left out and counted by reason in `left_out`; so is what lies in the output
    folder. `column` is the one of tables that holds the images, or of lists that names them;
    `beside` are the columns of lists to carry along. Raises SettingsError where there is no image,
    or the URI cannot be listed.
    """
    options = _Options(column, beside, output)
    try:
        anything = False
        for entry in _images_under(images, left_out, options):
            anything = True
            yield entry
    except _UNREADABLE as error:
        raise SettingsError(
            f"cannot list {uris.redact(images)}: {errors.words_of(error)}"
        ) from error
    if not anything:
        looked_for = ", ".join(sorted(IMAGE_SUFFIXES & {".jpg", ".png", ".tif", ".webp"}))
        hint = "is the prefix right?"
        if left_out.counts[_OUTPUT]:
            hint = "it holds output folders of jobs: name one of these"
        if "**" not in images and _is_glob(images):
            hint = (
                "it is a glob, which names files: `/**` at its end takes those of all folders below"
            )
        raise SettingsError(
            f"no images under {uris.redact(images)} (looked for {looked_for}, ...); {hint}"
        )


def columns_of(
    images: str, *, output: str | None = None, column: str | None = None
) -> pa.Schema | None:
    """The columns that stand beside the images in the first of the tables or lists that a URI
    stands for; None where the images are files by themselves, or there is none. Raises
    SettingsError."""
    options = _Options(column, NO_COLUMNS, output)
    try:
        first = next(_images_under(images, LeftOut(), options), None)
        if first is not None and first.listed_in:
            return lists.schema_of(first.listed_in, column)
        is_in_table = first is not None and first.row >= 0
        return rows.schema_beside(first.uri, first.column) if first and is_in_table else None
    except _UNREADABLE as error:
        raise SettingsError(
            f"cannot list {uris.redact(images)}: {errors.words_of(error)}"
        ) from error


@dataclass(frozen=True)
class _Options:
    """What decides which inputs there are, besides their URI."""

    column: str | None
    beside: Columns
    output: str | None

    @property
    def of_lists(self) -> tuple[str | None, Columns]:
        """What tables and lists are read with."""
        return self.column, self.beside

    def seen_from(self, root: str) -> "_Options":
        """The same options, the output folder named as a listing of the root names it."""
        return replace(self, output=self.output and uris.by_way_of(root, self.output))


def _images_under(images: str, left_out: LeftOut, options: _Options) -> Iterator[Entry]:
    """The images under a URI of any kind."""
    if chained := CHAIN.fullmatch(images):
        return images_of_chain(chained[1], chained[2], chained[3], left_out)
    if (braced := uris.expand_braces(images)) and not files.exists(images):
        base = uris.glob_base(images.partition("{")[0])
        each = _files_of_each(braced, base, left_out)
        return _images_listed(each, base, left_out, options.seen_from(base))
    if _is_glob(images):
        base = uris.glob_base(images)
        matches = listing.matches(images, left_out)
        return _images_listed(matches, base, left_out, options.seen_from(base))
    if files.is_folder(images):
        return _images_in_folder(images, left_out, options.seen_from(images))
    folder = uris.folder_of(images)
    if lists.is_text_list(images):
        return unique(images_of_list(images, left_out, *options.of_lists), folder, left_out)
    if rows.is_table(images):
        table = iter([files.info(images)])
        found = images_in_tables(table, left_out, *options.of_lists, alone=True)
        return unique(found, folder, left_out)
    name = uris.name_of(uris.redact(images))
    one = replace(files.info(images), path=name)
    if archives.is_archive(name):
        return images_in_archives(iter([one]), folder, left_out)
    if name.lower().endswith(archives.OTHERS):
        raise SettingsError(
            f"{uris.redact(images)}: archives are read that are {', '.join(archives.SUFFIXES)}; "
            "unpack it, or pack it as one of them"
        )
    # also a hidden one: somebody has named it
    if uris.suffix(name) in IMAGE_SUFFIXES and not one.is_special:
        return iter([Entry(uris.key(name), one.uri, one.size, one.mark)])
    return images_among(iter([one]), left_out, options.output)


def _is_glob(images: str) -> bool:
    wildcards = r"[*\[]" if images.startswith("http") else r"[*?\[]"
    return bool(re.search(wildcards, images)) and not files.exists(images)


def _images_in_folder(root: str, left_out: LeftOut, options: _Options) -> Iterator[Entry]:
    """The images below a folder; of a job's output folder those of its table alone."""
    if files.exists(uris.join(root, _RUN)):
        parts = listing.listing(uris.join(root, "data"), left_out)
        return unique(images_in_tables(parts, left_out, *options.of_lists), root, left_out)
    found = _without_outputs(listing.listing(root, left_out), left_out, options.output)
    return _images_listed(found, root, left_out, options)


def _looks_escaped(path: str) -> bool:
    return "\\" in path or f"{pages.NAMELESS}/" in path


def _images_listed(
    found: Iterator[Found], root: str, left_out: LeftOut, options: _Options
) -> Iterator[Entry]:
    """The loose images of a listing, then those in its archives; the rows of its tables where it
    holds neither."""
    tables: list[Found] = []
    packed: list[Found] = []
    loose = _loose(found, tables, packed, options.output)
    images = images_among(loose, left_out, options.output)
    unpacked = images_in_archives(iter(packed), root, left_out)  # `packed` fills up before
    folders: set[str] = set()  # of loose images, that are called like archives
    anything = False

    def may_collide(entry: Entry) -> bool:
        """Whether a path may be another one's too: escaped ones, and those in archives that have
        a folder's name. All other paths of a folder differ."""
        folder = next(archives.names_in(entry.path), "")
        if folder and not entry.archive:
            folders.add(folder)
        return folder in folders or _looks_escaped(entry.path)

    for entry in unique(chain(images, unpacked), root, left_out, may_collide=may_collide):
        anything = True
        yield entry
    if not anything:
        yield from unique(
            images_in_tables(iter(tables), left_out, *options.of_lists), root, left_out
        )
        return
    for table in tables:
        left_out.add("no image", table.path)


def _without_outputs(
    found: Iterator[Found], left_out: LeftOut, output: str | None
) -> Iterator[Found]:
    """What a folder's listing finds, but what earlier jobs wrote there: that is counted. The job's
    own output folder is left in, for what lies there is left out for another reason."""
    written: tuple[str, ...] = ()
    for one in found:
        if one.path.startswith(written):
            if not one.is_folder:
                left_out.add(_OUTPUT, one.path)
            continue
        folder, _, name = one.path.rpartition("/")
        if name == _RUN and folder and not is_inside(one.uri, output) and _is_of_a_job(one):
            written += tuple(f"{folder}/{below}" for below in _WRITTEN)  # which sort behind
        yield one


def _is_of_a_job(run: Found) -> bool:
    """Whether a job of ours wrote a file that is called like the record of one. Raises OSError."""
    try:
        return "format_version" in files.object_in(run.uri)
    except ValueError:
        return False


def _loose(
    found: Iterator[Found], tables: list[Found], packed: list[Found], output: str | None
) -> Iterator[Found]:
    """The files that are neither tables nor archives; these two are put into their lists."""
    for one in found:
        aside: list[Found] | None = None
        if rows.is_table(one.path):
            aside = tables
        elif archives.is_archive(one.path):
            aside = packed
        is_wanted = aside is not None and reason_by_name(one) is UNSURE
        if aside is not None and is_wanted and not is_inside(one.uri, output):
            aside.append(one)
        else:
            yield one


def _files_of_each(named: list[str], base: str, left_out: LeftOut) -> Iterator[Found]:
    """The files that each of several URIs below a folder stands for, each once; one that is missing
    too: its row says so. Raises FileNotFoundError where none is there."""

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

    some: dict[str, Found] = {}
    with ThreadPoolExecutor(ASKERS) as pool:
        for one in chain.from_iterable(pool.map(look, named)):
            if one.uri in some and not one.is_folder:
                left_out.add("named twice", one.path)
            some.setdefault(one.uri, one)
    if not any(one.size >= 0 for one in some.values()):
        raise FileNotFoundError(named[0])
    return (replace(one, size=max(0, one.size)) for one in some.values())
