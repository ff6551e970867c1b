"""One timer for all jobs: calls back when the earliest due thing is due. No task, no timer per job."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable
from itertools import count
from typing import Generic, TypeVar

from airside.server.job import NEVER

T = TypeVar("T")


class Schedule(Generic[T]):
    """Due times of many things. `due_of` tells when a thing is due now: an older entry for it is ignored."""

    def __init__(self, wake: Callable[[T], None], due_of: Callable[[T], float]) -> None:
        self._wake = wake
        self._due_of = due_of
        self._heap: list[tuple[float, int, T]] = []
        self._tie = count()
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = NEVER

    def add(self, thing: T) -> None:
        """Call `wake(thing)` when it is due; again after each change of its due time."""
        due = self._due_of(thing)
        if due < NEVER:
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
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due - time.monotonic()), self._ring)

    def _ring(self) -> None:
        self._armed_for, self._timer = NEVER, None
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            due, _, thing = heapq.heappop(self._heap)
            if self._due_of(thing) == due:  # else it was put off or taken back meanwhile
                self._wake(thing)
        if self._heap:
            self._arm(self._heap[0][0])
