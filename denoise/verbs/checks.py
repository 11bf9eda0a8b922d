"""What jobs check before any work, and what they record of how they were asked."""

import os
from collections.abc import Iterable
from dataclasses import asdict, fields
from itertools import islice
from typing import TYPE_CHECKING, Any, get_args

from denoise.errors import FAILURES, SettingsError, why, words_of
from denoise.images.pairs import kind_of
from denoise.images.sniff import IMAGE_SUFFIXES
from denoise.output.folder import run_of
from denoise.storage import files, uris
from denoise.storage.entry import Entry, beside_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LOOKED_AT = 16  # rows by which the noise of a table is known


def check_is_folder(output: str) -> None:
    """Raise SettingsError where an output folder is called like an image file."""
    uri = uris.absolute(output)
    if uris.suffix(uri) in IMAGE_SUFFIXES and not files.is_folder(uri):
        raise SettingsError(
            f"{output} names an image file, and this writes a folder: name one (only `infer` "
            "writes a single image)"
        )


def check_apart(output: str, *read: str) -> None:
    """Raise SettingsError where something that is read lies inside the output folder."""
    for uri in read:
        if uris.lies_in(uri, output):
            raise SettingsError(
                f"{uris.redact(uri)} lies inside the output folder {uris.redact(output)}; "
                "nothing is read from where the job writes"
            )


def check_file_apart(output: str, image: str, reference: str | None) -> None:
    """Raise SettingsError where a file that is written would replace what is read."""
    if uris.lies_in(output, image):
        raise SettingsError(f"{uris.redact(output)} is the input itself: name another file")
    if reference and uris.lies_in(output, reference) and files.exists(output):
        raise SettingsError(f"{uris.redact(output)} is one of the references: name another file")


def run_that_made(images: str) -> dict[str, Any] | None:
    """_run.json of the job whose output folder the images are, if they are one's.

    Raises SettingsError where nobody answers.
    """
    uri = uris.absolute(images)
    try:
        return run_of(uri) if not set("*?[") & set(images) and files.is_folder(uri) else None
    except OSError as error:
        raise SettingsError(f"cannot list {uris.redact(uri)}: {words_of(error)}") from error


def kind_of_noise(images: str, found: Iterable[Entry]) -> str | None:
    """The kind of noise that `noise` added to images, "gaussian" or "camera"; None where nothing
    says that it did. The record of its run says so, or the first rows of a table.

    Raises SettingsError where one of them cannot be read.
    """
    if made_by := run_that_made(images):
        recorded: str | None = made_by.get("settings", {}).get("kind")
        return recorded
    for entry in islice(found, _LOOKED_AT):
        if entry.column != "noisy":
            return None
        try:
            noise = beside_of(entry, (("noise", "noise"),), alone=True)["noise"]
        except FAILURES as error:
            table = uris.redact(entry.uri)
            raise SettingsError(f"cannot read {table}: {why(error)}") from error
        if noise:  # nothing in the row of an image that failed
            return kind_of(noise)
    return None


def check_reference(images: str, reference: str) -> None:
    """Raise SettingsError where there are no references, or the images bring their own along."""
    if not files.exists(uris.absolute(reference)):
        raise SettingsError(f"no references under {uris.redact(uris.absolute(reference))}")
    made_by = run_that_made(images) or {}
    has_clean = made_by.get("settings", {}).get("save") not in ("files", "tar")  # in its table
    if made_by.get("verb") == "noise" and has_clean:
        raise SettingsError(
            f"{uris.redact(images)} is a table of pairs, which brings its clean images along: "
            "leave reference out"
        )


def normalize(config: "DataclassInstance") -> None:
    """Give a config what flags would hold where Python can give more: paths as text, one name or a
    list of names as a tuple. Called by configs, which are frozen, before their checks."""
    for one in fields(config):
        value = getattr(config, one.name)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if tuple[str, ...] in (one.type, *get_args(one.type)) and value is not None:
            some = [value] if isinstance(value, str) else value
            value = tuple(map(os.fspath, some))
        object.__setattr__(config, one.name, value)


def worker_counts(workers: int | tuple[int, int] | None) -> tuple[int, ...]:
    """`--workers N`, `--workers MIN MAX` or nothing, as a tuple. Raises ValueError for nonsense."""
    counts = () if workers is None else workers if isinstance(workers, tuple) else (workers,)
    if any(count < 1 for count in counts) or list(counts) != sorted(counts):
        raise ValueError(f"workers must be N or MIN MAX, at least 1 and ascending, got {workers}")
    return counts


def flags_of(config: "DataclassInstance") -> dict[str, Any]:
    """Every flag as it was given, without credentials."""
    return {
        name: uris.redact(value) if isinstance(value, str) else value
        for name, value in asdict(config).items()
    }
