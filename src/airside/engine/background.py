"""Run a coroutine from code that is not async, wherever that code itself runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")

SLICE = 0.2
"""Seconds after which a waiting thread looks whether a signal has arrived."""


class Background(Generic[T]):
    """A coroutine on a loop of its own, in a thread of its own.

    So a loop that runs already (a notebook) is no obstacle, and a signal is answered even while an agent blocks
    the loop.

    >>> async def answer() -> int:
    ...     return 42
    >>> Background(answer).result()
    42
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._future: Future[T] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[T] | None = None
        threading.Thread(target=self._main, name="airside-run", daemon=True).start()

    def result(self) -> T:
        """Wait for what the coroutine returns or raises. A signal handler that raises ends the wait, not the work.

        The wait is cut into slices: a signal that arrives just before the thread blocks would else go unheard.
        """
        while not wait((self._future,), timeout=SLICE).done:
            pass
        return self._future.result()

    def settle(self) -> None:
        """Wait until the coroutine is over, however it ends."""
        try:
            self._future.exception()
        except asyncio.CancelledError:
            return

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the loop, soon."""
        if self._loop is not None and not self._future.done():
            self._loop.call_soon_threadsafe(function)

    def cancel(self) -> None:
        """Cancel the coroutine."""
        if self._task is not None:
            self.call(self._task.cancel)

    def _main(self) -> None:
        try:
            result = asyncio.run(self._begin())
        except BaseException as exc:  # noqa: BLE001 - it must reach the waiting thread
            self._future.set_exception(exc)
        else:
            self._future.set_result(result)

    async def _begin(self) -> T:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        return await self._work()
