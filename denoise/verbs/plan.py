"""What `infer` with the same flags would do and cost, from a listing and a few seconds' work."""

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from denoise.output import folder, manifest
from denoise.storage import files, inputs, uris
from denoise.storage.fetch import load_pair
from denoise.storage.inputs import Entry
from denoise.verbs import infer
from denoise.verbs.bulk import check_apart, worker_counts
from denoise.verbs.denoising import denoised_of
from denoise.verbs.infer import InferConfig

_SAMPLE = 64  # images that stand for all
_SECONDS = 4.0  # of calibration
_START_UP = 18.0  # seconds until Ray and the workers are there, and to sum up; on 2 cores
_WORKER_BYTES = 600 << 20  # of a worker with torch loaded and no image
_ESTIMATED = (
    "megapixels",
    "output_bytes",
    "megapixels_per_second",
    "start_up_seconds",
    "seconds",
    "memory_bytes",
)
_BYTES_A_PIXEL = 20  # that a worker holds of an image in colour, by measurement
_COPIES = {"parquet": 1, "files": 1, "both": 2, "none": 0}  # of an image, by `--save`


@dataclass(frozen=True, kw_only=True)
class PlanConfig(InferConfig):
    """Count, measure and estimate, and do nothing: denoise plan --images photos --output out"""


@dataclass
class _Sample:
    """A fair sample of what passed by (Vitter's algorithm R, 1985), and how much it was."""

    count: int = 0
    size: int = 0
    entries: list[Entry] = field(default_factory=list)

    def of(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Lets entries through, looking at them."""
        draw = random.Random(0)  # the same plan for the same listing
        for entry in entries:
            self.count, self.size = self.count + 1, self.size + entry.size
            if len(self.entries) < _SAMPLE:
                self.entries.append(entry)
            elif (place := draw.randrange(self.count)) < _SAMPLE:
                self.entries[place] = entry
            yield entry
        draw.shuffle(self.entries)


@dataclass(frozen=True)
class _Measured:
    """One image of the sample, worked on for real."""

    megapixels: float
    seconds: float
    saved: int  # bytes
    error: str | None


def plan(config: PlanConfig) -> dict[str, Any]:
    """Counts, sizes and times of an `infer` run that is not started. Nothing is written but an
    empty file, to see whether the output can be, and that is removed.

    What is to do can be more than was listed: what is gone since keeps its place in a shard that is
    not done yet. Raises SettingsError for every wrong flag or place that `infer`
    would refuse before it starts Ray.
    """
    place = uris.absolute(config.output)
    ready, model, needed = infer.prepared(config)
    check_apart(place, uris.absolute(ready.images), *needed)
    _check_output(place, ready, model)
    left_out: Counter[str] = Counter()
    sample = _Sample()
    listed = inputs.entries(uris.absolute(config.images), left_out, output=place)
    foreseen = manifest.foreseen(
        place,
        sample.of(listed),
        retry_errors=config.retry_errors,
        overwrite=config.overwrite,
    )
    measured = list(_calibrated(sample.entries, ready, model))
    workers, where = _workers(config)
    return {
        "images": sample.count,
        "left_out": dict(left_out),
        "already_done": foreseen.done,
        "to_do": foreseen.to_do,
        "shards": foreseen.shards,
        "input_bytes": sample.size,
        "model": model,
        "workers": workers,
        "where": where,
        **_estimates(measured, sample.count, foreseen.to_do, workers, _COPIES[config.save]),
    }


def _check_output(place: str, config: InferConfig, model: str) -> None:
    """What `infer` would refuse about its output folder."""
    files.check_writable(files.standing(place))
    found = None if config.overwrite else folder.run_of(place)
    if found is None:
        return
    wanted = {"verb": "infer", "settings": config.settings() | {"model": model}}
    folder.check_same(place, found, wanted, can_overwrite=True)


def _calibrated(sample: list[Entry], config: InferConfig, model: str) -> Iterable[_Measured]:
    """The sample worked on as a worker does, for a few seconds; the first one warms up."""
    import torch

    torch.set_num_threads(1)  # as a worker has
    denoiser = infer.denoiser_of(config, model)
    pairing = infer.pairing_of(config)
    config = replace(config, save="parquet")
    stop = time.perf_counter() + _SECONDS
    with TemporaryDirectory() as nowhere:
        for number, entry in enumerate([*sample[:1], *sample]):
            start = time.perf_counter()
            if start > stop and number > 2:
                return
            pair = load_pair(entry, pairing)
            noisy = pair.noisy
            denoised = denoised_of(pair, denoiser)
            row = infer.row_of(pair, denoised, config, nowhere)
            megapixels = 0.0 if noisy is None else noisy.shape[0] * noisy.shape[1] / 1e6
            saved = len(row["image"]["bytes"]) if row.get("image") else 0
            if number:
                spent = time.perf_counter() - start
                yield _Measured(megapixels, spent, saved, pair.error)


def _workers(config: InferConfig) -> tuple[int, str]:
    """How many workers there would be, and where: a cluster is asked, this machine counted."""
    from denoise.runners import ray_session

    if ray_session.is_private():
        there, where = ray_session.local(), "this machine"
    else:
        with ray_session.connected() as there:
            where = f"a cluster of {there.nodes} nodes"
    each = {"GPU": config.gpus_per_worker} if there.gpus else {"CPU": 1.0}
    room = max(1, there.room(each))
    wanted = max(worker_counts(config.workers), default=room)
    return (min(wanted, room) if there.fixed else wanted), where


def _estimates(
    measured: list[_Measured], count: int, todo: int, workers: int, copies: int
) -> dict[str, Any]:
    """The sample's figures, for all images. Times are those of this machine's processors."""
    fine = [one for one in measured if one.error is None]
    if not fine:
        return {
            "sampled": len(measured),
            "sample_errors": dict(Counter(m.error for m in measured)),
            **dict.fromkeys(_ESTIMATED),
        }
    megapixels = float(np.mean([one.megapixels for one in fine]))
    rate = sum(one.megapixels for one in fine) / sum(one.seconds for one in fine)
    saved = float(np.mean([one.saved for one in fine]))
    largest = max(one.megapixels for one in fine)
    working = todo * megapixels / rate / workers
    return {
        "sampled": len(measured),
        "sample_errors": dict(Counter(m.error for m in measured if m.error)),
        "megapixels": count * megapixels,
        "output_bytes": round(todo * saved * copies),
        "megapixels_per_second": rate * workers,
        "start_up_seconds": _START_UP if todo else 0.0,  # part of the next
        "seconds": working + _START_UP if todo else 0.0,
        "memory_bytes": round(workers * (_WORKER_BYTES + _BYTES_A_PIXEL * largest * 1e6)),
    }
