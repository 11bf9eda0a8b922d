"""What decides a training's weights, beside the images."""

from dataclasses import dataclass
from typing import Literal, get_args

from denoise.images.noise import check_seed, check_sigma

_LARGEST_PATCH = 4096  # smaller photos are made as large
Loss = Literal["l1", "charbonnier", "mse", "rmse"]
Optimizer = Literal["muon", "adamw"]
Kind = Literal["gaussian", "camera"]
Precision = Literal["auto", "float32", "bfloat16"]
_CHOICES = {
    "kind": get_args(Kind),
    "loss": get_args(Loss),
    "optimizer": get_args(Optimizer),
    "precision": get_args(Precision),
}
# optimizer -> the usual learning rates of fresh weights and of trained ones
RATES = {"muon": (3e-3, 3e-4), "adamw": (1e-3, 1e-4)}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the weights, beside the images."""

    kind: Kind = "gaussian"  # kind of noise; camera: as cameras make it, of all strengths
    # standard deviation of Gaussian noise, on the 0..1 scale: SIGMA, or MIN MAX for a model that
    # is to remove any between; else 0.1
    sigma: float | tuple[float, float] | None = None
    steps: int = 2000  # batches to train on
    batch_size: int = 16  # patches a step, over all workers together
    patch: int = 64  # side of a training patch in pixels
    seed: int = 0  # of the patches and their noise: sample i is made from this and i
    # highest learning rate; else 0.003, with --init 0.0003 (for adamw 0.001 and 0.0001)
    learning_rate: float | None = None
    loss: Loss = "l1"  # the difference that training makes small
    optimizer: Optimizer = "muon"  # muon (AdamW for what Muon does not fit), or adamw
    # what convolutions compute in; auto: bfloat16 on GPUs and CPUs made for it, else float32. The
    # same number of workers gives the same bits; another gives the same losses but for rounding
    precision: Precision = "auto"
    accumulate: int = 1  # parts that a worker's share of a batch is cut into, to save memory
    save_every: int = 500  # steps between validations; each one is a checkpoint to resume from
    patience: int = 0  # stop after so many validations without a better PSNR; 0: never

    def __post_init__(self) -> None:
        if self.kind == "camera" and self.sigma is not None:
            raise ValueError(
                "camera noise has no sigma: its strength is drawn for each sample; leave --sigma "
                f"out, or use --kind gaussian, got sigma {self.sigma}"
            )
        low, high = self.sigmas
        check_sigma("sigma", low)
        check_sigma("sigma", high)
        check_seed(self.seed)
        if low > high:
            raise ValueError(f"sigma must be SIGMA or MIN MAX, ascending, got {low} {high}")
        self._check_counts()
        for name, words in _CHOICES.items():
            if getattr(self, name) not in words:
                choices, chosen = ", ".join(words), getattr(self, name)
                raise ValueError(f"{name} must be one of {choices}, got {chosen}")
        if self.patience < 0:
            raise ValueError(f"patience must be at least 0, got {self.patience}")
        if not 0 < self.rate <= 1:
            raise ValueError(f"learning-rate must lie in 0..1, got {self.rate}")

    def _check_counts(self) -> None:
        for name in ("steps", "batch_size", "patch", "accumulate", "save_every"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"{flag} must be at least 1, got {getattr(self, name)}")
        if self.patch > _LARGEST_PATCH:
            raise ValueError(f"patch must be at most {_LARGEST_PATCH}, got {self.patch}")

    @property
    def rate(self) -> float:
        """The learning rate, after the warm-up and before the cosine."""
        fresh, _ = RATES[self.optimizer]
        return fresh if self.learning_rate is None else self.learning_rate

    @property
    def sigmas(self) -> tuple[float, float]:
        """The least and the greatest sigma of Gaussian noise."""
        if isinstance(self.sigma, tuple):
            return self.sigma
        sigma = 0.1 if self.sigma is None else self.sigma
        return sigma, sigma
