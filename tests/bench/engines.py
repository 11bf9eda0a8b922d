"""What a network costs in one thread of a CPU: torch as the job runs it, otherwise, and elsewhere.

python -m tests.bench.engines [MODEL ...] [--side 768] [--rounds 5]

All compute the same picture in turns, and the best round of each counts, in seconds of the
processor, so that a busy machine disturbs little. "pipeline" counts decoding (JPEG), noise,
measuring and encoding (PNG) of that picture too: what a worker of `infer` does on one core. The
peak is that of a large single-precision matrix product, in the same thread. bfloat16 is left out
where the CPU has none. onnxruntime and openvino are from PyPI; what is not installed is left out.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch

from denoise.images.codec import Picture, decode, encode, to_floats, to_pixels
from denoise.images.metrics import mse
from denoise.images.noise import add_noise
from denoise.nets import package
from denoise.nets.export import graph_of
from denoise.nets.networks import UNKNOWN_SIGMA
from denoise.nets.precision import PRECISIONS, can_do, runnable
from tests.bench.quality import peak
from tests.conftest import encoded, photo

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["unet"])
    parser.add_argument("--side", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    jpeg = encoded(photo(asked.side, asked.side), "JPEG", quality=90)
    clean = decode(jpeg)
    floats = add_noise(to_floats(clean.pixels), sigma=0.1, seed=0)
    noisy = torch.from_numpy(floats).permute(2, 0, 1)[None].contiguous()  # [1, 3, H, W]
    print("| model | engine | megapixels/s | of the peak | pipeline | largest difference |")
    print("|---|---|---|---|---|---|")
    for model in asked.models:
        network = package.load(model).model.eval()
        engines = dict(engines_of(network, noisy))
        first = next(iter(engines.values()))()
        off = {name: np.abs(run() - first).max() for name, run in engines.items()}
        best = dict.fromkeys([*engines, "the rest"], float("inf"))
        highest = 0.0
        for _ in range(asked.rounds):
            highest = max(highest, peak(time.process_time))
            for name, run in [*engines.items(), ("the rest", partial(the_rest, jpeg, first))]:
                start = time.process_time()
                run()
                best[name] = min(best[name], time.process_time() - start)
        rest = best.pop("the rest")
        for name, seconds in best.items():
            speed, whole = (asked.side**2 / 1e6 / each for each in (seconds, seconds + rest))
            share = speed * network.macs_per_pixel / 1e3 / highest
            print(
                f"| {model} | {name} | {speed:.2f} | {share:.0%} | {whole:.2f} | {off[name]:.1e} |",
                flush=True,
            )


def the_rest(jpeg: bytes, denoised: np.ndarray) -> bytes:
    """What a worker does with an image beside the network. denoised [1, 3, H, W]."""
    clean = decode(jpeg).pixels
    noisy = to_pixels(add_noise(to_floats(clean), sigma=0.1, seed=0), 8)
    stored = to_pixels(denoised[0].transpose(1, 2, 0), 8)
    assert mse(stored, clean) < mse(noisy, clean)
    return encode(Picture(pixels=stored), format="png")


def engines_of(network: torch.nn.Module, noisy: torch.Tensor) -> Iterator[tuple[str, Callable]]:
    """Names, and what gives [1, 3, H, W] float32."""
    sigma = torch.full((1,), UNKNOWN_SIGMA)

    def by_torch(model: Callable, layout: torch.memory_format) -> Callable:
        @torch.inference_mode()
        def run() -> np.ndarray:
            return model(noisy.contiguous(memory_format=layout), sigma).numpy()

        return run

    def autocast(plain: Callable) -> Callable:
        def run() -> np.ndarray:
            with torch.autocast("cpu", torch.bfloat16):
                return plain()

        return run

    last = deepcopy(network).to(memory_format=torch.channels_last)
    for precision in ("float32", "bfloat16"):
        if can_do(precision, CPU):
            fused = runnable(network, precision, CPU)
            yield f"{precision}, as the job", by_torch(fused, torch.channels_last)
            plain = deepcopy(last).to(PRECISIONS[precision])
            yield f"{precision}, not fused", by_torch(plain, torch.channels_last)
    if can_do("bfloat16", CPU):
        yield "bfloat16, autocast", autocast(by_torch(last, torch.channels_last))
    yield "float32, channels first", by_torch(network, torch.contiguous_format)
    yield from elsewhere(network, noisy, sigma)


def elsewhere(
    network: torch.nn.Module, noisy: torch.Tensor, sigma: torch.Tensor
) -> Iterator[tuple[str, Callable]]:
    """The same for engines that read ONNX."""
    graph, _ = graph_of(network, onnx=True) if find_spec("onnxruntime") else (b"", None)
    given = {"noisy": noisy.numpy(), "sigma": sigma.numpy()}
    if graph:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        yield "onnxruntime", lambda: session.run(None, given)[0]
    if graph and find_spec("openvino"):
        import openvino

        read = openvino.Core().read_model(graph)
        for hint in ("f32", "bf16"):
            settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": hint}
            compiled = openvino.compile_model(read, "CPU", settings)
            used = {port.any_name: given[port.any_name] for port in compiled.inputs}
            yield f"openvino, {hint}", lambda run=compiled, used=used: run(used)[0]


if __name__ == "__main__":
    main()
