"""Refreshes: ask the agents how their jobs are, ahead of the callers, never more often than needed.

Without `get_many` the refresh follows the asker: one backend call an ask, started ahead of the next expected one.
With `get_many` jobs of one agent and connection are asked for together, on the agent's `poll_interval`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import islice

from airside.model import Call, Fail, NotFound, Resource
from airside.observe.events import Event, Hooks, What
from airside.sdk.agent import Agent
from airside.server.job import NEVER, Job
from airside.server.latency import Latency
from airside.server.schedule import Schedule
from airside.server.tolerance import faulty, found, missing
from airside.wire.status import failure

log = logging.getLogger("airside.server")

LEAD = 1.0
"""Seconds, beyond the agent's p95 latency, by which a refresh precedes the expected ask."""
BATCH = 100
"""Jobs in one call of `get_many`."""
OVERDUE = 5.0
"""Seconds beyond the agent's `call_timeout` after which a refresh is given up: its agent ignores the timeout."""
GATHER = 0.02
"""Seconds to wait for more jobs before a batch goes out that somebody waits for."""

Take = Callable[[Job, Resource], Awaitable[None]]


@dataclass(eq=False, slots=True)
class Group:
    """The watched jobs of one agent and connection that are asked for together."""

    agent: Agent
    jobs: set[Job] = field(default_factory=set)
    waiting: set[Job] = field(default_factory=set)
    due: float = NEVER


