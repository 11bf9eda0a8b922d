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


def can_fuse(device: torch.device) -> bool:
    """Whether this build of torch has the operators, for this processor."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    has_operators = all(
        hasattr(torch.ops.mkldnn, name)
        for name in ("_convolution_pointwise", "_convolution_pointwise_")
    )
    has_mkldnn = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    return device.type == "cpu" and is_x86 and has_mkldnn and has_operators


def fused(model: nn.Module) -> nn.Module:
    """The model with its convolutions replaced, in place; only for inference from then on."""
    for part in list(model.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, Residual):
                setattr(part, name, _FusedResidual(child))
            elif isinstance(child, nn.Conv2d):
                setattr(part, name, _PackedConvolution(child))
    return model


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
