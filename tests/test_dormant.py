"""Hidden channels that fell asleep are woken; no picture changes by that."""

from dataclasses import replace

import pytest
import torch
from test_training import RECIPE, SMALL, same, trained

from denoise.learning import loop
from denoise.learning.dormant import look, unstirred, wake
from denoise.learning.loop import without_denormals
from denoise.network.model import build

NOISY, SIGMA = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.ones(2)


def asleep(model: torch.nn.Module) -> torch.nn.Module:
    """The first five hidden channels of the lowest level below zero in any picture."""
    with torch.no_grad():
        model.tail.weight.normal_(0, 0.1)  # it begins with zeros, and nothing would have a gradient
        model.middle[0].one.bias[:5] = -100
    return model


def gradients(model: torch.nn.Module) -> torch.nn.Module:
    """The model, with the gradients of one backward pass."""
    model.zero_grad()
    (model(NOISY, SIGMA) ** 2).mean().backward()
    return model


def test_channels_that_never_stirred_begin_again_and_the_pictures_stay():
    torch.manual_seed(0)
    model = asleep(build("unet", SMALL)).train()
    average, stirred = build("unet", SMALL), unstirred(model)
    average.load_state_dict(model.state_dict())
    look(gradients(model), stirred)
    before, old = model(NOISY, SIGMA), model.middle[0].one.weight.clone()
    awake = stirred["middle.0"].clone()
    assert not awake[:5].any() and awake[5:].any()
    woken = wake(model, average, stirred, seed=3)
    assert woken >= 5 and not any(seen.any() for seen in stirred.values())
    torch.testing.assert_close(model(NOISY, SIGMA), before, rtol=0, atol=1e-6)
    new = model.middle[0].one.weight
    assert torch.equal(new[awake], old[awake]) and not torch.equal(new[~awake], old[~awake])
    assert same(model, average)
    with torch.no_grad():
        model.middle[0].two.weight[:, :5] += 0.1  # as the first step does: they are read again
    look(gradients(model), stirred)
    assert stirred["middle.0"][:5].all()


def test_what_a_channel_begins_with_again_is_a_function_of_the_seed():
    models = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        models.append(build("unet", SMALL))
        wake(models[-1], models[-1], unstirred(models[-1]), seed)
    assert same(models[0], models[1]) and not same(models[0], models[2])


def test_training_wakes_what_sleeps_and_a_resumed_one_wakes_the_same(
    monkeypatch: pytest.MonkeyPatch,
):
    woken: list[int] = []
    monkeypatch.setattr(loop, "EVERY", 4)
    monkeypatch.setattr(loop, "wake", lambda *of: woken.append(wake(*of)))
    recipe = replace(RECIPE, save_every=3)  # what was seen goes through a checkpoint
    whole, states = trained(recipe)
    assert any(seen.any() for seen in states[0]["stirred"].values())
    resumed, _ = trained(recipe, state=states[0])
    assert len(woken) == 2 and woken[0] == woken[1]  # at step 4 of 8; after the last nothing is
    assert same(whole.model, resumed.model) and same(whole.average, resumed.average)


def test_a_state_of_before_channels_were_watched_is_gone_on_from():
    _, states = trained()
    del states[0]["stirred"]
    assert trained(state=states[0])[0].step == RECIPE.steps


def test_training_has_no_denormal_numbers_and_leaves_others_theirs():
    tiny = torch.full((4,), 1e-30)
    with without_denormals():
        assert not (tiny * 1e-10).any()
    assert (tiny * 1e-10).all()
