"""Carry out what the machine asks for: one call of an agent, and what its answer or its error means."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from airside.engine.attempt import refused, told
from airside.engine.credentials import connect
from airside.engine.database import Record
from airside.engine.job import (
    Action,
    Answered,
    Created,
    Deleted,
    DeleteFailed,
    Faulted,
    Job,
    Observation,
    Refused,
    Trouble,
)
from airside.engine.outputs import UNREADABLE, keep, packed, settle
from airside.engine.rundir import RunDir
from airside.engine.submission import Submission
from airside.model import (
    AirsideError,
    Call,
    Connection,
    Fail,
    LogLink,
    NotFound,
    OutputsAt,
    Phase,
    Resource,
    Retry,
    Task,
    TaskType,
)
from airside.sdk.agent import Agent
from airside.wire import storage
from airside.wire.literal_map import LiteralValues
from airside.wire.resource import OUTPUTS_FILE, UnknownPhase

FROM_CACHE = "from the cache."
LAST_LOOK = 5.0
"""Seconds to learn, before a cancel, whether the job is over already."""

SHORTEST_CALL = 0.05
"""Seconds that a call may take however soon its attempt ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One action on one job: who carries it out, and where what was submitted can be read.

    `cached` finds an earlier job whose outputs will do; `names` says of which secrets a connection is to be made.
    """

    action: Action
    job: Job
    task_type: TaskType
    folder: RunDir
    agent: Agent
    names: Mapping[str, Mapping[str, str]] | None = None
    submission: Callable[[], Awaitable[Submission]]
    cached: Callable[[], Awaitable[Record | None]]
    run: Callable[..., Awaitable[Any]]


async def carry_out(order: Order) -> Observation:
    """What came of an action. Raises nothing but `CancelledError` and errors of the store."""
    return await _VERBS[order.action](order)


async def _create(order: Order) -> Observation:
    task = await _task(order)
    if isinstance(task, Refused):
        return task
    cached = await _cached(order)
    if cached is not None:
        return cached
    if order.agent.is_sync:
        return await _do(order, task)
    try:
        meta = await order.agent.create(task, _call_of(task, order.agent.settings.create_timeout))
    except Exception as exc:  # noqa: BLE001 - any error of an agent ends the attempt, not the engine
        return await _undone(order, task, exc)
    return Created(order.job.attempt, meta, await _links(order.agent, meta))


async def _recreate(order: Order) -> Observation:
    """Create what may exist: look for it first if the agent can, else ask again, by the same key."""
    task = await _task(order)
    if isinstance(task, Refused):
        return replace(task, may_live=True)
    agent, attempt = order.agent, order.job.attempt
    if agent.is_sync:
        return await _do(order, task)
    try:
        if "find" in agent.supports:
            found = await agent.find(task, task.key, _call_of(task, agent.settings.call_timeout))
            if found is not None:
                return Created(attempt, found, await _links(agent, found))
        meta = await agent.create(task, _call_of(task, agent.settings.create_timeout))
    except Fail as exc:
        return Refused(attempt, refused(exc))
    except Exception as exc:  # noqa: BLE001 - there may be a job, so it is asked again and not given up
        return Faulted(attempt, told(exc), after=_after(exc))
    return Created(attempt, meta, await _links(agent, meta))


async def _do(order: Order, task: Task) -> Observation:
    job = order.job
    try:
        async with asyncio.timeout(job.timeout) as limit:
            resource = await order.agent.do(task, _call_of(task, job.timeout))
    except TimeoutError as exc:
        if not limit.expired():
            return Refused(job.attempt, refused(exc))
        text = f"The attempt took longer than {job.timeout:g} s."
        return Refused(job.attempt, Resource(Phase.RETRYABLE_FAILED, code="TimeoutExpired", message=text))
    except Exception as exc:  # noqa: BLE001 - any error of an agent ends the attempt, not the engine
        return Refused(job.attempt, refused(exc), after=_after(exc))
    return await _settled(order, resource)


async def _get(order: Order) -> Observation:
    job, agent = order.job, order.agent
    left = max(SHORTEST_CALL, job.deadline - time.time())  # no answer may keep a timeout from being noticed
    try:
        connection = await _connection(order)
        resource = await agent.get(job.meta, _call(order, min(left, agent.settings.call_timeout), connection))
    except NotFound as exc:
        return Faulted(job.attempt, told(exc), Trouble.MISSING)
    except (Fail, UnknownPhase) as exc:
        return Faulted(job.attempt, told(exc), Trouble.NONSENSE)
    except Exception as exc:  # noqa: BLE001 - faults are waited out
        return Faulted(job.attempt, told(exc), after=_after(exc))
    if not resource.links and not job.links:
        resource = replace(resource, links=await _links(agent, job.meta))
    return await _settled(order, resource)


async def _delete(order: Order) -> Observation:
    """Ask for the cancel. A service asks its agent for unfinished jobs only; here that is for us to see to."""
    attempt, agent = order.job.attempt, order.agent
    if not agent.joins_creates and not agent.settings.delete_finished:
        verdict = order.job.verdict
        if verdict is not None and verdict.dead:
            return Deleted(attempt)
        over = await _last_look(order)
        if isinstance(over, Faulted):  # it is over, but its outputs cannot be read now
            return DeleteFailed(attempt, over.text, after=over.after)
        if over is not None:
            return over
    try:
        connection = await _connection(order)
        await agent.delete(order.job.meta, _call(order, agent.settings.call_timeout, connection))
    except NotFound:
        return Deleted(attempt)
    except Exception as exc:  # noqa: BLE001 - a cancel is tried again whatever went wrong
        return DeleteFailed(attempt, told(exc), after=_after(exc))
    return Deleted(attempt)


async def _connection(order: Order) -> Connection | None:
    """The connection that goes along with a call. Raises `UsageError` for a secret that is not there."""
    return await asyncio.to_thread(connect, order.names) if order.names else None


async def _last_look(order: Order) -> Observation | None:
    """How the job ended, if it is known to be over by now."""
    try:
        call = _call(order, min(LAST_LOOK, order.agent.settings.call_timeout), await _connection(order))
        async with asyncio.timeout(LAST_LOOK):
            resource = await order.agent.get(order.job.meta, call)
    except Exception:  # noqa: BLE001 - then it may be running
        return None
    return await _settled(order, resource) if resource.phase.is_terminal else None


async def _task(order: Order) -> Task | Refused:
    """The task of an attempt; what stops it from being made ends the attempt before any call."""
    submission = await order.submission()
    try:
        await order.run(_lay_out, order.folder, submission)
        connection = await _connection(order)
        parts = order.folder, order.job.attempt, connection
        task = submission.task(*parts) if submission.is_quick else await asyncio.to_thread(submission.task, *parts)
        inputs = task.inputs
        if not order.agent.joins_creates and isinstance(inputs, LiteralValues) and inputs.has_offloaded:
            await asyncio.to_thread(inputs.prefetch)  # a service does it itself, and may see what is out of reach here
    except Exception as exc:  # noqa: BLE001 - as told above
        return Refused(order.job.attempt, refused(exc), after=_after(exc))
    return task


def _lay_out(folder: RunDir, submission: Submission) -> None:
    """Write what the agent may look for; the store has it too."""
    folder.make()
    storage.put(folder.inputs, submission.inputs)
    if submission.uses_template_file:
        storage.put(folder.template, submission.template)


async def _cached(order: Order) -> Answered | None:
    """The outputs of an earlier job with the same inputs; None if there is none, or if its outputs are gone."""
    found = await order.cached()
    if found is None:
        return None
    attempt, job = order.job.attempt, found.job
    from_prefix = RunDir(job.id, found.root).output_prefix(job.attempt)
    submission, to_prefix = await order.submission(), order.folder.output_prefix(attempt)
    if not await asyncio.to_thread(_copy_outputs, submission, from_prefix, to_prefix):
        return None
    return Answered(attempt, Resource(Phase.SUCCEEDED, message=f"The outputs of {job.id}, {FROM_CACHE}"))


def _copy_outputs(submission: Submission, from_prefix: str, to_prefix: str) -> bool:
    if not submission.declared_outputs:
        return True
    try:
        data = storage.read(storage.join(from_prefix, OUTPUTS_FILE))
        storage.write(storage.join(to_prefix, OUTPUTS_FILE), data)
    except AirsideError:  # whatever keeps them from being used again, the task can still run
        return False
    return True


async def _undone(order: Order, task: Task, error: Exception) -> Observation:
    """A create that failed may have made a job; if the agent can look it up, cancel it."""
    attempt, agent = order.job.attempt, order.agent
    failed = Refused(attempt, refused(error), after=_after(error))
    if "find" not in agent.supports:
        return failed
    call = _call_of(task, agent.settings.call_timeout)
    try:
        meta = await agent.find(task, task.key, call)
    except Exception:  # noqa: BLE001 - the create's own error is what matters
        return failed
    if meta is None:
        return failed
    try:
        await agent.delete(meta, call)
    except NotFound:
        return failed
    except Exception:  # noqa: BLE001 - as above
        return replace(failed, may_live=True)
    return failed


async def _settled(order: Order, resource: Resource) -> Observation:
    """The answer, with the outputs of a job that succeeded in their file; a failure may say why in `error.pb`."""
    attempt, is_success = order.job.attempt, resource.phase.is_success
    if not is_success and not isinstance(resource.outputs, OutputsAt):
        return Answered(attempt, replace(resource, outputs=None))
    declared, prefix = (await order.submission()).declared_outputs, order.folder.output_prefix(attempt)
    data = packed(resource, declared)
    if data is not None:
        settled, unsafe = await order.run(keep, resource, data, prefix)
    elif isinstance(resource.outputs, OutputsAt):  # wherever that is, it must not keep others waiting
        settled, unsafe = await asyncio.to_thread(settle, resource, declared, prefix)
    else:
        settled, unsafe = await order.run(settle, resource, declared, prefix)
    if settled.code == UNREADABLE:
        if is_success:  # the storage is away: the job is over, but ask again
            return Faulted(attempt, settled.message)
        settled, unsafe = replace(resource, outputs=None), None
    return Answered(attempt, settled, unsafe)


async def _links(agent: Agent, meta: bytes) -> tuple[LogLink, ...]:
    try:
        return tuple(await agent.links(meta))
    except Exception:  # noqa: BLE001 - a job without links runs all the same
        return ()


def _call(order: Order, limit: float, connection: Connection | None) -> Call:
    return Call(
        connection=connection,
        output_prefix=order.folder.output_prefix(order.job.attempt),
        deadline=_deadline(limit),
        task_type=order.task_type,
    )


def _call_of(task: Task, limit: float | None) -> Call:
    return Call(
        connection=task.connection,
        output_prefix=task.output_prefix,
        key=task.key,
        deadline=_deadline(limit),
        task_type=task.type,
    )


def _deadline(limit: float | None) -> float | None:
    return None if limit is None or limit == inf else time.monotonic() + limit


def _after(error: Exception) -> float | None:
    return error.after if isinstance(error, Retry) else None


_VERBS: Mapping[Action, Callable[[Order], Awaitable[Observation]]] = {
    Action.CREATE: _create,
    Action.RECREATE: _recreate,
    Action.GET: _get,
    Action.DELETE: _delete,
}
