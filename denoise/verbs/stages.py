"""The stages of an image's way that noise and infer share: fetched, decoded in time, made a row."""

from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import TypeVar

from denoise.errors import CRASHED
from denoise.images.pairs import Fetched, Pair, PairConfig, decode_pair
from denoise.output.shard import ShardTask
from denoise.runners import Allocation
from denoise.storage.entry import Entry
from denoise.storage.fetch import failed, fetch
from denoise.verbs.threads import TimeLimit, in_order

_FETCHERS = 8  # threads: enough to hide a store's latency
_UPLOADERS = 4  # threads at least that wait for a store to take files
_FETCHED_AHEAD = 256 << 20  # bytes of encoded images that a worker may hold
_SWELL = 20  # times that a JPEG file grows when it is decoded and paired
_R = TypeVar("_R")


def as_it_is(value: _R) -> _R:
    """The value: where there is nothing to do with it."""
    return value


def fetched_images(
    shards: Iterable[tuple[ShardTask, list[Entry]]], config: PairConfig, allocation: Allocation
) -> Generator[Fetched, None, None]:
    """Fetch the missing images of shards, a few ahead of what is taken, in order."""
    return in_order(
        partial(_fetch, config=config),
        as_it_is,
        ((task, entry) for task, missing in shards for entry in missing),
        0 if allocation.one_by_one else _FETCHERS,
        size=lambda image: image[1].likely_size,
        max_bytes=_FETCHED_AHEAD,
    )


def rows_of(
    images: Iterable[Fetched],
    config: PairConfig,
    row: Callable[[Pair], _R],
    allocation: Allocation,
    *,
    waits: bool,
    compute: Callable[[Pair], Pair] = as_it_is,
    begin: Callable[[int], None] | None = None,
) -> Generator[_R, None, None]:
    """Decode images, compute, and make their rows; each thread takes a whole image.

    There are as many threads as cores, since more would slow them down. Where a row `waits` for a
    store, threads of their own make the rows. Those that compute call `begin`: see in_order.
    """
    if not waits or allocation.one_by_one:
        return decoded(images, config, allocation, lambda pair: row(compute(pair)), begin=begin)
    computed = decoded(images, config, allocation, compute, begin=begin)
    return finished(computed, row, allocation)


def decoded(
    images: Iterable[Fetched],
    config: PairConfig,
    allocation: Allocation,
    then: Callable[[Pair], _R],
    *,
    begin: Callable[[int], None] | None = None,
) -> Generator[_R, None, None]:
    """Decode images in threads, which go on with `then`; yield what that returns, in order.

    An image that takes longer to decode than the config allows is given up: its error says so.
    """
    return in_order(
        partial(_decode, config=config),
        then,
        images,
        0 if allocation.one_by_one else allocation.threads,
        size=lambda image: _SWELL * len(image.source.encoded),
        limit=TimeLimit(config.max_seconds, partial(_late, config=config)),
        begin=begin,
    )


def finished(
    pairs: Iterable[Pair], row: Callable[[Pair], _R], allocation: Allocation
) -> Generator[_R, None, None]:
    """Make the rows of pairs in threads of their own, which may wait for a store."""
    threads = max(allocation.threads, _UPLOADERS)
    return in_order(row, as_it_is, pairs, threads, size=lambda pair: pair.nbytes)


def decode_in_time(fetched: Fetched, config: PairConfig) -> Pair:
    """Decode a single image; it gets an error where it takes longer than the config allows."""
    (pair,) = decoded([fetched], config, Allocation(), as_it_is)
    return pair


def _fetch(image: tuple[ShardTask, Entry], config: PairConfig) -> Fetched:
    task, entry = image
    if entry.path in task.crashed:
        return failed(entry, CRASHED, config)
    if task.announce is not None:
        task.announce(entry.path)
    return fetch(entry, config)


def _decode(fetched: Fetched, config: PairConfig) -> Pair:
    return fetched.pair if fetched.pair.error is not None else decode_pair(fetched, config)


def _late(fetched: Fetched, config: PairConfig) -> Pair:
    """The pair of an image that a thread still decodes."""
    error = f"it took longer than {config.max_seconds:g} s to decode (--max-seconds)"
    before, spent = fetched.pair, {"decode": config.max_seconds}
    return Pair(before.path, error=error, beside=before.beside, seconds=spent)
