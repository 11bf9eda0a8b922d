"""The infer job: images and a model -> a table of denoised images, each with its metrics."""

import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from denoise.errors import SettingsError
from denoise.images.codec import to_pixels
from denoise.images.metrics import ssim
from denoise.images.noise import check_sigma
from denoise.images.pairs import Pair, PairConfig, errors_of
from denoise.nets import package
from denoise.output.tables import INFER_SCHEMA
from denoise.storage import files, uris
from denoise.storage.inputs import Entry
from denoise.verbs import bulk
from denoise.verbs.bulk import BulkConfig, worker_counts
from denoise.verbs.denoising import each_denoised

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

    from denoise.nets.denoiser import Denoiser
    from denoise.runners.ray_data import Turn
    from denoise.runners.ray_session import Resources

_CPU_BATCH = 1 << 16  # pixels that go through the network together: they fit the cache
_GPU_BATCH = 1 << 24
_Row = tuple[dict[str, Any], dict[str, float]]  # and the seconds that it took, by stage


@dataclass(frozen=True, kw_only=True)
class InferConfig(BulkConfig):
    """Denoise images: denoise infer --images photos --output denoised"""

    model: str = "unet"  # a shipped model's name (see `denoise models`), or the URI of a package
    add_noise: float | None = None  # the images are clean: add noise of this sigma first
    float_noise: bool = False  # leave that noise unclipped and unrounded, as the literature does
    reference: str | None = None  # the images are noisy: the clean ones lie here, by path or stem
    level: float | None = None  # sigma of the noise to remove, 0..1; estimated where not given
    ssim: bool = False  # measure structural similarity too (extra `ssim`)
    tile: int | None = None  # side of inference tiles in pixels; by device where not given
    gpus_per_worker: float = 1.0  # share of a GPU a worker takes, where there are GPUs

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("add_noise", "level"):
            if getattr(self, name) is not None:
                check_sigma(name.replace("_", "-"), getattr(self, name))
        if self.add_noise is not None and self.reference is not None:
            raise ValueError("give add-noise (the images are clean) or reference (noisy), not both")
        if self.float_noise and self.add_noise is None:
            raise ValueError("float-noise needs add-noise: there is no noise to leave unrounded")
        if self.tile is not None and self.tile < 16:
            raise ValueError(f"tile must be at least 16 pixels, got {self.tile}")
        share = self.gpus_per_worker
        if not share > 0 or (share > 1 and share % 1):
            raise ValueError(f"gpus-per-worker must lie in 0..1 or be a whole number, got {share}")

    def settings(self) -> dict[str, Any]:
        named = ("add_noise", "float_noise", "level", "ssim", "tile")
        reference = uris.shown(self.reference) if self.reference else None
        own = {name: getattr(self, name) for name in named} | {"reference": reference}
        return super().settings() | own


def infer(config: InferConfig) -> dict[str, Any]:
    """Writes a denoised image for every input, with its MSE and PSNR where a reference is known.

    Runs on Ray Data, resumes where it was interrupted, and returns the summary. Raises
    SettingsError before any work where flags, places or the model are wrong.
    """
    config, model, needed = prepared(config)
    stages = partial(_stages, config=config, model=model)
    return bulk.run(config, "infer", config.settings() | {"model": model}, stages, needed)


def prepared(config: InferConfig) -> tuple[InferConfig, str, tuple[str, ...]]:
    """The config with absolute places, the model's name and digest, and the places that every
    worker needs. Raises SettingsError where one of them is not there."""
    needed = []
    if config.reference:
        reference = uris.absolute(config.reference)
        if not files.exists(reference):
            raise SettingsError(f"no references under {uris.shown(reference)}")
        config = replace(config, reference=reference)
        needed.append(reference)
    if config.ssim and find_spec("skimage") is None:
        raise SettingsError("--ssim needs a package more: pip install 'denoise[ssim]'")
    model = package.id_of(config.model)
    config = replace(config, model=package.absolute(config.model))
    if config.model not in package.shipped_names():
        needed.append(uris.join(config.model, "config.json"))
    return config, model, tuple(needed)