class Refresher:
    """Refreshes watched jobs. `take(job, resource)` is told what each refresh found."""

    def __init__(self, take: Take, hooks: Hooks, *, by_itself: bool = True) -> None:
        self._take = take
        self._by_itself = by_itself  # False: only an ask causes a refresh
        self._hooks = hooks
        self._latency: dict[Agent, Latency] = {}
        self._ahead = Schedule[Job](self._start, lambda job: job.due)
        self._groups: dict[tuple[Agent, int], Group] = {}
        self._rounds = Schedule[Group](self._begin_round, lambda group: group.due)
        self._tasks: set[asyncio.Task[None]] = set()

    def refresh(self, job: Job) -> asyncio.Future[None]:
        """The refresh of a job that is under way, or a new one."""
        if job.refresh is not None and self._is_overdue(job):
            self._give_up(job, job.refresh)
        if job.refresh is None:
            self._start(job)
        assert job.refresh is not None  # noqa: S101 - `_start` sets it
        return job.refresh

    def expect(self, job: Job, now: float) -> None:
        """Plan the refresh ahead of the next ask of a job that was just answered."""
        if job.is_over:
            self.forget(job)
        elif not self._by_itself:
            return
        elif "get_many" in job.agent.supports:
            self._join_group(job, now)
        elif job.refresh is None and job.period:
            lead = self._latency_of(job.agent).p95 + LEAD
            expected = max(now + job.period - lead, job.fresh_at + job.fresh_for, job.retry_at)
            self._plan(job, expected)

    def forget(self, job: Job) -> None:
        """Refresh this job no more."""
        job.due = NEVER
        group = self._groups.get(_group_of(job))
        if group is not None:
            group.jobs.discard(job)
            group.waiting.discard(job)
            if not group.jobs:
                del self._groups[_group_of(job)]

    async def close(self) -> None:
        """Stop refreshing."""
        self._ahead.close()
        self._rounds.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- one by one -------------------------------------------------------------------------------------------------

    def _start(self, job: Job) -> None:
        job.due = NEVER
        if job.refresh is not None:
            return
        if "get_many" in job.agent.supports:
            self._wait_for_batch(job)
        else:
            job.refreshing_since = time.monotonic()
            job.refresh = self._spawn(self._refresh_one(job))

    def _is_overdue(self, job: Job) -> bool:
        return time.monotonic() - job.refreshing_since > job.agent.settings.call_timeout + OVERDUE

    def _give_up(self, job: Job, refresh: asyncio.Future[None]) -> None:
        """Count a refresh that does not end as a fault: the job must not wait for it."""
        refresh.cancel()
        error = TimeoutError(f"{job.agent.name} does not come back, though it was told to stop.")
        began, job.refreshing_since = job.refreshing_since, time.monotonic()
        job.refresh = self._spawn(self._judge(job, error, began))

    async def _refresh_one(self, job: Job) -> None:
        began = time.monotonic()
        try:
            outcome: Resource | Exception = _checked(await job.agent.get(job.handle.meta, job.call), job.agent)
        except Exception as exc:  # noqa: BLE001 - whatever the agent raised, the task must not freeze for it
            outcome = exc
        self._latency_of(job.agent).add(time.monotonic() - began)
        await self._judge(job, outcome, began)

    async def _judge(self, job: Job, outcome: Resource | Exception, began: float) -> None:
        """Take what a refresh found; a job that went wrong is refreshed again by itself."""
        now = time.monotonic()
        if isinstance(outcome, Fail):
            outcome = failure(outcome)  # the agent says that asking again can never help
        try:
            if isinstance(outcome, Resource):
                await self._take(job, found(job, outcome))
                self._tell(What.REFRESH, job, seconds=now - began)
            else:
                await self._take(job, self._fault(job, outcome, now))
        except Exception as exc:  # noqa: BLE001 - outputs in a file that cannot be read now, say
            await self._take(job, self._fault(job, exc, now))
        finally:
            job.refresh = None
        if self._by_itself and job.retry_at > now and not job.is_over:
            self._plan(job, job.retry_at)

    def _fault(self, job: Job, error: Exception, now: float) -> Resource:
        gone = isinstance(error, NotFound)
        resource = missing(job, error, now) if isinstance(error, NotFound) else faulty(job, error, now)
        if not gone:
            log.info(
                "refresh failed (%d in a row): %s",
                job.failures,
                error,
                extra={"agent": job.agent.name, "key": job.handle.key},
            )
        what = What.GIVEN_UP if resource.phase.is_failure and not job.deleted else What.TOLERATED
        self._tell(what, job, message=resource.message)
        return resource

    def _plan(self, job: Job, when: float) -> None:
        job.due = when
        self._ahead.add(job)

    # -- together ---------------------------------------------------------------------------------------------------

    def _join_group(self, job: Job, now: float) -> Group:
        group = self._groups.get(_group_of(job))
        if group is None:
            group = self._groups[_group_of(job)] = Group(job.agent)
        group.jobs.add(job)
        if group.due == NEVER:
            self._plan_round(group, now + job.agent.settings.poll_interval)
        return group

    def _wait_for_batch(self, job: Job) -> None:
        """Let a job that somebody waits for go out with the next batch, in a moment."""
        now = time.monotonic()
        group = self._join_group(job, now)
        job.refresh = asyncio.get_running_loop().create_future()
        job.refreshing_since = now
        group.waiting.add(job)
        if group.due > now + GATHER:
            self._plan_round(group, now + GATHER)

    def _plan_round(self, group: Group, when: float) -> None:
        group.due = when
        self._rounds.add(group)

    def _begin_round(self, group: Group) -> None:
        """Send out everything that is due: the jobs somebody waits for, and those not refreshed for an interval."""
        now, interval = time.monotonic(), group.agent.settings.poll_interval
        stale = [
            job
            for job in group.jobs
            if job.refresh is None and job.retry_at <= now and now - job.fresh_at >= interval * 0.5
        ]
        due = [*group.waiting, *(stale if len(group.waiting) < len(group.jobs) else ())]
        group.waiting.clear()
        for batch in _batches(due):
            self._spawn(self._refresh_many(group.agent, batch))
        group.due = NEVER
        if group.jobs:
            self._plan_round(group, now + interval)

    async def _refresh_many(self, agent: Agent, jobs: list[Job]) -> None:
        waited = {job: job.refresh for job in jobs if job.refresh is not None}
        for job in jobs:
            if job.refresh is None:
                job.refresh = waited[job] = asyncio.get_running_loop().create_future()
        began = time.monotonic()
        for job in jobs:
            job.refreshing_since = began
        try:
            answers = await agent.get_many([job.handle.meta for job in jobs], jobs[0].call)
            outcomes: list[Resource | Exception] = list(answers)
        except Exception as exc:  # noqa: BLE001 - as for one
            outcomes = [exc] * len(jobs)
        self._latency_of(agent).add(time.monotonic() - began)
        for job, outcome in zip(jobs, outcomes, strict=True):
            try:
                await self._judge(job, outcome, began)
            finally:
                if not waited[job].done():
                    waited[job].set_result(None)

    # -- shared -----------------------------------------------------------------------------------------------------

    def _latency_of(self, agent: Agent) -> Latency:
        latency = self._latency.get(agent)
        if latency is None:
            latency = self._latency[agent] = Latency()
        return latency

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)  # noqa: S101 - only coroutines come here
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _tell(self, what: What, job: Job, *, message: str = "", seconds: float = 0.0) -> None:
        handle = job.handle
        self._hooks.tell(
            Event(what=what, task_type=handle.task_type.name, key=handle.key, message=message, seconds=seconds)
        )


def _checked(resource: object, agent: Agent) -> Resource:
    if not isinstance(resource, Resource):
        raise TypeError(f"{agent.name}.get returned {type(resource).__name__}, not a Resource")
    return resource


def _group_of(job: Job) -> tuple[Agent, int]:
    connection = job.call.connection
    if connection is None:
        return job.agent, 0
    parts = (connection.name, *sorted(connection.secrets.items()), *sorted(connection.configs.items()))
    return job.agent, hash(parts)


def _batches(jobs: Iterable[Job]) -> Iterable[list[Job]]:
    rest = iter(jobs)
    while batch := list(islice(rest, BATCH)):
        yield batch


def call_for_refresh(call: Call) -> Call:
    """The call under which a refresh is made: it outlives the ask, so it has no deadline."""
    return replace(call, deadline=None)
