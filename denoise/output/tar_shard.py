"""Tar shards as WebDataset reads them: each image, and beside it what its row says as JSON.

OUTPUT/images/shard-00007.tar   one for each part file, with the images of its rows in their order
  a/cat.png                     the image: of `infer` the denoised one, of `noise` the noisy one
  a/cat.clean.png               of `noise` the clean one
  a/cat.json                    the row without its images
"""

import json
import math
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from hashlib import blake2b
from typing import IO, Any, Self

import numpy as np

from denoise.errors import WriteError
from denoise.output.discard import UNFINISHED
from denoise.storage import archives, files, uris
from denoise.storage.rows import holds_image
from denoise.storage.uris import join

_BLOCK = 512
_MODE = 0o644
_IMAGES = ("image", "noisy", "clean")  # columns


def name_of(shard: int) -> str:
    """The name of the tar of a shard; `discard` knows it by its form."""
    return f"shard-{shard:05d}.tar"


def is_member(file: str) -> bool:
    """Whether the `file` of a row is a member of a tar shard, though a folder may be called so."""
    return re.match(r"images/shard-\d{5,}\.tar/", file) is not None


def key_of(name: str) -> str:
    """What groups the members of an image: the name of its file without the suffix.

    WebDataset takes what follows the first dot of a name for the suffix, and skips what is called
    like `__this__`: a key of such a name is changed and ends in a hash, so that no two become one.
    """
    bare = uris.without_suffix(name)
    folder, slash, last = bare.rpartition("/")
    safe = folder + slash + last.replace(".", "_")
    if re.match(r"__[^/]*__(/|$)", safe):
        safe = "_" + safe.lstrip("_")
    if safe == bare:
        return bare
    return f"{safe}~{blake2b(uris.to_bytes(bare), digest_size=8).hexdigest()}"


def append(tar: IO[bytes], name: str, content: bytes) -> None:
    """Write a member; the same name and content give the same bytes at any time, for any user."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), _MODE
    tar.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    tar.write(content)
    tar.write(bytes(-len(content) % _BLOCK))


def end(tar: IO[bytes]) -> None:
    """Write what a tar ends in."""
    tar.write(bytes(2 * _BLOCK))


def members_of(row: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """The names and contents of the members of a row, the image first; none where it has none."""
    images = {name: value for name, value in row.items() if holds_image(value)}
    main = images.pop("image", None) or images.pop("noisy", None)
    if main is None:
        return
    key = key_of(main["path"])
    yield key + uris.suffix(main["path"]), main["bytes"]
    clean = images.get("clean")
    if clean and clean["bytes"]:
        yield f"{key}.clean{uris.suffix(clean['path'])}", clean["bytes"]
    values = {name: value for name, value in row.items() if name not in (*_IMAGES, "file")}
    yield f"{key}.json", json.dumps(_plain(values)).encode()


class TarShard:
    """The tar of a shard while it is written: a context manager that leaves it whole or not at all.

    Rows come in the order of their paths. Members of rows that stay as they are come out of the tar
    that is there. Raises OSError.
    """

    def __init__(self, output: str, shard: int, columns: Sequence[str]) -> None:
        self._output, self._columns = output, columns
        self._file = f"images/{name_of(shard)}"
        self._written = files.open_output(join(output, self._file), aside=join(output, UNFINISHED))

    def __enter__(self) -> Self:
        self._tar = self._written.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        if raised[0] is None:
            end(self._tar)
        self._written.__exit__(*raised)

    def pack(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write the members of a row, and return it with `file` in place of its images."""
        row = {name: row.get(name) for name in self._columns}  # as reading it back gives them
        members = list(members_of(row))
        for name, content in members:
            append(self._tar, name, content)
        if not members:
            return row
        emptied = dict.fromkeys(row.keys() & {*_IMAGES})
        return row | emptied | {"file": f"{self._file}/{members[0][0]}"}

    def copy(self, row: Mapping[str, Any]) -> None:
        """Copy the members of a row from the tar that is there. Raises WriteError where they, or
        all of it, are gone."""
        if not (row["file"] or "").startswith(self._file + "/"):
            return
        uri = join(self._output, self._file)
        main = row["file"][len(self._file) + 1 :]
        there = archives.index_of(uri).members if files.exists(uri) else None
        if there is None or main not in there:
            raise WriteError(
                f"{uris.redact(uri)} has no {main}, which a row that stays names: put the "
                "shard back, or do all anew with --overwrite"
            )
        suffix = uris.suffix(main)
        key = main.removesuffix(suffix)
        for name in (main, f"{key}.clean{suffix}", f"{key}.json"):
            if name in there:
                append(self._tar, name, archives.read(f"{uri}/{name}"))


def _plain(value: Any) -> Any:
    """A value as JSON has it: what it cannot hold is null (bytes, inf) or text (times)."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    return None if isinstance(value, bytes) else str(value)
