"""The watch: GetTask answers from memory, and a transient fault never becomes a failed GetTask."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from airside.model import Call, LogLink, Phase, Resource
from airside.observe.events import Hooks
from airside.sdk.agent import Agent
from airside.server.handle import Handle
from airside.server.job import Job, linked, nothing_known, watched
from airside.server.refresh import Refresher, call_for_refresh
from airside.server.settings import ServerSettings

KEEP = 900.0
"""A job is watched for at least this many seconds after its last ask, and for three expected asks."""
_MARGIN = 0.01  # seconds before the caller's deadline at which the last answer goes out

Serialise = Callable[[Job, Resource], Awaitable[tuple[Resource, bytes]]]


class Watch:
    """Every job that has been asked for lately, in bounded memory."""

    def __init__(self, serialise: Serialise, settings: ServerSettings, hooks: Hooks) -> None:
        self._serialise = serialise
        self._settings = settings
        self._refresher = Refresher(self.record, hooks, by_itself=settings.max_age != 0)
        self._jobs: OrderedDict[bytes, Job] = OrderedDict()  # the one asked for longest ago comes first

    def job(self, identity: bytes, handle: Handle, agent: Agent, call: Call, links: tuple[LogLink, ...] = ()) -> Job:
        """Watch the job of a handle from now on."""
        job = self._jobs[identity] = watched(identity, handle, agent, call_for_refresh(call), links)
        if len(self._jobs) > self._settings.max_jobs:
            self._drop_first()
        return job

    def known(self, identity: bytes) -> Job | None:
        """The job of a handle if it is watched."""
        return self._jobs.get(identity)

    async def ask(self, job: Job, call: Call) -> bytes:
        """The serialised resource of a job: from memory if it is fresh, else after a refresh.

        Waits for the refresh until shortly before the deadline and at most `max_wait`; then the last answer goes
        out and the refresh goes on behind.
        """
        now = time.monotonic()
        self._asked(job, now)
        if job.is_over and job.answer:
            return job.answer
        if not self._is_fresh(job, now) and (job.retry_at <= now or self._settings.max_age == 0):
            if call.connection is not None:
                job.call = call_for_refresh(call)  # its secrets may have been rotated
            await self._wait(self._refresher.refresh(job), call)
        if not job.answer:
            job.resource, job.answer = await self._serialise(job, nothing_known(job))
        self._refresher.expect(job, now)
        return job.answer

    async def learn(self, job: Job, call: Call) -> Resource:
        """What is known of a job, after a refresh if the last answer is old."""
        now = time.monotonic()
        if not job.is_over and not self._is_fresh(job, now):
            await self._wait(self._refresher.refresh(job), call)
        return job.resource

    async def record(self, job: Job, resource: Resource) -> None:
        """Take `resource` for the truth about a job from now on. What we cancelled stays cancelled."""
        if job.deleted and not resource.phase.is_success:
            resource = Resource(Phase.ABORTED, message="cancelled on request", links=resource.links)
        job.resource, job.answer = await self._serialise(job, linked(job, resource))
        job.fresh_at = time.monotonic()

    async def close(self) -> None:
        """Watch no more."""
        await self._refresher.close()
        self._jobs.clear()

    def __len__(self) -> int:
        return len(self._jobs)

    def _asked(self, job: Job, now: float) -> None:
        """Learn how often this job is asked for, and drop a job whose asker stays away."""
        if job.asked_at:
            interval = now - job.asked_at
            job.period = interval if not job.period else 0.75 * job.period + 0.25 * interval
        job.asked_at = now
        if job.identity in self._jobs:
            self._jobs.move_to_end(job.identity)
        first = next(iter(self._jobs.values()), None)
        if first is not None and first is not job and now - first.asked_at > max(KEEP, 3 * first.period):
            self._drop_first()

    def _drop_first(self) -> None:
        _, job = self._jobs.popitem(last=False)
        self._refresher.forget(job)

    def _is_fresh(self, job: Job, now: float) -> bool:
        limit = self._settings.max_age
        return now - job.fresh_at < (job.fresh_for if limit is None else limit)

    async def _wait(self, refresh: asyncio.Future[None], call: Call) -> None:
        limit = self._settings.max_wait
        remaining = call.remaining
        if remaining is not None:
            limit = min(limit, max(0.0, remaining - _MARGIN))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await asyncio.shield(refresh)
