"""What training changes, and its checkpoint: a file, whole or not there, to go on from exactly.

OUTPUT/checkpoint.pt   the weights, their average, the optimizers, the best weights, the history
"""

import copy
import math
from dataclasses import dataclass, field
from io import BytesIO
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from denoise.errors import SettingsError
from denoise.nets.networks import device, hardware, is_out_of_memory
from denoise.nets.precision import can_do
from denoise.output.discard import CHECKPOINT
from denoise.storage import files, uris
from denoise.storage.uris import join
from denoise.training.batches import Worker
from denoise.training.metrics_log import Record
from denoise.training.optimizer import optimizers_for
from denoise.training.recipe import Recipe
from denoise.training.validation import total

State = dict[str, Any]  # tensors and plain values only: nothing else can be read back
_PROGRESS = ("step", "worse", "history", "precision", "baseline")  # of a Learner, plain values
AVERAGE_DECAY = 0.999  # of the weights' moving average, which is what is validated and saved


@dataclass
class Learner:
    """What training changes: a run that goes on from its state ends with the same bits."""

    model: nn.Module
    average: nn.Module  # moving average of the weights
    optimizers: list[torch.optim.Optimizer]
    best: State  # the average with the highest PSNR so far: weights, psnr in dB, step, workers
    precision: str  # of convolutions: float32 or bfloat16
    baseline: Record = field(default_factory=dict)  # PSNR of the noisy pictures and before step 0
    step: int = 0  # the next one
    worse: int = 0  # validations since the best one
    history: list[Record] = field(default_factory=list)

    def state(self) -> State:
        """What a checkpoint holds."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [one.state_dict() for one in self.optimizers],
            "best": self.best,
            "progress": {name: getattr(self, name) for name in _PROGRESS},
        }

    def restore(self, state: State) -> None:
        """Go on from a state."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.best = state["best"]
        for name, value in state["progress"].items():
            setattr(self, name, value)

    def rank(self, quality: float, worker: Worker) -> None:
        """Keep the average if no earlier one had its PSNR."""
        self.worse += 1
        if quality > self.best["psnr"]:
            weights = {name: one.cpu().clone() for name, one in self.average.state_dict().items()}
            self.best = {"weights": weights, "psnr": quality, "step": self.step}
            self.best |= {"workers": worker.world, "hardware": hardware()}
            self.worse = 0


def learner_of(recipe: Recipe, model: nn.Module, state: State | None, worker: Worker) -> Learner:
    """The network on its device, its average and its optimizers, fresh or as they were saved."""
    # channels last: steps of unet, cae-s, classic are 1.10, 1.42, 1.48 times as fast on a CPU core
    # torch's annotations lack a memory format beside a device
    model = model.to(device(), memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizers = optimizers_for(recipe, model)
    learner = Learner(model, average, optimizers, {"psnr": -math.inf}, precision_of(recipe, worker))
    if state:
        learner.restore(state)
    return learner


def precision_of(recipe: Recipe, worker: Worker) -> str:
    """What convolutions are computed in; weights, their average and losses are always float32.

    `auto` is bfloat16 where the devices of all workers are made for it: on a CPU with AMX a step
    takes half the time (unet, cae-m, classic: 0.43 to 0.46), without such hardware ten times as
    long.
    """
    if recipe.precision != "auto":
        return recipe.precision
    able = torch.tensor(float(can_do("bfloat16", device())), device=device())
    return "bfloat16" if float(total(able, worker)) == worker.world else "float32"


def check_alike(learner: Learner, worker: Worker) -> None:
    """Raises RuntimeError where the workers do not all go on from the same step."""
    steps = total(torch.tensor([float(learner.step)], device=device()), worker)
    if float(steps) != learner.step * worker.world:
        raise RuntimeError(f"worker {worker.rank} goes on from step {learner.step}, others do not")


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int) -> None:
    """Moves the average a little towards the weights, faster in the beginning."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def save_checkpoint(output: str, state: State) -> None:
    """Replace the checkpoint of an output folder. Raises OSError."""
    encoded = BytesIO()
    torch.save(state, encoded)
    files.write(join(output, CHECKPOINT), encoded.getbuffer())


def load_checkpoint(output: str) -> State | None:
    """The checkpoint of an output folder, on the CPU; None where there is none.

    Raises OSError, and SettingsError where it is damaged.
    """
    uri = join(output, CHECKPOINT)
    if not files.exists(uri):
        return None
    encoded = BytesIO(files.read(uri))
    try:
        state: State = torch.load(encoded, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, LookupError, EOFError, UnpicklingError) as error:
        if is_out_of_memory(error):
            raise
        raise SettingsError(
            f"{uris.redact(uri)} is damaged: remove it to begin again, or give another --output"
        ) from error
    return state
