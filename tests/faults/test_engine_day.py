"""A day of jobs in virtual time: thousands that last from seconds to hours, each ended as it should, when it should."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from tests.unit.server.conftest import EPOCH, VirtualLoop

from airside import AsyncAgent, Engine, Phase, Resource, Retry, Task, TaskTemplate, kwtypes
from airside.engine.database import Record
from airside.engine.job import Stage
from airside.engine.store import Store
from airside.engine.worker import Worker

DAY = 24 * 3600.0
LATEST = 300.0
"""Seconds within which the end of a job is known: its agent is asked each two minutes, and may be away for a poll."""

TASK = TaskTemplate(
    name="nap", task_type="nap", inputs=kwtypes(n=int, seconds=float), outputs=kwtypes(n=int), retries=2
)


class PatientLoop(VirtualLoop):
    """Virtual time that waits for what threads are doing before it jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[Any] = set()
        jump, poll = self._selector.select, self._selector.__class__.select  # type: ignore[attr-defined]  # the loop's own, which no stub knows

        def wait_or_jump(timeout: float | None = None) -> Any:
            if timeout is None or (timeout > 0 and self.threads):
                return poll(self._selector, 10)  # type: ignore[attr-defined]  # the loop's own, which no stub knows
            return jump(timeout)

        self._selector.select = wait_or_jump  # type: ignore[attr-defined]  # the loop's own, which no stub knows

    def busy(self, future: Any) -> Any:
        """Do not jump until this is done."""
        if not future.done():
            self.threads.add(future)
            future.add_done_callback(self.threads.discard)
        return future

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        return self.busy(super().run_in_executor(executor, func, *args))


@dataclass
class Nap:
    n: int
    attempt: int
    ends_at: float


class Napping(AsyncAgent[Nap]):
    """Every seventh job fails once, every eleventh for good, every thirteenth never ends; sometimes it is away."""

    task_type = "nap"
    poll_interval = 120.0
    create_is_idempotent = True

    def __init__(self) -> None:
        self.creates: Counter[str] = Counter()
        self.deleted: set[tuple[int, int]] = set()
        self.polls = 0

    async def create(self, task: Task) -> Nap:
        self.creates[task.key] += 1
        return Nap(task.inputs["n"], task.execution.attempt, time.time() + task.inputs["seconds"])

    async def get(self, job: Nap) -> Resource:
        self.polls += 1
        if self.polls % 97 == 0:
            raise Retry("away")
        if (job.n, job.attempt) in self.deleted:
            return Resource(Phase.ABORTED)
        if time.time() < job.ends_at or job.n % 13 == 0:
            return Resource(Phase.RUNNING, message="naps")
        if job.n % 11 == 0:
            return Resource(Phase.FAILED, code="Nightmare")
        if job.n % 7 == 0 and job.attempt == 0:
            return Resource(Phase.RETRYABLE_FAILED, code="Woken")
        return Resource(Phase.SUCCEEDED, outputs={"n": job.n})

    async def delete(self, job: Nap) -> None:
        self.deleted.add((job.n, job.attempt))


@pytest.mark.parametrize("jobs", [1000, pytest.param(20_000, marks=pytest.mark.faults)])
def test_a_day_of_jobs(jobs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, agent, began = PatientLoop(), Napping(), time.monotonic()
    write, run = Store._write, Worker.run

    async def run_and_wait(self: Worker, *what: Any, **more: Any) -> Any:
        return await loop.busy(asyncio.ensure_future(run(self, *what, **more)))

    monkeypatch.setattr(Store, "_write", lambda self, what: loop.busy(write(self, what)))
    monkeypatch.setattr(Worker, "run", run_and_wait)
    with monkeypatch.context() as patch, asyncio.Runner(loop_factory=lambda: loop) as runner:
        patch.setattr(time, "monotonic", lambda: loop.now)
        patch.setattr(time, "time", lambda: EPOCH + loop.now)
        records, seconds = runner.run(a_day(jobs, agent))
    lateness = check(records, seconds)
    assert set(agent.creates.values()) == {1}
    assert len(agent.creates) == sum(record.job.attempt + 1 for record in records)
    print(
        f"\n{jobs} jobs of a day in {time.monotonic() - began:.0f} s: {len(agent.creates)} attempts, {agent.polls} "
        f"polls, {len(agent.deleted)} cancels; the end of each was known at most {lateness:.0f} s after it"
    )


async def a_day(jobs: int, agent: Napping) -> tuple[list[Record], dict[str, float]]:
    """Hand in the jobs at random times of the day; return them once all are over, and how long each was to last."""
    random = Random(jobs)  # noqa: S311 - when jobs come, and how long they last
    times = sorted(random.uniform(0.0, DAY) for _ in range(jobs))
    lasting: dict[str, float] = {}
    async with Engine(":memory:", agents=[agent]) as engine:
        began = asyncio.get_running_loop().time()
        for n, at in enumerate(times, 1):
            await asyncio.sleep(began + at - asyncio.get_running_loop().time())
            seconds = 10 ** random.uniform(0.0, 4.0)
            timeout = 3600.0 if n % 13 == 0 else None
            job = await engine.submit(TASK, {"n": n, "seconds": seconds}, timeout=timeout, retries=n % 3)
            lasting[job] = seconds
        while engine.unfinished:
            await asyncio.sleep(60.0)
        return list(reversed(await engine.jobs(limit=jobs + 1))), lasting


def check(records: list[Record], lasting: dict[str, float]) -> float:
    """Every job ended as it should; returns the seconds by which the last of them to be noticed was late."""
    assert len(records) == len(lasting)
    worst = 0.0
    for n, record in enumerate(records, 1):
        job, retries = record.job, n % 3
        assert job.stage is Stage.OVER
        assert not job.job_may_live
        assert job.finished_at is not None
        assert job.created_at is not None
        took = job.finished_at - job.created_at
        if n % 13 == 0:
            assert (job.phase, job.code.rpartition("|")[2]) == (Phase.FAILED, "TimeoutExpired"), job
            worst = max(worst, took - 3600.0)
            continue
        late = took - lasting[job.id]
        assert -1e-6 <= late <= LATEST, job
        worst = max(worst, late)
        if n % 11 == 0:
            assert (job.phase, job.code, job.attempt) == (Phase.FAILED, "Nightmare", 0)
        elif n % 7 == 0 and not retries:
            assert (job.phase, job.code) == (Phase.FAILED, "RetriesExhausted|Woken")
        else:
            assert (job.phase, job.attempt) == (Phase.SUCCEEDED, 1 if n % 7 == 0 else 0), job
    return worst
