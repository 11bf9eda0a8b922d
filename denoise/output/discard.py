"""What is removed from an output folder, and what there is not ours: only what jobs made goes.

An output folder may come from a stranger, or be a user's own that has held other things before.
"""

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa

from denoise.errors import SettingsError
from denoise.output import run_log, tables
from denoise.output.generations import generations_of
from denoise.storage import disk, files, listing, uris
from denoise.storage.stores import ASKERS
from denoise.storage.uris import join

UNFINISHED = "_unfinished"
_FOLDERS = ("data", "images", "_manifest", UNFINISHED)
# _run.json goes last: after a kill in between the folder is still known as ours
CHECKPOINT, SPLIT = "checkpoint.pt", "_split.parquet"  # of a training
_OURS = ("_SUCCESS", "summary.json", "report.html", CHECKPOINT, SPLIT, run_log.NAME, "_run.json")
_PACKAGE = ("config.json", "model.safetensors", "README.md")  # what `train` writes at its end
_TAR_SHARD = re.compile(r"shard-(\d{5,})\.tar")


def refuse_links(uri: str) -> None:
    """Raise SettingsError where a folder that jobs write to and remove from is a symbolic link: in
    an output folder from somebody else it may lead anywhere."""
    for name in _FOLDERS if uris.is_local(uri) else ():
        if os.path.islink(join(uri, name)):
            raise SettingsError(
                f"{uris.redact(uri)}/{name} is a symbolic link, and nothing is written or removed "
                "through one; give --output the folder that shall hold everything"
            )


def refuse_others(uri: str, verb: str, *, has_files: bool) -> None:
    """Raise SettingsError where a folder without _run.json holds what a run would write over or
    remove: it is somebody's own. `has_files`: whether the run writes below OUTPUT/images."""
    names = set(files.names(uri))
    theirs = {name for name in names if name.startswith(disk.TRIAL)}
    found = {name for name in theirs if not disk.is_trial(name)}
    found |= names & {"_manifest", UNFINISHED, *_OURS, *(_PACKAGE if verb == "train" else ())}
    if verb != "train" and tables.parts(uri):
        found.add("data")
    if has_files and "images" in names and files.names(join(uri, "images")):
        found.add("images")
    if found:
        raise SettingsError(
            f"{uris.redact(uri)} holds {', '.join(sorted(found))}, but no _run.json: no run made "
            "it, and this one would replace or remove it; give another --output, or move it away"
        )


def holds_work(uri: str, verb: str) -> bool:
    """Whether a run has finished, or left what would have to be redone: rows, a checkpoint."""
    if verb == "train" and files.exists(join(uri, CHECKPOINT)):
        return True
    return files.exists(join(uri, "_SUCCESS")) or bool(tables.parts(uri))


def discard(uri: str) -> None:
    """Remove what a job of ours has made, and nothing that a user may have put beside it: of
    OUTPUT/data the part files, of OUTPUT/images the files that these name.

    A table may come from anybody: a name that leads out of OUTPUT/images removes nothing. An image
    stays that a killed run had written before the part file that names it.
    """
    files.remove_file(uri, "_SUCCESS")
    is_in_tars = _wrote_tars(uri)
    with ThreadPoolExecutor(ASKERS) as pool:
        if is_in_tars:
            list(pool.map(partial(files.remove_file, join(uri, "images")), _tars_of(uri)))
        for part in tables.parts(uri):
            if not is_in_tars:
                list(pool.map(partial(files.remove_file, uri), _files_of(part)))
            files.remove_file(join(uri, "data"), uris.name_of(part))
    files.sweep(join(uri, "data"))
    for name in ("data", "images"):
        _remove_if_empty(join(uri, name))
    # Generations name the other files of a manifest: after a kill in between nothing names one
    for name in files.names(join(uri, "_manifest")):
        if name.startswith("generation-"):
            files.remove_file(join(uri, "_manifest"), name)
    for name in ("_manifest", UNFINISHED):
        files.remove(join(uri, name))
    for name in _OURS:
        files.remove_file(uri, name)


def _files_of(part: str) -> Iterator[str]:
    """The image files below OUTPUT/images that a part file names, until where it is damaged.

    Raises OSError where it cannot be read at all.
    """
    try:
        for row in tables.rows_in(part, ["file"]):
            if uris.is_normal(name := row.get("file")) and name.startswith("images/"):
                yield name
    except (OSError, UnicodeError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk or the store: what it names must not stay behind unnamed


def _wrote_tars(uri: str) -> bool:
    """Whether the images of a run are in tar shards."""
    try:
        settings = files.object_in(join(uri, "_run.json")).get("settings")
    except (FileNotFoundError, ValueError):  # no run's, or a damaged one: part files name all
        return False
    return isinstance(settings, dict) and settings.get("save") == "tar"


def _tars_of(uri: str) -> list[str]:
    """The tar shards of a run: a killed one has some that no part file names."""
    shards = [made.shards for made in generations_of(uri)]
    found = map(_TAR_SHARD.fullmatch, files.names(join(uri, "images")))
    return [one[0] for one in found if one and any(int(one[1]) in some for some in shards)]


def _remove_if_empty(folder: str) -> None:
    """Remove a folder in which there are folders at most; on a disk, each that is empty in it."""
    if uris.is_local(folder):
        for path, _, _ in os.walk(folder, topdown=False):
            disk.remove_empty([path])
    elif files.exists(folder) and all(one.is_folder for one in listing.listing(folder)):
        files.remove(folder)
