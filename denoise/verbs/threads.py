"""Calls in threads, a few ahead of what is taken, in order; one that takes too long is given up."""

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain, islice
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar, cast

from denoise.runners import GIVEN_UP

_IN_MEMORY = 1 << 30  # bytes of decoded images that are ahead
_SLOW = 0.01  # seconds that an item takes to come
_T = TypeVar("_T")
_M = TypeVar("_M")
_R = TypeVar("_R")
_Begin = Callable[[int], None] | None  # what a thread calls first, with the cores it may use


@dataclass(frozen=True)
class TimeLimit(Generic[_T, _M]):
    """How long a call may take."""

    seconds: float
    late: Callable[[_T], _M]  # makes a result of an item whose call took longer


def in_order(
    call: Callable[[_T], _M],
    then: Callable[[_M], _R],
    items: Iterable[_T],
    threads: int,
    *,
    size: Callable[[_T], int],
    max_bytes: int = _IN_MEMORY,
    limit: TimeLimit[_T, _M] | None = None,
    begin: _Begin = None,
) -> Generator[_R, None, None]:
    """Yield `then(call(item))` of each item in order, made by threads that take one item each.

    A few items are ahead of what is taken; fewer where they have more than `max_bytes` together,
    as `size` tells before a call. With 0 threads none is started before it is asked for. Each
    thread first calls `begin` with the number of cores for it: one, or all for a single item.

    An item whose `call` takes longer than the `limit` is given up: its thread cannot be stopped, so
    it goes on under the name GIVEN_UP, and another thread replaces it.
    """
    items = iter(items)
    first_two = list(islice(items, 2 if threads else 0))
    cores = 1
    if len(first_two) < 2:
        threads, cores = 0, max(1, threads)
    items = chain(first_two, items)
    del first_two  # they may hold pixels
    asked = time.monotonic()
    pool = _Threads(max(1, threads), begin, cores)
    running: deque[tuple[_Job[_T, _M, _R], int]] = deque()
    try:
        for item in items:
            is_slow = time.monotonic() - asked > _SLOW  # so results do not wait for items to come
            ahead = size(item)
            while running and ahead + sum(one for _, one in running) > max_bytes:
                yield pool.result(running.popleft()[0])
            running.append((pool.submit(_Job(call, then, item, limit)), ahead))
            while len(running) > 2 * threads or (is_slow and _is_done(running)):
                yield pool.result(running.popleft()[0])
            asked = time.monotonic()
        while running:
            yield pool.result(running.popleft()[0])
    finally:  # what nobody takes any more is not started
        pool.end()


def _is_done(running: deque[tuple["_Job[_T, _M, _R]", int]]) -> bool:
    """Whether there is a first one, and it is done."""
    return bool(running) and running[0][0].answer.done()


@dataclass(eq=False)
class _Job(Generic[_T, _M, _R]):
    """What a thread does with an item."""

    call: Callable[[_T], _M]
    then: Callable[[_M], _R]
    item: _T | None  # until it is done: it may hold pixels
    limit: TimeLimit[_T, _M] | None
    started: float | None = None
    thread: threading.Thread | None = None
    # taken by who settles it first: its thread after the call, or who gives it up
    claim: threading.Lock = field(default_factory=threading.Lock)
    answer: Future[_R] = field(default_factory=Future)

    def do(self) -> bool:
        """Call and go on; False where it was given up meanwhile."""
        self.thread = threading.current_thread()
        self.started = time.monotonic()
        item, is_ours = cast(_T, self.item), False
        try:
            try:
                made = self.call(item)
            finally:
                is_ours = self.claim.acquire(blocking=False)
            if is_ours:
                self.item = None
                self.answer.set_result(self.then(made))
        except BaseException as error:  # noqa: BLE001  # raised again where the result is taken
            self.answer.set_exception(error)
        return is_ours

    def seconds_left(self) -> float | None:
        """Until it is late; None: it cannot be."""
        if self.limit is None or self.claim.locked():
            return None
        if self.started is None:
            return self.limit.seconds
        return max(0.0, self.started + self.limit.seconds - time.monotonic())

    def wait_or_give_up(self) -> bool:
        """Wait until it is done; False where it is late, and given up."""
        while not wait([self.answer], self.seconds_left()).done:
            if self.seconds_left() == 0 and self.give_up():
                return False
        return True

    def give_up(self) -> bool:
        """Leave it to its thread for good; False where that has just done the call."""
        if not self.claim.acquire(blocking=False):
            return False
        assert self.thread is not None
        self.thread.name = GIVEN_UP
        return True

    def late_result(self) -> _R:
        """The result of an item that was given up."""
        assert self.limit is not None
        return self.then(self.limit.late(cast(_T, self.item)))


