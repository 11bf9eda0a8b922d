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
    there, is no network, lacks an attribute, or states too small a reach.
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
    return model


@torch.no_grad()
def check_reach(model: nn.Module, name: str) -> None:
    """Raise ValueError where tiles of random pixels differ from the whole: the reach is too small.

    Weights that are zero get values first, since they would hide it.
    """
    # a Module's attributes have no types
    reach, stride = int(model.reach), int(model.stride)  # type: ignore[arg-type]
    limits.check_cost(reach, "pixels of reach", _FAR)
    random = torch.Generator().manual_seed(0)
    probe = deepcopy(model).eval()
    for weight in probe.parameters():
        if not weight.any():
            weight.copy_(0.05 * torch.randn(weight.shape, generator=random))
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
