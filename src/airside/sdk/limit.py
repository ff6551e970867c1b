"""A time limit for a block of code."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Limit:
    """Raises `TimeoutError` from a block that takes longer than `seconds`: `asyncio.timeout` at half the cost.

    For code that runs once a call, where that cost shows. None means no limit.

    >>> async def slow() -> None:
    ...     with Limit(0.01):
    ...         await asyncio.sleep(10)
    >>> asyncio.run(slow())
    Traceback (most recent call last):
    TimeoutError
    """

    __slots__ = ("_cancelling", "_seconds", "_task", "_timer", "expired")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self.expired = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - agents are called from tasks only
        self._task, self._cancelling = task, task.cancelling()
        self._timer = None if self._seconds is None else task.get_loop().call_later(self._seconds, self._expire)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._timer is None:
            return
        self._timer.cancel()
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _expire(self) -> None:
        self.expired = True
        self._task.cancel()
