"""`denoise models`: the shipped models: figures to compare by, what each is for."""

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from denoise.nets import package

_MEASURED = ("cbsd68_psnr", "real_pairs_psnr", "megapixels_per_second")
_NOISY = {"cbsd68_psnr": 20.53, "real_pairs_psnr": 36.19}  # of the pictures before denoising
_HEADINGS = f"{'':8}{'CBSD68':>10}{'real pairs':>11}{'megapixels/s':>13}{'MB':>5}  choose it for"
_NOTES = (
    "CBSD68: with Gaussian noise of 25/255 as the literature adds it, the level not given",
    "real pairs: 55 photographs of three Canon cameras (PolyU), against the mean of some 500 shots",
    "megapixels/s: one core of an EPYC, bfloat16 by AVX-512; `denoise compare` measures yours",
)
_FIRST = ("photo", "unet")  # those that `auto` takes


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """List the shipped models: PSNR, speed, when to choose which, what they were trained on."""


def models(_: ModelsConfig) -> dict[str, Any]:
    """List the shipped models: a record and a few lines for each, below a line of headings.

    cbsd68_psnr is of the 68 pictures of CBSD68 with Gaussian noise of 25/255, neither clipped nor
    rounded, the level not given to the network: the convention of the literature. real_pairs_psnr
    is of photographs with the noise of cameras. None where a model is not made for the pictures.
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
            **{name: config.get("metrics", {}).get(name) for name in _MEASURED},
            "choose_if": config.get("choose_if"),
            "weights": config.get("precision"),
            "trained_on": config.get("training", {}).get("images"),
            "validated_on": config.get("training", {}).get("validation"),
            "validation_psnr": config.get("metrics", {}).get("validation_psnr"),
            "digest": config["digest"],
        }
        for config in sorted(package.shipped_configs(), key=_order)
    ]
    figures = [_figures("noisy", _NOISY), *map(_line_of, found)]
    origins = [line for one in found for line in _origins(one)]
    return {"models": found, "table": [_HEADINGS, *figures, "", *_NOTES, "", *origins]}


def _order(config: Mapping[str, Any]) -> tuple[bool, str]:
    """Those first that most people need."""
    return config["name"] not in _FIRST, config["name"]


def _line_of(one: Mapping[str, Any]) -> str:
    size = f"{one['bytes'] / 1e6:5.1f}  {one['choose_if'] or ''}"
    return (_figures(one["name"], one) + size).rstrip()


def _origins(one: Mapping[str, Any]) -> list[str]:
    """What a model was trained and validated on, on lines that fit."""
    words = f"trained on {one['trained_on']}; validated on {one['validated_on']}"
    name, below = f"{one['name']:8}", " " * 8
    return wrap(words, 100, initial_indent=name, subsequent_indent=below, break_on_hyphens=False)


def _figures(name: str, measured: Mapping[str, Any]) -> str:
    """The beginning of a line: what was measured, a dash where that is nothing."""
    cbsd68, real_pairs, speed = (measured.get(column) for column in _MEASURED)
    decibels = ["-" if psnr is None else f"{psnr:.2f} dB" for psnr in (cbsd68, real_pairs)]
    pace = "-" if speed is None else f"{speed:.1f}"
    return f"{name:8}{decibels[0]:>10}{decibels[1]:>11}{pace:>13}"
