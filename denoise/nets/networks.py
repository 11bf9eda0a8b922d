"""The convolutional autoencoders: noisy pictures and their noise level in, denoised pictures out.

Shapes: noisy, denoised [N, 3, H, W] float32, nominal 0..1; sigma [N] float32; H and W from 1 up.

Noise level: `sigma` is what the user gave, or UNKNOWN_SIGMA. Most training samples have no
level, so the same weights estimate it themselves, pixel by pixel, from what lies within their
reach. Nothing estimates it outside of the network: the usual estimate (the median of the finest
wavelet coefficients) is far too low where noise was clipped, as on any photograph before black.

Half precision: with weights in bfloat16 or float16 the convolutions compute in it; input, last
addition and output are float32 all the same, and infinity comes out as NaN.
"""

import platform
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoise.cores import cores
from denoise.nets import limits

UNKNOWN_SIGMA = -1.0  # the noise level where nobody knows it
LEVEL_GAIN = 5.0  # brings sigma 0..0.2 to the scale of the pixels


class Classic(nn.Module):
    """The plain autoencoder that the project began with: two poolings, two up-samplings, no skips.

    It takes no notice of the noise level: it knows the one that it was trained for.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        limits.check_width(width)
        self.arguments = {"width": width}
        self.stride = 4
        self.reach = 1 + 2 + 4 + 2 + 1 + self.stride - 1  # as unet_reach
        self.macs_per_pixel = 9 * width * (3 + width / 2 + width / 4 + width / 2 + 3)
        limits.check_cost(81 * width**2, "parameters", limits.PARAMETERS)
        self.encoder = nn.ModuleList([convolution(3, width), convolution(width, 2 * width)])
        self.decoder = nn.ModuleList(
            [convolution(2 * width, 2 * width), convolution(2 * width, width)]
        )
        self.tail = convolution(width, 3)

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        x = padded(noisy, self.stride).to(self.tail.weight.dtype)
        for layer in self.encoder:
            x = F.max_pool2d(F.relu(layer(x)), 2)  # [N, 2c, h/2, w/2]
        for layer in self.decoder:
            x = F.interpolate(F.relu(layer(x)), scale_factor=2)  # [N, c/2, 2h, 2w]
        return torch.sigmoid(single(self.tail(x)))[..., : noisy.shape[-2], : noisy.shape[-1]]


class UNet(nn.Module):
    """A U-Net of plain residual blocks behind a pixel-unshuffle; it predicts what to add.

    `widths` are the channels at 1/2, 1/4, 1/8... of the size. `blocks` are the residual blocks: one
    number for all, one for each level, or one for each stage in the order of the data: the levels
    down to the lowest, which has its blocks once, and up.
    Nothing looks at the whole picture and nothing is normalised, so tiles are exact.
    """

    def __init__(
        self, widths: Sequence[int] = (32, 64, 128), blocks: int | Sequence[int] = 2
    ) -> None:
        super().__init__()
        limits.check_widths(widths)
        limits.check_blocks(blocks)
        *upper, lowest = widths
        first, depth = widths[0], len(upper)
        steps = list(pairwise(widths))
        counts = unet_stages(len(widths), blocks)
        self.arguments = {"widths": list(widths), "blocks": counts}
        self.stride = 2 ** len(widths)
        self.reach = unet_reach(counts)
        self.macs_per_pixel = unet_macs(widths, counts)
        limits.check_unet(widths, counts, self.macs_per_pixel, self.reach)
        self.head = convolution(4 * 3 + 1, first)
        self.encoders = nn.ModuleList(map(residuals, upper, counts[:depth]))
        self.downs = nn.ModuleList(Convolution(a, b, 2, stride=2) for a, b in steps)
        self.middle = residuals(lowest, counts[depth])
        self.ups = nn.ModuleList(Convolution(b, 4 * a, 1) for a, b in steps)
        self.decoders = nn.ModuleList(map(residuals, upper, counts[:depth:-1]))
        self.tail = convolution(first, 4 * 3)
        for parameter in self.tail.parameters():
            nn.init.zeros_(parameter)  # begins as the identity

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        x = padded(noisy, self.stride).to(self.tail.weight.dtype)
        x = F.pixel_unshuffle(x, 2)  # [N, 12, H/2, W/2]
        level = torch.where(sigma < 0, UNKNOWN_SIGMA, LEVEL_GAIN * sigma).to(x.dtype)
        x = torch.cat([x, level[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)
        x = self.head(x)  # [N, first, H/2, W/2]
        skips = []
        for encode, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encode(x))
            x = down(skips[-1])  # [N, next width, h/2, w/2]
        x = self.middle(x)
        for decode, up in zip(reversed(self.decoders), reversed(self.ups), strict=True):
            x = decode(F.pixel_shuffle(up(x), 2) + skips.pop())  # [N, width, 2h, 2w]
        x = F.pixel_shuffle(single(self.tail(x)), 2)[..., : noisy.shape[-2], : noisy.shape[-1]]
        denoised = noisy + x
        return denoised if self.training else denoised.clamp(0, 1)


# architecture -> what makes it, called with the arguments of a package's config.json
ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "classic": Classic,  # 13 kMAC a pixel
    "unet": UNet,  # 50
    "cae-s": partial(UNet, widths=(24, 48, 96)),  # 28
    # most blocks last, where trained networks used them; elsewhere they fell silent
    "cae-m": partial(UNet, blocks=(4, 2, 1, 2, 11)),  # 96
    "cae-l": partial(UNet, widths=(64, 64, 128), blocks=(4, 2, 1, 2, 11)),  # 306
}


def build(architecture: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """A network with fresh weights: one of ARCHITECTURES, or MODULE:CLASS on the Python path.

    Raises ValueError where the architecture or an argument is unknown.
    """
    if isinstance(architecture, str) and re.fullmatch(r"[A-Za-z_][\w.]*:\w+", architecture):
        from denoise.nets.imported import build_imported

        return build_imported(architecture, arguments)
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(
            f"architecture must be one of {known} or MODULE:CLASS, got {architecture!s:.60}"
        )
    try:
        return ARCHITECTURES[architecture](**(arguments or {}))
    except TypeError as wrong:
        raise ValueError(f"architecture {architecture} has no such arguments: {wrong}") from wrong


def inherit(model: nn.Module, weights: Mapping[str, Tensor]) -> int:
    """Loads the weights of a network of the same kind, of the same widths or narrower.

    A larger one then gives the same pictures as the smaller one did, to rounding, and learns from
    there: its new channels read the old ones and are read by none of them yet, its new blocks add
    nothing yet (Chen, Goodfellow, Shlens: Net2Net, 2016). Blocks that a stage of this one has no
    room for are left out, the last first: their number is returned. Raises ValueError where the
    weights do not fit.
    """
    own = model.state_dict()
    stages = {name for name, part in model.named_modules() if isinstance(part, nn.Sequential)}
    for name in sorted(own.keys() ^ weights.keys()):
        if name.rsplit(".", 3)[0] not in stages:  # no part of a block, STAGE.NUMBER.one.weight
            raise ValueError(f"{name} is only {'here' if name in own else 'there'}")
    for name, old in weights.items():
        if name not in own:
            continue
        new = own[name]
        if old.dim() != new.dim() or any(a > b for a, b in zip(old.shape, new.shape, strict=True)):
            raise ValueError(f"{name} is {list(old.shape)} there and {list(new.shape)} here")
        new[: len(old)] = 0  # old channels read old ones alone
        new[tuple(slice(size) for size in old.shape)] = old
    for name, block in model.named_modules():
        if isinstance(block, Residual) and f"{name}.two.weight" not in weights:
            own[f"{name}.two.weight"].zero_()
            own[f"{name}.two.bias"].zero_()
    return sum(name.endswith(".one.weight") for name in weights.keys() - own.keys())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory; torch has a class of its own for GPUs, for CPUs words alone."""
    kinds = torch.OutOfMemoryError, MemoryError
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def device(*, cpu: bool = False) -> torch.device:
    """Where to compute: a GPU if this process was given one and it may be used, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")


def hardware() -> str:
    """What this machine computes with, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{cores()} CPU cores ({platform.machine()})"


