"""The watch: GetTask answers from memory, and a transient fault never becomes a failed GetTask.

Flyte's engines count failed polls over a task's whole life and stop polling at the sixth. So a fault of the backend
is answered with the last known phase and a message; only a fault that lasts becomes RETRYABLE_FAILED.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from airside.model import Call, NotFound, Phase, Resource
from airside.observe.events import Event, Hooks, What
from airside.sdk.agent import Agent
from airside.server.handle import Handle
from airside.server.settings import ServerSettings
from airside.wire.status import sentence

log = logging.getLogger("airside.server")

MIN_FAILURES = 20  # refreshes that must fail in a row before a job is given up
MISSES = 3  # NotFound answers before a job counts as gone ...
MISSING_FOR = 60.0  # ... over at least this many seconds ...
YOUNG = 60.0  # ... and never in the job's first minute: backends list new jobs late
_MARGIN = 0.02  # seconds before the caller's deadline at which the last answer goes out


@dataclass(slots=True)
class Job:
    """One watched job: what is known of it and how its last refreshes went."""

    handle: Handle
    agent: Agent
    resource: Resource
    answer: bytes = b""
    fresh_at: float = float("-inf")
    refresh: asyncio.Task[None] | None = None
    failures: int = 0
    failing_since: float = 0.0
    misses: int = 0
    missing_since: float = 0.0
    deletion: asyncio.Task[None] | None = None
    deleted: bool = False

    @property
    def is_over(self) -> bool:
        return self.resource.phase.is_terminal


Serialise = Callable[[Job, Resource], Awaitable[tuple[Resource, bytes]]]


class Watch:
    """Every job that has been asked for lately, in bounded memory."""

    def __init__(self, serialise: Serialise, settings: ServerSettings, hooks: Hooks) -> None:
        self._serialise = serialise
        self._settings = settings
        self._hooks = hooks
        self._jobs: OrderedDict[bytes, Job] = OrderedDict()

    def job(self, data: bytes, handle: Handle, agent: Agent) -> Job:
        """The watched job of a handle; it is watched from now on if it was not."""
        job = self._jobs.get(data)
        if job is None:
            job = self._jobs[data] = Job(handle, agent, _nothing_known(handle))
            if len(self._jobs) > self._settings.max_jobs:
                self._jobs.popitem(last=False)
        else:
            self._jobs.move_to_end(data)
        return job

    def known(self, data: bytes) -> Job | None:
        """The job of these handle bytes if it is watched."""
        return self._jobs.get(data)

    async def ask(self, job: Job, call: Call) -> bytes:
        """The serialised resource of a job: from memory if it is young enough, else after a refresh.

        Waits for the refresh until shortly before the deadline and at most `max_wait`; then the last answer goes
        out and the refresh goes on behind.
        """
        if job.answer and (job.is_over or time.monotonic() - job.fresh_at < self._age(job)):
            return job.answer
        await self._wait(self._refreshing(job, call), call)
        if not job.answer:
            job.resource, job.answer = await self._serialise(job, _nothing_known(job.handle))
        return job.answer

    async def learn(self, job: Job, call: Call) -> Resource:
        """What is known of a job, after a refresh if the last answer is old."""
        await self.ask(job, call)
        return job.resource

    async def record(self, job: Job, resource: Resource) -> None:
        """Take `resource` for the truth about a job from now on."""
        job.resource, job.answer = await self._serialise(job, resource)
        job.fresh_at = time.monotonic()

    def _age(self, job: Job) -> float:
        limit = self._settings.max_age
        return job.agent.settings.max_age if limit is None else limit

    def _refreshing(self, job: Job, call: Call) -> asyncio.Task[None]:
        if job.refresh is None:
            job.refresh = asyncio.create_task(self._refresh(job, call))
        return job.refresh

    async def _wait(self, refresh: asyncio.Task[None], call: Call) -> None:
        remaining = call.remaining
        limit = (
            self._settings.max_wait
            if remaining is None
            else min(self._settings.max_wait, max(0.0, remaining - _MARGIN))
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await asyncio.shield(refresh)

    async def _refresh(self, job: Job, call: Call) -> None:
        began = time.perf_counter()
        try:
            resource = await job.agent.get(job.handle.meta, replace(call, deadline=None))
            _check(resource, job.agent)
        except NotFound as exc:
            resource = self._missing(job, exc)
        except Exception as exc:  # noqa: BLE001 - whatever the agent raised, the task must not freeze for it
            resource = self._fault(job, exc)
        else:
            resource = self._found(job, resource)
        self._tell(What.REFRESH, job, seconds=time.perf_counter() - began)
        try:
            if job.deleted and resource.phase is Phase.ABORTED:
                resource = replace(resource, message=resource.message or "cancelled on request")
            await self.record(job, resource)
        finally:
            job.refresh = None

    def _found(self, job: Job, resource: Resource) -> Resource:
        job.failures = job.misses = 0
        if resource.phase is Phase.UNDEFINED:
            return replace(resource, phase=Phase.RUNNING)
        if resource.phase.rank < job.resource.phase.rank:
            return replace(resource, phase=job.resource.phase)
        return resource

    def _missing(self, job: Job, exc: NotFound) -> Resource:
        now = time.monotonic()
        job.misses += 1
        if job.misses == 1:
            job.missing_since = now
        if job.deleted:
            return replace(job.resource, phase=Phase.ABORTED, message="cancelled on request")
        text = sentence(exc)
        old_enough = time.time() - job.handle.created_at >= YOUNG
        if job.misses >= MISSES and now - job.missing_since >= MISSING_FOR and old_enough:
            self._tell(What.GIVEN_UP, job, text)
            return Resource(Phase.RETRYABLE_FAILED, message=f"The job is gone: {text}", code=exc.code)
        return replace(_at_least_queued(job), message=f"The backend does not show the job: {text}. Asking again.")

    def _fault(self, job: Job, exc: Exception) -> Resource:
        now = time.monotonic()
        job.failures += 1
        if job.failures == 1:
            job.failing_since = now
        text = sentence(exc)
        log.warning("refresh failed: %s", text, exc_info=exc, extra={"agent": job.agent.name, "key": job.handle.key})
        lasting = now - job.failing_since >= job.agent.settings.fault_tolerance
        if lasting and job.failures >= MIN_FAILURES:
            self._tell(What.GIVEN_UP, job, text)
            message = f"The job could not be checked for {now - job.failing_since:.0f} s: {text}"
            return Resource(Phase.RETRYABLE_FAILED, message=message, code="BackendUnreachable")
        self._tell(What.TOLERATED, job, text)
        return replace(_at_least_queued(job), message=f"The last check failed: {text}. Trying again.")

    def _tell(self, what: What, job: Job, message: str = "", *, seconds: float = 0.0) -> None:
        handle = job.handle
        self._hooks.tell(
            Event(what=what, task_type=handle.task_type.name, key=handle.key, message=message, seconds=seconds)
        )


def _check(resource: object, agent: Agent) -> None:
    if not isinstance(resource, Resource):
        raise TypeError(f"{agent.name}.get returned {type(resource).__name__}, not a Resource")


def _nothing_known(handle: Handle) -> Resource:
    """QUEUED in the handle's first minute, else RUNNING."""
    young = time.time() - handle.created_at < YOUNG
    return Resource(Phase.QUEUED if young else Phase.RUNNING)


def _at_least_queued(job: Job) -> Resource:
    return job.resource if job.answer else _nothing_known(job.handle)
