"""What `infer` with the same flags would do and cost, from a listing and a few seconds' work."""

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from denoise.cores import cores
from denoise.output import folder, manifest, tables
from denoise.output.shard import ShardTask
from denoise.runners import Allocation, is_private, runs_here
from denoise.storage import files, uris
from denoise.storage.columns import Columns
from denoise.storage.entry import Entry
from denoise.storage.found import LeftOut
from denoise.verbs import infer
from denoise.verbs.checks import check_apart
from denoise.verbs.infer import InferConfig
from denoise.verbs.infer_shard import worker
from denoise.verbs.job_inputs import columns_of, inputs_of

_SAMPLE = 64  # images that stand for all
_SECONDS = 4.0  # of calibration
_START_RAY = 18.0  # seconds until Ray and the workers are there, and to sum up; on 2 cores
_START_HERE = 2.0  # seconds to load torch and the model, and to sum up
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
_COPIES = {"parquet": 1, "files": 1, "both": 2, "tar": 1, "none": 0}  # of an image, by `--save`


@dataclass(frozen=True, kw_only=True)
class PlanConfig(InferConfig):
    """Count the images, and estimate time and memory, before a job: denoise plan photos out"""


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
            elif (slot := draw.randrange(self.count)) < _SAMPLE:
                self.entries[slot] = entry
            yield entry
        draw.shuffle(self.entries)


@dataclass(frozen=True)
class _Measured:
    """One image of the sample, denoised for real."""

    megapixels: float
    seconds: float
    saved: int  # bytes
    error: str | None


def plan(config: PlanConfig) -> dict[str, Any]:
    """Counts, sizes and times of an `infer` run that is not started. Nothing is written but an
    empty file, to see whether the output can be, and that is removed.

    What is to do can be more than was listed: what is gone since stays in a shard that is
    not done yet. Raises SettingsError for every wrong flag or URI that `infer`
    would refuse before it starts Ray.
    """
    output = uris.absolute(config.output)
    ready, model, needed = infer.prepare(config)
    check_apart(output, uris.absolute(ready.images), *needed)
    columns = columns_of(config, tables.INFER_SCHEMA)
    is_new = _begins_anew(output, ready, model, columns)
    left_out = LeftOut()
    sample = _Sample()
    found = inputs_of(config, left_out)
    planned = manifest.plan(
        output,
        sample.of(found),
        retry_errors=config.retry_errors,
        overwrite=is_new,
    )
    measured = list(_calibrate(sample.entries, ready, model))
    share = planned.to_do / max(1, sample.count)
    workers, where, start_up = _workers(ready, round(sample.size * share))
    return {
        "images": sample.count,
        "left_out": dict(left_out.counts),
        "left_out_names": left_out.names,
        "already_done": planned.done,
        "to_do": planned.to_do,
        "shards": planned.shards,
        "input_bytes": sample.size,
        "model": model,
        "workers": workers,
        "where": where,
        **_estimates(
            measured, sample.count, planned.to_do, workers, start_up, _COPIES[config.save]
        ),
    }


def _begins_anew(uri: str, config: InferConfig, model: str, columns: Columns) -> bool:
    """Whether `infer` would begin anew in its output folder. Raises SettingsError as it would."""
    files.check_writable(files.nearest_folder(uri))
    settings = config.settings() | {"model": model} | columns.settings()
    return folder.run_to_resume(uri, "infer", settings, overwrite=config.overwrite) is None


def _calibrate(sample: list[Entry], config: InferConfig, model: str) -> Iterable[_Measured]:
    """Work on the sample as a worker does, for a few seconds; the first image warms up."""
    import torch

    torch.set_num_threads(1)  # as a worker on a CPU has
    work = worker(
        Allocation(), replace(config, save="parquet", precision="auto", device="auto"), model
    )
    stop = time.perf_counter() + _SECONDS
    with TemporaryDirectory() as scratch:
        for number, entry in enumerate([*sample[:1], *sample]):
            start = time.perf_counter()
            if start > stop and number > 2:
                return
            (counts,) = work([ShardTask(scratch, number, [entry])])
            spent = time.perf_counter() - start
            (row,) = tables.part(scratch, number)
            saved = len(row["image"]["bytes"]) if row["image"] else 0
            if number:
                yield _Measured(counts.pixels / 1e6, spent, saved, row["error"])


def _workers(config: InferConfig, size: int) -> tuple[int, str, float]:
    """How many workers there would be, where, and the seconds until they are there."""
    job = infer.job_of(config, "", ())
    if runs_here(job, size, infer.HERE):
        return cores(), "this process", _START_HERE
    from denoise.runners import ray_session, resources

    if is_private():
        there, where = resources.local(), "this machine"
    else:
        with ray_session.connected() as there:
            where = f"a cluster of {there.nodes} nodes"
    room = max(1, there.room(resources.needs_of(job.device, job.gpus_per_worker, there)))
    wanted = max(job.workers, default=room)
    return (min(wanted, room) if there.is_own else wanted), where, _START_RAY


def _estimates(
    measured: list[_Measured], count: int, todo: int, workers: int, start: float, copies: int
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
        "start_up_seconds": start if todo else 0.0,  # part of the next
        "seconds": working + start if todo else 0.0,
        "memory_bytes": round(workers * (_WORKER_BYTES + _BYTES_A_PIXEL * largest * 1e6)),
    }
