"""Precisions of a network: what a device can compute in, which one to take, the network cast to it.

In half precision (bfloat16 or float16) the convolutions compute in it; the input, the last addition
and the output stay float32. Law 4 (tiles do not show) is exact in float32 alone.
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from denoise.errors import SettingsError
from denoise.nets import Asked, Precision
from denoise.nets.fused import can_fuse, fuse
from denoise.nets.networks import UNKNOWN_SIGMA, Classic, UNet

PRECISIONS: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# Largest difference to float32 that a sound processor may show on a tile of strong noise, by the
# class of the network. Measured on AMX: Classic 0.006, UNet 0.010 to 0.014. A wrong kernel is off
# by far more.
_TOLERANCE: dict[type[nn.Module], float] = {Classic: 0.03, UNet: 0.03}
_TOLERANCE_OF_OTHERS = 0.05
_TOLERANCE_OF_FLOAT32 = 1e-4  # for float32 through other kernels
_TENSOR_CORES = (7, 0)  # the first NVIDIA architecture with them
_SIDE = 128  # of the tile that is compared

Run = Callable[[Tensor, Tensor], Tensor]  # noisy [N, 3, H, W], sigma [N] -> denoised [N, 3, H, W]


def can_do(precision: Precision, device: torch.device) -> bool:
    """Whether the device has arithmetic made for this precision; without it, all is far slower."""
    if precision == "float32":
        return True
    if device.type == "cuda":
        return precision == "float16" or torch.cuda.is_bf16_supported(including_emulation=False)
    # float16 on a CPU: no faster than float32, or refused by oneDNN
    return precision == "bfloat16" and _cpu_has_bfloat16()


def resolve_precision(asked: Asked, device: torch.device) -> Precision:
    """The precision to compute in: the asked one, or for "auto" the fastest that is good.

    auto: bfloat16 on CPUs with AMX or AVX-512 BF16, float16 on GPUs with tensor cores, else
    float32. Raises SettingsError with what the device can do.
    """
    if asked == "auto":
        return _best(device)
    if asked not in PRECISIONS:
        raise SettingsError(f"precision must be auto, {', '.join(PRECISIONS)}, got {asked}")
    if not can_do(asked, device):
        possible = [precision for precision in PRECISIONS if can_do(precision, device)]
        raise SettingsError(
            f"this {_name(device)} cannot compute in {asked}; it can in {' and '.join(possible)}: "
            "give --precision auto or one of these"
        )
    return asked


def runnable(model: nn.Module, precision: Precision, device: torch.device) -> Run:
    """The network on the device, its weights cast once, channels last, ready to be called.

    The shipped kinds come as a copy, so that the model keeps its float32 weights. Other networks
    keep theirs and run under autocast, since nothing is known of their additions.
    """
    dtype = PRECISIONS[precision]
    if not isinstance(model, Classic | UNet):
        moved = _channels_last(model.to(device))
        return moved if precision == "float32" else _autocast(moved, dtype, device)
    cast = _channels_last(deepcopy(model).to(device, dtype))
    # Classic has nothing to fuse, and gains nothing
    return fuse(cast) if isinstance(cast, UNet) and can_fuse(device) else cast


def check(run: Run, model: nn.Module, precision: Precision, device: torch.device) -> str:
    """Compare one tile with the model as it is, in float32; why the run is unsound, "" if it is."""
    random = torch.Generator().manual_seed(0)
    noisy = torch.rand(1, 3, _SIDE, _SIDE, generator=random) * 0.6 + 0.2
    noisy += 0.3 * torch.randn(noisy.shape, generator=random)
    sigma = torch.full((1,), UNKNOWN_SIGMA)
    allowed = _TOLERANCE_OF_FLOAT32
    if precision != "float32":
        allowed = _TOLERANCE.get(type(model), _TOLERANCE_OF_OTHERS)
    noisy = noisy.to(device, memory_format=torch.channels_last)
    try:
        off = float((run(noisy, sigma.to(device)) - model(noisy, sigma.to(device))).abs().max())
    except RuntimeError as error:  # oneDNN has no kernel here
        return f"{precision} is not possible here ({str(error).splitlines()[0][:100]})"
    if off <= allowed:  # False for NaN
        return ""
    return f"{precision} is off by {off:.2g} on a test tile, more than {allowed:g}"


def _best(device: torch.device) -> Precision:
    if device.type == "cuda":
        has_tensor_cores = torch.cuda.get_device_capability(device) >= _TENSOR_CORES
        return "float16" if has_tensor_cores else "float32"
    return "bfloat16" if can_do("bfloat16", device) else "float32"


def best_on_cpu() -> Precision:
    """The precision that `auto` is on this machine's CPU."""
    return _best(torch.device("cpu"))


def _cpu_has_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 kernels for this CPU that do not emulate it."""
    return torch.backends.mkldnn.is_available() and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _channels_last(model: nn.Module) -> nn.Module:
    # torch's annotations lack a memory format alone
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _autocast(model: nn.Module, dtype: torch.dtype, device: torch.device) -> Run:
    def run(noisy: Tensor, sigma: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype):
            denoised: Tensor = model(noisy, sigma)
        return denoised.float()

    return run
