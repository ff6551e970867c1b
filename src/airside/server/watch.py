"""The watch: GetTask answers from memory, and a transient fault never becomes a failed GetTask."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace

from airside.model import Call, LogLink, Resource
from airside.observe.events import Hooks
from airside.sdk.agent import Agent
from airside.server.handle import Handle
from airside.server.job import Job, call_limit, linked, nothing_known, watched
from airside.server.refresh import GiveUp, Refresher, call_for_refresh
from airside.server.settings import ServerSettings

KEEP = 900.0
"""A job is watched for at least this many seconds after its last ask, and for three expected asks."""
MAX_BYTES = 256 * 1024 * 1024
"""What all handles and answers in memory may weigh; the jobs unasked for longest are forgotten first."""
LEARN = 3
"""Refreshes, at most, that a delete waits for before the job is cancelled though it may be over."""
_SWEEP = 30.0  # seconds between two looks for jobs whose asker stays away
_SWEPT_AT_ONCE = 10_000  # jobs looked at without letting the loop do anything else

Serialise = Callable[[Job, Resource], Awaitable[tuple[Resource, bytes]]]


class Watch:
    """Every job that has been asked for lately, in bounded memory.

    `give_up(job)` cancels a job that was given up; `dropped(job)` is told of one that nobody asks for any more.
    """

    def __init__(
        self, serialise: Serialise, settings: ServerSettings, hooks: Hooks, give_up: GiveUp, dropped: GiveUp
    ) -> None:
        self._serialise = serialise
        self._dropped = dropped
        self._settings = settings
        self._refresher = Refresher(self.record, hooks, give_up, by_itself=settings.max_age != 0)
        self._jobs: OrderedDict[bytes, Job] = OrderedDict()  # the one asked for longest ago comes first
        self._by_key: dict[str, Job] = {}
        self._bytes = 0
        self.signed_by: Counter[str] = Counter()
        """How many handles each key has signed."""
        self._sweeper: asyncio.TimerHandle | None = None

    def job(self, identity: bytes, handle: Handle, agent: Agent, call: Call, links: tuple[LogLink, ...] = ()) -> Job:
        """Watch the job of a handle from now on."""
        job = self._jobs[identity] = watched(identity, handle, agent, call_for_refresh(call), links)
        self._bytes += _weight(job)
        self.signed_by[handle.key_id] += 1
        if handle.key:
            self._by_key[handle.key] = job
        if len(self._jobs) > self._settings.max_jobs:
            self._drop(next(iter(self._jobs.values())))
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(_SWEEP, self._sweep)
        return job

    def known(self, identity: bytes) -> Job | None:
        """The job of a handle if it is watched."""
        return self._jobs.get(identity)

    def of_key(self, key: str) -> Job | None:
        """The watched job of a task attempt, whichever process made it."""
        return self._by_key.get(key)

    async def ask(self, job: Job, call: Call) -> bytes:
        """The serialised resource of a job: from memory if it is fresh, else after a refresh.

        Waits for the refresh until shortly before the deadline and at most `max_wait`; then the last answer goes
        out and the refresh goes on behind.
        """
        answer = self.recall(job)
        if answer:
            return answer
        now = time.monotonic()
        self._asked(job, now)
        if not self._is_known(job, now):
            if call.connection is not None:
                job.call = call_for_refresh(call)  # its secrets may have been rotated
            limit = self._limit(call)
            if not (job.answer and self._refresher.would_be_late(job, now, limit)):
                await self._wait(job, now, limit)
        job.is_ahead = False
        if not job.answer:
            await self.record(job, nothing_known(job))
        self._refresher.expect(job, now)
        return job.answer

    def recall(self, job: Job) -> bytes:
        """The serialised resource of a job for an ask that memory can answer; else empty, and nobody has asked yet."""
        now = time.monotonic()
        is_over = job.is_over
        if not job.answer or not (is_over or self._is_known(job, now)):
            return b""
        self._asked(job, now)
        if not is_over:
            job.is_ahead = False
            self._refresher.expect(job, now)
        return job.answer

    async def learn(self, job: Job) -> Resource:
        """What is known of a job, after a refresh if the last answer is old, however long that takes.

        A backend that cannot tell in three tries will not tell, nor one that does not show the job.
        """
        now = time.monotonic()
        job.spare += 1
        if not job.is_over and not self._is_fresh(job, now):
            await self._wait(job, now, call_limit(job.agent), tries=LEARN)
        return job.resource

    async def record(self, job: Job, resource: Resource) -> None:
        """Take `resource` for the truth about a job from now on, unless the job is known to be over."""
        if job.is_over and job.answer:
            return
        resource = linked(job, resource)
        if job.answer and _is_plain(resource) and resource == job.resource:
            return  # what is told already is true still
        settled, answer = await self._serialise(job, resource)
        if not (job.is_over and job.answer):  # it may have ended meanwhile
            self.settle(job, settled, answer)

    def settle(self, job: Job, resource: Resource, answer: bytes) -> None:
        """Answer with these bytes from now on."""
        if not job.is_dropped:
            self._bytes += len(answer) - len(job.answer)
        job.answer = answer
        # The outputs are in the answer.
        job.resource = resource if resource.outputs is None else replace(resource, outputs=None)
        while self._bytes > MAX_BYTES and len(self._jobs) > 1:
            self._drop(next(iter(self._jobs.values())))

    async def close(self) -> None:
        """Watch no more."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._refresher.close()
        self._jobs.clear()
        self._by_key.clear()

    def __len__(self) -> int:
        return len(self._jobs)

    def _asked(self, job: Job, now: float) -> None:
        """Learn how often this job is asked for."""
        if job.asks:
            interval = now - job.asked_at
            job.period = interval if not job.period else 0.75 * job.period + 0.25 * interval
        job.asked_at = now
        job.asks = min(job.asks + 1, 2)
        job.spare += 1
        if not job.is_dropped:
            self._jobs.move_to_end(job.identity)

    def _sweep(self) -> None:
        """Drop the jobs whose asker has stayed away."""
        now = time.monotonic()
        away = []
        for looked, job in enumerate(self._jobs.values()):
            if now - job.asked_at < KEEP or looked == _SWEPT_AT_ONCE:
                break
            if now - job.asked_at > max(KEEP, 3 * job.period):
                away.append(job)
        for job in away:
            self._drop(job)
        delay = _SWEEP if len(away) < _SWEPT_AT_ONCE else 0.1
        self._sweeper = asyncio.get_running_loop().call_later(delay, self._sweep) if self._jobs else None

    def _drop(self, job: Job) -> None:
        del self._jobs[job.identity]
        if self._by_key.get(job.handle.key) is job:
            del self._by_key[job.handle.key]
        self._bytes -= _weight(job) + len(job.answer)
        self.signed_by[job.handle.key_id] -= 1
        if not self.signed_by[job.handle.key_id]:  # callers make up names of keys
            del self.signed_by[job.handle.key_id]
        job.is_dropped = True
        self._refresher.forget(job)
        self._dropped(job)

    def _is_known(self, job: Job, now: float) -> bool:
        """True if an ask that comes now need not wait."""
        return self._is_fresh(job, now) or self._refresher.is_meant_for(job, now) or job.is_over

    def _is_fresh(self, job: Job, now: float) -> bool:
        limit = self._settings.max_age
        return now - job.fresh_at < (job.fresh_for if limit is None else limit)

    def _limit(self, call: Call) -> float:
        """Seconds that an ask may wait."""
        limit = self._settings.max_wait
        return limit if call.deadline is None else min(limit, patience(call))

    async def _wait(self, job: Job, asked: float, limit: float, tries: int = 1_000) -> None:
        """Wait for an answer that is not older than this ask. A refresh that fails is repeated while there is time.

        An ask is worth a call, even while failed refreshes back off, unless the backend asked to be left alone.
        """
        until, pause_until = asked + limit, job.held_until
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while job.fresh_at < asked and not job.is_over:
                    if job.refresh is None and self._refresher.by_itself:
                        if pause_until >= until:
                            return
                        await asyncio.sleep(pause_until - time.monotonic())
                    refresh = self._refresher.refresh(job)
                    await asyncio.wait((refresh,), timeout=max(0.001, self._refresher.time_left(job)))
                    pause_until = job.retry_at
                    if refresh is job.refresh and refresh.done():  # the service stops
                        return
                    tries = 0 if tries <= LEARN and job.misses else tries - 1
                    if not (tries and self._refresher.by_itself):
                        return


def _is_plain(resource: Resource) -> bool:
    """True if a resource is nothing but a phase and texts, which compare quickly and as one expects."""
    return resource.outputs is None and resource.info is None and not resource.phase.is_terminal


def _weight(job: Job) -> int:
    """The bytes of a job's handle, as they came and taken apart."""
    return 2 * len(job.identity)


def patience(call: Call) -> float:
    """Seconds to wait on behalf of a call: until 20 % of its time, and at least 10 ms, before its deadline.

    >>> patience(Call(deadline=0.0))
    0.0
    """
    remaining = call.remaining or 0.0
    return max(0.0, remaining - max(0.01, 0.2 * remaining))
