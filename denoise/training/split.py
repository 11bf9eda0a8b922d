"""Which photos a training runs on: listed, divided, and still the same ones when it goes on.

OUTPUT/_split.parquet   path, size and mark of each, as the first run found them
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from denoise.errors import ImageError, SettingsError
from denoise.output.discard import SPLIT
from denoise.storage import files, inputs, uris
from denoise.storage.entry import Entry
from denoise.storage.found import LeftOut
from denoise.storage.references import reference_of
from denoise.storage.stores import ASKERS
from denoise.storage.uris import join

HELD_OUT = 0.1  # share of the photos to validate on, where none are named
VALIDATED = 32  # photos that validation looks at: enough to rank two checkpoints, quickly


@dataclass(frozen=True)
class Split:
    """The photos of a training, each list in the order of its paths."""

    training: list[Entry]
    validation: list[Entry]  # those of them that are looked at
    validation_listed: int  # how many there were to validate on
    references: Mapping[str, str] = field(default_factory=dict)  # path -> version, if they are used

    @property
    def digest(self) -> str:
        """The same for the same versions of the same photos."""
        lines = "\n".join(f"{path}\0{version}" for path, version in self._versions().items())
        return blake2b(lines.encode(), digest_size=16).hexdigest()

    def check(self, output: str) -> None:
        """Raises SettingsError where the run of an output folder began with other photos."""
        if not self.is_recorded(output):
            return
        before = _recorded(output)
        found = _differences(before, self._versions())
        if found:
            raise SettingsError(
                f"{uris.redact(output)} was started with other images: {'; '.join(found)}. Give "
                "the same ones as then, or another --output"
            )

    @staticmethod
    def is_recorded(output: str) -> bool:
        """Whether a run of an output folder has begun."""
        return files.exists(join(output, SPLIT))

    def record(self, output: str) -> None:
        """Notes the photos, for `check`; they stay those of the first run."""
        versions = self._versions()
        columns = {"path": list(versions), "version": list(versions.values())}
        encoded = BytesIO()
        pq.write_table(pa.table(columns), encoded, compression="zstd")
        files.create(join(output, SPLIT), encoded.getvalue())

    def _versions(self) -> dict[str, str]:
        """What each photo is for and its name -> what tells its version."""
        parts = (("train", self.training), ("validate", self.validation))
        images = {
            f"{part}/{entry.path}": f"{entry.size} {entry.mark} {entry.row}"
            for part, entries in parts
            for entry in entries
        }
        return images | {f"reference/{path}": one for path, one in self.references.items()}


def split_of(
    images: str,
    validation: str | None,
    output: str,
    left_out: LeftOut,
    column: str | None = None,
    reference: str | None = None,
) -> Split:
    """The photos at a URI, some of them to validate on, or those at another URI.

    `column` is the one of tables that holds them, or of lists that names them. The clean images of
    photos that are noisy lie under `reference`. What validation does not look at is not decoded.
    Raises SettingsError as `inputs.entries` does.
    """
    entries = _list(images, output, left_out, column)
    if validation:
        chosen, held = entries, _list(validation, output, left_out, column)
    else:
        out = set(held_out([entry.path for entry in entries]))
        held = [entry for entry in entries if entry.path in out]
        chosen = [entry for entry in entries if entry.path not in out] or entries
    looked_at = sorted(held, key=lambda entry: _share(entry.path))[:VALIDATED]
    looked_at.sort(key=lambda entry: entry.path)
    clean = _references_of([*chosen, *looked_at], reference) if reference else {}
    return Split(chosen, looked_at, len(held), clean)


def held_out(paths: Sequence[str]) -> list[str]:
    """The paths to validate on, by a hash of each: the same ones whatever else there is."""
    ranked = sorted(paths, key=_share)
    return [path for path in ranked if _share(path) < HELD_OUT] or ranked[:1]


def _list(images: str, output: str, left_out: LeftOut, column: str | None) -> list[Entry]:
    found = inputs.entries(uris.absolute(images), left_out, output=output, column=column)
    return sorted(found, key=lambda entry: entry.path)


def _references_of(entries: Sequence[Entry], reference: str) -> dict[str, str]:
    """The path of each photo -> what tells the version of its clean image, if it has one."""
    versions = {one.uri: f"{one.size} {one.mark}" for one in inputs.entries(reference, LeftOut())}

    def version_of(path: str) -> str | None:
        try:
            clean = reference_of(reference, path)
        except ImageError:
            return None  # an error of this photo when it is decoded
        is_member = bool(clean.mark)
        version = f"{clean.size} {clean.mark} {clean.offset}" if is_member else ""
        return version or versions.get(clean.uri, "")

    paths = [entry.path for entry in entries]
    with ThreadPoolExecutor(ASKERS) as pool:  # of a large folder each may be asked for
        found = zip(paths, pool.map(version_of, paths), strict=True)
        return {path: version for path, version in found if version is not None}


def _recorded(output: str) -> dict[str, str]:
    """What `record` noted. Raises SettingsError where the file is damaged."""
    uri = join(output, SPLIT)
    try:
        known = pq.read_table(BytesIO(files.read(uri))).to_pydict()
        return dict(zip(known["path"], known["version"], strict=True))
    except (pa.ArrowInvalid, KeyError) as error:
        raise SettingsError(
            f"{uris.redact(uri)} is damaged, so that nobody knows which images the run started "
            "with: give another --output"
        ) from error


def _share(path: str) -> float:
    return int.from_bytes(blake2b(path.encode(), digest_size=8).digest(), "big") / 2**64


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """How two splits differ, in words."""
    kinds = {
        "changed since": sorted(k for k in before.keys() & now.keys() if before[k] != now[k]),
        "gone": sorted(before.keys() - now.keys()),
        "new": sorted(now.keys() - before.keys()),
    }
    return [
        f"{len(names)} {kind}, such as {names[0].removeprefix('train/').removeprefix('validate/')}"
        for kind, names in kinds.items()
        if names
    ]