class _Threads:
    """Threads that do jobs."""

    def __init__(self, count: int, begin: _Begin, cores: int) -> None:
        self._jobs = SimpleQueue[_Job[Any, Any, Any] | None]()
        self._begin = None if begin is None else partial(begin, cores)
        self._threads = [_started(self._jobs, self._begin) for _ in range(count)]
        self._open: set[_Job[Any, Any, Any]] = set()  # whose results nobody has taken

    def submit(self, job: _Job[_T, _M, _R]) -> _Job[_T, _M, _R]:
        self._open.add(job)
        self._jobs.put(job)
        return job

    def result(self, job: _Job[Any, Any, _R]) -> _R:
        """Wait for what a job comes to."""
        is_done = job.wait_or_give_up()
        self._open.discard(job)
        if is_done:
            return job.answer.result()
        self._threads.append(_started(self._jobs, self._begin))
        return job.late_result()

    def end(self) -> None:
        """Let the threads end, and wait for what they do now, but for calls that are late.

        Whoever goes on after that, or begins another run, is not written over.
        """
        with suppress(Empty):
            while (job := self._jobs.get_nowait()) is not None:
                self._open.discard(job)
        for _ in self._threads:
            self._jobs.put(None)
        for job in self._open:
            job.wait_or_give_up()


class _Busy:
    """The threads that do a job: at exit Python waits for them, and does not end under them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: dict[threading.Thread, _Job[Any, Any, Any]] = {}
        self._is_near = False
        atexit.register(self._wait)

    def do(self, job: _Job[Any, Any, Any]) -> bool:
        """Do a job; return whether the thread may do others."""
        thread = threading.current_thread()
        with self._lock:
            if self._is_near:
                job.answer.set_exception(RuntimeError("this process ends"))  # whoever waits
                return False
            self._busy[thread] = job
        is_ours = job.do()
        with self._lock:
            del self._busy[thread]
            return is_ours and not self._is_near

    def _wait(self) -> None:
        """Wait for what is being done, but for what is given up, or late now."""
        with self._lock:
            self._is_near, busy = True, dict(self._busy)
        for thread, job in busy.items():
            while thread.is_alive() and thread.name != GIVEN_UP and job.seconds_left() != 0:
                thread.join(job.seconds_left())


_busy = cache(_Busy)  # made before the first thread


def _started(
    jobs: SimpleQueue[_Job[Any, Any, Any] | None], begin: Callable[[], None] | None
) -> threading.Thread:
    _busy()
    thread = threading.Thread(target=_do_all, args=(jobs, begin), daemon=True)
    thread.start()
    return thread


def _do_all(
    jobs: SimpleQueue[_Job[Any, Any, Any] | None], begin: Callable[[], None] | None
) -> None:
    if begin is not None:
        begin()
    while _do_next(jobs):
        pass


def _do_next(jobs: SimpleQueue[_Job[Any, Any, Any] | None]) -> bool:
    """A function of its own, so that nothing holds the pixels while the thread waits."""
    job = jobs.get()
    return job is not None and _busy().do(job)
