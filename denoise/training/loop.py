"""The training loop of one worker: patches in, a state to save every so often out.

Shapes: clean, noisy [N, 3, P, P] float32 on the device; sigma [N].
"""

import copy
import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from denoise.nets.networks import device
from denoise.training.batches import Part, pairs_of, parts, prefetched
from denoise.training.metrics_log import Record
from denoise.training.optimizer import optimizers_for
from denoise.training.photos import Photo
from denoise.training.recipe import Recipe
from denoise.training.samples import Sampler
from denoise.training.validation import Judge, Share, added

LOG_EVERY = 20  # steps between records
WARM_UP = 100  # steps in which the learning rate rises to its height
CLIP_NORM = 0.3  # twice what is usual here, so that a rare batch cannot throw the weights off
AVERAGE_DECAY = 0.999  # of the weights' moving average, which is what is validated and kept

State = dict[str, Any]


class Options(TypedDict, total=False):
    """How to train, where not alone, from the beginning and in silence."""

    state: State | None  # to go on from
    share: Share
    compiled: bool
    tell: Callable[[Record], None]  # called with each record


class Diverged(ArithmeticError):
    """The loss is no number any more."""


@dataclass
class Learner:
    """What training changes: saved whole, it goes on as if nothing had been."""

    model: nn.Module
    average: nn.Module  # moving average of the weights
    optimizers: list[torch.optim.Optimizer]
    step: int = 0  # the next one
    best: float = -math.inf  # PSNR in dB
    worse: int = 0  # validations since the best one
    history: list[Record] = field(default_factory=list)

    def state(self) -> State:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [one.state_dict() for one in self.optimizers],
            "rest": {key: getattr(self, key) for key in ("step", "best", "worse", "history")},
        }

    def restore(self, state: State) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for key, value in state["rest"].items():
            setattr(self, key, value)


@contextmanager
def without_denormals() -> Iterator[None]:
    """Numbers below 1e-38 count as 0 in this thread and those it starts: CPUs compute thirty times
    as long with them, and the averages of gradients that have ended come to be such numbers."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@without_denormals()
def learn(
    recipe: Recipe,
    model: nn.Module,
    sampler: Sampler,
    validation: Sequence[Photo],
    save: Callable[[Learner], None],
    **options: Unpack[Options],
) -> Learner:
    """Trains until the last step, or until validation has not improved for `patience` times.

    `save` is called on every worker after each validation. Raises Diverged with the step and the
    paths.
    """
    share = options.get("share", Share())
    learner = learner_of(recipe, model, options.get("state"))
    network = parallel(recipe, learner.model, share, compiled=options.get("compiled", False))
    judge = Judge(recipe, validation, share)
    log = Log(recipe, sampler, share, options.get("tell", lambda record: None))
    batches = log.timed(prefetched(parts(recipe, sampler, share, learner.step)))
    for step in range(learner.step, recipe.steps):
        if recipe.patience and learner.worse >= recipe.patience:
            break
        set_learning_rate(learner.optimizers, learning_rate_at(recipe, step))
        loss = backward(network, recipe, batches)
        nn.utils.clip_grad_norm_(learner.model.parameters(), CLIP_NORM)
        for optimizer in learner.optimizers:
            optimizer.step()
        follow(learner.average, learner.model, step)
        learner.step = step + 1
        log.count(loss)
        is_last = learner.step == recipe.steps
        if learner.step % recipe.save_every == 0 or is_last:
            quality = judge.psnr_of(learner.average)
            learner.history.append(log.record(learner, quality))
            if not math.isfinite(quality):
                raise Diverged(f"validation gave a PSNR of {quality} after step {step}")
            learner.worse = 0 if quality > learner.best else learner.worse + 1
            learner.best = max(quality, learner.best)
            save(learner)
        elif learner.step % LOG_EVERY == 0:
            learner.history.append(log.record(learner))
    return learner


def learner_of(recipe: Recipe, model: nn.Module, state: State | None) -> Learner:
    """The network on its device, its average and its optimizers, fresh or as they were saved."""
    torch.backends.cudnn.deterministic = True  # else a GPU adds gradients up in any order
    # channels last: steps of unet, cae-s, classic are 1.10, 1.42, 1.48 times as fast on a CPU core
    # torch's annotations lack a memory format beside a device
    model = model.to(device(), memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval().requires_grad_(False)
    learner = Learner(model, average, optimizers_for(recipe, model))
    if state:
        learner.restore(state)
    return learner


def parallel(recipe: Recipe, model: nn.Module, share: Share, *, compiled: bool) -> nn.Module:
    """The network as its workers train it together."""
    # torch.compile's annotation is a callable
    network: nn.Module = torch.compile(model) if compiled else model  # type: ignore[assignment]
    if share.world == 1:
        return network
    together = DistributedDataParallel(network, gradient_as_bucket_view=True)  # without a copy
    # Its first pass decides in which order gradients are exchanged from then on. Before the first
    # step, or a restarted run would add up those of three and more workers in another order.
    # (find_unused_parameters=True keeps the order too, but a step takes a fifth longer with it.)
    size = recipe.batch_size // (share.world * recipe.accumulate)
    nothing = torch.zeros(size, 3, recipe.patch, recipe.patch, device=device())
    together(nothing, torch.zeros(size, device=device())).mean().backward()
    together.zero_grad()
    return together


def backward(network: nn.Module, recipe: Recipe, batches: Iterator[Part]) -> Tensor:
    """This worker's share of the loss of one step, its gradients left in the parameters."""
    network.zero_grad()
    total = torch.zeros((), device=device())
    for number in range(recipe.accumulate):
        part = next(batches)
        clean, noisy, sigma = pairs_of(part.patches)
        if isinstance(network, DistributedDataParallel):
            network.require_backward_grad_sync = number == recipe.accumulate - 1
        with torch.autocast(device().type, torch.bfloat16, enabled=in_bfloat16(recipe)):
            denoised = network(noisy, sigma)
        loss = loss_of(recipe, denoised.float(), clean) * part.weight
        loss.backward()
        total += loss.detach()
    return total


