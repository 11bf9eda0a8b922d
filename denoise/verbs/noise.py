"""The noise job: images -> a table of clean and noisy pairs."""

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import tee
from typing import Any, get_args

from denoise.images.noise import check_sigma
from denoise.images.pairs import Kind, Pair, PairConfig, errors_of
from denoise.output.shard import Counts, ShardTask, write_shards
from denoise.output.tables import NOISE_SCHEMA, with_columns
from denoise.runners import Allocation, Job, RunShards
from denoise.storage.columns import NO_COLUMNS, Columns
from denoise.verbs import bulk
from denoise.verbs.bulk import BulkConfig
from denoise.verbs.checks import check_is_folder, worker_counts
from denoise.verbs.save import save, waits_for_a_store
from denoise.verbs.stages import fetched_images, rows_of

_SHARD_BYTES = 8 << 20  # a second or two of work: many times faster than a network
_HERE = 128 << 20  # bytes of images that are done sooner in this process than Ray starts


@dataclass(frozen=True, kw_only=True)
class NoiseConfig(BulkConfig):
    """Add noise to images: denoise noise --images photos --output pairs --sigma 0.1"""

    kind: Kind = "gaussian"  # kind of noise; camera: as cameras make it, correlated and compressed
    sigma: float | None = None  # standard deviation of Gaussian noise, on the 0..1 scale; else 0.1
    iso: float | None = None  # strength of camera noise; else drawn for each image

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind}")
        if self.sigma is not None:
            check_sigma("sigma", self.sigma)
        pairing_of(self)  # refuses a sigma of camera noise, an ISO of Gaussian noise

    def settings(self) -> dict[str, Any]:
        sigma = pairing_of(self).sigma
        return super().settings() | {"kind": self.kind, "sigma": sigma, "iso": self.iso}


def pairing_of(config: NoiseConfig) -> PairConfig:
    """What noise an image gets. Raises ValueError where it is of two kinds."""
    is_default = config.kind == "gaussian" and config.sigma is None
    return PairConfig(
        sigma=0.1 if is_default else config.sigma,
        kind=config.kind,
        iso=config.iso,
        seed=config.seed,
        white_level=config.white_level,
        max_pixels=config.max_pixels,
        max_seconds=config.max_seconds,
        allow_elsewhere=config.allow_elsewhere,
    )


def noise(config: NoiseConfig) -> dict[str, Any]:
    """Write a clean and a noisy image for every input, with the MSE and PSNR between them.

    Resumes where it was interrupted, and returns the summary. Raises SettingsError before any work
    where flags or locations are wrong.
    """
    check_is_folder(config.output)
    job = Job(worker, workers=worker_counts(config.workers))
    sizes = bulk.Sizes(here=_HERE, cpu=_SHARD_BYTES)
    return bulk.run(config, "noise", config.settings(), job, sizes, NOISE_SCHEMA)


def worker(allocation: Allocation, config: NoiseConfig, columns: Columns = NO_COLUMNS) -> RunShards:
    """What a worker does with shards."""
    return partial(noise_shards, config=config, allocation=allocation, columns=columns)


def noise_shards(
    tasks: Iterable[ShardTask],
    config: NoiseConfig,
    allocation: Allocation,
    columns: Columns = NO_COLUMNS,
) -> Generator[Counts, None, None]:
    """Add noise to the images of shards and write their part files, one after the other.

    While a shard is written, images of the next ones are on their way already.
    """
    schema = with_columns(NOISE_SCHEMA, columns)
    pairing = replace(pairing_of(config), beside=columns.names)
    shards, ahead = tee((task, task.missing()) for task in tasks)
    images = fetched_images(ahead, pairing, allocation)
    row, waits = partial(row_of, config=config), waits_for_a_store(config)
    rows = rows_of(images, pairing, row, allocation, waits=waits)
    with closing(images), closing(rows):
        yield from write_shards(shards, rows, schema, to_tar=config.save == "tar")


def row_of(pair: Pair, config: NoiseConfig) -> tuple[dict[str, Any], dict[str, float]]:
    """The row of a pair: encoded images, and how far they are apart. And the seconds that each
    stage of it took."""
    row: dict[str, Any] = {}
    with pair.stage("encode"):
        if pair.error is None:
            row = _images(pair, config)
    return row | pair.about(), pair.seconds


def _images(pair: Pair, config: NoiseConfig) -> dict[str, Any]:
    assert pair.picture is not None and pair.noisy is not None
    saved = save(replace(pair.picture, pixels=pair.noisy), pair.path, config, stem=pair.stem)
    row: dict[str, Any] = {"noisy": saved.image, "file": saved.file}
    clean = pair.clean
    if saved.image is not None:
        in_table = save(pair.picture, pair.path, replace(config, save="parquet"))
        row["clean"], clean = in_table.image, in_table.pixels
    row["mse"], row["psnr"] = errors_of(saved.pixels, clean, pair.white_level)
    return row
