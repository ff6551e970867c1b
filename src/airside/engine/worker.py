"""A thread for the many small pieces of work that read and write files: cheaper than the loop's own executor."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, TypeVarTuple

MANY = 32
"""How many pieces of work may be done before the loop is told, though there is more to do."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Work = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]


class Worker:
    """Runs functions on one thread, in turn. What was done in one go is told in one wake-up of the loop.

    More threads would be slower: each system call gives up the interpreter, and all would wait for it in a queue.
    Use it on one loop; `close` it there. The thread begins with the first work.

    >>> async def main():
    ...     worker = Worker()
    ...     try:
    ...         return await worker.run(sorted, [3, 1, 2])
    ...     finally:
    ...         worker.close()
    >>> asyncio.run(main())
    [1, 2, 3]
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._told = False
        self._thread: threading.Thread | None = None

    def run(self, work: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """What `work` returns, or its error."""
        if self._thread is None:
            self._start()
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((future, work, args))
        return future

    def close(self) -> None:
        """Let the thread end after what it has begun; what waits is not begun."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put(None)

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._main, name="airside-files", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        while (found := self._queue.get()) is not None:
            future, work, args = found
            try:
                self._done.append((future, work(*args), None))
            except BaseException as exc:  # noqa: BLE001 - it is for whoever waits
                self._done.append((future, None, exc))
            del found, future, work, args
            if not self._told and (self._queue.empty() or len(self._done) >= MANY):
                self._tell()

    def _tell(self) -> None:
        self._told = True
        try:
            self._loop.call_soon_threadsafe(self._settle)
        except RuntimeError:  # the loop is closed: nobody waits
            return

    def _settle(self) -> None:
        self._told = False  # before looking: what is done from now on is told anew
        while self._done:
            future, value, error = self._done.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
