"""`denoise models`: the shipped models: size, one PSNR to compare by, what each is for."""

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from denoise.nets import package

_HEADINGS = f"{'':10}{'CBSD68, 25/255':>15}{'kMAC/pixel':>12}{'MB':>6}  choose it for"
_INDENTS: dict[str, Any] = {"initial_indent": " " * 10, "subsequent_indent": " " * 12}
_FIRST = ("photo", "unet")  # those that `auto` takes


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """List the shipped models: PSNR, size, when to choose which, what they were trained on."""


def models(_: ModelsConfig) -> dict[str, Any]:
    """List the shipped models: a record and a few lines for each, below a line of headings.

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
        for config in sorted(package.shipped(), key=_order)
    ]
    table = [line for one in found for line in _lines_of(one)]
    return {"models": found, "table": [_HEADINGS, *table]}


def _order(config: Mapping[str, Any]) -> tuple[bool, str]:
    """Those first that most people need."""
    return config["name"] not in _FIRST, config["name"]


def _lines_of(one: Mapping[str, Any]) -> list[str]:
    psnr = "-" if one["cbsd68_psnr"] is None else f"{one['cbsd68_psnr']:.2f} dB"
    head = (
        f"{one['name']:10}{psnr:>15}{one['macs_per_pixel'] / 1e3:12.0f}"
        f"{one['bytes'] / 1e6:6.1f}  {one['choose_if'] or ''}"
    ).rstrip()
    told = (f"trained on {one['trained_on']}", f"validated on {one['validated_on']}")
    return [head, *(line for words in told for line in wrap(words, 100, **_INDENTS))]
