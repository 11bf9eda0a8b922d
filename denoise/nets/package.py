"""A model package: a folder with weights, config.json and a model card, saved and loaded.

model.safetensors   the weights, in half or single precision
config.json         what builds the network again, how it was trained, the digest of the weights
README.md           the model card

config.json is written last, so a folder that has one is whole; it names the weights' SHA-256, so a
folder whose weights are not the ones it was saved with is refused. Nothing is unpickled.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoise import errors
from denoise.errors import SettingsError
from denoise.nets import limits
from denoise.storage import files, uris
from denoise.storage.uris import join

if TYPE_CHECKING:
    from torch import nn

_log = logging.getLogger(__name__)
_FIELDS = {"architecture": str, "arguments": dict, "digest": str}  # that config.json must have
_PRECISIONS = ("F16", "BF16", "F32")
_HEADER = 10 << 20  # bytes that config.json, or the header of the weights, may take at most
SHIPPED = Path(__file__).parents[1] / "models"


@dataclass(frozen=True)
class Package:
    """A network ready to run, and what is known of it."""

    name: str
    digest: str  # SHA-256 of model.safetensors
    model: "nn.Module"  # in evaluation mode, on the CPU
    config: dict[str, Any]

    @property
    def id(self) -> str:
        """How tables name it."""
        return _id(self.name, self.digest)


def save(uri: str, model: "nn.Module", fields: Mapping[str, Any], *, half: bool = False) -> str:
    """Writes a package, config.json last, and returns the digest of its weights.

    `fields` has at least `architecture`, and `card`, the text of README.md, which goes there alone.
    """
    import torch
    from safetensors.torch import save as bytes_of

    kind = torch.float16 if half else torch.float32
    # clone: weights that a network uses twice are stored twice
    weights = {
        name: value.to(kind).contiguous().clone() for name, value in model.state_dict().items()
    }
    encoded = bytes_of(weights)
    config = {key: value for key, value in fields.items() if key != "card"}
    config |= {
        "arguments": model.arguments,
        "parameters": sum(weight.numel() for weight in weights.values()),
        # a Module's attributes have no types
        "macs_per_pixel": round(float(model.macs_per_pixel)),  # type: ignore[arg-type]
        "precision": "float16" if half else "float32",
        "digest": sha256(encoded).hexdigest(),
    }
    files.write(join(uri, "model.safetensors"), encoded)
    files.write(join(uri, "README.md"), str(fields.get("card", "")).encode())
    files.write(join(uri, "config.json"), (json.dumps(config, indent=2) + "\n").encode())
    return str(config["digest"])


def load(name_or_uri: str) -> Package:
    """A shipped package by its name, or one at any URI. Raises SettingsError with the reason."""
    config, encoded = _files(name_or_uri)
    network = _network(config, encoded, name_or_uri)
    return Package(_name_of(name_or_uri), config["digest"], network, config)


def id_of(name_or_uri: str) -> str:
    """How tables name a package: name@digest. Raises SettingsError where it cannot be loaded.

    A shipped one is known to load once its weights are the right ones, without torch, which takes
    seconds to import.
    """
    config, encoded = _files(name_or_uri)
    if name_or_uri not in shipped_names():
        _network(config, encoded, name_or_uri)
    elif files.exists(join(uris.absolute(name_or_uri), "config.json")):
        _log.warning("%s is the shipped model; ./%s would be the one here", *[name_or_uri] * 2)
    return _id(_name_of(name_or_uri), config["digest"])


def absolute(name_or_uri: str) -> str:
    """The same for the same package, wherever it is asked for: a shipped one's name, or its URI."""
    return name_or_uri if name_or_uri in shipped_names() else uris.absolute(name_or_uri)


def uri_of(name_or_uri: str) -> str:
    """Where a package lies: beside this module if it is a shipped one's name."""
    if name_or_uri in shipped_names():
        return str(SHIPPED / name_or_uri)
    return uris.absolute(name_or_uri)


def shipped_names() -> list[str]:
    return sorted(config.parent.name for config in SHIPPED.glob("*/config.json"))


def shipped_configs() -> list[dict[str, Any]]:
    """The config of each shipped package, with its `name`; no weights are loaded."""
    return [
        {"name": name} | json.loads((SHIPPED / name / "config.json").read_bytes())
        for name in shipped_names()
    ]


def _id(name: str, digest: str) -> str:
    return f"{name}@{digest[:12]}"


def _name_of(name_or_uri: str) -> str:
    return uris.name_of(uris.redact(uri_of(name_or_uri)))


