"""Muon: orthogonal steps of AdamW's size for matrices, AdamW for the rest."""

import copy

import pytest
import torch

from denoise.nets.networks import ARCHITECTURES, build
from denoise.training.optimizer import (
    ADAMW_SIZE,
    QUINTIC,
    ROUNDS,
    Muon,
    optimizers_for,
    orthogonal,
)
from denoise.training.recipe import Recipe

RATE = 1e-2
RECIPE = Recipe(learning_rate=RATE)


@pytest.mark.parametrize("shape", [(24, 60), (60, 24), (32, 32)])
def test_singular_vectors_stay_and_values_become_what_the_quintic_makes_of_them(
    shape: tuple[int, int],
):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        values = a * values + b * values**3 + c * values**5
    made = orthogonal(matrix.float()[None])[0]
    torch.testing.assert_close(made.double(), left @ torch.diag(values) @ right, atol=1e-4, rtol=0)


def test_all_but_the_smallest_directions_get_steps_of_like_length():
    draw = torch.Generator().manual_seed(2)
    scales = torch.logspace(0, -2.5, 32)  # the largest singular value is 300 times the smallest
    matrices = torch.randn(3, 32, 288, generator=draw) * scales[:, None]
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert values.max() < 1.3
    assert values.min() > 0.3


def test_matrices_of_a_shape_are_as_if_each_were_alone_and_nothing_stays_nothing():
    matrices = torch.randn(4, 16, 40, generator=torch.Generator().manual_seed(3))
    matrices[2] = 0
    together = orthogonal(matrices)
    alone = torch.cat([orthogonal(one[None]) for one in matrices])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert not together[2].any()


def test_a_step_is_of_the_size_of_one_of_adamw():
    weight = torch.nn.Parameter(torch.zeros(32, 32, 3, 3))
    optimizer = Muon([weight], RATE)
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)) * 1e-6
    optimizer.step()
    assert weight.detach().square().mean().sqrt() == pytest.approx(ADAMW_SIZE * RATE, rel=0.2)
    assert (weight * weight.grad).sum() < 0  # downhill


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_has_one_optimizer_and_all_move(architecture: str):
    model = build(architecture)
    optimizers = optimizers_for(RECIPE, model)
    taken = [
        id(one) for each in optimizers for group in each.param_groups for one in group["params"]
    ]
    assert sorted(taken) == sorted(id(one) for one in model.parameters())
    before = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    assert all(not torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_biases_and_the_few_channels_of_a_picture_are_left_to_adamw():
    model = build("cae-s")
    adamw, muon = optimizers_for(RECIPE, model)
    assert isinstance(muon, Muon)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_muon = {names[id(one)] for one in muon.param_groups[0]["params"]}
    assert not any(name.endswith("bias") for name in by_muon)
    assert "tail.weight" not in by_muon  # 12 channels out: the picture's
    assert "middle.0.one.weight" in by_muon
    (adamw,) = optimizers_for(Recipe(optimizer="adamw"), model)
    assert isinstance(adamw, torch.optim.AdamW)


def test_a_network_may_be_all_thin_or_all_matrices_or_have_a_number_to_learn():
    thin = torch.nn.Conv2d(3, 3, 3)
    thin.gain = torch.nn.Parameter(torch.tensor(1.0))
    (adamw,) = optimizers_for(RECIPE, thin)
    assert isinstance(adamw, torch.optim.AdamW)
    (muon,) = optimizers_for(RECIPE, torch.nn.Conv2d(16, 16, 3, bias=False))
    assert isinstance(muon, Muon)
