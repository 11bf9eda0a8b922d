"""The checkpoint of a training: one file, whole or not there, from which it goes on exactly.

OUTPUT/checkpoint.pt   the weights, their average, the optimizers, the best weights, the history
"""

from io import BytesIO
from typing import Any

import torch

from denoise.output.discard import CHECKPOINT
from denoise.storage import files
from denoise.storage.uris import join

State = dict[str, Any]  # tensors and plain values only: nothing else can be read back


def save(output: str, state: State) -> None:
    """Replace the checkpoint of an output folder. Raises OSError."""
    encoded = BytesIO()
    torch.save(state, encoded)
    files.write(join(output, CHECKPOINT), encoded.getbuffer())


def load(output: str) -> State | None:
    """The checkpoint of an output folder, on the CPU; None where there is none. Raises OSError."""
    uri = join(output, CHECKPOINT)
    if not files.exists(uri):
        return None
    state: State = torch.load(BytesIO(files.read(uri)), map_location="cpu", weights_only=True)
    return state
