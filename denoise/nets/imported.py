"""Networks of a user's own, named MODULE:CLASS: found on the Python path and checked when fresh."""

import sys
from collections.abc import Mapping
from copy import deepcopy
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from denoise.images.tiles import tiles
from denoise.nets import limits

_ATTRIBUTES = ("arguments", "stride", "reach", "macs_per_pixel")
_NEEDED = (
    "an architecture is a torch.nn.Module, called as network(noisy [N, 3, H, W], sigma [N]), with "
    "arguments (a dict that rebuilds it), stride (sides that are its multiples need no padding),"
    " reach (how far in pixels a pixel is felt) and macs_per_pixel"
)
_TOLERANCE = 1e-4  # of values around 1, in float32
_FAR = 4096  # pixels of reach; see limits


def build_imported(architecture: str, arguments: Mapping[str, Any] | None) -> nn.Module:
    """A network of the class that MODULE:CLASS names; where it is fresh, it is checked.

    The class has to be on the Python path of every worker. Raises ValueError where it is not
    there, is no network, lacks an attribute, states too small a reach, or cannot be trained as
    this is done here.
    """
    module_name, _, class_name = architecture.partition(":")
    # A package may come from anybody: nothing of Python's own is imported for it, where importing
    # may already do something, and nothing but a class of networks is ever called
    if module_name.split(".")[0] in sys.stdlib_module_names:
        raise ValueError(f"architecture {architecture} is no class of networks: {_NEEDED}")
    if module_name not in sys.modules:
        try:
            import_module(module_name)
        except (ImportError, SyntaxError) as error:
            raise ValueError(
                f"architecture {architecture}: cannot import {module_name} ({error}); "
                "is its folder on PYTHONPATH?"
            ) from error
    found = getattr(sys.modules[module_name], class_name, None)
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        raise ValueError(f"architecture {architecture} is no class of networks: {_NEEDED}")
    try:
        model = found(**(arguments or {}))
    except TypeError as error:
        raise ValueError(f"architecture {architecture} cannot be made: {error}") from error
    missing = [name for name in _ATTRIBUTES if not hasattr(model, name)]
    if missing:
        raise ValueError(f"architecture {architecture} has no {', '.join(missing)}: {_NEEDED}")
    if arguments is None:
        check_reach(model, architecture)
        check_trainable(model, architecture)
    return model


def check_trainable(model: nn.Module, name: str) -> None:
    """Raise ValueError where training would not do to a network what its author expects.

    Weights alone are trained, averaged and saved, all of them, and a step is repeatable: nothing is
    drawn at random, and nothing changes by computing, as the statistics of batch normalisation do.
    """
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError(f"architecture {name} has no weights to train")
    frozen = [of for of, weight in model.named_parameters() if not weight.requires_grad]
    if frozen:
        raise ValueError(
            f"architecture {name}: {frozen[0]} has requires_grad=False, but all weights are "
            "trained; make it a buffer, which stays as it is"
        )
    probe = _without_zeros(model).train()
    before = {of: buffer.clone() for of, buffer in probe.named_buffers()}
    side = 4 * int(model.stride)  # type: ignore[arg-type]  # a Module's attributes have no types
    noisy = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, second = (probe(noisy, torch.full((2,), 0.1)) for _ in range(2))
    for of, buffer in probe.named_buffers():
        if not torch.equal(buffer, before[of]):
            raise ValueError(
                f"architecture {name}: {of} changes while it trains, as in batch normalisation; "
                "only weights are averaged and saved: use a normalisation without such statistics"
            )
    if not torch.equal(first, second):
        raise ValueError(
            f"architecture {name} draws at random while it trains, as dropout does: the same seed "
            "would not give the same weights"
        )


@torch.no_grad()
def _without_zeros(model: nn.Module) -> nn.Module:
    """A copy whose weights that are zero have values, since they would hide what it does."""
    random = torch.Generator().manual_seed(0)
    copy = deepcopy(model)
    for weight in copy.parameters():
        if not weight.any():
            weight.copy_(0.05 * torch.randn(weight.shape, generator=random))
    return copy


@torch.no_grad()
def check_reach(model: nn.Module, name: str) -> None:
    """Raise ValueError where tiles of random pixels differ from the whole: its reach is larger."""
    # a Module's attributes have no types
    reach, stride = int(model.reach), int(model.stride)  # type: ignore[arg-type]
    limits.check_cost(reach, "pixels of reach", _FAR)
    random = torch.Generator().manual_seed(0)
    probe = _without_zeros(model).eval()
    side = 4 * stride
    height, width = side, 2 * side + 2 * reach
    noisy = torch.rand(1, 3, height, width, generator=random)
    sigma = torch.full((1,), 0.1)
    whole: Tensor = probe(noisy, sigma)
    if whole.shape != noisy.shape:
        raise ValueError(
            f"architecture {name} makes {list(whole.shape)} of {list(noisy.shape)}: it has to give "
            "back as many pixels"
        )
    for tile in tiles(height, width, side=side, halo=reach, stride=stride):
        outer, inner = tile.outer, tile.inner
        part = probe(noisy[..., outer.top : outer.bottom, outer.left : outer.right], sigma)
        center = part[(..., *inner.within(outer))]
        off = (center - whole[..., inner.top : inner.bottom, inner.left : inner.right]).abs().max()
        if not off <= _TOLERANCE:
            raise ValueError(
                f"architecture {name} says a reach of {reach} pixels, but a tile that sees so far "
                f"is off by {float(off):.1g}: a pixel is felt further away, or the network looks "
                "at the whole picture"
            )
