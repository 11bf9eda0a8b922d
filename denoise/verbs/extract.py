"""`denoise extract`: the images of a finished table as files; nothing is computed again.

INTO/<path>         each image under its input's path, with the suffix of what it is stored as
INTO/shard-*.tar    instead of these with --save tar: shards as WebDataset reads them
INTO/extracted.csv  path, file, note and error of every row, written last
"""

import csv
import errno
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO, TextIOWrapper
from itertools import islice
from typing import Any, Literal

from denoise.errors import FAILURES, SettingsError, WriteError, why, words_of
from denoise.output import tables, tar_shard
from denoise.output.folder import run_of
from denoise.output.names import Names, file_of
from denoise.storage import archives, files, uris
from denoise.storage.stores import ASKERS
from denoise.storage.uris import join
from denoise.verbs.checks import normalize

_COLUMNS = {"infer": "image", "noise": "noisy"}  # the images of a verb's table
_NAMES = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL)
_RENAMED = "renamed: another image has that name"


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Write the images of a finished table as files: denoise extract denoised photos-clean"""

    output: str  # the output folder of `infer` or `noise`
    into: str | None = None  # where the files go; OUTPUT/images where not given
    save: Literal["files", "tar"] = "files"  # a file for each image, or shards for WebDataset

    def __post_init__(self) -> None:
        normalize(self)
        for name in ("output", "into"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} must not be empty")
        if self.save not in ("files", "tar"):
            raise ValueError(f"save must be one of files, tar, got {self.save}")


@dataclass(frozen=True)
class _File:
    """One image on its way out of the table."""

    path: str
    name: str | None  # below INTO, None where there is nothing to write
    content: bytes | str = b""  # the bytes of the image, or the URI that they lie at
    note: str | None = None
    error: str | None = None
    is_new: bool = False


def extract(config: ExtractConfig) -> dict[str, Any]:
    """Write the images of a table as files and return how many.

    No file is ever replaced: one that is there with the same bytes is left, as a run that was
    stopped leaves it. Raises SettingsError where the table is not finished or has no images, and
    where a file of that name and other content is there.
    """
    output = uris.absolute(config.output)
    images = join(output, "images")
    into = uris.absolute(config.into) if config.into else images
    column, saved = _image_column(output)
    is_there = saved in ("files", "both") and into == images
    if config.save == saved == "tar" and into == images:
        raise SettingsError(
            f"the shards lie in {uris.redact(into)} already, as --save tar wrote them: give "
            "another folder, or --save files"
        )
    if uris.lies_in(into, output) and into != images:
        raise SettingsError(
            f"{uris.redact(into)} lies inside the output folder; give another one, or none for "
            f"{uris.redact(images)}"
        )
    files.check_writable(files.nearest_folder(into))
    counts: Counter[str] = Counter()
    write = _write_tars if config.save == "tar" else _write_files
    with files.open_output(join(into, "extracted.csv")) as file:
        text = TextIOWrapper(file, "utf-8", newline="", write_through=True)
        table = csv.writer(text)
        table.writerow(["path", "file", "note", "error"])
        # names that lie there already are as their disk took them
        names = Names("same", folds=not is_there, in_tar=config.save == "tar")
        for one in write(output, column, into, names):
            table.writerow([one.path, one.name, one.note, one.error])
            counts.update(_counters_of(one))
        text.detach()
    return {
        **{name: counts[name] for name in ("images", "written", "already_there", "renamed")},
        "failed": counts["failed"],
        "into": into,
        "list": join(into, "extracted.csv"),
    }


def _image_column(output: str) -> tuple[str, str]:
    """The column with the images of an output folder, and how they were saved.

    Raises SettingsError where there is none.
    """
    run, name = run_of(output), uris.redact(output)
    if run is None:
        raise SettingsError(f"no output of a job under {name} (it has no _run.json)")
    if run.get("verb") not in _COLUMNS:
        raise SettingsError(f"{name} is the output of `{run.get('verb')}`, which has no images")
    if not files.exists(join(output, "_SUCCESS")):
        raise SettingsError(f"{name} is not finished; run `{run['verb']}` again to finish it")
    saved = str(run["settings"].get("save"))
    if saved == "none":
        raise SettingsError(f"{name} holds no images: it was made with --save none")
    return _COLUMNS[run["verb"]], saved


def _write_files(output: str, column: str, into: str, names: Names) -> Iterator[_File]:
    """Write each image of a table as a file under a name of its own, a few at a time in memory."""
    with ThreadPoolExecutor(ASKERS) as pool:
        for part in tables.parts(output):
            found = tables.rows_in(part, ["path", column, "file", "error"])
            while rows := list(islice(found, ASKERS)):
                some = [_with_free_name(_file(output, row, column), names) for row in rows]
                yield from pool.map(partial(_write, into=into), some)


def _write_tars(output: str, column: str, into: str, names: Names) -> Iterator[_File]:
    """Write the images of each part file as a tar shard, of which one is in memory.

    Yields the images of a shard once it is there.
    """
    with ThreadPoolExecutor(ASKERS) as pool:
        for part in tables.parts(output):
            name = tar_shard.name_of(tables.shard_of(uris.name_of(part)))
            tar, packed = BytesIO(), list[_File]()
            found = tables.rows_in(part)
            while rows := list(islice(found, ASKERS)):
                some = [_with_free_name(_file(output, row, column), names) for row in rows]
                for row, one in zip(rows, pool.map(_fetch, some), strict=True):
                    member = "" if one.name is None else _pack(tar, row, column, one)
                    at = f"{name}/{member}" if member else None
                    packed.append(replace(one, name=at, content=b""))
            tar_shard.end(tar)
            try:
                is_new = _create(into, name, tar.getvalue())
            except OSError as error:
                raise WriteError(f"cannot write shards: {words_of(error)}") from error
            yield from (replace(one, is_new=is_new) for one in packed)


def _pack(tar: BytesIO, row: dict[str, Any], column: str, image: _File) -> str:
    """Append what a row holds to a tar and return the name of its image there."""
    struct = {"bytes": image.content, "path": image.name}
    members = list(tar_shard.members_of(row | {column: struct}))
    for name, content in members:
        tar_shard.append(tar, name, content)
    return members[0][0]


def _file(output: str, row: dict[str, Any], column: str) -> _File:
    """A row's image and the name that it would like to have."""
    path, image, stored = row["path"], row[column], row["file"]
    if row["error"] is not None:
        return _File(path, None, error=row["error"])
    encoded = image["bytes"] if image is not None else None
    if not stored and not encoded:
        return _File(path, None, error="the table holds no image")
    if stored and (uris.key(stored) != stored or not stored.startswith("images/")):
        return _File(path, None, error="its file lies outside the output folder")
    if stored and not tar_shard.is_member(stored):  # it has had a name of its own since then
        return _File(path, stored.removeprefix("images/"), encoded or join(output, stored))
    suffix = uris.suffix(stored or image["path"] or path)
    return _File(path, file_of(path, suffix), encoded or join(output, stored))


