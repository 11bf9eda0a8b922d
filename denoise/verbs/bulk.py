"""A job over an output folder: list, compare with what is there, do the rest, sum up."""

import logging
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import pyarrow as pa

from denoise.images.codec import MAX_PIXELS
from denoise.images.noise import check_seed
from denoise.images.pairs import WhiteLevel, check_max_seconds, check_white_level
from denoise.images.sniff import IMAGE_SUFFIXES
from denoise.output import manifest
from denoise.output.folder import Output
from denoise.output.generations import Shard
from denoise.output.known_inputs import Listing
from denoise.output.shard import Counts
from denoise.reports.closing import closing_words, left_out_words
from denoise.reports.progress import Progress
from denoise.runners import Job, open_runner, runs_here
from denoise.storage import files, references, uris
from denoise.storage.found import LeftOut
from denoise.verbs.checks import check_apart, flags_of, normalize, worker_counts
from denoise.verbs.job_inputs import columns_of, inputs_of, log_listing, names_of

_log = logging.getLogger(__name__)
Save = Literal["parquet", "files", "both", "tar", "none"]
Format = Literal["png", "webp", "jpeg", "tiff", "same"]


@dataclass(frozen=True, kw_only=True)
class BulkConfig:
    """What `noise` and `infer` have in common."""

    # folder, glob, file, archive (.tar, .tar.gz, .tar.zst, .zip), list (.txt, .csv, .tsv, .jsonl,
    # also .gz, .parquet) or table; any URI
    images: str
    output: str  # where the table, the files and the report go; run again, it resumes
    seed: int = 0  # of the noise: each image's own seed is made from this and its path
    # where the images go: parquet: into the table's rows; files: to OUTPUT/images, as the input's
    # tree; both; tar: to OUTPUT/images, packed for WebDataset; none: nowhere, rows alone
    save: Save = "parquet"
    # file format of the saved images. same: each image keeps its own (AVIF, JPEG 2000 and JPEG XL
    # too), and what can be read but not written, such as HEIC, becomes png
    format: Format = "png"
    # 1..100, of jpeg, avif and webp (a gray webp is always lossless); else 95, and lossless webp
    quality: int | None = None
    strip_metadata: bool = False  # leave EXIF, XMP, ICC profile, texts and resolution out
    include: tuple[str, ...] = ()  # take only images whose path below IMAGES fits one of these
    exclude: tuple[str, ...] = ()  # leave out images whose path below IMAGES fits one of these
    # the column that holds the images (of a table) or their names (of a list); else it is guessed
    column: str | None = None
    # copy only these columns of a table or list into the output; else all but images are copied
    keep_columns: tuple[str, ...] | None = None
    limit: int | None = None  # take only so many images, the first ones: to try it
    # the level that is white in images of 16 bits, such as 4095 where these hold 12-bit data;
    # brighter images are error rows. auto: the least of 1023, 4095, 16383 and 65535 that an image
    # stays below. Tables made by `noise` bring their own
    white_level: WhiteLevel | None = None
    max_pixels: int = MAX_PIXELS  # a larger image is an error row
    max_seconds: float = 120.0  # an image that takes longer to decode is an error row
    # how many processes of Ray's work: N, or MIN MAX to grow and shrink; else as many as there is
    # room for, and for a small job on this machine this process alone
    workers: int | tuple[int, int] | None = None
    allow_elsewhere: bool = False  # let tables name images outside of their own folder
    max_error_rate: float = 0.01  # exit code 3 where a larger share of the images fails
    retry_errors: bool = False  # try images again that failed in an earlier run
    overwrite: bool = False  # discard what an earlier run made there

    def __post_init__(self) -> None:
        normalize(self)
        check_seed(self.seed)
        for name in ("images", "output"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        for name, known in (("save", Save), ("format", Format)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(known))}, got {getattr(self, name)}"
                )
        self._check_quality()
        check_white_level(self.white_level)
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, got {self.limit}")
        if self.max_pixels < 1:
            raise ValueError(f"max-pixels must be at least 1, got {self.max_pixels}")
        check_max_seconds(self.max_seconds)
        if not 0 <= self.max_error_rate <= 1:
            raise ValueError(f"max-error-rate must lie in 0..1, got {self.max_error_rate}")
        worker_counts(self.workers)

    def _check_quality(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality must lie in 1..100, got {self.quality}")
        # a file's own name says its format: `infer_file` looks at that
        is_file = uris.suffix(self.output) in IMAGE_SUFFIXES
        if self.quality is not None and self.format in ("png", "tiff") and not is_file:
            raise ValueError(f"quality is for jpeg and webp, and format is {self.format}")

    def settings(self) -> dict[str, Any]:
        """What decides the rows: with anything else here, the output folder is another one."""
        named = "seed save format quality strip_metadata white_level max_pixels column".split()
        return {"images": uris.to_record(uris.absolute(self.images))} | {
            name: getattr(self, name) for name in named
        }


@dataclass(frozen=True)
class Sizes:
    """Bytes of encoded images that suit a job."""

    here: int  # so many at most are done sooner in this process than Ray starts
    cpu: int = manifest.SHARD_BYTES  # of a shard on a CPU: what a kill costs
    gpu: int = 16 << 20  # of a shard on a GPU, which takes a second for it


def run(
    config: BulkConfig,
    verb: str,
    settings: Mapping[str, Any],
    job: Job,
    sizes: Sizes,
    schema: pa.Schema,
) -> dict[str, Any]:
    """Do what is missing in an output folder and return its summary.

    The worker of the job is also given the `config`, with the absolute URI of its output, and the
    `columns` of the input that its rows, which otherwise are of the schema, carry along.

    Raises SettingsError before any work where flags or locations are wrong.
    """
    start, start_up = time.monotonic(), 0.0
    uri = uris.absolute(config.output)
    references.forget()
    check_apart(uri, uris.absolute(config.images), *job.needed)
    columns = columns_of(config, schema)
    absolute = replace(config, output=uri)
    job = replace(job, worker=partial(job.worker, config=absolute, columns=columns))
    settings = {**settings, **columns.settings()}
    looked = _check_first(config, uri, job) if config.overwrite else nullcontext()
    with (
        looked,
        Output(uri, verb, settings, overwrite=config.overwrite) as output,
        Progress(verb, log=output.log) as progress,
    ):
        left_out = LeftOut()
        progress.begin("listing")
        found = progress.count_found(inputs_of(config, left_out, columns))
        listing = manifest.update(uri, found, columns.schema, names_of(config, uri))
        for words in left_out_words(left_out.counts, left_out.names):
            _log.info(words)
        log_listing(listing, is_chosen=bool(config.include or config.exclude or config.limit))
        pending = manifest.shards_to_do(uri)
        failed = manifest.shards_with_errors(uri) if config.retry_errors else []
        is_more = bool(listing.new or pending or failed)
        if not is_more and output.is_finished:
            return _summary(uri) | {"nothing_to_do": True}
        if is_more and job.check is not None:
            job.check()
        output.begin(listing.inputs, left_out.counts, flags_of(config))
        if is_more:
            start_up = _work(output, progress, pending, failed, listing, job, sizes)
        output.end()
        progress.begin("writing the report")
        summary = _report(uri)
        spent = {
            "elapsed_seconds": time.monotonic() - start,
            "start_up_seconds": start_up,
            "done_before": progress.before,
        }
        for words in closing_words(summary | spent, uri):
            output.log.line(words)
        output.finish()
        return summary | spent | {"nothing_to_do": False}


def _work(
    output: Output,
    first: Progress,
    pending: list[Shard],
    failed: list[Shard],
    listing: Listing,
    job: Job,
    sizes: Sizes,
) -> float:
    """Run the shards that are pending, those with errors, and the new inputs, here or by Ray.

    Returns the seconds until work started.
    """
    start, new, started = time.monotonic(), listing.new, list[float]()
    size = sum(shard.size for shard in (*pending, *failed)) + (new.size if new else 0)
    # what died in this process may die again; Ray's workers isolate the image that did it
    is_here = not output.has_died and runs_here(job, size, sizes.here)
    output.record(runner="this process" if is_here else "ray")
    known = sum(map(len, pending)) + (new.rows if new else 0)
    before = max(0, listing.inputs - known)
    first.expect(before + known, before=before)
    retried = Progress(first.verb, sum(map(len, failed)), log=output.log)
    (first if known else retried).begin("starting" if is_here else "starting Ray")
    job = replace(job, needed=(*job.needed, manifest.first_uri(output.uri)))
    verbose = _log.isEnabledFor(logging.DEBUG)
    opened = open_runner(job, output.uri, here=is_here, verbose=verbose)
    with retried, opened as runner:
        if new is not None:
            shard_bytes = sizes.gpu if runner.on_gpus else sizes.cpu
            pending = [*pending, *manifest.cut(output.uri, new, shard_bytes)]
        for shards, retry_errors, progress in ((pending, False, first), (failed, True, retried)):
            if shards:
                if not is_here:
                    progress.begin("starting workers")
                started.append(_follow(runner.run(shards, retry_errors), output, progress))
    return max(0.0, started[0] - start) if started else 0.0


def _follow(done: Generator[Counts, None, None], output: Output, progress: Progress) -> float:
    """Add up what shards came to, and show it; return the time on the monotonic clock when the
    first of them was started, about. Raises WriteError once another run took over."""
    total, started = Counts(), None
    with closing(done):  # whatever ends this, no image is started any more
        for counts in done:
            if started is None:  # stages overlap: a shard takes as long as its longest, or longer
                started = time.monotonic() - max(counts.seconds.values(), default=0.0)
            total.add(counts)
            output.check()
            for path, error in counts.failures.items():
                progress.failed(path, error)
            progress.show(total.images, total.failed, total.pixels, total.seconds)
    progress.end()
    return time.monotonic() if started is None else started


@contextmanager
def _check_first(config: BulkConfig, uri: str, job: Job) -> Iterator[None]:
    """Raise SettingsError where there is no image, or no Ray, or a node that does not see what it
    needs: an earlier run's rows stay then. Ray is there for the time of the job."""
    first = next(inputs_of(config, LeftOut())).uri
    if runs_here(job, 0, 0):  # whatever its size, nobody else needs to be reached
        yield
        return
    from denoise.runners import ray_session

    with ray_session.connected(verbose=_log.isEnabledFor(logging.DEBUG)):
        ray_session.check_shared((uris.join(uri, "_run.json"), first, *job.needed))
        yield


def _report(output: str) -> dict[str, Any]:
    from denoise.verbs.report import ReportConfig, report

    return report(ReportConfig(output=output, allow_elsewhere=True))  # its inputs were named here


def _summary(output: str) -> dict[str, Any]:
    """The summary of a finished run; made again where somebody removed it."""
    if not files.exists(uris.join(output, "summary.json")):
        return _report(output)
    return files.object_in(uris.join(output, "summary.json"))