def in_bfloat16(recipe: Recipe) -> bool:
    """Whether convolutions are computed in bfloat16; weights, their average and losses never are.

    On a CPU only where asked for: with AVX-512 BF16 or AMX a step takes half the time, without them
    ten times as long. Losses then depend on the number of workers by more than 1e-5.
    """
    if recipe.precision != "auto":
        return recipe.precision == "bfloat16"
    return device().type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def loss_of(recipe: Recipe, denoised: Tensor, clean: Tensor) -> Tensor:
    if recipe.loss == "l1":
        return F.l1_loss(denoised, clean)
    if recipe.loss == "mse":
        return F.mse_loss(denoised, clean)
    if recipe.loss == "rmse":  # each patch's own: easy ones count more, as in a mean PSNR
        return torch.sqrt(((denoised - clean) ** 2).mean((1, 2, 3)) + 1e-6).mean()
    return torch.sqrt((denoised - clean) ** 2 + 1e-6).mean()  # Charbonnier et al. 1994


def set_learning_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


def learning_rate_at(recipe: Recipe, step: int) -> float:
    """A straight rise, then half a cosine down to 1 % at the last step."""
    rise = min(1.0, (step + 1) / min(WARM_UP, recipe.steps))
    fall = 0.505 + 0.495 * math.cos(math.pi * step / recipe.steps)
    return recipe.rate * rise * fall


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, step: int) -> None:
    """Moves the average a little towards the weights, faster in the beginning."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


class Log:
    """Turns losses and times into a record every so often; finds out when a loss is no number."""

    def __init__(
        self, recipe: Recipe, sampler: Sampler, share: Share, tell: Callable[[Record], None]
    ) -> None:
        self.recipe, self.sampler, self.share, self.tell = recipe, sampler, share, tell
        self.losses: list[Tensor] = []
        self.began, self.waited = time.monotonic(), 0.0

    def timed(self, batches: Iterator[Part]) -> Iterator[Part]:
        """The batches, with the time spent waiting for each."""
        while True:
            start = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def count(self, loss: Tensor) -> None:
        self.losses.append(loss)

    def record(self, learner: Learner, quality: float | None = None) -> Record:
        """What has been since the last record. Raises Diverged."""
        losses = (added(torch.stack(self.losses), self.share) / self.share.world).tolist()
        self._check(losses, learner.step - len(losses))
        spent = time.monotonic() - self.began
        record = {
            "step": learner.step,
            "loss": sum(losses) / len(losses),
            "learning_rate": learning_rate_at(self.recipe, learner.step - 1),
            "images_per_second": len(losses) * self.recipe.batch_size / spent,
            "seconds_per_step": spent / len(losses),
            "data_wait": self.waited / spent,  # share of the time
            "memory_gib": memory_gib(),
        } | ({} if quality is None else {"psnr": quality})
        self.losses, self.began, self.waited = [], time.monotonic(), 0.0
        self.tell(record)
        return record

    def _check(self, losses: list[float], first: int) -> None:
        for step, loss in enumerate(losses, first):
            if not math.isfinite(loss):
                batch = self.sampler.patches(step * self.recipe.batch_size, self.recipe.batch_size)
                paths = ", ".join(sorted(set(batch.paths)))
                raise Diverged(
                    f"the loss was {loss} at step {step}; its batch came from {paths}; "
                    "a lower --learning-rate may help"
                )


def memory_gib() -> float:
    """The most memory this worker has held: of the GPU where it has one."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
