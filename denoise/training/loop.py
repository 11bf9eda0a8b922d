"""The training loop of one worker: patches in, a state to save every so often out.

Shapes: clean, noisy [N, 3, P, P] float32 on the device; sigma [N].
"""

import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypedDict, Unpack

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from denoise.cores import cores
from denoise.nets.networks import device
from denoise.training.batches import Slice, Worker, batches, pairs_of, prefetch
from denoise.training.learner import Learner, State, check_alike, follow, learner_of
from denoise.training.metrics_log import Record
from denoise.training.photos import Photo
from denoise.training.recipe import Recipe
from denoise.training.samples import Sampler
from denoise.training.validation import Validator, total

LOG_EVERY = 20  # steps between records
WARM_UP = 100  # steps in which the learning rate rises to its height
CLIP_NORM = 0.3  # twice what is usual here, so that a rare batch cannot throw the weights off


class Options(TypedDict, total=False):
    """How to train, where not alone, from the beginning and in silence."""

    state: State | None  # to go on from
    worker: Worker
    compiled: bool
    log: Callable[[Record], None]  # called with each record
    is_leaving: Callable[[], bool]  # asked after each: whether to save at once


class Diverged(ArithmeticError):
    """The loss is no number any more."""


@contextmanager
def without_denormals() -> Iterator[None]:
    """Count numbers below 1e-38 as 0 in this thread and in those that it starts.

    CPUs compute thirty times as long with them, and the averages of gradients that have ended come
    to be such numbers.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def threads() -> Iterator[ThreadPoolExecutor]:
    """A pool of as many threads as torch would use and have cores; each computes alone.

    Torch's own threads split sums, so that their number would change the last bits of the weights.
    """
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        most = min(count, cores())
        with ThreadPoolExecutor(most, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(count)


@contextmanager
def exact_gpu() -> Iterator[None]:
    """Add gradients up in the same order every time, and compute float32 as such, not as TF32."""
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@exact_gpu()
@without_denormals()
def learn(
    recipe: Recipe,
    model: nn.Module,
    sampler: Sampler,
    validation: Sequence[Photo],
    save: Callable[[Learner], None],
    **options: Unpack[Options],
) -> Learner:
    """Train until the last step, or until validation has not improved for `patience` times.

    `save` is called on every worker after each validation, and where `is_leaving`. The weights
    depend on the recipe, the photos, the device and the number of workers, not on threads; on CPUs
    two workers have the bits of one where a batch has an even number of slices. Raises Diverged
    with the step and the paths.
    """
    worker = options.get("worker", Worker())
    learner = learner_of(recipe, model, options.get("state"), worker)
    check_alike(learner, worker)
    # torch.compile's annotation is a callable
    network: nn.Module = torch.compile(learner.model) if options.get("compiled") else learner.model  # type: ignore[assignment]
    log = Log(recipe, sampler, worker, options.get("log", lambda record: None))
    is_leaving = options.get("is_leaving", lambda: False)
    with threads() as pool:
        validator = Validator(recipe, validation, worker, pool)
        if not learner.baseline:
            learner.baseline = {
                "psnr_noisy": validator.psnr_of_noisy(),
                "psnr_start": validator.psnr_of(learner.average),
            }
        steps = log.timed(prefetch(batches(recipe, sampler, worker, learner.step)))
        for step in range(learner.step, recipe.steps):
            if recipe.patience and learner.worse >= recipe.patience:
                break
            set_learning_rate(learner.optimizers, learning_rate_at(recipe, step))
            log.count(backward(network, learner, recipe, next(steps), worker, pool))
            nn.utils.clip_grad_norm_(learner.model.parameters(), CLIP_NORM)
            for optimizer in learner.optimizers:
                optimizer.step()
            follow(learner.average, learner.model, step)
            learner.step = step + 1
            if learner.step % recipe.save_every == 0 or learner.step == recipe.steps:
                quality = validator.psnr_of(learner.average)
                learner.history.append(log.record(learner, quality))
                if not math.isfinite(quality):
                    raise Diverged(f"validation gave a PSNR of {quality} after step {step}")
                learner.rank(quality, worker)
                save(learner)
            elif learner.step % LOG_EVERY == 0:
                learner.history.append(log.record(learner))
                if is_leaving():
                    save(learner)
    return learner


def backward(
    network: nn.Module,
    learner: Learner,
    recipe: Recipe,
    batch: Sequence[Slice],
    worker: Worker,
    pool: ThreadPoolExecutor,
) -> Tensor:
    """This worker's part of the loss of one step; the gradients of all are left in the parameters.

    Slices are added up as a tree, so that neither threads nor a second worker, who has half of it,
    change the sum.
    """
    # a GPU has one queue, and what is compiled is compiled by one thread
    alone = device().type != "cpu" or isinstance(network, torch._dynamo.OptimizedModule)
    each = map if alone else pool.map
    results = each(lambda one: gradients_of(network, recipe, one, learner.precision), batch)
    loss, gradients = sum_of(results, len(batch))
    if worker.world > 1:  # in one piece, so that its parts have one order on every run
        flat = torch.cat([one.flatten() for one in gradients])
        dist.all_reduce(flat)
        pieces = flat.split([one.numel() for one in gradients])
        torch._foreach_copy_(
            gradients, [p.view(g.shape) for p, g in zip(pieces, gradients, strict=True)]
        )
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        parameter.grad = gradient
    return loss


def sum_of(
    results: Iterator[tuple[Tensor, list[Tensor]]], count: int
) -> tuple[Tensor, list[Tensor]]:
    """The sum of the next so many losses and gradients: that of their halves."""
    if count == 1:
        return next(results)
    loss, gradients = sum_of(results, count // 2)
    other, more = sum_of(results, count - count // 2)
    torch._foreach_add_(gradients, more)
    return loss + other, gradients


def gradients_of(
    network: nn.Module, recipe: Recipe, part: Slice, precision: str
) -> tuple[Tensor, list[Tensor]]:
    """The loss of a slice and the gradient of every parameter, by the slice's weight."""
    clean, noisy, sigma = pairs_of(part.patches)
    with torch.autocast(device().type, torch.bfloat16, enabled=precision == "bfloat16"):
        denoised = network(noisy, sigma)
    loss = loss_of(recipe, denoised.float(), clean) * part.weight
    gradients = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)
    return loss.detach(), list(gradients)


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


class Log:
    """Turns losses and times into a record every so often; finds out when a loss is no number."""

    def __init__(
        self, recipe: Recipe, sampler: Sampler, worker: Worker, log: Callable[[Record], None]
    ) -> None:
        self.recipe, self.sampler, self.worker, self.log = recipe, sampler, worker, log
        self.losses: list[Tensor] = []
        self.began, self.waited = time.monotonic(), 0.0

    def timed(self, batches: Iterator[list[Slice]]) -> Iterator[list[Slice]]:
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
        losses = total(torch.stack(self.losses), self.worker).tolist()
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
        } | ({} if quality is None else {"psnr": quality} | learner.baseline)
        self.losses, self.began, self.waited = [], time.monotonic(), 0.0
        self.log(record)
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