def _files(asked: str) -> tuple[dict[str, Any], bytes]:
    """config.json and the weights that it was saved with."""
    uri = uri_of(asked)
    config = _config(uri, asked)
    encoded = _read(join(uri, "model.safetensors"), asked, 4 * limits.PARAMETERS + _HEADER)
    digest = sha256(encoded).hexdigest()
    if digest != config["digest"]:
        raise SettingsError(
            f"model {uris.redact(asked)}: the weights are not the ones it was saved with "
            f"(SHA-256 {digest[:12]}, config.json says {config['digest'][:12]})"
        )
    return config, encoded


def _config(uri: str, asked: str) -> dict[str, Any]:
    encoded = _read(join(uri, "config.json"), asked, _HEADER)
    try:
        config = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"model {uris.redact(asked)}: config.json is no JSON") from error
    if not isinstance(config, dict):
        raise SettingsError(f"model {uris.redact(asked)}: config.json holds no JSON object")
    for name, kind in _FIELDS.items():
        if name not in config:
            raise SettingsError(f"model {uris.redact(asked)}: config.json has no {name}")
        if not isinstance(config[name], kind):
            raise SettingsError(
                f"model {uris.redact(asked)}: {name} in config.json is {config[name]!r:.60}"
            )
    return config


def _read(uri: str, asked: str, limit: int) -> bytes:
    """A file of a package, of so many bytes at most."""
    name = uris.name_of(uri)
    try:
        size = files.info(uri).size
        if size > limit:
            raise SettingsError(
                f"model {uris.redact(asked)}: {name} has {size:,} bytes, at most {limit:,} may be"
            )
        return files.read(uri)
    except OSError as error:
        raise SettingsError(
            f"model {uris.redact(asked)}: cannot read {name}: {errors.words_of(error)}; a model "
            f"is a shipped one ({', '.join(shipped_names())}) or the URI of a package folder"
        ) from error


def _network(config: Mapping[str, Any], encoded: bytes, asked: str) -> "nn.Module":
    """The network of a package, built on torch's meta device and compared with the header of the
    weights first: so what a config.json asks for costs little."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load as tensors_of

    from denoise.nets.networks import build

    try:
        _check_trusted(config["architecture"])
        with torch.device("meta"):
            model = build(config["architecture"], config["arguments"])
        _check_header(_header(encoded), model)
        weights = {name: weight.float() for name, weight in tensors_of(encoded).items()}
        for name, weight in weights.items():
            if not weight.isfinite().all():
                raise ValueError(f"{name} in its weights holds numbers that are not finite")
        model.load_state_dict(weights, assign=True)
    except (ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingsError(f"model {uris.redact(asked)}: {reason}") from error
    return model.eval()


def _check_trusted(architecture: object) -> None:
    """Raise ValueError where a package names a class of its own that nobody has allowed.

    A package may come from anybody, and to import a module is to run its code.
    """
    allowed = os.environ.get("DENOISE_NETWORKS", "").split(",")
    if ":" in str(architecture) and architecture not in allowed:
        raise ValueError(
            f"its network is {architecture}, which is code of its own: where you trust that, allow "
            f"it by DENOISE_NETWORKS={architecture}"
        )


def _header(encoded: bytes) -> dict[str, Any]:
    """What a safetensors file says of each tensor before the first of them. Raises ValueError."""
    size = int.from_bytes(encoded[:8], "little")
    if not 0 < size <= min(_HEADER, len(encoded) - 8):
        raise ValueError("its weights are no safetensors file, or cut off")
    try:
        header = json.loads(encoded[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise ValueError("the header of its weights is no JSON") from error
    if not isinstance(header, dict):
        raise ValueError("the header of its weights is no JSON object")
    return header


def _check_header(header: Mapping[str, Any], model: "nn.Module") -> None:
    """Raise ValueError where the weights of a file are not those of a network."""
    own = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    for name in sorted(own.keys() ^ header.keys() - {"__metadata__"}):
        how = "are missing" if name in own else "are not of this network"
        raise ValueError(f"the weights {name!r:.60} {how}")
    for name, shape in own.items():
        about = header[name] if isinstance(header[name], dict) else {}
        if about.get("shape") != shape:
            raise ValueError(
                f"{name} is {about.get('shape')!r:.60} in its weights, and {shape} by config.json"
            )
        if about.get("dtype") not in _PRECISIONS:
            raise ValueError(
                f"{name} is {about.get('dtype')!r:.60}, not one of {', '.join(_PRECISIONS)}"
            )
