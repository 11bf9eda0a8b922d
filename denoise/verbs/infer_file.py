"""One photograph to one file: `denoise infer photo.jpg clean.jpg` writes that file alone."""

import time
from dataclasses import fields
from itertools import islice
from typing import TYPE_CHECKING, Any

from denoise.errors import SettingsError, WriteError, words_of
from denoise.images.codec import FORMATS
from denoise.images.sniff import IMAGE_SUFFIXES
from denoise.storage import files, inputs, uris
from denoise.storage.fetch import fetch
from denoise.storage.found import LeftOut
from denoise.verbs.checks import check_file_apart
from denoise.verbs.infer_shard import (
    denoise_pair,
    denoised_picture,
    denoiser_of,
    metrics_of,
    pairing_of,
)
from denoise.verbs.save import encode_as
from denoise.verbs.stages import decode_in_time

if TYPE_CHECKING:
    from denoise.verbs.infer import InferConfig

_OF_FOLDERS = ("limit", "include", "exclude", "keep_columns", "workers", "retry_errors")
_SUFFIXES = {suffix: kind for kind, suffix in FORMATS.items()} | {".jpeg": "jpeg", ".tiff": "tiff"}


def is_one_file(output: str) -> bool:
    """Whether the output names an image file. Raises SettingsError for one of another kind."""
    suffix = uris.suffix(output)
    if suffix not in IMAGE_SUFFIXES or files.is_folder(uris.absolute(output)):
        return False
    if suffix not in _SUFFIXES:
        known = ", ".join(sorted(_SUFFIXES))
        raise SettingsError(f"cannot write {suffix} files: name one with {known}")
    return True


def _check_flags(config: "InferConfig", kind: str) -> None:
    """Raise SettingsError for flags that mean nothing for one file, which is of this kind."""
    given = {one.name for one in fields(config) if getattr(config, one.name) != one.default}
    of_folders = [name for name in _OF_FOLDERS if name in given]
    if config.save not in ("parquet", "files"):
        of_folders.append(f"save {config.save}")
    if of_folders:
        flag = of_folders[0].replace("_", "-")
        raise SettingsError(
            f"--{flag} is for many images, and {config.output} is the file of one: leave it out, "
            "or name a folder for the output"
        )
    if "format" in given and config.format not in ("same", kind):
        raise SettingsError(
            f"{config.output} will be {kind} by its name, and --format is {config.format}: leave "
            "it out, or give the file another name"
        )
    if config.quality is not None and kind in ("png", "tiff"):
        raise SettingsError(f"quality is for jpeg, webp and avif, and {config.output} is {kind}")


def infer_file(config: "InferConfig", model: str) -> dict[str, Any]:
    """Denoise one image and write the file that `output` names; return what was measured.

    `config` and `model` are as `prepare` returns them.

    Raises SettingsError where the file is there already (unless `overwrite`) or flags are wrong,
    RuntimeError where the image cannot be decoded or denoised.
    """
    start = time.monotonic()
    uri, asked = uris.absolute(config.output), uris.suffix(config.output)
    if files.exists(uri) and not config.overwrite:
        raise SettingsError(
            f"{uris.redact(uri)} is there already; --overwrite replaces it (if the shell made two "
            "names of a pattern, put that in quotes)"
        )
    _check_flags(config, _SUFFIXES[asked])
    found = inputs.entries(uris.absolute(config.images), LeftOut(), column=config.column)
    entry, *more = islice(found, 2)
    if more:
        raise SettingsError(
            f"{config.output} is one image's file, and {uris.redact(config.images)} are several: "
            "name a folder for the output (--format says what the files in it are)"
        )
    check_file_apart(uri, entry.uri, config.reference)
    denoiser = denoiser_of(config, model)
    start_up = time.monotonic() - start
    pairing = pairing_of(config)
    decoded = decode_in_time(fetch(entry, pairing), pairing)
    pair = denoise_pair(decoded, denoiser)
    if pair.error is None:
        with pair.stage("encode"):
            encoded, stored = encode_as(_SUFFIXES[asked], denoised_picture(pair), config)
    if pair.error is not None or pair.picture is None:
        raise RuntimeError(f"{entry.path}: {pair.error}")
    try:
        files.write(uri, encoded)
    except OSError as error:
        raise WriteError(f"{uris.redact(uri)} could not be written: {words_of(error)}") from error
    return {
        "path": entry.path,
        "output": uris.redact(uri),
        "model": model,
        "strength": config.strength,
        "height": pair.picture.height,
        "width": pair.picture.width,
        **metrics_of(pair, stored, config),
        "elapsed_seconds": time.monotonic() - start,
        "start_up_seconds": start_up,
    }
