"""`denoise models`: the shipped models, with their sizes and measured PSNR."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from denoise.nets import package

_NOISE = {"gaussian": "sigma 0.1, clipped", "camera": "camera noise"}


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """Lists the shipped models: size, what they were trained on, measured PSNR."""


def models(_: ModelsConfig) -> dict[str, Any]:
    """What `denoise models` shows: a record and three lines for each shipped model."""
    found = [
        {
            "name": config["name"],
            "architecture": config["architecture"],
            "parameters": config["parameters"],
            "macs_per_pixel": config["macs_per_pixel"],
            "bytes": (package.SHIPPED / config["name"] / "model.safetensors").stat().st_size,
            "kind": config.get("kind", "gaussian"),
            "sigma": config.get("sigma"),
            "trained_on": config.get("training", {}).get("images"),
            "validated_on": config.get("training", {}).get("validation"),
            "validation_psnr": config.get("metrics", {}).get("validation_psnr"),
            "digest": config["digest"],
        }
        for config in package.shipped()
    ]
    table = [line for one in found for line in _lines_of(one)]
    return {"models": found, "table": table}


def _lines_of(one: Mapping[str, Any]) -> list[str]:
    return [
        f"{one['name']:10}{one['parameters'] / 1e3:8.0f} k parameters "
        f"{one['macs_per_pixel'] / 1e3:5.0f} kMAC/pixel {one['bytes'] / 1e6:6.1f} MB "
        f"{one['validation_psnr']:6.2f} dB (validation, {_NOISE[one['kind']]})",
        f"{'':10}trained on {one['trained_on']}",
        f"{'':10}validated on {one['validated_on']}",
    ]
