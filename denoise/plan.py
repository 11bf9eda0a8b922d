"""What `infer` with the same flags would do and cost, from a listing and a few seconds' work."""

import os
import random
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from denoise import inference, inputs, manifest, output, storage
from denoise.bulk import worker_counts
from denoise.inference import InferConfig
from denoise.inputs import Entry
from denoise.pairs import load
from denoise.storage import SettingsError

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


@dataclass(frozen=True, kw_only=True)
class PlanConfig(InferConfig):
    """Count, measure and estimate, and do nothing: denoise plan --images photos --output out"""


@dataclass(frozen=True)
class _Measured:
    """One image of the sample, worked on for real."""

    megapixels: float
    seconds: float
    saved: int  # bytes
    error: str | None


def plan(config: PlanConfig) -> dict[str, Any]:
    """Counts, sizes and times of an `infer` run that is not started; nothing is written.

    Raises SettingsError for every wrong flag or place that `infer` would refuse.
    """
    place = storage.absolute(config.output)
    ready, model, _ = inference.prepared(config)
    _check_output(place, ready, model)
    left_out: Counter[str] = Counter()
    listed = inputs.entries(storage.absolute(config.images), left_out, output=place)
    count, size, sample = _sampled(listed)
    pending = sum(len(shard.span) for shard in manifest.pending(place))
    in_manifest = sum(made.rows for made in manifest.generations_of(place))
    done = 0 if config.overwrite else min(count, in_manifest - pending)
    measured = list(_calibrated(sample, ready))
    workers, where = _workers(config)
    return {
        "images": count,
        "left_out": dict(left_out),
        "already_done": done,
        "to_do": count - done,
        "shards": -(-(count - done) // manifest.shard_rows(count, size)),
        "input_bytes": size,
        "model": model,
        "workers": workers,
        "where": where,
        **_estimates(measured, count, count - done, workers),
    }


def _check_output(place: str, config: InferConfig, model: str) -> None:
    """What `infer` would refuse about its output folder."""
    was_there = storage.exists(place)
    storage.check_writable(place)
    if not was_there:
        storage.remove(place)
    found = output.run_of(place)
    if found is None or config.overwrite:
        return
    wanted = {"verb": "infer", "settings": config.settings() | {"model": model}}
    differences = output.differences_between(found, wanted)
    if differences:
        raise SettingsError(
            f"{storage.shown(place)} was made with other settings: {'; '.join(differences)}"
        )


def _sampled(entries: Iterable[Entry]) -> tuple[int, int, list[Entry]]:
    """How many there are, their bytes, and a fair sample (Vitter's algorithm R, 1985)."""
    count = size = 0
    sample: list[Entry] = []
    draw = random.Random(0)  # the same plan for the same listing
    for entry in entries:
        count, size = count + 1, size + entry.size
        if len(sample) < _SAMPLE:
            sample.append(entry)
        elif (place := draw.randrange(count)) < _SAMPLE:
            sample[place] = entry
    draw.shuffle(sample)
    return count, size, sample


def _calibrated(sample: list[Entry], config: InferConfig) -> Iterable[_Measured]:
    """The sample worked on as a worker does, for a few seconds; the first one warms up."""
    import torch

    torch.set_num_threads(1)  # as a worker has
    denoiser = inference.denoiser_of(config)
    pairing = inference.pairing_of(config)
    config = replace(config, save="parquet")
    stop = time.perf_counter() + _SECONDS
    with TemporaryDirectory() as nowhere:
        for number, entry in enumerate([*sample[:1], *sample]):
            start = time.perf_counter()
            if start > stop and number > 2:
                return
            pair = load(entry, pairing)
            noisy = pair.noisy
            denoised = None if noisy is None else denoiser.denoise([noisy])[0]
            row = inference.row_of(pair, denoised, config, nowhere)
            megapixels = 0.0 if noisy is None else noisy.shape[0] * noisy.shape[1] / 1e6
            saved = len(row["image"]["bytes"]) if row.get("image") else 0
            if number:
                spent = time.perf_counter() - start
                yield _Measured(megapixels, spent, saved, pair.error)


def _workers(config: InferConfig) -> tuple[int, str]:
    """How many workers there would be, and where: a cluster is asked, this machine counted."""
    counts = worker_counts(config.workers)
    if "RAY_ADDRESS" not in os.environ:
        cores = os.cpu_count() or 1
        return (min(max(counts), cores) if counts else cores), "this machine"
    from denoise import runtime

    with runtime.connected() as found:
        each = {"GPU": config.gpus_per_worker} if found.gpus else {"CPU": 1.0}
        room = found.room(each)
        return (max(counts) if counts else max(1, room)), f"a cluster of {found.nodes} nodes"


def _estimates(measured: list[_Measured], count: int, todo: int, workers: int) -> dict[str, Any]:
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
        "output_bytes": round(todo * saved),
        "megapixels_per_second": rate * workers,
        "start_up_seconds": _START_UP if todo else 0.0,  # part of the next
        "seconds": working + _START_UP if todo else 0.0,
        "memory_bytes": round(workers * (_WORKER_BYTES + _BYTES_A_PIXEL * largest * 1e6)),
    }
