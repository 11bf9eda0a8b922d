"""The network that training begins with: a package's, or a fresh one drawn from the seed."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from denoise.network import package
from denoise.network.model import build, inherit
from denoise.places import storage, uris
from denoise.places.storage import SettingsError
from denoise.places.uris import join

_log = logging.getLogger(__name__)
DEFAULT = "unet"


@dataclass(frozen=True)
class Start:
    """What decides it; small enough to hand to each worker."""

    architecture: str
    arguments: dict[str, Any]
    weights: bytes | None = None  # a package's model.safetensors
    digest: str | None = None

    @classmethod
    def of(
        cls,
        architecture: str,
        network: nn.Module,
        weights: bytes | None = None,
        digest: str | None = None,
    ) -> "Start":
        # a Module's attributes have no types
        return cls(architecture, dict(network.arguments), weights, digest)  # type: ignore[arg-type]

    def network(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build(self.architecture, self.arguments)
        if self.weights:
            inherit(model, load(self.weights))
        return model


def start_of(architecture: str | None, init: str | None) -> Start:
    """Raises SettingsError where the package to start from is not there, not whole or another."""
    if init is None:
        fresh = architecture or DEFAULT
        try:
            return Start.of(fresh, build(fresh))
        except ValueError as error:
            raise SettingsError(str(error)) from error
    found = package.load(init)
    encoded = storage.read(join(package.uri_of(init), "model.safetensors"))
    if architecture is None:
        return Start.of(found.config["architecture"], found.model, encoded, found.digest)
    return Start.of(
        architecture, _grown(found, architecture, uris.shown(init)), encoded, found.digest
    )


def _grown(found: package.Package, architecture: str, shown: str) -> nn.Module:
    """A network of the architecture as it is today that begins with what another has learned."""
    try:
        network = build(architecture)
        left_out = inherit(network, found.model.state_dict())
    except ValueError as error:
        raise SettingsError(
            f"model {shown}, of architecture {found.config['architecture']}, cannot become "
            f"{architecture}: {error}; leave --architecture out to fine-tune it"
        ) from error
    if left_out:
        _log.warning(
            "model %s has %d blocks that %s has no place for: it begins without them",
            shown,
            left_out,
            architecture,
        )
    return network
