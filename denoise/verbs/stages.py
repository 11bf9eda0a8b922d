"""The stages of an image's way that noise and infer share: fetched, decoded, taken in order."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TypeVar

from denoise.errors import CRASHED
from denoise.images.pairs import Fetched, Pair, PairConfig, decode_pair
from denoise.output.shard import ShardTask
from denoise.runners import GIVEN_UP, Allocation
from denoise.storage.entry import Entry
from denoise.storage.fetch import failed, fetch

_FETCHED_AHEAD = 256 << 20  # bytes of encoded images that a worker may hold
_DECODED_AHEAD = 1 << 30  # bytes of decoded images
_SWELL = 20  # times that a JPEG file grows when it is decoded and paired
_T = TypeVar("_T")
_R = TypeVar("_R")


def decoded_pairs(
    task: ShardTask,
    missing: list[Entry],
    config: PairConfig,
    allocation: Allocation,
    seconds: float,
) -> Iterator[Pair]:
    """Fetch and decode the missing images of a shard, a few ahead of what is taken, in order.

    An image that takes longer than `seconds` to decode is given up: its error says so.
    """
    decode = partial(decode_in_time, config=config, seconds=seconds)
    if task.announce is not None:
        for entry in missing:
            if entry.path in task.crashed:
                yield failed(entry, CRASHED, config)
            else:
                task.announce(entry.path)
                yield decode(fetch(entry, config))
        return
    largest = max((entry.likely_size for entry in missing), default=1)
    fetched = in_order(
        partial(fetch, config=config),
        missing,
        max(1, min(allocation.fetch, _FETCHED_AHEAD // largest)),
    )
    ahead = min(allocation.decode, max(1, _DECODED_AHEAD // (_SWELL * largest)))
    yield from in_order(decode, fetched, ahead)


def in_order(call: Callable[[_T], _R], items: Iterable[_T], threads: int) -> Iterator[_R]:
    """Call a function in threads, as many items ahead of what is taken, and yield in order.

    With 0 threads each call is made where its result is taken.
    """
    if threads == 0:
        yield from map(call, items)
        return
    waiting = iter(items)
    pool = ThreadPoolExecutor(threads)
    try:
        running = deque(pool.submit(call, item) for item in islice(waiting, threads))
        while running:
            result = running.popleft().result()
            running.extend(pool.submit(call, item) for item in islice(waiting, 1))
            yield result
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
