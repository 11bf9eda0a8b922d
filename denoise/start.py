"""The network that training begins with: a package's, or a fresh one drawn from the seed."""

from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from denoise import package, storage
from denoise.model import build
from denoise.storage import SettingsError, join

DEFAULT = "unet"


@dataclass(frozen=True)
class Start:
    """What decides it; small enough to hand to each worker."""

    architecture: str
    arguments: dict[str, Any]
    weights: bytes | None = None  # a package's model.safetensors
    digest: str | None = None

    def network(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(self.architecture, self.arguments)
        if self.weights:
            weights = {name: value.float() for name, value in load(self.weights).items()}
            model.load_state_dict(weights)
        return model


def start_of(architecture: str | None, init: str | None) -> Start:
    """Raises SettingsError where the package to start from is not there, not whole or another."""
    if init is None:
        fresh = architecture or DEFAULT
        try:
            # a Module's attributes have no types
            return Start(fresh, dict(build(fresh).arguments))  # type: ignore[arg-type]
        except ValueError as error:
            raise SettingsError(str(error)) from error
    found = package.load(init)
    known = found.config["architecture"]
    if architecture not in (None, known):
        raise SettingsError(
            f"model {storage.shown(init)} is of architecture {known}, not {architecture}; "
            "leave --architecture out to fine-tune it"
        )
    encoded = storage.read(join(package.uri_of(init), "model.safetensors"))
    return Start(known, found.config["arguments"], encoded, found.digest)