class Residual(nn.Module):
    """Two 3x3 convolutions beside a straight path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = convolution(width, width), convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.two(F.relu(self.one(x)))
        return x + change


def residuals(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Residual(width) for _ in range(count)))


class Convolution(nn.Conv2d):
    """A convolution that draws no weights on the meta device, where that is slow."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()


def convolution(given: int, made: int) -> Convolution:
    return Convolution(given, made, 3, padding=1)


def single(x: Tensor) -> Tensor:
    """Half precision -> float32; infinity, which a clamp would hide, becomes NaN."""
    if torch.finfo(x.dtype).bits >= 32:
        return x
    x = x.float()
    return x.add(x, alpha=0)


def padded(x: Tensor, stride: int) -> Tensor:
    """Mirrored at the right and lower border until both sides are multiples of `stride`."""
    for dim in (-2, -1):
        size = x.shape[dim]
        if size % stride:
            x = x.index_select(dim, folded(size, -size % stride, x.device))
    return x


def folded(size: int, more: int, device: torch.device | None = None) -> Tensor:
    """Indices 0, 1, ... size + more - 1, folded back into 0..size-1 as often as it takes."""
    period = max(2 * (size - 1), 1)
    index = torch.arange(size + more, device=device) % period
    return torch.minimum(index, period - index) if size > 1 else torch.zeros_like(index)


def unet_stages(levels: int, blocks: int | Sequence[int]) -> list[int]:
    """The number of blocks of each stage: down to the lowest of the levels, and up."""
    counts = [blocks] * levels if isinstance(blocks, int) else list(blocks)
    if len(counts) == levels:
        counts = there_and_back(counts)
    if len(counts) != 2 * levels - 1 or min(counts) < 0:
        raise ValueError(
            f"blocks must be one number for all, {levels} for the levels or {2 * levels - 1} for"
            f" the stages, from 0 up, got {blocks}"
        )
    return counts


def unet_levels(stages: Sequence[int]) -> list[int]:
    """The level of each stage, the first being 1."""
    return there_and_back(range(1, len(stages) // 2 + 2))


def there_and_back(levels: Sequence[int]) -> list[int]:
    """What each level has, for each stage: the lowest once."""
    return [*levels, *levels[-2::-1]]


def unet_reach(stages: Sequence[int]) -> int:
    """How far a pixel is felt: each 3x3 convolution carries it one pixel of its scale."""
    levels = unet_levels(stages)
    blocks = sum(2 * count * 2**level for level, count in zip(levels, stages, strict=True))
    return blocks + 2 + 2 + 2 ** max(levels) - 1  # head, tail, and from end to end of a cell


def unet_macs(widths: Sequence[int], stages: Sequence[int]) -> float:
    """Multiply-adds for each pixel of the picture."""
    total = 9 * (13 + 12) * widths[0] / 4  # head and tail
    levels = unet_levels(stages)
    for level, width, count in zip(levels, there_and_back(widths), stages, strict=True):
        total += count * 2 * 9 * width**2 / 4**level
    for level, (a, b) in enumerate(pairwise(widths), 1):
        total += 2 * 4 * a * b / 4 ** (level + 1)  # 2x2 down, 1x1 up
    return total
