"""Convolutions for inference on an x86 CPU: weights packed once, ReLU and addition in one pass.

oneDNN otherwise reorders the weights at each call, and each ReLU and addition reads and writes all
channels once more. These are the operators that
torch.compile makes of such networks, without its need for a compiler and its seconds.
"""

import platform
from typing import Any

import torch
from torch import Tensor, nn

from denoise.nets.networks import Residual

_CHANNELS = 8


def can_fuse(device: torch.device) -> bool:
    """Whether this build of torch has the operators, for this processor."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    has_operators = all(
        hasattr(torch.ops.mkldnn, name)
        for name in ("_convolution_pointwise", "_convolution_pointwise_")
    )
    has_mkldnn = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    return device.type == "cpu" and is_x86 and has_mkldnn and has_operators


def fuse(model: nn.Module) -> nn.Module:
    """The model with its convolutions replaced, in place; only for inference from then on."""
    for part in list(model.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, Residual):
                setattr(part, name, _FusedResidual(child))
            elif isinstance(child, nn.Conv2d):
                is_half = child.weight.dtype != torch.float32
                setattr(part, name, (_regular if is_half else _PackedConvolution)(child))
    return model


def _regular(convolution: nn.Conv2d) -> nn.Module:
    """A packed convolution of a kind whose sums in bfloat16 do not depend on the picture's size.

    oneDNN 3.12 has others for strided convolutions (one of them reads memory that nobody wrote,
    where the result is 1 pixel wide) and for input channels that are no multiple of 8: there,
    tiles would show.
    """
    if convolution.stride != (1, 1):
        return _Patches(convolution)
    missing = -convolution.in_channels % _CHANNELS
    return _Widened(convolution, missing) if missing else _PackedConvolution(convolution)


class _PackedConvolution(nn.Module):
    """A convolution whose weights lie as oneDNN wants them, with what follows it."""

    def __init__(self, convolution: nn.Conv2d, then: str = "none") -> None:
        super().__init__()
        padding, stride, dilation = map(
            list, (convolution.padding, convolution.stride, convolution.dilation)
        )
        weight = convolution.weight.detach()
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight, padding, stride, dilation, convolution.groups, None
        )
        self._bias = None if convolution.bias is None else convolution.bias.detach()
        self._shape = (padding, stride, dilation, convolution.groups)
        self._then = then

    def forward(self, x: Tensor) -> Tensor:
        given: tuple[Any, ...] = (x, self.weight, self._bias, *self._shape, self._then, [], "")
        made: Tensor = torch.ops.mkldnn._convolution_pointwise(*given)
        return made

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """total + convolution(x), written over total."""
        given: tuple[Any, ...] = (total, x, self.weight, self._bias, *self._shape)
        made: Tensor = torch.ops.mkldnn._convolution_pointwise_(*given, "add", 1.0, None, [], None)
        return made


class _FusedResidual(nn.Module):
    """A residual block that writes over its input, which nobody reads after it."""

    def __init__(self, block: Residual) -> None:
        super().__init__()
        self.one = _PackedConvolution(block.one, "relu")
        self.two = _PackedConvolution(block.two)

    def forward(self, x: Tensor) -> Tensor:
        return self.two.add_to(x, self.one(x))


class _Patches(nn.Module):
    """A convolution of k x k pixels with stride k, as one of 1x1 on patches of k x k."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        assert convolution.kernel_size == convolution.stride and convolution.padding == (0, 0)
        made, given, self._side, _ = convolution.weight.shape
        flat = nn.Conv2d(given * self._side**2, made, 1, dtype=convolution.weight.dtype)
        weight = convolution.weight.detach().permute(0, 2, 3, 1).reshape(made, -1, 1, 1)
        flat.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
        flat.bias = convolution.bias
        self._flat = _PackedConvolution(flat)

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        side = self._side
        shape = count, height // side, side, width // side, side, channels
        patches = x.permute(0, 2, 3, 1).reshape(shape).transpose(2, 3)
        patches = patches.reshape(count, height // side, width // side, -1)
        made: Tensor = self._flat(patches.permute(0, 3, 1, 2))
        return made


class _Widened(nn.Module):
    """A convolution with more input channels, which are zero."""

    def __init__(self, convolution: nn.Conv2d, missing: int) -> None:
        super().__init__()
        self._missing = missing
        weight = convolution.weight.detach()
        wide = nn.Conv2d(
            weight.shape[1] + missing,
            *(weight.shape[0], weight.shape[2]),
            padding=convolution.padding,  # type: ignore[arg-type]  # never a word here
            dtype=weight.dtype,
        )
        more = weight.new_zeros(weight.shape[0], missing, *weight.shape[2:])
        widened = torch.cat([weight, more], dim=1)
        wide.weight = nn.Parameter(widened.contiguous(memory_format=torch.channels_last))
        wide.bias = convolution.bias
        self._wide = _PackedConvolution(wide)
        self.weight = self._wide.weight

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros(x.shape[0], self._missing, *x.shape[2:])
        made: Tensor = self._wide(torch.cat([x, zeros], dim=1))
        return made
