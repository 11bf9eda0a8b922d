"""Precisions: which one a device can do, which one is taken, and networks cast to it."""

import pytest
import torch

from denoise.errors import SettingsError
from denoise.nets import precision as precisions
from denoise.nets.fused import can_fuse, fuse
from denoise.nets.networks import UNKNOWN_SIGMA, build, single
from denoise.nets.precision import can_do, check, resolve_precision, runnable

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def given_cpu(monkeypatch, *, bfloat16: bool):
    monkeypatch.setattr(precisions, "_cpu_has_bfloat16", lambda: bfloat16)


def given_gpu(monkeypatch, capability: tuple[int, int]):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: capability >= (8, 0)
    )


def test_auto_is_bfloat16_on_a_cpu_made_for_it_else_float32(monkeypatch):
    given_cpu(monkeypatch, bfloat16=True)
    assert resolve_precision("auto", CPU) == "bfloat16"
    given_cpu(monkeypatch, bfloat16=False)
    assert resolve_precision("auto", CPU) == "float32"


def test_auto_is_float16_on_a_gpu_with_tensor_cores_else_float32(monkeypatch):
    given_gpu(monkeypatch, (9, 0))
    assert resolve_precision("auto", GPU) == "float16"
    given_gpu(monkeypatch, (6, 1))
    assert resolve_precision("auto", GPU) == "float32"


def test_what_a_device_cannot_do_is_refused_with_what_it_can(monkeypatch):
    given_cpu(monkeypatch, bfloat16=False)
    with pytest.raises(SettingsError, match=r"CPU cannot compute in bfloat16; it can in float32:"):
        resolve_precision("bfloat16", CPU)
    given_cpu(monkeypatch, bfloat16=True)
    with pytest.raises(SettingsError, match=r"float16; it can in float32 and bfloat16: give"):
        resolve_precision("float16", CPU)
    given_gpu(monkeypatch, (7, 5))
    with pytest.raises(SettingsError, match=r"Some GPU cannot .* bfloat16; .* float32 and float16"):
        resolve_precision("bfloat16", GPU)


def test_a_precision_that_does_not_exist_is_refused():
    with pytest.raises(SettingsError, match=r"auto, float32, bfloat16, float16, got fp8"):
        resolve_precision("fp8", CPU)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_device_does_what_resolve_accepts(precision):
    if can_do(precision, CPU):
        assert resolve_precision(precision, CPU) == precision
    else:
        with pytest.raises(SettingsError):
            resolve_precision(precision, CPU)


def test_infinity_in_half_precision_comes_out_as_nan():
    overflowed = single(torch.tensor([70_000.0, -70_000.0, 1.0] * 11).to(torch.float16))
    assert overflowed.dtype == torch.float32
    assert overflowed[:2].isnan().all() and overflowed[2] == 1


@pytest.mark.parametrize("architecture", ["classic", "unet"])
def test_an_overflow_inside_of_a_network_is_seen_in_its_output(architecture):
    model = fresh(architecture)
    model.tail.bias.data.fill_(1e6)  # more than float16 holds, far beyond the clamp
    denoised = model.half()(torch.rand(1, 3, 16, 16), torch.tensor([UNKNOWN_SIGMA]))
    assert denoised.dtype == torch.float32 and denoised.isnan().all()


@pytest.mark.parametrize("architecture", ["classic", "unet"])
def test_in_half_precision_the_last_addition_is_exact(architecture):
    """A network that adds nothing gives its input back, to the last bit of float32."""
    model = fresh(architecture)
    for parameter in model.parameters():
        parameter.data.zero_()
    noisy = torch.rand(1, 3, 16, 24)
    denoised = model.bfloat16()(noisy, torch.tensor([UNKNOWN_SIGMA]))
    assert torch.equal(denoised, noisy if architecture == "unet" else torch.full_like(noisy, 0.5))


@pytest.mark.parametrize("architecture", ["classic", "unet"])
@torch.inference_mode()
def test_fused_convolutions_give_the_same_pictures_as_plain_ones(architecture):
    if not can_fuse(CPU):
        pytest.skip("this build of torch has no such convolutions")
    plain = fresh(architecture).to(memory_format=torch.channels_last)
    quick = fuse(fresh(architecture).to(memory_format=torch.channels_last))
    for size in [(1, 1), (17, 40), (64, 64)]:
        noisy = torch.rand(2, 3, *size).contiguous(memory_format=torch.channels_last)
        before = noisy.clone()
        sigma = torch.tensor([0.1, UNKNOWN_SIGMA])
        torch.testing.assert_close(quick(noisy, sigma), plain(noisy, sigma), rtol=0, atol=1e-5)
        assert torch.equal(noisy, before)


@pytest.mark.parametrize("widths", [[8, 12], [24, 48, 96], [5, 7]])
@torch.inference_mode()
def test_fused_convolutions_of_any_width_are_right_in_bfloat16(widths):
    if not (can_fuse(CPU) and can_do("bfloat16", CPU)):
        pytest.skip("this CPU has no bfloat16 arithmetic, or torch no such convolutions")
    torch.manual_seed(0)
    model = build("unet", {"widths": widths, "blocks": 1})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    model.eval()
    assert check(runnable(model, "bfloat16", CPU), model, "bfloat16", CPU) == ""


@torch.inference_mode()
def test_the_model_keeps_its_weights_and_the_check_sees_a_wrong_one():
    model = fresh("unet")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert check(runnable(model, "float32", CPU), model, "float32", CPU) == ""
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    other = fresh("unet", seed=1)
    wrong = check(runnable(other, "float32", CPU), model, "float32", CPU)
    assert "float32 is off by" in wrong and "more than 0.0001" in wrong


def fresh(architecture, seed=0):
    """A small network whose weights let every path show."""
    torch.manual_seed(seed)
    arguments = {"classic": {"width": 8}, "unet": {"widths": [8, 12], "blocks": [1, 0, 2]}}
    model = build(architecture, arguments[architecture])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()
