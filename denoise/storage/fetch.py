"""The bytes of one input image and of its reference, from wherever they are."""

from denoise.errors import FAILURES, ImageError, why
from denoise.images.pairs import Fetched, Pair, PairConfig, Source, decode_pair
from denoise.storage.entry import Entry, beside_of, source_of
from denoise.storage.references import reference_of


def fetch(entry: Entry, config: PairConfig) -> Fetched:
    """Fetch an image and, where it is needed, its reference.

    It waits for a disk or a store, so threads may do it ahead. What goes wrong is the pair's error.
    """
    pair = Pair(entry.path, entry.stem)
    source = Source(b"")
    reference: bytes | str | None = None
    with pair.stage("fetch"):
        pair.beside = beside_of(entry, config.beside)
        names = tuple(name for name, _ in config.beside)
        source = source_of(entry, beside=names, allow_elsewhere=config.allow_elsewhere)
        if source.error is not None:
            raise ImageError(source.error)
        if config.sigma is None and config.reference is not None:
            reference = _reference(entry.path, config.reference)
    return Fetched(pair, source, reference)


def failed(entry: Entry, error: str, config: PairConfig) -> Fetched:
    """An image that is not to be touched, and why: what stands beside it is fetched alone."""
    pair = Pair(entry.path)
    with pair.stage("fetch"):
        pair.beside = beside_of(entry, config.beside, alone=True)
    pair.error = error
    return Fetched(pair, Source(b""))


def load_pair(entry: Entry, config: PairConfig) -> Pair:
    """Fetch and decode one image as a pair; what goes wrong is the pair's error."""
    return decode_pair(fetch(entry, config), config)


def _reference(path: str, references: str) -> bytes | str:
    """The bytes of a path's reference, or its error, which matters only where the image is fine."""
    try:
        entry = reference_of(references, path)
    except FAILURES as error:
        return why(error)
    try:
        return source_of(entry).encoded
    except FAILURES as error:
        return f"its reference: {why(error)}"