def row_of(pair: Pair, denoised: Any, config: InferConfig, output: str) -> dict[str, Any]:
    """One row of the table: the denoised image as it is stored, how far it is from the clean."""
    if pair.error is None:
        assert pair.picture is not None
        with pair.stage("encode"):
            pixels = to_pixels(denoised, pair.picture.bit_depth) if config.float_noise else denoised
            picture = replace(pair.picture, pixels=pixels)
            columns, stored = bulk.save(picture, pair.path, config, output)
    if pair.error is None:
        with pair.stage("measure"):
            columns |= _metrics(pair, stored, config)
    return columns | pair.about() if pair.error is None else pair.about()


def _metrics(pair: Pair, stored: Any, config: InferConfig) -> dict[str, Any]:
    """The columns that say how far the noisy and the stored pixels are from the clean ones."""
    columns: dict[str, Any] = {}
    columns["mse_noisy"], columns["psnr_noisy"] = errors_of(pair.noisy, pair.clean)
    columns["mse"], columns["psnr"] = errors_of(stored, pair.clean)
    if config.ssim and pair.clean is not None:
        if pair.noisy is not None and not config.float_noise:
            columns["ssim_noisy"] = ssim(pair.noisy, pair.clean)
        columns["ssim"] = ssim(stored, pair.clean)
    return columns


def _stages(
    shards: "Dataset", resources: "Resources", turn: "Turn", config: InferConfig, model: str
) -> "Dataset":
    """All of it in one actor a CPU; where there are GPUs, the network alone in actors of theirs."""
    from denoise.runners import ray_session

    options: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}  # a row is a shard
    counts = worker_counts(config.workers)
    if resources.gpus == 0:
        return shards.map_batches(
            _Everything,
            fn_constructor_args=(config, model, turn),
            num_cpus=1,
            compute=ray_session.actors(counts, turn.size, resources, {"CPU": 1}),
            **options,
        )
    hands = ray_session.tasks(resources.hands)
    loaded = shards.map_batches(
        partial(_load_shard, config=config, turn=turn), compute=hands, **options
    )
    denoised = loaded.map_batches(
        _Network,
        fn_constructor_args=(config, model, turn),
        num_cpus=0,
        num_gpus=config.gpus_per_worker,
        compute=ray_session.actors(counts, turn.size, resources, {"GPU": config.gpus_per_worker}),
        **options,
    )
    return denoised.map_batches(
        partial(_finish_shard, config=config, model=model, turn=turn),
        compute=hands,
        **options,
    )


class _Everything:
    """A worker on a CPU: one shard after the other, from its entries to its part file."""

    def __init__(self, config: InferConfig, model: str, turn: "Turn") -> None:
        self._config = config
        self._model = model
        self._turn = turn

    @cached_property
    def _denoiser(
        self,
    ) -> "Denoiser":  # here Ray hands on what it raises, from __init__ it does not
        return denoiser_of(self._config, self._model)

    def __call__(self, block: "pa.Table") -> "pa.Table":
        from denoise.runners import ray_data

        denoiser = self._denoiser
        work = ray_data.work_of(block, INFER_SCHEMA, self._turn)
        entries, rows = ray_data.kept(work)

        def rows_of(entries: list[Entry]) -> Iterator[_Row]:
            pairs = ray_data.pairs(entries, pairing_of(self._config))
            done = each_denoised(pairs, denoiser, _CPU_BATCH)
            return _rows(done, self._config, self._model, work.output)

        done = ray_data.worked(work, "all", entries, rows_of, partial(_killed, model=self._model))
        return ray_data.finish(work, rows, done, denoiser.notes)


