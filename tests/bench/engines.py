"""What a network costs in one thread of a CPU: torch as the job runs it, otherwise, and elsewhere.

python -m tests.bench.engines [MODEL ...] [--side 768] [--rounds 5]

All compute the same picture in turns, and the best round of each counts, in seconds of the
processor, so that a busy machine disturbs little. The peak is that of a large single-precision
matrix product, in the same thread. onnxruntime and openvino are from PyPI; what is not installed is
left out.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib.util import find_spec

import numpy as np
import torch

from denoise.nets import package
from denoise.nets.export import graph_of
from denoise.nets.networks import UNTOLD
from tests.bench.quality import peak
from tests.conftest import photo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["unet"])
    parser.add_argument("--side", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    picture = photo(asked.side, asked.side).astype(np.float32) / 255
    noisy = torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()  # [1, 3, H, W]
    print("| model | engine | megapixels/s | of the peak | largest difference |")
    print("|---|---|---|---|---|")
    for model in asked.models:
        network = package.load(model).model.eval()
        engines = dict(engines_of(network, noisy))
        first = next(iter(engines.values()))()
        off = {name: np.abs(run() - first).max() for name, run in engines.items()}
        best = dict.fromkeys(engines, float("inf"))
        highest = 0.0
        for _ in range(asked.rounds):
            highest = max(highest, peak(time.process_time))
            for name, run in engines.items():
                start = time.process_time()
                run()
                best[name] = min(best[name], time.process_time() - start)
        for name, seconds in best.items():
            speed = asked.side**2 / 1e6 / seconds
            share = speed * network.macs_per_pixel / 1e3 / highest
            print(f"| {model} | {name} | {speed:.2f} | {share:.0%} | {off[name]:.1e} |", flush=True)


def engines_of(network: torch.nn.Module, noisy: torch.Tensor) -> Iterator[tuple[str, Callable]]:
    """Names, and what gives [1, 3, H, W] float32."""
    sigma = torch.full((1,), UNTOLD)

    def by_torch(model: torch.nn.Module, layout: torch.memory_format) -> Callable:
        @torch.inference_mode()
        def run() -> np.ndarray:
            return model(noisy.contiguous(memory_format=layout), sigma).numpy()

        return run

    last = deepcopy(network).to(memory_format=torch.channels_last)
    yield "torch, channels last", by_torch(last, torch.channels_last)
    yield "torch, channels first", by_torch(network, torch.contiguous_format)
    encoded, _ = graph_of(network, onnx=True) if find_spec("onnxruntime") else (b"", None)
    given = {"noisy": noisy.numpy(), "sigma": sigma.numpy()}
    if encoded:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(encoded, options, ["CPUExecutionProvider"])
        yield "onnxruntime", lambda: session.run(None, given)[0]
    if encoded and find_spec("openvino"):
        import openvino

        read = openvino.Core().read_model(encoded)
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.compile_model(read, "CPU", settings)
        used = {port.any_name: given[port.any_name] for port in compiled.inputs}
        yield "openvino", lambda: compiled(used)[0]


if __name__ == "__main__":
    main()
