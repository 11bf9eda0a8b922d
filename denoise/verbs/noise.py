"""The noise job: images -> a table of clean and noisy pairs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from denoise.images.noise import check_sigma
from denoise.images.pairs import Pair, PairConfig, errors_of
from denoise.output.tables import NOISE_SCHEMA
from denoise.storage.inputs import Entry
from denoise.verbs import bulk
from denoise.verbs.bulk import BulkConfig, worker_counts

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from denoise.runners.ray_data import Turn
    from denoise.runners.ray_session import Resources

_SHARD_BYTES = 8 << 20  # a second or two of work: many times faster than a network


@dataclass(frozen=True, kw_only=True)
class NoiseConfig(BulkConfig):
    """Add Gaussian noise to images: denoise noise --images photos --output pairs --sigma 0.1"""

    sigma: float = 0.1  # standard deviation, on the 0..1 scale

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sigma("sigma", self.sigma)

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"sigma": self.sigma}


def noise(config: NoiseConfig) -> dict[str, Any]:
    """Writes a clean and a noisy image for every input, with the MSE and PSNR between them.

    Runs on Ray Data, resumes where it was interrupted, and returns the summary. Raises
    SettingsError before any work where flags or places are wrong.
    """

    def stages(shards: "Dataset", resources: "Resources", turn: "Turn") -> "Dataset":
        from denoise.runners import ray_session

        return shards.map_batches(
            _Worker,  # an actor: while it works, its next shards wait at its door
            fn_constructor_args=(config, turn),
            batch_size=1,  # a row is a shard
            batch_format="pyarrow",
            num_cpus=1,
            compute=ray_session.actors(
                worker_counts(config.workers), turn.size, resources, {"CPU": 1}
            ),
        )

    return bulk.run(config, "noise", config.settings(), stages, shard_bytes=_SHARD_BYTES)


def row_of(pair: Pair, config: NoiseConfig, output: str) -> dict[str, Any]:
    """One row of the table: encoded images, and how far they are apart."""
    row: dict[str, Any] = {}
    with pair.stage("encode"):
        if pair.error is None:
            row = _images(pair, config, output)
    return row | pair.about()


def _images(pair: Pair, config: NoiseConfig, output: str) -> dict[str, Any]:
    assert pair.picture is not None and pair.noisy is not None
    saved, noisy = bulk.save(replace(pair.picture, pixels=pair.noisy), pair.path, config, output)
    row: dict[str, Any] = {"noisy": saved["image"], "file": saved["file"]}
    clean = pair.clean
    if saved["image"] is not None:
        in_table = replace(config, save="parquet")
        columns, clean = bulk.save(pair.picture, pair.path, in_table, output)
        row["clean"] = columns["image"]
    row["mse"], row["psnr"] = errors_of(noisy, clean)
    return row


class _Worker:
    """One shard after the other, from its entries to its part file."""

    def __init__(self, config: NoiseConfig, turn: "Turn") -> None:
        self._config = config
        self._turn = turn

    def __call__(self, block: "pa.Table") -> "pa.Table":
        from denoise.runners import ray_data

        config = self._config
        work = ray_data.work_of(block, NOISE_SCHEMA, self._turn)
        entries, rows = ray_data.kept(work)
        pairing = PairConfig(sigma=config.sigma, seed=config.seed, max_pixels=config.max_pixels)

        def row(pair: Pair) -> tuple[dict[str, Any], dict[str, float]]:
            return row_of(pair, config, work.output), pair.seconds

        def rows_of(entries: list[Entry]) -> Iterator[tuple[dict[str, Any], dict[str, float]]]:
            threads = bulk.uploaders(config, work.output)
            return ray_data.ahead(row, ray_data.pairs(entries, pairing), threads=threads)

        return ray_data.finish(work, rows, ray_data.worked(work, "all", entries, rows_of, row))
