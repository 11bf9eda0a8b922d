"""A network as a graph for programs without this package: torch.export and ONNX.

A graph takes noisy [N, 3, H, W] float32 on 0..1 and sigma [N] (-1 where it is not known) and gives
denoised [N, 3, H, W], for any N, and any H and W from `smallest_side` up.
"""

import logging
import os
import warnings
from collections.abc import Callable
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from denoise.nets.networks import UNKNOWN_SIGMA

_MOST_SIDE = 65_536
Run = Callable[[Tensor, Tensor], Tensor]


def graph_of(model: nn.Module, *, onnx: bool) -> tuple[bytes, Run]:
    """The bytes of a file, and what they do once they are loaded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, to itself
        program = _program(model)
        return _onnx(program) if onnx else _torch(program)


def difference(model: nn.Module, run: Run) -> float:
    """The largest difference to the model over pictures of several sizes."""
    least = smallest_side(model)
    cases = [_example(least, 1, 1), _example(64, 2), _example(97, 3, 3)]
    with torch.inference_mode():
        return max(float((run(*case) - model(*case)).abs().max()) for case in cases)


def smallest_side(model: nn.Module) -> int:
    """Pixels; below that, mirroring would fold twice."""
    return int(model.stride) + 1  # type: ignore[arg-type]  # a Module's attributes have no types


class _AnySize(nn.Module):
    """Pads and crops without a question about the size, so that one graph serves all sizes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.stride = int(model.stride)  # type: ignore[arg-type]  # untyped in torch

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        height, width = noisy.shape[-2:]
        x = self.padded(self.padded(noisy, -2, height), -1, width)
        denoised: Tensor = self.model(x, sigma)
        # not by slices: those ask whether they cut anything off
        return denoised.index_select(-2, torch.arange(height)).index_select(-1, torch.arange(width))

    def padded(self, x: Tensor, dim: int, size: int) -> Tensor:
        """Mirrored at the end up to a multiple of the stride, as the model itself does it."""
        index = torch.arange((size + self.stride - 1) // self.stride * self.stride)
        return x.index_select(dim, torch.minimum(index, 2 * (size - 1) - index))


def _example(side: int, seed: int, count: int = 2) -> tuple[Tensor, Tensor]:
    """Noise of a size that no network pads the same way on both axes."""
    random = torch.Generator().manual_seed(seed)
    sigma = torch.linspace(0.05, 0.2, count)
    sigma[-1] = UNKNOWN_SIGMA
    return torch.rand(count, 3, side, side + 3, generator=random), sigma


def _program(model: nn.Module) -> ExportedProgram:
    count, least = Dim("count", max=4096), smallest_side(model)
    sides = {
        2: Dim("height", min=least, max=_MOST_SIDE),
        3: Dim("width", min=least, max=_MOST_SIDE),
    }
    shapes = {"noisy": {0: count, **sides}, "sigma": {0: count}}
    return torch.export.export(_AnySize(model).eval(), _example(61, 0), dynamic_shapes=shapes)


def _torch(program: ExportedProgram) -> tuple[bytes, Run]:
    buffer = BytesIO()
    torch.export.save(program, buffer)
    loaded: Any = torch.export.load(BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), loaded


def _onnx(program: ExportedProgram) -> tuple[bytes, Run]:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # which would leave a file in ~/.cache
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision; we do not
    made = torch.onnx.export(
        program,
        dynamo=True,
        input_names=["noisy", "sigma"],
        output_names=["denoised"],
        external_data=False,
        verbose=False,
    )
    assert made is not None
    encoded: bytes = made.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(encoded, providers=["CPUExecutionProvider"])

    def run(noisy: Tensor, sigma: Tensor) -> Tensor:
        given = {"noisy": noisy.numpy(), "sigma": sigma.numpy()}
        return torch.from_numpy(session.run(None, given)[0])

    return encoded, run
