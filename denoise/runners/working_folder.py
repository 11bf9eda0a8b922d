"""The driver's current folder on a cluster, which Ray may take away while the job runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from denoise.storage import uris

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
_UPLOADS = "working_dir_files"  # where Ray unpacks what `--working-dir` uploaded, on every node


@contextmanager
def outside_the_upload(config: Config) -> Iterator[Config]:
    """Leave the folder that `ray job submit --working-dir` unpacked, for the time of a job.

    The first worker on a node unpacks it again, over what is there. Where raylets share a folder,
    that deletes the driver's current folder; from then on `os.getcwd()` fails, and with it whatever
    makes a path absolute, such as Pillow's `save`. Yields the config, in which relative paths mean
    the same as before. Outside of a submitted job nothing changes.
    """
    before = Path.cwd()
    if _UPLOADS not in before.parts:
        yield config
        return
    moved = _absolute(config)
    os.chdir(before.root)
    try:
        yield moved
    finally:
        with suppress(FileNotFoundError):  # just being unpacked
            os.chdir(before)


def _absolute(config: Config) -> Config:
    """The config with absolute paths; a model may be a shipped one's name instead."""
    from denoise.nets import package

    given = {name: value for name, value in vars(config).items() if isinstance(value, str)}
    named = {"images", "output", "reference", "validation"} & given.keys()
    models = {name for name in ("model", "init") if os.path.exists(given.get(name, ""))}
    return replace(
        config,
        **{name: uris.absolute(given[name]) for name in named},
        **{name: package.absolute(given[name]) for name in models},
    )
