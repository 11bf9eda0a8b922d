"""`denoise models`: the shipped models: size, one PSNR to compare by, what each is for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from denoise.nets import package

_HEADINGS = f"{'':10}{'CBSD68, 25/255':>15}{'kMAC/pixel':>12}{'MB':>6}  choose it for"


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """List the shipped models: PSNR, size, when to choose which, what they were trained on."""


def models(_: ModelsConfig) -> dict[str, Any]:
    """List the shipped models: a record and three lines for each, below a line of headings.

    cbsd68_psnr is of the 68 pictures of CBSD68 with Gaussian noise of 25/255, neither clipped nor
    rounded, the level not given to the network: the convention of the literature.
    """
    found = [
        {
            "name": config["name"],
            "architecture": config["architecture"],
            "parameters": config["parameters"],
            "macs_per_pixel": config["macs_per_pixel"],
            "bytes": (package.SHIPPED / config["name"] / "model.safetensors").stat().st_size,
            "kind": config.get("kind", "gaussian"),
            "sigma": config.get("sigma"),
            "cbsd68_psnr": config.get("metrics", {}).get("cbsd68_psnr"),
            "choose_if": config.get("choose_if"),
            "weights": config.get("precision"),
            "trained_on": config.get("training", {}).get("images"),
            "validated_on": config.get("training", {}).get("validation"),
            "validation_psnr": config.get("metrics", {}).get("validation_psnr"),
            "digest": config["digest"],
        }
        for config in package.shipped()
    ]
    table = [line for one in found for line in _lines_of(one)]
    return {"models": found, "table": [_HEADINGS, *table]}


def _lines_of(one: Mapping[str, Any]) -> list[str]:
    psnr = "-" if one["cbsd68_psnr"] is None else f"{one['cbsd68_psnr']:.2f} dB"
    return [
        f"{one['name']:10}{psnr:>15}{one['macs_per_pixel'] / 1e3:12.0f}"
        f"{one['bytes'] / 1e6:6.1f}  {one['choose_if'] or ''}".rstrip(),
        f"{'':10}trained on {one['trained_on']}",
        f"{'':10}validated on {one['validated_on']}",
    ]
