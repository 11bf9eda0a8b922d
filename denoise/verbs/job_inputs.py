"""The inputs of a job: which images it works on, what comes along, how its files are named."""

import logging
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import islice, product
from operator import add
from typing import TYPE_CHECKING

import pyarrow as pa

from denoise.errors import SettingsError
from denoise.output import tables
from denoise.output.known_inputs import Listing
from denoise.output.names import Names
from denoise.storage import files, inputs, uris
from denoise.storage.columns import NO_COLUMNS, Columns
from denoise.storage.entry import Entry
from denoise.storage.found import LeftOut

if TYPE_CHECKING:
    from denoise.verbs.bulk import BulkConfig

_log = logging.getLogger(__name__)


def columns_of(config: "BulkConfig", schema: pa.Schema) -> Columns:
    """The columns of a job's input that its output, of a schema of its own, gets too. Raises
    SettingsError."""
    images, output = uris.absolute(config.images), uris.absolute(config.output)
    found = inputs.columns_of(images, output=output, column=config.column)
    return tables.carried_columns(found, config.keep_columns, schema)


def inputs_of(
    config: "BulkConfig", left_out: LeftOut, columns: Columns = NO_COLUMNS
) -> Iterator[Entry]:
    """The inputs of a job; what is no image is counted by reason. Raises SettingsError."""
    output = uris.absolute(config.output)
    found: Iterator[Entry] = inputs.entries(
        uris.absolute(config.images), left_out, output=output, column=config.column, beside=columns
    )
    return islice(_choose(found, config, left_out), config.limit)


def names_of(config: "BulkConfig", output: str) -> Names | None:
    """The names of the files that a job writes, if it writes any."""
    if config.save not in ("files", "both", "tar"):
        return None
    folds = files.folds_names(files.nearest_folder(output))
    return Names(config.format, folds=folds, in_tar=config.save == "tar")


def _choose(entries: Iterator[Entry], config: "BulkConfig", left_out: LeftOut) -> Iterator[Entry]:
    """The entries that --include and --exclude leave. Raises SettingsError where none is left."""
    anything = False
    include, exclude = _alternatives(config.include), _alternatives(config.exclude)
    for entry in entries:
        if include and not any(fnmatchcase(entry.path, one) for one in include):
            left_out.add("not included")
        elif any(fnmatchcase(entry.path, one) for one in exclude):
            left_out.add("excluded")
        else:
            anything = True
            yield entry
    if not anything:
        raise SettingsError(
            f"no image is left of {left_out.counts.total()}: --include and --exclude are globs of "
            f"paths below {uris.redact(uris.absolute(config.images))}, such as 'holidays/*.jpg'"
        )


def _alternatives(globs: tuple[str, ...]) -> list[str]:
    """What globs stand for where `*` takes `/` too: `{a,b}` is both, and `**/` may be nothing.

    Raises SettingsError where they are too many.
    """
    braced = [one for glob in globs for one in (glob, *uris.expand_braces(glob))]
    parts = [re.split(r"(?<![^/])\*\*/", glob) for glob in braced]
    return [
        first + "".join(map(add, between, rest))
        for first, *rest in parts
        for between in product(("**/", ""), repeat=len(rest))
    ]


def log_listing(listing: Listing, *, is_chosen: bool) -> None:
    """Say what was found that a user may not expect."""
    if listing.added:
        _log.info("%d images were added since", listing.added)
    if listing.changed:
        _log.warning("%d images changed since; they are done again", listing.changed)
    if listing.removed and is_chosen:
        _log.info("%d images of earlier runs are not among these", listing.removed)
    elif listing.removed:
        _log.warning("%d images are gone since; their rows stay", listing.removed)