class _Network:
    """A worker on a GPU: pairs in, pairs with their denoised pixels out."""

    def __init__(self, config: InferConfig, model: str, turn: "Turn") -> None:
        self._config = config
        self._model = model
        self._turn = turn

    @cached_property
    def _denoiser(self) -> "Denoiser":
        return denoiser_of(self._config, self._model)

    def __call__(self, block: "pa.Table") -> "pa.Table":
        from denoise.runners import ray_data

        work = ray_data.work_of(block, INFER_SCHEMA, self._turn)
        pairs = {pair.path: pair for pair in _pairs_in(block)}
        make = partial(each_denoised, denoiser=self._denoiser, batch_pixels=_GPU_BATCH)
        done = ray_data.worked(work, "network", pairs, make, lambda pair: (pair, None))
        return _block_of(block, done, self._denoiser.notes)


def _load_shard(block: "pa.Table", config: InferConfig, turn: "Turn") -> "pa.Table":
    """On a CPU: a shard's images, decoded and paired, on their way to a GPU."""
    from denoise.runners import ray_data

    work = ray_data.work_of(block, INFER_SCHEMA, turn)
    entries, _ = ray_data.kept(work)
    begun = ray_data.begun(block, work)
    make = partial(ray_data.pairs, config=pairing_of(config))
    return _block_of(begun, ray_data.worked(work, "load", entries, make, lambda pair: pair))


def _finish_shard(block: "pa.Table", config: InferConfig, model: str, turn: "Turn") -> "pa.Table":
    """On a CPU again: measures and encodes what came from a GPU, and writes the part file."""
    from denoise.runners import ray_data

    work = ray_data.work_of(block, INFER_SCHEMA, turn)
    _, rows = ray_data.kept(work)
    (notes,) = block.column("notes").to_pylist()
    pairs = {pair.path: (pair, denoised) for pair, denoised in _pairs_in(block)}
    make = partial(_rows, config=config, model=model, output=work.output)
    done = ray_data.worked(work, "finish", pairs, make, partial(_killed, model=model))
    return ray_data.finish(work, rows, done, notes)


def _rows(
    done: Iterable[tuple[Pair, Any]], config: InferConfig, model: str, output: str
) -> Iterator[_Row]:
    """The rows of images, and the seconds each took by stage."""
    from denoise.runners import ray_data

    def row(one: tuple[Pair, Any]) -> _Row:
        pair, denoised = one
        return row_of(pair, denoised, config, output) | {"model": model}, pair.seconds

    return ray_data.ahead(row, done, threads=bulk.uploaders(config, output))


def _killed(pair: Pair, model: str) -> _Row:
    return pair.about() | {"model": model}, pair.seconds


def _block_of(block: "pa.Table", pairs: Iterable[Any], notes: Iterable[str] = ()) -> "pa.Table":
    """A shard on its way between CPUs and GPUs: what it was, and its pairs, pickled."""
    import pyarrow as pa

    pickled = pa.array([pickle.dumps(list(pairs), protocol=5)], pa.large_binary())
    noted = pa.array([sorted(notes)], pa.list_(pa.string()))
    begun = {name: block.column(name) for name in ("work", "started")}
    return pa.table({**begun, "pairs": pickled, "notes": noted})


def _pairs_in(block: "pa.Table") -> list[Any]:
    (pickled,) = block.column("pairs")
    found: list[Any] = pickle.loads(pickled.as_buffer())
    return found


def pairing_of(config: InferConfig) -> PairConfig:
    """What an image is paired with before the network."""
    return PairConfig(
        sigma=config.add_noise,
        seed=config.seed,
        float_noise=config.float_noise,
        reference=config.reference,
        max_pixels=config.max_pixels,
    )


def denoiser_of(config: InferConfig, model: str) -> "Denoiser":
    """The network, ready to run. Raises SettingsError where the package is not, or no more, the one
    of this name and digest."""
    from denoise.nets.denoiser import Denoiser  # torch: only where the network runs

    denoiser = Denoiser.load(config.model, tile=config.tile, level=config.level)
    if denoiser.package.id != model:
        raise SettingsError(
            f"the model is {denoiser.package.id} now, and this run's is {model}: it was replaced; "
            "put the old one back, or begin with another --output"
        )
    return denoiser
