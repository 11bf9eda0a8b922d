"""A bulk job over an output folder: list, compare with what is there, do the rest, sum up."""

import errno
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from numpy.typing import NDArray

from denoise import errors
from denoise.errors import ImageError, SettingsError, WriteError
from denoise.images.codec import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    Picture,
    decode,
    encode,
    format_for,
    suffix_of,
)
from denoise.images.noise import check_seed
from denoise.output import manifest
from denoise.output.folder import UNFINISHED, Output
from denoise.report.progress import Progress
from denoise.storage import files, inputs, uris

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from ray.data import Dataset

    from denoise.runners.ray_data import Done, Turn
    from denoise.runners.ray_session import Resources

_log = logging.getLogger(__name__)
_UPLOADERS = 4
_AT_ONCE = 64_000  # shards that Ray Data's driver handles with ease
_NO_NAME = "its name cannot be a file's in the output folder"
Save = Literal["parquet", "files", "both", "none"]
Format = Literal["png", "webp", "jpeg", "tiff", "same"]


@dataclass(frozen=True, kw_only=True)
class BulkConfig:
    """What `noise` and `infer` have in common."""

    images: str  # folder, glob, file, manifest (.txt, .csv, .parquet) or Parquet folder; any URI
    output: str  # where the table, the files and the report go; run again, it resumes
    seed: int = 0  # of the noise; each image derives its own from this and its path
    save: Save = "parquet"  # images into the Parquet table, as files under OUTPUT/images, or both
    format: Format = "png"  # of the saved images; `same` keeps each input's
    quality: int | None = None  # 1..100, for jpeg and lossy webp (gray webp is always lossless)
    strip_metadata: bool = False  # leave EXIF, ICC profile and resolution out
    max_pixels: int = MAX_PIXELS  # a larger image is an error row
    # N, or MIN MAX to grow and shrink; without it one a CPU or GPU
    workers: int | tuple[int, int] | None = None
    max_error_rate: float = 0.01  # exit code 3 where a larger share of the images fails
    retry_errors: bool = False  # do the images again that failed in an earlier run
    overwrite: bool = False  # discard what an earlier run made there

    def __post_init__(self) -> None:
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
        if self.max_pixels < 1:
            raise ValueError(f"max-pixels must be at least 1, got {self.max_pixels}")
        if not 0 <= self.max_error_rate <= 1:
            raise ValueError(f"max-error-rate must lie in 0..1, got {self.max_error_rate}")
        worker_counts(self.workers)

    def _check_quality(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"quality must lie in 1..100, got {self.quality}")
        if self.quality is not None and self.format in ("png", "tiff"):
            raise ValueError(f"quality is for jpeg and webp, and format is {self.format}")

    def settings(self) -> dict[str, Any]:
        """What decides the rows: with anything else here, the output folder is another one."""
        named = ("seed", "save", "format", "quality", "strip_metadata", "max_pixels")
        return {"images": uris.shown(uris.absolute(self.images))} | {
            name: getattr(self, name) for name in named
        }


Stages = Callable[["Dataset", "Resources", "Turn"], "Dataset"]


def run(
    config: BulkConfig,
    verb: str,
    settings: Mapping[str, Any],
    stages: Stages,
    needed: tuple[str, ...] = (),
    shard_bytes: int = manifest.SHARD_BYTES,
) -> dict[str, Any]:
    """Does what is missing in an output folder and returns its summary.

    `stages` turns a dataset of a turn's shards into one of counted lines; the URIs `needed` must be
    there on every node. Shards hold `shard_bytes` of encoded images: what a kill costs a worker.
    Raises SettingsError before any work where flags or places are wrong.
    """
    place = uris.absolute(config.output)
    check_apart(place, uris.absolute(config.images), *needed)
    looked = _looked_at_first(config, place, needed) if config.overwrite else nullcontext()
    with looked, Output(place, verb, settings, overwrite=config.overwrite) as output:
        left_out: Counter[str] = Counter()
        found = inputs.entries(uris.absolute(config.images), left_out, output=place)
        listing = manifest.update(place, found, left_out, shard_bytes)
        _tell(listing)
        missing = _Round(verb, manifest.pending(place))
        failed = manifest.with_errors(place) if config.retry_errors else []
        rounds = [one for one in (missing, _Round(verb, failed, only_errors=True)) if one.shards]
        if not rounds and output.is_finished:
            return _summary(place) | {"nothing_to_do": True}
        output.begin(listing, flags_of(config))
        if rounds:
            _work(output, rounds, stages, needed)
        output.end()
        summary = _report(place)
        output.finish()
        return summary | {"nothing_to_do": False}


@contextmanager
def _looked_at_first(config: BulkConfig, place: str, needed: tuple[str, ...]) -> Iterator[None]:
    """Raises SettingsError where there is no image, or no Ray, or a node that does not see what it
    needs: an earlier run's rows stay then. Ray is there for the time of the job."""
    with closing(inputs.entries(uris.absolute(config.images), Counter(), output=place)) as found:
        first = next(found).uri
    from denoise.runners import ray_session

    with ray_session.connected(verbose=_log.isEnabledFor(logging.DEBUG)):
        ray_session.check_shared((uris.join(place, "_run.json"), first, *needed))
        yield


def check_apart(place: str, *read: str) -> None:
    """Raises SettingsError where something that is read lies inside the output folder."""
    for uri in read:
        if uris.lies_in(uri, place):
            raise SettingsError(
                f"{uris.shown(uri)} lies inside the output folder {uris.shown(place)}; "
                "nothing is read from where the job writes"
            )


