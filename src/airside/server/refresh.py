"""Refreshes: ask the agents how their jobs are, ahead of the callers, never more often than needed.

Without `get_many` the refresh follows the asker: one backend call an ask, started ahead of the next expected one.
With `get_many` jobs of one agent and connection are asked for together, on the agent's `poll_interval`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from airside.model import Call, Fail, NotFound, Resource
from airside.observe.events import Event, Hooks, What
from airside.sdk.agent import Agent
from airside.sdk.limit import Limit
from airside.server.job import NEVER, Job, call_limit, correlation_of
from airside.server.latency import Latency
from airside.server.schedule import CLOSE, Schedule
from airside.server.standin import StandIn, real
from airside.server.tolerance import MAX_BACKOFF, faulty, found, missing, recovered
from airside.server.unexpected import explained
from airside.wire.status import failure

log = logging.getLogger("airside.server")

LEAD = 1.0
"""Seconds, beyond the agent's p95 latency, by which an answer that was fetched for an ask may be older than the ask."""
SLACK = 0.5
"""Seconds by which an ask may come later than expected and still find the refresh that was made for it."""
EAGER = 6
"""Failures in a row up to which a refresh that an ask waits for, or soon will, is repeated eagerly:"""
EAGER_PAUSE = 0.5
"""... within so many seconds, unless the backend asked for more."""
HOPELESS = 12
"""Failures in a row after which the repeats no longer care when the next ask comes."""
WAITED = 2.0
"""Seconds for which an ask may wait."""
_TICK = 0.001  # seconds: less is no time left
BATCH = 100
"""Jobs in one call of `get_many`."""
OVERDUE = 5.0
"""Seconds beyond the agent's `call_timeout` after which a refresh is given up: its agent ignores the timeout."""
PACE = 0.01
"""Seconds between two batches that nobody waits for."""
GATHER = 0.02
"""Seconds to wait for more jobs before a batch goes out that somebody waits for."""

Take = Callable[[Job, Resource], Awaitable[None]]
GiveUp = Callable[[Job], object]


@dataclass(eq=False, slots=True)
class Group:
    """The watched jobs of one agent and connection that are asked for together."""

    key: tuple[Agent, int]
    call: Call
    jobs: set[Job] = field(default_factory=set)
    waiting: set[Job] = field(default_factory=set)
    due: float = NEVER
    queued: float = NEVER


