"""How many machines, how long and what it costs: computed from rates that were measured.

python -m cluster.sizing                      prints the table of cluster/README.md
python -m cluster.sizing --measure FOLDER     prints it with the rates of one core of this machine
"""

import sys
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from denoise.output.manifest import shard_rows


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one core does, in megapixels a second; bytes a pixel of RGB, 8 bits."""

    decode: float  # JPEG
    noise: float
    network: float  # the shipped unet, on the CPU, one thread
    measure: float  # two MSEs, and the noise before and after
    encode: float  # PNG, as shipped
    bytes_in: float  # a pixel of the JPEGs
    bytes_out: float  # a pixel of the PNGs


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a machine has and costs; by the data sheet of us-west-2, spot at a third of it."""

    name: str
    vcpus: int
    dollars: float  # an hour
    gpu: float = 0.0  # megapixels/s of the network


# 40 photographs of 600x600 pixels, JPEG, objects on black, on one core of 2 with AMX, which
# m7i machines have too: the network computes in bfloat16. The best of three runs: others
# use this machine too.
MEASURED = Rates(
    decode=77.5,
    noise=45.4,
    network=3.74,
    measure=59.8,
    encode=110.7,
    bytes_in=0.061,
    bytes_out=0.624,
)
VCPU = 0.6  # a vCPU of a cloud is half a core with two threads: so much of the core measured here
# No GPU was at hand: 50 kMAC a pixel, in float16, at a tenth of the 60 TMAC/s that the card is sold
# with, since the network's layers are narrow.
CPU_NODE = Machine(name="m7i.2xlarge, spot", vcpus=8, dollars=0.134)
GPU_NODE = Machine(name="g6.2xlarge (L4), spot", vcpus=8, dollars=0.326, gpu=120.0)
PUT, GET = 5e-6, 0.4e-6  # dollars a request
STORED = 0.023  # dollars a GB and month


def table(rates: Rates) -> str:
    """The sizing table, as Markdown."""
    rest = 1 / (1 / rates.decode + 1 / rates.noise + 1 / rates.measure + 1 / rates.encode)
    alone = 1 / (1 / rest + 1 / rates.network)
    lines = [
        "| one vCPU, stage by stage (measured, times 0.6) | megapixels/s |",
        "| --- | ---: |",
        *(
            f"| {stage} | {getattr(rates, stage) * VCPU:.3g} |"
            for stage in ("decode", "noise", "network", "measure", "encode")
        ),
        f"| all of it (computed) | {alone * VCPU:.2f} |",
        f"| all but the network (computed) | {rest * VCPU:.1f} |",
        "",
        f"An L4 does about {GPU_NODE.gpu:.0f} megapixels/s of the network (computed from its data "
        f"sheet): {GPU_NODE.gpu / (rest * VCPU):.0f} vCPUs keep one busy, and with the "
        f"{GPU_NODE.vcpus} of a {GPU_NODE.name.split()[0]}, which decode and encode, a node does "
        f"{gpu_node(rest):.0f}.",
        "",
        "| a million photographs (computed) of | 0.36 MP | 2 MP | 12 MP |",
        "| --- | ---: | ---: | ---: |",
    ]
    columns = [costs(rates, size, rest, alone) for size in (0.36, 2.0, 12.0)]
    return "\n".join(
        lines + [f"| {what} | {' | '.join(c[what] for c in columns)} |" for what in columns[0]]
    )


def gpu_node(rest: float) -> float:
    """Megapixels/s of a node with a GPU, whose vCPUs decode, add noise, measure and encode."""
    return min(GPU_NODE.gpu, rest * VCPU * GPU_NODE.vcpus)


def costs(rates: Rates, size: float, rest: float, alone: float) -> dict[str, str]:
    """What a million images of `size` megapixels take."""
    megapixels = size * 1e6
    cpu_hours = megapixels / (alone * VCPU) / 3600 / CPU_NODE.vcpus
    gpu_hours = megapixels / gpu_node(rest) / 3600
    read, written = (megapixels * 1e6 * each / 1e9 for each in (rates.bytes_in, rates.bytes_out))
    shards = 1e6 / shard_rows(1_000_000, round(megapixels * 1e6 * rates.bytes_in))
    requests = 1e6 * GET + 2 * shards * (PUT + GET)
    return {
        f"hours of {CPU_NODE.name}": f"{cpu_hours:,.0f}",
        "... dollars": f"{cpu_hours * CPU_NODE.dollars:,.2f}",
        f"or hours of {GPU_NODE.name}": f"{gpu_hours:,.1f}",
        "... dollars ": f"{gpu_hours * GPU_NODE.dollars:,.2f}",
        "GB read / written": f"{read:,.0f} / {written:,.0f}",
        "requests to the store, dollars": f"{requests:,.2f}",
        "keeping the result, dollars a month": f"{written * STORED:,.0f}",
        "images/s of 100 vCPUs": f"{100 * alone * VCPU / size:,.1f}",
        "MB/s they read / write": f"{100 * alone * VCPU * rates.bytes_in:,.1f} / "
        f"{100 * alone * VCPU * rates.bytes_out:,.1f}",
    }


def measured(folder: Path, count: int = 40) -> Rates:
    """Measure the rates of one core, by the function that a worker calls for each shard."""
    import torch

    from denoise import InferConfig
    from denoise.output import tables
    from denoise.output.shard import ShardTask
    from denoise.runners import Allocation
    from denoise.storage.found import LeftOut
    from denoise.storage.inputs import entries
    from denoise.verbs import infer
    from denoise.verbs.infer_shard import worker

    torch.set_num_threads(1)
    listed = list(islice(entries(str(folder), LeftOut()), count))
    with TemporaryDirectory() as output:
        flags = InferConfig(images=str(folder), output=output, add_noise=0.1)
        config, model, _ = infer.prepare(flags)
        work = worker(Allocation(), config, model)
        list(work([ShardTask(output, 0, listed[:1])]))  # warms up
        (counts,) = work([ShardTask(output, 1, sorted(listed, key=lambda entry: entry.path))])
        written = sum(len(row["image"]["bytes"]) for row in tables.part(output, 1) if row["image"])
    rates = {
        stage: round(counts.pixels / 1e6 / counts.seconds[stage], 2)
        for stage in ("decode", "noise", "network", "measure", "encode")
    }
    read = sum(entry.size for entry in listed)
    return Rates(
        **rates,
        bytes_in=round(read / counts.pixels, 3),
        bytes_out=round(written / counts.pixels, 3),
    )


def main() -> None:
    rates = measured(Path(sys.argv[2])) if sys.argv[1:2] == ["--measure"] else MEASURED
    sys.stdout.write(f"{asdict(rates)}\n\n{table(rates)}\n")


if __name__ == "__main__":
    main()
