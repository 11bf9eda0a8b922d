"""Removes noise from images in bulk; the public names, loaded when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denoise.nets.batch_denoiser import BatchDenoiser
    from denoise.nets.denoiser import Denoiser
    from denoise.runners.ray_session import session
    from denoise.verbs.infer import InferConfig, infer
    from denoise.verbs.noise import NoiseConfig, noise
    from denoise.verbs.plan import PlanConfig, plan
    from denoise.verbs.report import ReportConfig, report
    from denoise.verbs.train import TrainConfig, train

__version__ = "0.1.0"
__all__ = [
    "BatchDenoiser",
    "Denoiser",
    "InferConfig",
    "NoiseConfig",
    "PlanConfig",
    "ReportConfig",
    "TrainConfig",
    "infer",
    "noise",
    "plan",
    "report",
    "session",
    "train",
]

_HOMES = {
    "BatchDenoiser": "denoise.nets.batch_denoiser",
    "Denoiser": "denoise.nets.denoiser",
    "InferConfig": "denoise.verbs.infer",
    "infer": "denoise.verbs.infer",
    "NoiseConfig": "denoise.verbs.noise",
    "noise": "denoise.verbs.noise",
    "PlanConfig": "denoise.verbs.plan",
    "plan": "denoise.verbs.plan",
    "ReportConfig": "denoise.verbs.report",
    "report": "denoise.verbs.report",
    "session": "denoise.runners.ray_session",
    "TrainConfig": "denoise.verbs.train",
    "train": "denoise.verbs.train",
}


def __getattr__(name: str) -> Any:
    """Loads a public name when first asked for: importing denoise loads neither torch nor ray."""
    if name not in _HOMES:
        raise AttributeError(f"module 'denoise' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
