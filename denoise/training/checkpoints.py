"""The checkpoints of a training and Ray Train's list of them, which outlives whatever dies.

OUTPUT/checkpoints/checkpoint_manager_snapshot.json   Ray's list, written in place
OUTPUT/checkpoints/list.json                          what that was when the last one was added
"""

import json
import logging
from io import BytesIO
from typing import TYPE_CHECKING, Any

from denoise.storage import files
from denoise.storage.uris import join

if TYPE_CHECKING:
    from ray.train import Checkpoint, Result

    from denoise.training.loop import State

NAME = "checkpoints"  # of the run, as Ray has it: a new driver goes on where the last one died
_LIST, _COPY = "checkpoint_manager_snapshot.json", "list.json"
_log = logging.getLogger(__name__)


def keep_list(place: str) -> None:
    """Copies Ray's list while it is whole, before a checkpoint is added to it. Raises OSError."""
    uri = join(place, NAME, _LIST)
    if files.exists(uri) and _names_in(content := files.read(uri)):
        files.write(join(place, NAME, _COPY), content)


def mend_list(place: str) -> None:
    """Puts the copy in the place of a list that a kill or a full disk cut off in its middle.

    Where the copy's checkpoints are gone too, training begins again, with the same result.
    """
    uri = join(place, NAME, _LIST)
    if not files.exists(uri) or _names_in(files.read(uri)) is not None:
        return
    copy = join(place, NAME, _COPY)
    content = files.read(copy) if files.exists(copy) else b""
    names = _names_in(content)
    if names and all(files.exists(join(place, NAME, name)) for name in names):
        _log.warning("the list of checkpoints was cut off: going on from the one before")
        files.write(uri, content)
    else:
        _log.warning("the list of checkpoints was cut off: training begins again")
        files.remove(uri)


def state_in(checkpoint: "Checkpoint") -> "State":
    """What a worker saved; nothing is unpickled but tensors and plain values."""
    import torch

    with checkpoint.filesystem.open_input_file(f"{checkpoint.path}/state.pt") as file:
        encoded = BytesIO(file.read())
    state: State = torch.load(encoded, map_location="cpu", weights_only=True)
    return state


def best_and_last(result: "Result") -> tuple["Checkpoint", dict[str, Any], "Checkpoint"]:
    """The best checkpoint of a run and what was reported of it, and the latest one."""
    kept = [pair for pair in result.best_checkpoints or [] if pair[1].get("psnr") is not None]
    checkpoint, best = max(kept, key=lambda pair: float(pair[1]["psnr"]))
    last, _ = max(kept, key=lambda pair: int(pair[1]["step"]))
    return checkpoint, best, last


def _names_in(content: bytes) -> list[str] | None:
    """The folders that a list names; None where it is not whole."""
    try:
        listed = json.loads(content)
    except ValueError:
        return None
    return [one["checkpoint_dir_name"] for one in listed["checkpoint_results"]]
