"""The images that rows of tables hold, and those that lists name."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import Any

import pyarrow as pa

from denoise import errors
from denoise.errors import SettingsError
from denoise.storage import archives, arrow, files, lists, rows, uris
from denoise.storage.choosing import images_in_archives
from denoise.storage.columns import Columns, NoImagesError
from denoise.storage.entry import Entry
from denoise.storage.found import Found, LeftOut
from denoise.storage.stores import ASKERS


def images_in_tables(
    found: Iterator[Found],
    left_out: LeftOut,
    column: str | None,
    beside: Columns,
    *,
    alone: bool = False,
) -> Iterator[Entry]:
    """The images in the rows of tables. A table without any, among others, is counted.

    Where all of them are without they are lists, and so is one alone that has a column `uri`.
    Raises SettingsError where there are neither images nor names of images.
    """
    anything, without, refused = False, list[Found](), ""
    for one in _dataset_tables(found):
        if alone and lists.names_uris(one.uri, column):
            yield from images_of_list(one.uri, left_out, column, beside)
            return
        images = _images_in(one, left_out, column)
        try:
            first = next(images, None)
        except NoImagesError as error:
            refused = refused or f"{uris.redact(one.uri)}: {error}"
            without.append(one)
            continue
        anything = True
        yield from chain([first] if first else [], images)
    named = [one for one in without if lists.names_images(one.uri, column)]
    named = [] if anything else named
    if without and not anything and not named:
        raise SettingsError(refused)
    if len(named) < len(without):
        left_out.add("table without images", count=len(without) - len(named))
    for one in named:
        yield from images_of_list(one.uri, left_out, column, beside)


def _images_in(table: Found, left_out: LeftOut, column: str | None) -> Iterator[Entry]:
    """The entries of one table. Raises OSError, and SettingsError where it is no whole table, has
    no images, or is written so that no worker had the memory for it."""
    try:
        for image in rows.images_in(table, column, left_out):
            path, mark = uris.key(image.path), table.mark
            yield Entry(path, table.uri, image.size, mark, image.row, image.column, image.item)
    except pa.ArrowException as error:
        words = errors.words_of(error)
        raise SettingsError(f"{uris.redact(table.uri)} is no whole table ({words})") from error


def _dataset_tables(found: Iterator[Found]) -> Iterator[Found]:
    """The tables among files; of a saved dataset its own files, not the caches beside."""
    own: dict[str, set[str] | None] = {}
    for one in found:
        if not rows.is_table(one.path):
            continue
        folder, name = uris.folder_of(one.uri), uris.name_of(one.uri)
        if uris.suffix(name) in arrow.SUFFIXES:
            if folder not in own:
                own[folder] = arrow.data_files(folder)
            named = own[folder]
            if named is not None and name not in named:
                continue
        yield one


def images_of_list(
    uri: str, left_out: LeftOut, column: str | None, beside: Columns
) -> Iterator[Entry]:
    """The images that a list names, then those in the archives that it names.

    Relative names are resolved against the list's folder.
    """
    folder = uris.folder_of(uri)
    packed: dict[str, tuple[str, Any]] = {}  # URI of an archive -> path, what stands beside it
    for named, values in lists.names_in(uri, column, beside, left_out):
        where = uris.resolve(folder, named)
        called = uris.relative(where, folder)
        if called.startswith("../") and not uris.is_relative(named):
            called = uris.redact(where)
        path = uris.key(uris.split(called)[1])
        if archives.is_archive(path):
            if where in packed:
                left_out.add("named twice")
            packed.setdefault(where, (path, values))
            continue
        # on a store it would be a request an image
        found = _found(where) if uris.is_local(where) else Found("", where, 0, "")
        yield Entry(path, where, found.size, found.mark, listed_in=uri, beside=values)
    with ThreadPoolExecutor(ASKERS) as pool:
        each = zip(packed.values(), pool.map(_found, packed), strict=True)
        found_archives = (replace(one, path=path) for (path, _), one in each)
        for entry in images_in_archives(found_archives, folder, left_out):
            yield replace(entry, listed_in=uri, beside=packed[entry.uri][1])


def _found(uri: str) -> Found:
    """Size and mark of a file; where it is not there reading it reports that, in its own row."""
    try:
        return files.info(uri)
    except OSError:
        return Found("", uri, 0, "")
