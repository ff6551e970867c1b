"""Threads for the many small pieces of work that read and write files: cheaper than the loop's own executor."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

THREADS = 2

P = ParamSpec("P")
T = TypeVar("T")
Work = tuple[asyncio.Future[Any], Callable[[], Any]]


class Workers:
    """Runs functions on a few threads. All that is done by the time the loop looks is told in one wake-up.

    Use it on one loop; `close` it there. Its threads begin with the first work.

    >>> async def main():
    ...     workers = Workers()
    ...     try:
    ...         return await workers.run(sorted, [3, 1, 2])
    ...     finally:
    ...         workers.close()
    >>> asyncio.run(main())
    [1, 2, 3]
    """

    def __init__(self, threads: int = THREADS) -> None:
        self._count = threads
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._told = False
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns, or its error."""
        if self._loop is None:
            self._start()
        assert self._loop is not None  # noqa: S101 - it has just been started
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((future, lambda: work(*args, **kwargs)))
        return await future

    def close(self) -> None:
        """Let the threads end after what they have begun; what waits is not begun."""
        while not self._queue.empty():
            self._queue.get_nowait()
        for _ in self._threads:
            self._queue.put(None)

    def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for number in range(self._count):
            thread = threading.Thread(target=self._main, name=f"airside-files-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _main(self) -> None:
        while (found := self._queue.get()) is not None:
            future, work = found
            try:
                self._done.append((future, work(), None))
            except BaseException as exc:  # noqa: BLE001 - it is for whoever waits
                self._done.append((future, None, exc))
            del found, future, work
            if not self._told:
                self._tell()

    def _tell(self) -> None:
        assert self._loop is not None  # noqa: S101 - there is work, so it was started
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
