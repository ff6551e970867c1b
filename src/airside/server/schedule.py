"""One timer for all jobs: calls back when the earliest due thing is due. No task, no timer per job."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from contextvars import Context
from itertools import count
from typing import Generic, Protocol, TypeVar

from airside.server.job import NEVER

_EARLY = 0.001  # seconds: a timer may ring a little before its time


class Timed(Protocol):
    """What can be scheduled. `due` is when it wants to be woken; `queued` belongs to the schedule."""

    due: float
    queued: float


T = TypeVar("T", bound=Timed)

CLOSE = 2.0
"""Seconds that cancelled work gets to end when the service stops."""


class Schedule(Generic[T]):
    """Wakes each thing when its `due` time has come. One that is put off stays in its place until then."""

    def __init__(self, wake: Callable[[T], None]) -> None:
        self._wake = wake
        self._heap: list[tuple[float, int, T]] = []
        self._tie = count()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = NEVER

    def plan(self, thing: T, due: float) -> None:
        """Call `wake(thing)` at `due`, and not at what was planned before. `NEVER` takes it back."""
        thing.due = due
        if due < thing.queued:
            thing.queued = due
            heapq.heappush(self._heap, (due, next(self._tie), thing))
            if due < self._armed_for:
                self._arm(due)

    def close(self) -> None:
        """Wake nothing any more."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()

    def __len__(self) -> int:
        return len(self._heap)

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = due
        delay = max(0.0, due - time.monotonic())
        # What comes of it is nobody's call: neither that of whoever planned it, nor another's whose time came first.
        self._timer = asyncio.get_running_loop().call_later(delay, self._ring, context=Context())

    def _ring(self) -> None:
        self._armed_for, self._timer = NEVER, None
        now = time.monotonic() + _EARLY
        while self._heap and self._heap[0][0] <= now:
            place, _, thing = heapq.heappop(self._heap)
            if place != thing.queued:
                continue  # it was planned for an earlier time after this place was taken
            thing.queued = NEVER
            if thing.due > now:
                self.plan(thing, thing.due)
            else:
                thing.due = NEVER
                self._wake(thing)
        if self._heap and self._heap[0][0] < self._armed_for:
            self._arm(self._heap[0][0])
