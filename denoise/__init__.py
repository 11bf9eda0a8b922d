"""Removes noise from images in bulk; the public names, loaded when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from denoise.nets.batch_denoiser import BatchDenoiser as BatchDenoiser
    from denoise.nets.denoiser import Denoiser as Denoiser
    from denoise.runners.ray_session import session as session
    from denoise.verbs.infer import InferConfig as InferConfig
    from denoise.verbs.infer import infer as infer
    from denoise.verbs.noise import NoiseConfig as NoiseConfig
    from denoise.verbs.noise import noise as noise
    from denoise.verbs.plan import PlanConfig as PlanConfig
    from denoise.verbs.plan import plan as plan
    from denoise.verbs.report import ReportConfig as ReportConfig
    from denoise.verbs.report import report as report
    from denoise.verbs.train import TrainConfig as TrainConfig
    from denoise.verbs.train import train as train

__version__ = "0.1.0"
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
__all__ = list(_HOMES)  # as the imports above name them


def __getattr__(name: str) -> Any:
    """Loads a public name when first asked for: importing denoise loads neither torch nor ray."""
    if name not in _HOMES:
        raise AttributeError(f"module 'denoise' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