class Refresher:
    """Refreshes watched jobs. `take(job, resource)` is told what each refresh found, `give_up(job)` of a lost cause.

    Unless `by_itself`, only an ask causes a refresh.
    """

    def __init__(self, take: Take, hooks: Hooks, give_up: GiveUp, *, by_itself: bool = True) -> None:
        self.by_itself = by_itself
        self._take = take
        self._give_up = give_up
        self._hooks = hooks
        self._latency: dict[Agent, Latency] = {}
        self._period: dict[Agent, float] = {}  # of the job whose period was learnt last
        self._ahead = Schedule[Job](self._start_ahead)
        self._groups: dict[tuple[Agent, int], Group] = {}
        self._rounds = Schedule[Group](self._begin_round)
        self._tasks: set[asyncio.Task[None]] = set()

    def refresh(self, job: Job) -> asyncio.Future[None]:
        """The refresh of a job that is under way, or a new one."""
        if job.refresh is not None and self.time_left(job) < _TICK:
            self._abandon(job, job.refresh)
        if job.refresh is None:
            self._ahead.plan(job, NEVER)
            self._start(job)
        assert job.refresh is not None  # noqa: S101 - `_start` sets it
        return job.refresh

    def time_left(self, job: Job) -> float:
        """Seconds until the refresh under way counts as failed.

        Usually the agent's own timeout ends it first; this is for agents that ignore it. One that takes a second longer
        than most is given up earlier, but not twice in a row: a backend that has become slow must come to its answer.
        """
        limit = job.agent.settings.call_timeout + OVERDUE
        latency = self._latency.get(real(job.agent))
        if self.by_itself and not job.was_abandoned and latency is not None and latency.is_known:
            limit = min(limit, latency.p95 + LEAD - SLACK)
        return job.refreshing_since + limit - time.monotonic()

    def expect(self, job: Job, now: float) -> None:
        """Plan the refresh ahead of the next ask of a job that was just answered."""
        if job.is_over:
            self.forget(job)
        elif not self.by_itself or job.is_dropped:
            return
        elif _is_batched(job):
            self._join_group(job, now)
        elif job.refresh is None:
            self._plan_ahead(job)

    def forget(self, job: Job) -> None:
        """Refresh this job no more."""
        self._ahead.plan(job, NEVER)
        group, job.group = job.group, None
        if group is None:
            return
        group.jobs.discard(job)
        if job in group.waiting:
            group.waiting.discard(job)
            _end(job)
        if not group.jobs and self._groups.get(group.key) is group:
            del self._groups[group.key]

    async def close(self) -> None:
        """Stop refreshing."""
        self._ahead.close()
        self._rounds.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:  # an agent that ignores its cancellation must not hold up the end
            await asyncio.wait(self._tasks, timeout=CLOSE)

    # -- one by one -------------------------------------------------------------------------------------------------

    def is_meant_for(self, job: Job, now: float) -> bool:
        """True if the last answer was fetched ahead of the ask that comes now: it is that ask's own."""
        return job.is_ahead and now - job.known_at < self._latency_of(job.agent).p95 + LEAD

    def would_be_late(self, job: Job, now: float, limit: float) -> bool:
        """True if an ask that waits for `limit` seconds would learn nothing, since no refresh was that quick lately,
        and there is one ahead of the next ask. One that is made now instead would be missing there."""
        latency = self._latency.get(real(job.agent))
        if not self.by_itself or _is_batched(job) or job.failures or latency is None or not latency.is_known:
            return False
        if job.refresh is not None:
            return job.refreshing_since + latency.least > now + limit
        return job.period > 0.0 and job.spare >= 0 and latency.least > limit

    def _start_ahead(self, job: Job) -> None:
        job.is_ahead = True
        self._start(job)

    def _lead(self, agent: Agent) -> float:
        """Seconds before an ask at which its refresh begins: should it come a little late, that is still recent."""
        return self._latency_of(agent).p95 + LEAD - SLACK

    def _next_ask(self, job: Job) -> float:
        return job.asked_at + (job.period or self._period.get(real(job.agent), 0.0))

    def _is_awaited(self, job: Job, now: float) -> bool:
        """True if somebody waits for the refresh of a job, or will soon."""
        return now < job.asked_at + WAITED or now >= self._next_ask(job) - self._lead(job.agent)

    def _start(self, job: Job) -> None:
        if job.refresh is not None:
            return
        if _is_batched(job):
            self._wait_for_batch(job)
        else:
            job.refreshing_since = time.monotonic()
            job.refresh = self._spawn(self._refresh_one(job))

    def _abandon(self, job: Job, refresh: asyncio.Future[None]) -> None:
        """Count a refresh that does not end as a fault: the job must not wait for it."""
        refresh.cancel()
        error = TimeoutError(f"no answer from {job.agent.name} within {time.monotonic() - job.refreshing_since:.1f} s")
        job.refreshing_since = time.monotonic()
        job.was_abandoned = True
        job.refresh = self._spawn(self._judge(job, error))

    async def _refresh_one(self, job: Job) -> None:
        began = time.monotonic()
        try:
            with Limit(call_limit(job.agent)):
                outcome: Resource | Exception = _checked(await job.agent.get(job.handle.meta, job.call), job.agent)
        except Exception as exc:  # noqa: BLE001 - whatever the agent raised, the task must not freeze for it
            outcome = exc
        if isinstance(outcome, Resource):
            if not isinstance(job.agent, StandIn):
                self._latency_of(job.agent).add(time.monotonic() - began)
            job.spare -= 1
            job.known_at = began
        if job.refresh is asyncio.current_task():  # else it was abandoned
            job.was_abandoned = False
            await self._judge(job, outcome)

    def _plan_ahead(self, job: Job) -> None:
        """Refresh once before the next ask, so late that the answer is news, unless one was made already."""
        agent = real(job.agent)
        if job.period:
            self._period[agent] = job.period
        next_ask = self._next_ask(job)
        stale_at = job.fresh_at + job.fresh_for
        if stale_at >= next_ask or job.spare < 0 or job.retry_at > time.monotonic():  # a repeat is planned already
            return
        due = max(next_ask - self._lead(job.agent), stale_at)
        if due < next_ask - self._latency_of(job.agent).p95:  # else it would still be under way when the ask comes
            self._ahead.plan(job, due)

    async def _judge(self, job: Job, outcome: Resource | Exception) -> None:
        """Take what a refresh found; a job that went wrong is refreshed again by itself. Never raises."""
        try:
            await self._take_outcome(job, outcome)
        except Exception:  # the last answer stays
            log.exception("refresh of a job was lost", extra={"agent": job.agent.name, "key": job.handle.key})
        job.refresh = None
        if job.is_over or job.is_dropped:
            self.forget(job)
        elif not self.by_itself:
            return
        elif job.retry_at > time.monotonic():
            self._ahead.plan(job, job.retry_at)
        elif not _is_batched(job):
            self._plan_ahead(job)

    async def _take_outcome(self, job: Job, outcome: Resource | Exception) -> None:
        if isinstance(outcome, Fail):
            said = explained(outcome, key=correlation_of(job))
            log.info("the job failed for good: %s", said, extra={"agent": job.agent.name, "key": job.handle.key})
            outcome = failure(outcome, said)  # the agent says that asking again can never help
        now = time.monotonic()
        if isinstance(outcome, Resource):
            try:
                await self._take(job, found(job, outcome))
            except Exception as exc:  # noqa: BLE001 - outputs in a file that cannot be read now, say
                outcome = exc
        if isinstance(outcome, Resource):
            recovered(job)
            job.fresh_at = time.monotonic()
        else:
            await self._take(job, self._fault(job, outcome, now))

    def _fault(self, job: Job, error: Exception, now: float) -> Resource:
        agent, key = job.agent.name, job.handle.key
        said = explained(error, agent=agent, key=correlation_of(job), told=job.resource.message)
        if isinstance(error, NotFound):
            resource = missing(job, error, now, said)
            log.info("the backend does not show a job: %s", said, extra={"agent": agent, "key": key})
        else:
            is_eager = job.failures < EAGER and self._is_awaited(job, now)
            resource = faulty(job, error, now, said, longest=EAGER_PAUSE if is_eager else MAX_BACKOFF)
            opens = self._next_ask(job) - self._lead(job.agent)
            if job.failures < HOPELESS and now < opens < job.retry_at:
                job.retry_at = max(opens, job.held_until)
            text = "refresh failed (%d in a row): %s"
            log.info(text, job.failures, said, extra={"agent": agent, "key": key})
        if job.given_up:
            self._give_up(job)
        self._tell(What.GIVEN_UP if resource.phase.is_terminal else What.TOLERATED, job, message=resource.message)
        return resource

    # -- together ---------------------------------------------------------------------------------------------------

    def _join_group(self, job: Job, now: float) -> Group:
        key = _group_of(job)
        group = job.group
        if group is None or group.key != key:  # its connection may have changed
            self.forget(job)
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = Group(key, replace(job.call, key="", output_prefix=""))
            job.group = group
            group.jobs.add(job)
        if group.due == NEVER:
            self._rounds.plan(group, now + job.agent.settings.poll_interval)
        return group

    def _wait_for_batch(self, job: Job) -> None:
        """Let a job that somebody waits for go out with the next batch, in a moment."""
        now = time.monotonic()
        group = self._join_group(job, now)
        job.refresh = asyncio.get_running_loop().create_future()
        job.refreshing_since = now
        group.waiting.add(job)
        if group.due > now + GATHER:
            self._rounds.plan(group, now + GATHER)

    def _begin_round(self, group: Group) -> None:
        """Send out everything that is due: the jobs somebody waits for, and those not refreshed for an interval."""
        now, interval = time.monotonic(), group.key[0].settings.poll_interval
        stale = [job for job in group.jobs if _is_stale(job, now, interval)] if self.by_itself else []
        due = [*group.waiting, *stale]
        # One batch, and those that somebody waits for, filled up with others.
        urgent = max(1, -(-len(group.waiting) // BATCH)) * BATCH
        group.waiting.clear()
        for batch in _batches(due[:urgent]):
            self._send_out(group, batch)
        if len(due) > urgent:
            self._spawn(self._send_out_slowly(group, due[urgent:], interval))
        if group.jobs:
            self._rounds.plan(group, now + interval)

    def _send_out(self, group: Group, jobs: list[Job]) -> None:
        for job in jobs:
            if job.refresh is None:
                job.refresh = asyncio.get_running_loop().create_future()
        self._spawn(self._refresh_many(group, jobs))

    async def _send_out_slowly(self, group: Group, jobs: list[Job], interval: float) -> None:
        """Batches that nobody waits for, one after the other: all their answers at once would hold up the loop."""
        pause = min(PACE, 0.5 * interval * BATCH / len(jobs))
        for batch in _batches(jobs):
            now = time.monotonic()
            due = [job for job in batch if job.group is group and _is_stale(job, now, interval)]
            if due:
                self._send_out(group, due)
            await asyncio.sleep(pause)

    async def _refresh_many(self, group: Group, jobs: list[Job]) -> None:
        agent, began = group.key[0], time.monotonic()
        waited = [job.refresh for job in jobs]
        for job in jobs:
            job.refreshing_since = began
        try:
            async with asyncio.timeout(call_limit(agent)):
                answers = list(await agent.get_many([job.handle.meta for job in jobs], group.call))
            outcomes = _outcomes(answers, len(jobs), agent)
        except Exception as exc:  # noqa: BLE001 - as for one
            outcomes = [exc] * len(jobs)
        for job, outcome, refresh in zip(jobs, outcomes, waited, strict=True):
            if isinstance(outcome, Resource):
                job.known_at = began
            if job.refresh is refresh:
                job.was_abandoned = False
                await self._judge(job, outcome)
            if refresh is not None and not refresh.done():
                refresh.set_result(None)

    # -- shared -----------------------------------------------------------------------------------------------------

    def _latency_of(self, agent: Agent) -> Latency:
        agent = real(agent)  # one that stands in for a single job must not be kept
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

    def _tell(self, what: What, job: Job, *, message: str = "") -> None:
        handle = job.handle
        self._hooks.tell(Event(what=what, task_type=handle.task_type.name, key=handle.key, message=message))


def _checked(resource: object, agent: Agent) -> Resource:
    if not isinstance(resource, Resource):
        raise TypeError(f"{agent.name}.get returned {type(resource).__name__}, not a Resource")
    return resource


def _outcomes(answers: Sequence[object], expected: int, agent: Agent) -> list[Resource | Exception]:
    if len(answers) != expected:
        raise TypeError(f"{agent.name}.get_many returned {len(answers)} answers for {expected} jobs")
    return [
        answer
        if isinstance(answer, Resource | Exception)
        else TypeError(f"{agent.name}.get_many returned {type(answer).__name__}, not a Resource")
        for answer in answers
    ]


def _end(job: Job) -> None:
    """Let those go who wait for a refresh that will not be made."""
    if job.refresh is not None and not job.refresh.done():
        job.refresh.set_result(None)
    job.refresh = None


def _is_batched(job: Job) -> bool:
    return "get_many" in job.agent.supports


def _is_stale(job: Job, now: float, interval: float) -> bool:
    """True if a job is to go along with the next batch of its group."""
    if job.refresh is not None or job.retry_at > now:
        return False
    return now - job.fresh_at >= max(0.5 * interval, job.poll_after)


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
    return call if call.deadline is None else replace(call, deadline=None)
