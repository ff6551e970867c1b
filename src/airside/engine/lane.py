"""How many calls of one agent run at once, how many a second, and how many jobs it may have."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

Work = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Rate:
    """`qps` calls a second, after a burst of `burst`."""

    qps: float
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an agent's lane lets through. `quota` bounds the jobs between create and end; None: no bound."""

    workers: int = 64
    read: Rate | None = None
    write: Rate | None = None
    quota: int | None = None


class Gate:
    """Starts work when there is room and the rate allows it; until then work waits here, without a task of its own."""

    def __init__(self, workers: int, rate: Rate | None) -> None:
        self._workers = workers
        self._rate = rate
        self._tokens = float(rate.burst) if rate else 0.0
        self._filled_at = 0.0
        self._waiting: deque[Work] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def put(self, work: Work) -> None:
        """Start the work, now or as soon as may be."""
        self._waiting.append(work)
        self._go()

    @property
    def running(self) -> frozenset[asyncio.Task[None]]:
        """What runs now."""
        return frozenset(self._running)

    def close(self) -> None:
        """Start nothing more."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _go(self) -> None:
        while self._waiting and len(self._running) < self._workers:
            pause = self._pause()
            if pause > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(pause, self._again)
                return
            task = asyncio.create_task(self._waiting.popleft()())
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _again(self) -> None:
        self._timer = None
        self._go()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._go()

    def _pause(self) -> float:
        """Take a token, or tell in how many seconds there will be one."""
        if self._rate is None:
            return 0.0
        now = asyncio.get_running_loop().time()
        if self._filled_at:
            self._tokens = min(self._rate.burst, self._tokens + (now - self._filled_at) * self._rate.qps)
        self._filled_at = now
        if self._tokens >= 1.0 - 1e-9:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self._rate.qps


class Lane:
    """The gates of one agent: one for reads, one for creates and cancels; and its quota."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.reads = Gate(self.limits.workers, self.limits.read)
        self.writes = Gate(self.limits.workers, self.limits.write)
        self._parked: dict[str, None] = {}  # in the order they came
        self._holders: set[str] = set()

    def admit(self, job_id: str) -> str:
        """Empty if the job may begin; else why not, and it is parked."""
        quota = self.limits.quota
        if quota is None or job_id in self._holders:
            return ""
        if len(self._holders) < quota:
            self._holders.add(job_id)
            self._parked.pop(job_id, None)
            return ""
        self._parked[job_id] = None
        return f"The quota of {quota} jobs at once is used up."

    def hold(self, job_id: str) -> None:
        """Count a job that has begun already, also beyond the quota."""
        if self.limits.quota is not None:
            self._holders.add(job_id)

    def release(self, job_id: str) -> str | None:
        """A job has ended: the parked job that may begin instead, if there is one."""
        if job_id not in self._holders:
            return None
        self._holders.discard(job_id)
        return self.next_parked()

    def next_parked(self) -> str | None:
        """The job that has been parked for longest; it is parked no more."""
        job_id = next(iter(self._parked), None)
        if job_id is not None:
            del self._parked[job_id]
        return job_id
