"""The stages of an image's way that noise and infer share: fetched, decoded, taken in order."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from denoise.errors import CRASHED
from denoise.images.pairs import Fetched, Pair, PairConfig, decode_pair
from denoise.output.shard import ShardTask
from denoise.runners import GIVEN_UP, Allocation
from denoise.storage.entry import Entry
from denoise.storage.fetch import failed, fetch

_FETCHED_AHEAD = 256 << 20  # bytes of encoded images that a worker may hold
_DECODED_AHEAD = 1 << 30  # bytes of decoded images, of those decoded and of those encoded each
_SWELL = 20  # times that a JPEG file grows when it is decoded and paired
_T = TypeVar("_T")
_R = TypeVar("_R")


def decoded_pairs(
    shards: Iterable[tuple[ShardTask, list[Entry]]],
    config: PairConfig,
    allocation: Allocation,
    seconds: float,
) -> Iterator[Pair]:
    """Fetch and decode the missing images of shards, a few ahead of what is taken, in order.

    An image that takes longer than `seconds` to decode is given up: its error says so.
    """
    fetched = in_order(
        partial(_fetch, config=config),
        ((task, entry) for task, missing in shards for entry in missing),
        allocation.fetch,
        size=lambda image: image[1].likely_size,
        most=_FETCHED_AHEAD,
    )
    yield from in_order(
        partial(decode_in_time, config=config, seconds=seconds),
        fetched,
        allocation.decode,
        size=lambda image: _SWELL * len(image.source.encoded),
    )


def _fetch(image: tuple[ShardTask, Entry], config: PairConfig) -> Fetched:
    task, entry = image
    if entry.path in task.crashed:
        return failed(entry, CRASHED, config)
    if task.announce is not None:
        task.announce(entry.path)
    return fetch(entry, config)


def in_order(
    call: Callable[[_T], _R],
    items: Iterable[_T],
    threads: int,
    *,
    size: Callable[[_T], int],
    most: int = _DECODED_AHEAD,
) -> Generator[_R, None, None]:
    """Call a function in threads, as many items ahead of what is taken, and yield in order.

    Fewer are ahead where they have more than `most` bytes together, as `size` tells before a call.
    With 0 threads each call is made where its result is taken.
    """
    if threads == 0:
        yield from map(call, items)
        return
    running: deque[tuple[Future[_R], int]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            running.append((pool.submit(call, item), size(item)))
            while len(running) > 1 and (
                len(running) > threads or sum(one for _, one in running) > most
            ):
                yield running.popleft()[0].result()
        while running:
            yield running.popleft()[0].result()
    finally:  # nobody waits for what nobody takes any more
        pool.shutdown(wait=False, cancel_futures=True)


def decode_in_time(fetched: Fetched, config: PairConfig, seconds: float) -> Pair:
    """Decode in a thread of its own, which nobody waits for longer than so many seconds.

    No library that decodes can be stopped, so the thread goes on; Ray's workers end after it.
    """
    if fetched.pair.error is not None:
        return fetched.pair
    results: list[Pair] = []
    raised: list[BaseException] = []

    def decode() -> None:
        try:
            results.append(decode_pair(fetched, config))
        except BaseException as error:  # noqa: BLE001  # handed on to whoever waits, below
            raised.append(error)

    start = time.perf_counter()
    thread = threading.Thread(target=decode, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        thread.name = GIVEN_UP
        error = f"it took longer than {seconds:g} s to decode (--max-seconds)"
        spent = time.perf_counter() - start
        before = fetched.pair
        return Pair(before.path, error=error, beside=before.beside, seconds={"decode": spent})
    if raised:
        raise raised[0]
    return results[0]
