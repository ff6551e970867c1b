"""The loop: takes jobs from the store when they are due, has the machine decide, and carries its decisions out.

A job that waits is a few hundred bytes and an entry in a heap, no task. What the machine decided is on the disk before
anything remote is done about it; what a call answered is on the disk before anybody is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from airside.engine.agenda import Agenda
from airside.engine.calls import Order, carry_out
from airside.engine.database import Record, StoreError, with_job
from airside.engine.driver import LOOK_AGAIN, Crew, Driver, Drivers
from airside.engine.intake import Intake
from airside.engine.job import (
    Abort,
    Action,
    Answered,
    Due,
    Held,
    Job,
    Observation,
    Refused,
    Resumed,
    Stage,
    changed,
)
from airside.engine.machine import step
from airside.engine.news import news
from airside.engine.rundir import RunDir
from airside.engine.store import Store
from airside.engine.worker import Worker
from airside.model import Phase, Resource
from airside.wire import storage

HELD_FOR = 60.0
"""Seconds after which a job that a quota holds back asks again, if nobody let it in before."""
AT_ONCE = 500
"""How many due jobs are looked at before the loop lets others run."""
GRACE = 5.0
"""Seconds that creates and cancels under way may take to be answered when the loop stops."""


class Entry:
    """A job in memory, its driver, and what its submitter said of it."""

    __slots__ = ("driver", "flight", "job", "kept", "submitted")

    def __init__(self, record: Record, driver: Driver) -> None:
        self.job = changed(record.job, rules=driver.rules)
        self.driver = driver
        self.submitted = record
        self.flight: asyncio.Task[None] | None = None
        self.kept: asyncio.Future[None] | None = None
        """The last write of this job; it comes after all that were made before."""

    def record(self, job: Job) -> Record:
        """The job with what its submitter said of it."""
        return with_job(self.submitted, job=job)


Listener = Callable[[Entry, Job, str], None]


class Loop:
    """Drives the jobs of a store. `start` it on the loop that opened the store, `stop` it there.

    With `only_own` it drives none but those that are submitted to it. `on_change` hears of every transition, after it
    is on the disk; `on_failure` of what ended the loop by itself.
    """

    def __init__(
        self,
        store: Store,
        drivers: Drivers,
        *,
        on_change: Listener,
        on_failure: Callable[[BaseException], None],
        only_own: bool = False,
    ) -> None:
        self._store = store
        self.intake = Intake(store, self._take, only_own=only_own)
        self._crew = Crew(drivers)
        self._only_own = only_own
        self._on_change = on_change
        self._on_failure = on_failure
        self._entries: dict[str, Entry] = {}
        self._agenda = Agenda()
        self._wake = asyncio.Event()
        self._main: asyncio.Task[None] | None = None
        self._worker = Worker()
        self._finding: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._clock: Callable[[], float] = time.time

    @property
    def size(self) -> int:
        """How many jobs are not over."""
        return len(self._entries)

    async def start(self) -> None:
        """Resume the jobs of the store, and begin."""
        loop = asyncio.get_running_loop()
        began = time.time() - loop.time()
        self._clock = lambda: began + loop.time()  # a clock that somebody sets must not end jobs
        if not self._only_own:
            await self.intake.adopt(resumed=True)
        self._main = asyncio.create_task(self._run(), name="airside-engine")
        self._main.add_done_callback(self._ended)

    def _ended(self, main: asyncio.Task[None]) -> None:
        if not main.cancelled() and (error := main.exception()) is not None:
            self._on_failure(error)

    async def stop(self) -> None:
        """Let go of all jobs: creates and cancels under way are waited for a little, polls are not."""
        self._stopping = True
        if self._main is not None:
            self._main.cancel()
            await asyncio.wait({self._main})
        drivers = self._crew.found
        for driver in drivers:
            driver.lane.reads.close()
            driver.lane.writes.close()
        writes = {task for driver in drivers for task in driver.lane.writes.running}
        if writes:
            await asyncio.wait(writes, timeout=GRACE)
        rest: set[asyncio.Task[Any]] = {
            task for driver in drivers for task in driver.lane.writes.running | driver.lane.reads.running
        }
        rest |= self._finding | self._crew.coming
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=GRACE)
        self._worker.close()

    async def _take(self, record: Record, *, resumed: bool = False) -> None:
        driver = await self._crew.of(record)
        entry = self._entries[record.job.id] = Entry(record, driver)
        if entry.job.stage is not Stage.WAITING:
            driver.lane.hold(record.job.id)
        self._schedule(entry.job)
        if resumed:
            self.observe(record.job.id, Resumed())

    def leaves(self, job_id: str) -> bool:
        """True for a job that another process drives, and for one whose agent is still being opened."""
        return job_id not in self._entries if self._only_own else self.intake.leaves(job_id)

    def abort(self, job_id: str) -> bool:
        """Cancel a job; False if it is over, or unknown."""
        known = job_id in self._entries
        self.observe(job_id, Abort())
        return known

    def job(self, job_id: str) -> Job | None:
        """A job that is not over."""
        entry = self._entries.get(job_id)
        return None if entry is None else entry.job

    def observe(self, job_id: str, observation: Observation) -> None:
        """Have the machine decide what follows, keep it, and carry it out."""
        entry = self._entries.get(job_id)
        if entry is None:
            return
        now = self._clock()
        before = entry.job
        after = step(before, observation, now)
        entry.job = after.job
        told = news(before, after, now)
        if told is not None:
            outputs = observation.outputs if type(observation) is Answered else None
            entry.kept = self._store.save(*told, outputs)
            entry.kept.add_done_callback(partial(self._kept, entry, after.job, after.note))
        if after.job.stage is Stage.OVER or after.job.attempt != before.attempt:
            self._let_next_in(entry)
        if after.job.stage is Stage.OVER:
            del self._entries[job_id]
            self.intake.forget(job_id)
        elif after.job.due != before.due or isinstance(observation, (Due, Held)):  # these took it off the heap
            self._schedule(after.job)
        for action in after.actions:
            self._begin(entry, action)

    def _kept(self, entry: Entry, job: Job, note: str, kept: asyncio.Future[None]) -> None:
        if kept.cancelled() or kept.exception() is not None:
            self._wake.set()  # the loop ends with the store's error
        else:
            self._on_change(entry, job, note)

    # -- carrying out ----------------------------------------------------------------------------------------------

    def _begin(self, entry: Entry, action: Action) -> None:
        if action is Action.INTERRUPT:
            if entry.flight is not None and entry.driver.agent.is_sync:
                entry.flight.cancel()
            return
        lane = entry.driver.lane
        gate = lane.reads if action is Action.GET else lane.writes
        gate.put(partial(self._fly, entry, action))

    async def _fly(self, entry: Entry, action: Action) -> None:
        job = entry.job
        if job.stage is Stage.OVER:
            return
        if job.abort and action is Action.CREATE:  # it was cancelled before its turn came
            self.observe(job.id, Refused(job.attempt, Resource(Phase.ABORTED, message="Cancelled before it started.")))
            return
        entry.flight = asyncio.current_task()
        try:
            if entry.kept is not None and action is not Action.GET:  # a question changes nothing anywhere
                await asyncio.shield(entry.kept)
            await self._look_again(entry)
            seen = await carry_out(self._order(entry, action, job))
        except asyncio.CancelledError:
            if self._stopping:
                raise
            seen = Refused(job.attempt, Resource(Phase.RETRYABLE_FAILED, code="Interrupted"))
        except StoreError:
            self._wake.set()
            return
        finally:
            entry.flight = None
        self.observe(job.id, seen)

    def _order(self, entry: Entry, action: Action, job: Job) -> Order:
        record = entry.submitted
        folder = RunDir(job.id, record.root)
        return Order(
            action=action,
            job=job,
            task_type=record.task_type,
            folder=folder,
            agent=entry.driver.agent,
            names=record.source.get("connection") if entry.driver.agent.takes_connection else None,
            submission=partial(self.intake.submission, job.id),
            cached=partial(self._cached, record),
            run=asyncio.to_thread if storage.is_remote(record.root) else self._worker.run,
        )

    async def _look_again(self, entry: Entry) -> None:
        """An agent that could not be found when a job was taken up may have come since."""
        if entry.driver.lost is not None:
            entry.driver = await self._crew.of(entry.submitted)
            entry.job = changed(entry.job, rules=entry.driver.rules)

    async def _cached(self, record: Record) -> Record | None:
        if not record.cache_key or not record.reads_cache:
            return None
        return await self._store.read(lambda database: database.cached(record.cache_key))

    # -- time ------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            if self._store.error is not None:
                raise self._store.error
            pause = self._work_off()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _work_off(self) -> float | None:
        """Begin what is due; seconds until the next is, None if nothing waits for a time."""
        now = self._clock()
        for _ in range(AT_ONCE):
            first = self._agenda.first
            if first is None:
                return None
            if first > now:
                return first - now
            due, job_id = self._agenda.take()
            entry = self._entries.get(job_id)
            if entry is not None and entry.job.due == due:
                self._due(entry)
        return 0.0

    def _schedule(self, job: Job) -> None:
        if self._agenda.put(job):
            self._wake.set()

    def _due(self, entry: Entry) -> None:
        job = entry.job
        if entry.driver.held and job.stage is Stage.WAITING:
            finding = asyncio.create_task(self._find_again(entry))
            self._finding.add(finding)
            finding.add_done_callback(self._finding.discard)
            return
        reason = entry.driver.lane.admit(job.id) if job.stage is Stage.WAITING else ""
        self.observe(job.id, Held(reason, HELD_FOR) if reason else Due())

    async def _find_again(self, entry: Entry) -> None:
        """The job waits until it is known which agent it is for."""
        await self._look_again(entry)
        if entry.driver.held:
            self.observe(entry.job.id, Held(entry.driver.held, LOOK_AGAIN))
        elif entry.job.id in self._entries:
            self._due(entry)

    def _let_next_in(self, entry: Entry) -> None:
        following = entry.driver.lane.release(entry.job.id)
        while following is not None:
            waiting = self._entries.get(following)
            if waiting is not None and waiting.job.stage is Stage.WAITING:
                waiting.job = changed(waiting.job, due=min(waiting.job.due, self._clock()))
                self._schedule(waiting.job)
                return
            following = entry.driver.lane.next_parked()
