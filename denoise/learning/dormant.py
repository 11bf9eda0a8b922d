"""Hidden channels that nothing wakes any more are given another beginning.

Where a ReLU's input is below zero in every picture, no gradient comes through: the channel learns
nothing, and is computed as ever. Rates that are right for the rest put most channels of the lowest
levels to sleep. One that slept for `EVERY` steps gets fresh weights, and nothing reads it at first,
so that the network's pictures stay what they are, and those of its average nearly (Sokar et al.,
The Dormant Neuron Phenomenon in Deep Reinforcement Learning, 2023; there it is measured by
activations, here by gradients, which workers share anyway).
"""

import math

import torch
from torch import Tensor, nn

from denoise.network.model import Residual

EVERY = 500  # steps, of thousands of patches

Stirred = dict[str, Tensor]  # name of a residual block -> [hidden channels]: had a gradient


def unstirred(model: nn.Module) -> Stirred:
    """All hidden channels of the residual blocks, none seen awake yet."""
    return {
        name: torch.zeros(len(block.one.weight), dtype=torch.bool, device=block.one.weight.device)
        for name, block in model.named_modules()
        if isinstance(block, Residual)
    }


def look(model: nn.Module, stirred: Stirred) -> None:
    """Notes which channels have a gradient, after a backward pass."""
    for name, seen in stirred.items():
        gradient = model.get_parameter(f"{name}.one.bias").grad
        if gradient is not None:
            seen |= gradient != 0


@torch.no_grad()
def wake(model: nn.Module, average: nn.Module, stirred: Stirred, seed: int) -> int:
    """Begins again with the channels that never stirred, in the weights and in their average, and
    forgets what was seen; returns how many there were. The same on all workers."""
    generator = torch.Generator().manual_seed(seed)
    count = 0
    for name, seen in stirred.items():
        shape = model.get_parameter(f"{name}.one.weight").shape  # [O, I, 3, 3]
        bound = 1 / math.sqrt(math.prod(shape[1:]))  # as torch draws those of a new convolution
        drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator).to(seen.device)
        for network in (model, average):
            network.get_parameter(f"{name}.one.weight")[~seen] = drawn[~seen]
            network.get_parameter(f"{name}.one.bias")[~seen] = 0
            network.get_parameter(f"{name}.two.weight")[:, ~seen] = 0
        count += int((~seen).sum())
        seen.zero_()
    return count
