"""The network that training begins with: a package's, or a fresh one drawn from the seed."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from denoise.errors import SettingsError
from denoise.nets import package
from denoise.nets.networks import build, inherit
from denoise.storage import uris

_log = logging.getLogger(__name__)
DEFAULT = "unet"


@dataclass(frozen=True)
class Start:
    """What decides it; small enough to hand to each worker."""

    architecture: str
    arguments: dict[str, Any]
    weights: Mapping[str, Tensor] | None = None  # a package's
    digest: str | None = None  # of these, as the package has it

    def network(self, seed: int) -> nn.Module:
        """Build it, fresh weights drawn from the seed. Raises SettingsError where its class is not
        there, as on another machine."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                model = build(self.architecture, self.arguments)
            except ValueError as error:
                raise SettingsError(str(error)) from error
        if self.weights:
            inherit(model, self.weights)
        return model


def start_of(architecture: str | None, init: str | None) -> Start:
    """Raises SettingsError where the package to start from is not there, not whole or another."""
    if init is None:
        fresh = architecture or DEFAULT
        try:
            return Start(fresh, arguments_of(build(fresh)))
        except ValueError as error:
            raise SettingsError(str(error)) from error
    found = package.load(init)
    known = found.config["architecture"]
    grown = _grow(found, architecture, uris.redact(init)) if architecture else found.model
    weights = found.model.state_dict()
    return Start(architecture or known, arguments_of(grown), weights, found.digest)


def arguments_of(network: nn.Module) -> dict[str, Any]:
    return dict(network.arguments)  # type: ignore[arg-type]  # a Module's attributes have no types


def _grow(found: package.Package, architecture: str, name: str) -> nn.Module:
    """A network of the architecture as it is today that begins with what another has learned."""
    try:
        network = build(architecture)
        left_out = inherit(network, found.model.state_dict())
    except ValueError as error:
        raise SettingsError(
            f"model {name}, of architecture {found.config['architecture']}, cannot become "
            f"{architecture}: {error}; leave --architecture out to fine-tune it"
        ) from error
    if left_out:
        _log.warning(
            "model %s has %d blocks more than %s: they are left out",
            name,
            left_out,
            architecture,
        )
    return network