def _with_free_name(one: _File, names: Names) -> _File:
    """The file under a name that no other has, also on a disk that knows no capital letters."""
    if one.name is None:
        return one
    name = names.name_of(one.path, one.name)
    return one if name == one.name else replace(one, name=name, note=_RENAMED)


def _write(one: _File, into: str) -> _File:
    """Write a file. A name that cannot be is the image's error; what else fails ends the run."""
    if one.name is None:
        return one
    uri = join(into, one.name)
    if one.content == uri:
        return one  # `--save files` put it there
    if "\0" in one.name:
        return replace(one, name=None, error="its name cannot be a file's")
    one = _fetch(one)
    if one.name is None:
        return one
    assert isinstance(one.content, bytes)
    try:
        is_new = _create(into, one.name, one.content)
    except OSError as error:
        if error.errno in _NAMES:
            return replace(one, name=None, error="its name cannot be a file's")
        raise WriteError(f"cannot write images: {words_of(error)}") from error
    return replace(one, content=b"", is_new=is_new)


def _fetch(one: _File) -> _File:
    """The image with its bytes; where they cannot be read that is its error."""
    if one.name is None or isinstance(one.content, bytes):
        return one
    try:
        return replace(one, content=archives.read(one.content))
    except FAILURES as error:
        return replace(one, name=None, error=why(error))


def _create(into: str, name: str, content: bytes) -> bool:
    """Write a file; False where it is there with these bytes.

    Raises OSError, and SettingsError where it is there with others.
    """
    is_new = files.create_below(into, name, content)
    uri = join(into, name)
    if not is_new and files.read(uri) != content:
        what = "shard" if tar_shard.is_member(f"images/{name}/") else "image"
        raise SettingsError(
            f"{uris.redact(uri)} is there and is another {what}; give a folder that is new or empty"
        )
    return is_new


def _counters_of(one: _File) -> Iterator[str]:
    yield "images"
    if one.error is not None:
        yield "failed"
        return
    yield "written" if one.is_new else "already_there"
    if one.note is not None:
        yield "renamed"
