"""Muon: what the gradients of a convolution say, made a step of the same length in every direction.

A convolution [O, I, K, K] is a matrix [O, I K K] by which patches are multiplied. Its gradient's
few large singular values drown the many small ones; Muon sets all of them to about 1 (Jordan et
al., Muon: An optimizer for hidden layers in neural networks, 2024) and the whole to the size that
AdamW's steps have (Liu et al., Muon is Scalable for LLM Training, 2025). Biases, and convolutions
of very few channels, are left to AdamW. (torch.optim.Muon takes matrices alone, one after the
other, and computes in bfloat16, for which most CPUs take ten times as long.)
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from denoise.training.recipe import Recipe

WEIGHT_DECAY = 1e-4
BETAS = (0.9, 0.99)  # a shorter memory than AdamW's own, so that a rare batch is soon forgotten
MOMENTUM = 0.95
ADAMW_SIZE = 0.2  # root mean square of AdamW's steps, in learning rates
THINNEST = 16  # rows and columns of a matrix for Muon
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: five times over, 0.002..1 comes to 0.7..1.2
ROUNDS = 5


def optimizers_for(recipe: Recipe, model: nn.Module) -> list[torch.optim.Optimizer]:
    """What a recipe changes the weights with: with Muon, AdamW for what is no matrix or thin."""
    thinnest = THINNEST if recipe.optimizer == "muon" else math.inf
    matrices = [one for one in model.parameters() if _thickness(one) >= thinnest]
    rest = [one for one in model.parameters() if _thickness(one) < thinnest]
    optimizers: list[torch.optim.Optimizer] = []
    if rest:
        # fused: one pass over the weights, half the time of foreach on a CPU
        adamw = torch.optim.AdamW(
            rest, recipe.rate, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
        )
        optimizers.append(adamw)
    if matrices:
        optimizers.append(Muon(matrices, recipe.rate))
    return optimizers


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum, for parameters [O, ...] taken as matrices [O, the rest]."""

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # torch's may be given a closure
        """Changes every parameter by its gradient."""
        for group in self.param_groups:
            alike = defaultdict(list)  # one product for all of a shape
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for parameters in alike.values():
                self._step(parameters, group["lr"])

    def _step(self, parameters: list[Tensor], rate: float) -> None:
        gradients: list[Any] = [one.grad for one in parameters]  # tensors, as `step` has seen to
        averages = [self._average_of(one) for one in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, averages, MOMENTUM)
        matrices = torch.stack([one.flatten(1) for one in ahead])  # [N, O, I K K]
        length = rate * ADAMW_SIZE * math.sqrt(max(matrices.shape[1:]))
        steps = orthogonal(matrices)
        shaped = [step.view_as(one) for step, one in zip(steps, parameters, strict=True)]
        torch._foreach_mul_(parameters, 1 - rate * WEIGHT_DECAY)
        torch._foreach_sub_(parameters, shaped, alpha=length)

    def _average_of(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["average"] = torch.zeros_like(parameter)
        average: Tensor = state["average"]
        return average


def orthogonal(matrices: Tensor) -> Tensor:
    """[N, R, C] -> the same with all but the smallest singular values brought to about 1.

    By Newton and Schulz's iteration. Its steps are polynomials of the Gram matrix, so that all of
    them happen among the rows, in float32, and the matrix itself is multiplied once.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    matrices = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    gram = matrices @ matrices.mT  # [N, R, R]
    step = whole = _quintic(gram)
    for _ in range(ROUNDS - 1):
        gram = step @ gram @ step
        step = _quintic(gram)
        whole = step @ whole
    return whole @ matrices


def _quintic(gram: Tensor) -> Tensor:
    """QUINTIC divided by its argument: a + b G + c G G."""
    a, b, c = QUINTIC
    one = torch.eye(gram.shape[1], device=gram.device)
    return torch.baddbmm(a * one + b * gram, gram, gram, alpha=c)


def _thickness(parameter: Tensor) -> int:
    """The shorter side of the matrix that a parameter is taken as; 1 for a bias or a number."""
    return min(len(parameter), parameter[0].numel()) if parameter.dim() else 1