def worker_counts(workers: int | tuple[int, int] | None) -> tuple[int, ...]:
    """`--workers N`, `--workers MIN MAX` or nothing, as a tuple. Raises ValueError for nonsense."""
    counts = () if workers is None else workers if isinstance(workers, tuple) else (workers,)
    if any(count < 1 for count in counts) or list(counts) != sorted(counts):
        raise ValueError(f"workers must be N or MIN MAX, at least 1 and ascending, got {workers}")
    return counts


def save(
    picture: Picture, path: str, config: BulkConfig, output: str
) -> tuple[dict[str, Any], NDArray[Any]]:
    """Encodes a picture, writes its file if asked to: the columns `image` and `file`, and the
    pixels as they are stored, which differ from the picture's where the format is lossy.

    Raises ImageError where the format has to hold the picture and cannot, WriteError where nothing
    can be written.
    """
    kind = format_for(picture, config.format)
    is_lossy = kind == "jpeg" or (kind == "webp" and config.quality is not None)
    columns: dict[str, Any] = {"image": None, "file": None}
    if config.save == "none" and not is_lossy:
        return columns, picture.pixels
    encoded = encode(
        picture, format=kind, quality=config.quality, metadata=not config.strip_metadata
    )
    if config.save in ("parquet", "both"):
        columns["image"] = {"bytes": encoded, "path": path + suffix_of(kind)}
    if config.save in ("files", "both"):
        keep_name = config.format == "same"
        columns["file"] = "images/" + file_of(path, suffix_of(kind), keep_name=keep_name)
        _write_file(output, columns["file"], encoded)
    stored = decode(encoded, max_pixels=config.max_pixels).pixels if is_lossy else picture.pixels
    return columns, stored


def uploaders(config: BulkConfig, output: str) -> int:
    """Threads to make rows in: one image's file is on its way to a store while the next is made."""
    has_files = config.save in ("files", "both")
    return _UPLOADERS if has_files and not uris.is_local(output) else 0


def _write_file(output: str, name: str, encoded: bytes) -> None:
    """Writes an image's file. A name that cannot be is the image's error; whatever else fails is
    the disk's or the store's, and ends the run."""
    if "\0" in name:
        raise ImageError(_NO_NAME)
    try:
        uri, aside = (uris.join(output, place) for place in (name, UNFINISHED))
        files.write(uri, encoded, aside=aside)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            raise ImageError(_NO_NAME) from error
        raise WriteError(f"cannot write images: {errors.words_of(error)}") from error


def file_of(path: str, suffix: str, *, keep_name: bool) -> str:
    """The name of an image's file under OUTPUT/images: its path with the format's suffix behind.

    With `keep_name` (`--format same`) `a.jpg` stays `a.jpg` where that is what it holds. No two
    paths share a name: what keeps its name has one image suffix, the others get two or more.
    """
    stem, dot, last = path.rpartition(".")
    known = dot and f".{last}".lower() in IMAGE_SUFFIXES
    if not keep_name:
        return path + suffix
    if not known:
        return path + suffix + suffix
    twice = f".{stem.rpartition('.')[2]}".lower() in IMAGE_SUFFIXES and "." in stem
    same = {".jpeg": ".jpg", ".tiff": ".tif"}.get(f".{last}".lower(), f".{last}".lower())
    return path if same == suffix and not twice else path + suffix


def _work(output: Output, rounds: list["_Round"], stages: Stages, needed: tuple[str, ...]) -> None:
    """Runs the shards through Ray, so many at a time that its driver keeps up."""
    from denoise.runners import (  # Ray: a finished run does without
        crash_guard,
        ray_data,
        ray_session,
    )

    place = output.uri
    rounds[0].progress.begin("starting Ray")
    with ray_session.connected(verbose=_log.isEnabledFor(logging.DEBUG)) as resources:
        first = rounds[0].shards[0].entries(place)[0].uri
        ray_session.check_shared((uris.join(place, "_run.json"), first, *needed))
        counter = crash_guard.counter()
        for one in rounds:
            one.progress.begin("starting workers")

            def show(done: "Done", progress: Progress = one.progress) -> None:
                output.check()
                progress.show(done.images, done.failed, done.pixels, done.seconds)

            done = ray_data.Done()
            for start in range(0, len(one.shards), _AT_ONCE):
                some = one.shards[start : start + _AT_ONCE]
                turn = ray_data.Turn(len(some), one.only_errors, counter)
                ray_data.count(stages(ray_data.dataset(place, some), resources, turn), done, show)
            one.progress.end()


class _Round:
    """Shards that go through Ray together: those that are missing, then those with errors."""

    def __init__(
        self, verb: str, shards: list[manifest.Shard], *, only_errors: bool = False
    ) -> None:
        self.shards = shards
        self.only_errors = only_errors
        self.progress = Progress(verb, sum(len(shard.span) for shard in shards))


def _tell(listing: manifest.Listing) -> None:
    """Says what was found that a user may not expect."""
    for reason, count in sorted(listing.left_out.items()):
        _log.info("%d left out: %s", count, reason)
    if listing.added:
        _log.info("%d images were added since", listing.added)
    if listing.changed:
        _log.warning("%d images changed since; they are done again", listing.changed)
    if listing.removed:
        _log.warning("%d images are gone since; their rows are kept", listing.removed)


def _report(place: str) -> dict[str, Any]:
    from denoise.verbs.report import ReportConfig, report

    return report(ReportConfig(output=place))


def _summary(place: str) -> dict[str, Any]:
    """The summary of a finished run; made again where somebody removed it."""
    if not files.exists(uris.join(place, "summary.json")):
        return _report(place)
    return files.object_in(uris.join(place, "summary.json"))


def flags_of(config: "DataclassInstance") -> dict[str, Any]:
    """Every flag as it was given, without credentials."""
    return {
        name: uris.shown(value) if isinstance(value, str) else value
        for name, value in asdict(config).items()
    }
