"""The networks: any size, known reach and cost, and a noise level that may stay untold."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from denoise.nets.networks import ARCHITECTURES, UNKNOWN_SIGMA, build, folded, inherit

SMALL = {
    "classic": {"width": 4},
    "unet": {"widths": [4, 6, 8], "blocks": 1},
    "cae-s": {"widths": [4, 4], "blocks": 2},
    "cae-m": {"widths": [4, 4, 4], "blocks": [2, 0, 1, 0, 3]},
}


def network(architecture, seed=0):
    """A small one with weights that let every path show (the last convolution begins at zero)."""
    torch.manual_seed(seed)
    model = build(architecture, SMALL[architecture])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (7, 5), (8, 16), (33, 17)])
def test_any_size_comes_back_in_the_same_size_and_in_range(architecture, size):
    noisy = torch.rand(2, 3, *size)
    denoised = network(architecture)(noisy, torch.tensor([0.1, UNKNOWN_SIGMA]))
    assert denoised.shape == noisy.shape
    assert 0 <= denoised.min() and denoised.max() <= 1


@pytest.mark.parametrize("architecture", SMALL)
@pytest.mark.parametrize("size", [(13, 21), (3, 30), (5, 5)])
def test_padding_does_not_show(architecture, size):
    """A picture denoised in its own size is the corner of itself, mirrored by hand."""
    model = network(architecture)
    height, width = size
    noisy = torch.rand(1, 3, height, width)
    rows = folded(height, -height % model.stride, noisy.device)
    columns = folded(width, -width % model.stride, noisy.device)
    mirrored = noisy[:, :, rows][:, :, :, columns]
    level = torch.tensor([0.1])
    torch.testing.assert_close(
        model(noisy, level), model(mirrored, level)[..., :height, :width], rtol=0, atol=1e-6
    )


def test_folding_reflects_without_repeating_the_border():
    assert folded(4, 5, torch.device("cpu")).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert folded(2, 3, torch.device("cpu")).tolist() == [0, 1, 0, 1, 0]
    assert folded(1, 3, torch.device("cpu")).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("architecture", SMALL)
def test_a_pixel_travels_no_further_than_the_reach_and_just_that_far(architecture):
    model = network(architecture).double().train()  # no clamp: it would hide gradients
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, 0, 0.1)  # no ReLU is shut
    side = 2 * (model.reach // model.stride + 2) * model.stride
    furthest = 0
    for offset in range(model.stride):  # its position in its cell decides which way is longer
        middle = side // 2 + offset
        noisy = torch.full((1, 3, side, side), 0.5, dtype=torch.float64, requires_grad=True)
        output = model(noisy + 0.01 * torch.rand_like(noisy), torch.tensor([0.1]).double())
        (gradient,) = torch.autograd.grad(output[0, :, middle, middle].sum(), noisy)
        rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten() - middle
        furthest = max(furthest, int(rows.abs().max()))
    assert furthest <= model.reach
    # Pooling passes one of four gradients on, so the classic's own bound is rarely met in full.
    assert furthest == model.reach or architecture == "classic"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_cost_is_what_torch_counts(architecture):
    with torch.device("meta"):
        model = build(architecture)
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 64, 64), torch.empty(1))
    assert counter.get_total_flops() / 2 / 64**2 == pytest.approx(model.macs_per_pixel)


@pytest.mark.parametrize(
    ("architecture", "limit"), [("cae-s", 30e3), ("unet", 51e3), ("cae-m", 100e3), ("cae-l", 310e3)]
)
def test_the_family_keeps_to_its_budget(architecture, limit):
    with torch.device("meta"):
        assert 0.8 * limit < build(architecture).macs_per_pixel < limit


def test_the_unet_begins_as_the_identity():
    noisy = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(build("unet").eval()(noisy, torch.tensor([UNKNOWN_SIGMA])), noisy)


def test_a_told_level_matters_and_every_way_of_not_telling_is_the_same():
    model, noisy = network("unet"), torch.rand(1, 3, 16, 16)
    untold = model(noisy, torch.tensor([UNKNOWN_SIGMA]))
    assert not torch.equal(untold, model(noisy, torch.tensor([0.1])))
    assert torch.equal(untold, model(noisy, torch.tensor([-0.5])))


def test_only_evaluation_clamps():
    model = network("unet")
    noisy = torch.full((1, 3, 8, 8), 3.0)
    assert model(noisy, torch.tensor([0.1])).max() <= 1
    model.train()
    assert model(noisy, torch.tensor([0.1])).abs().max() > 1


def test_arguments_build_the_same_network_again():
    for name, arguments in SMALL.items():
        model = build(name, arguments)
        again = build(name, model.arguments)
        assert [p.shape for p in model.parameters()] == [p.shape for p in again.parameters()]


def test_unknown_architectures_and_arguments_are_named():
    with pytest.raises(ValueError, match=r"one of classic, unet, cae-s.*got vgg"):
        build("vgg")
    with pytest.raises(ValueError, match=r"unet has no such arguments.*depth"):
        build("unet", {"depth": 3})
    with pytest.raises(ValueError, match=r"for all, 2 for .* or 3 for .* got \[1, 2, 1, 2\]"):
        build("unet", {"widths": [4, 6], "blocks": [1, 2, 1, 2]})
    with pytest.raises(ValueError, match=r"from 0 up, got -1"):
        build("unet", {"blocks": -1})


def test_blocks_are_for_all_for_levels_or_for_stages():
    for blocks, stages in [
        (2, [2, 2, 2, 2, 2]),
        ([3, 0, 1], [3, 0, 1, 0, 3]),
        ([4, 3, 2, 1, 0], [4, 3, 2, 1, 0]),
    ]:
        model = build("unet", {"widths": [4, 6, 8], "blocks": blocks})
        assert model.arguments["blocks"] == stages
        parts = [*model.encoders, model.middle, *reversed(model.decoders)]
        assert [len(part) for part in parts] == stages
        assert [part[0].one.out_channels if part else None for part in parts] == [
            width if count else None for width, count in zip([4, 6, 8, 6, 4], stages, strict=True)
        ]
    assert build("unet", {"widths": [4], "blocks": [2]}).arguments["blocks"] == [2]


@pytest.mark.parametrize(
    "arguments",
    [
        {"widths": [4, 6, 8], "blocks": 1},
        {"widths": [5, 6, 11], "blocks": 1},
        {"widths": [4, 6, 8], "blocks": 3},
        {"widths": [7, 8, 9], "blocks": 2},
        {"widths": [4, 6, 9], "blocks": [3, 1, 2]},
        {"widths": [4, 6, 8], "blocks": [1, 1, 1, 2, 4]},
    ],
)
def test_a_network_grows_without_a_change_of_its_pictures_and_all_of_it_can_learn(arguments):
    small, large = network("unet"), build("unet", arguments).eval()
    inherit(large, small.state_dict())
    noisy, level = torch.rand(2, 3, 19, 30), torch.tensor([0.1, UNKNOWN_SIGMA])
    denoised = large(noisy, level)
    torch.testing.assert_close(denoised, small(noisy, level), rtol=0, atol=1e-5)
    optimizer = torch.optim.SGD(large.parameters(), 0.01)
    before = [parameter.detach().clone() for parameter in large.parameters()]
    for _ in range(3):  # what nothing reads yet is reached by the next step's gradient
        optimizer.zero_grad()
        large.train()(noisy, level).square().mean().backward()
        optimizer.step()
    for old, new in zip(before, large.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_what_does_not_fit_into_a_network_is_named():
    small = build("unet", SMALL["unet"])
    with pytest.raises(ValueError, match=r"head.weight is \[4, 13, 3, 3\] there and \[2, "):
        inherit(build("unet", {"widths": [2, 6, 8], "blocks": 1}), small.state_dict())
    with pytest.raises(ValueError, match=r"decoder.0.bias is only here"):
        inherit(build("classic"), small.state_dict())
    with pytest.raises(ValueError, match=r"decoders.1.0.one.bias is only there"):
        inherit(build("unet", {"widths": [4, 6], "blocks": 1}), small.state_dict())


def test_a_network_with_fewer_blocks_begins_with_the_first_of_another():
    large = build("unet", {"widths": [4, 6, 8], "blocks": [3, 2, 2]})
    for parameter in large.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    small = build("unet", {"widths": [4, 6, 8], "blocks": [1, 4, 0, 4, 1]})
    assert inherit(small, large.state_dict()) == 2 + 2 + 2  # left out
    torch.testing.assert_close(small.encoders[0][0].state_dict(), large.encoders[0][0].state_dict())
    torch.testing.assert_close(small.decoders[1][:2].state_dict(), large.decoders[1].state_dict())
    assert all(float(block.two.weight.abs().max()) == 0 for block in small.decoders[1][2:])
    with torch.no_grad():  # what is left out and what is new add nothing, so these are the same
        for block in [*large.encoders[0][1:], *large.decoders[0][1:], *large.middle]:
            block.two.weight.zero_()
            block.two.bias.zero_()
    noisy, level = torch.rand(1, 3, 21, 30), torch.tensor([0.1])
    torch.testing.assert_close(
        small.eval()(noisy, level), large.eval()(noisy, level), rtol=0, atol=1e-5
    )
