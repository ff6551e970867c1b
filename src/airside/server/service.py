"""The service: one method per verb, for both wire families. It knows agents and handles, but no RPCs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, TypeAlias

from flyteidl2.connector import connector_pb2

from airside.model import (
    Call,
    Connection,
    ConversionError,
    Fail,
    LogLine,
    LogLink,
    Metric,
    Phase,
    PluginError,
    Resource,
    Retry,
    TaskType,
)
from airside.observe.events import Event, Hooks, What
from airside.observe.tracing import Tracing
from airside.sdk.agent import Agent
from airside.server.absent import AbsentAgent
from airside.server.cancellation import Cancellation, Cancelling
from airside.server.connections import NO_CONNECTIONS, Connections
from airside.server.creation import Creation, code_of, finished
from airside.server.earlier import EarlierAttempts
from airside.server.handle import (
    MAGIC,
    UNSIGNED,
    BadSignature,
    ForeignHandle,
    Handle,
    Kind,
    SigningKeys,
    UnreadableHandle,
    unseal,
)
from airside.server.job import Job, links_of
from airside.server.ledger import Ledger
from airside.server.observed import observed
from airside.server.offload import Offload
from airside.server.order import Order, call_of, fingerprint, patience, task_type_of
from airside.server.pending import PendingAgent
from airside.server.refusal import NoData, NotOffered, UnknownTaskType
from airside.server.settings import ServerSettings
from airside.server.transfer import Transfer
from airside.server.uncertain import Uncertain
from airside.server.unexpected import explained
from airside.server.watch import Watch
from airside.wire.resource import write_resource
from airside.wire.template import key_of

log = logging.getLogger("airside.server")

Request: TypeAlias = connector_pb2.CreateTaskRequest


class Service:
    """Carries out the calls of Flyte's engines on the agents it was given.

    Methods take parsed messages or plain values and return bytes of flyteidl2 messages, which are also the bytes of
    flyteidl's. They raise `AirsideError`s or the agent's own exceptions; whoever speaks the wire maps them.
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        settings: ServerSettings,
        keys: SigningKeys = UNSIGNED,
        hooks: Hooks = Hooks(),  # noqa: B008 - it has no state
        connections: Connections = NO_CONNECTIONS,
        tracing: Tracing | None = None,
    ) -> None:
        self.agents = _by_type(observed(agents, hooks, tracing))
        self.tracing = tracing
        self.settings = settings
        self.hooks = hooks
        self.calls_in_flight = 0
        self.offload = Offload()
        self._transfer = Transfer(self.agents, settings, connections, self.offload)
        self.ledger = Ledger(settings.max_jobs, hooks, settings.max_answer_bytes)
        self.uncertain = Uncertain(hooks)
        self.cancellation = Cancellation(hooks, self.uncertain)
        self.watch = Watch(self._serialise, settings, hooks, self._cancel_given_up, self._no_longer_asked_for)
        self.earlier = EarlierAttempts(self.ledger, self.cancellation, self.uncertain, keys, hooks, self.watch.of_key)
        self.creation = Creation(
            self.ledger,
            self.cancellation,
            self.uncertain,
            self.earlier,
            keys,
            hooks,
            read=self._transfer.read,
            write=self._transfer.result,
            promised=self._watch_pending,
        )
        self._names = frozenset(task_type.name for task_type in self.agents)
        self._keys = keys
        self._connections = connections
        self._unseal = lru_cache(maxsize=256)(lambda data: unseal(data, keys))

    def serves(self, name: str) -> bool:
        """True if an agent here has a task type of this name."""
        return name in self._names

    # -- create and do ----------------------------------------------------------------------------------------------

    def create(
        self, request: Request, *, deadline: float | None = None, first_attempt: int = 0, is_large: bool = False
    ) -> Coroutine[Any, Any, bytes]:
        """Start the task, or find it started; returns its handle (`resource_meta`) before the deadline.

        `is_large` says that the whole request must not be looked at on the loop.
        """
        task_type = task_type_of(request)
        return self.creation.create(
            self._agent(task_type),
            task_type,
            request,
            deadline=deadline,
            first_attempt=first_attempt,
            connection=self._transfer.connection_of(request),
            is_large=is_large,
        )

    async def do(self, request: Request, *, is_large: bool = False) -> bytes:
        """Run a sync agent's task; returns the serialised terminal resource. Repeated by key, it is joined.

        `is_large` says that the whole request must not be looked at on the loop.
        """
        task_type = task_type_of(request)
        agent = self._agent(task_type)
        if not agent.is_sync:
            raise NotOffered(f"Task type {task_type} is served by an async agent; call CreateTask instead.")
        key = key_of(request)
        inputs = await asyncio.to_thread(fingerprint, request) if is_large else fingerprint(request)
        joint = self.ledger.key_for(f"{key} do", inputs)
        entry = self.ledger.enter(joint, inputs, lambda _: self._do(agent, task_type, request, key, is_large))
        return await self.ledger.answer(entry)

    async def _do(self, agent: Agent, task_type: TaskType, request: Request, key: str, is_large: bool) -> bytes:
        connection = self._transfer.connection_of(request)
        order = Order(request, task_type, key, agent, connection=connection, is_large=is_large)
        try:
            task = await self._transfer.read(order)
            result = await finished(agent, task, call_of(task))
            return (await self._transfer.write(result, order.handle(), shows_code=True))[1]
        except (Fail, ConversionError) as exc:
            said = explained(exc, key=key, code=code_of(exc))
            log.info("task cannot be done: %s", said, extra={"agent": agent.name, "key": key})
            failed = Resource(Phase.FAILED, message=said, code=code_of(exc))
            return write_resource(failed, None, job=key, shows_code=True)

    # -- get --------------------------------------------------------------------------------------------------------

    def recall(self, data: bytes) -> Job | None:
        """The job of a handle of ours with its answer, if memory has one that is fresh."""
        job = self.watch.known(data) if data.startswith(MAGIC) else None
        return job if job is not None and self.watch.recall(job) else None

    async def get(self, data: bytes, named: TaskType, connection: Connection | None, deadline: float | None) -> Job:
        """The job of a handle with its latest answer in `answer`.

        Raises `HandleError` for bytes that nobody here understands.
        """
        job = await self._job(data, named, connection)
        await self.watch.ask(job, self._call(job.handle, connection, deadline))
        return job

    async def _job(self, data: bytes, named: TaskType, connection: Connection | None) -> Job:
        identity = _identity(data, named)
        job = self.watch.known(identity)
        if job is not None:
            return job
        handle, agent = await self._open(data, named)
        links = await links_of(agent, handle)
        job = self.watch.known(identity)
        if job is not None:  # another ask was quicker
            return job
        entry = self.ledger.get(handle.key)
        if entry is not None and entry.answer == identity:
            identity, handle.key = entry.answer, entry.key  # the same bytes, once in memory
        job = self.watch.job(identity, handle, agent, self._call(handle, connection, None), links)
        if handle.kind is Kind.FAILED:
            await self.watch.record(job, Resource(Phase.FAILED, message=handle.message, code=handle.code))
        elif handle.kind is Kind.DONE:
            self.watch.settle(job, _result_of(handle), handle.result)
        elif handle.kind is Kind.PENDING and not isinstance(agent, AbsentAgent):
            job.agent = PendingAgent(
                agent,
                handle,
                known=partial(self.ledger.get, handle.key),
                resume=partial(self.creation.resume, agent),
                stop=partial(self.creation.stop, agent),
                opened=self._opened,
                found=partial(self._found, job),
            )
        return job

    async def _open(self, data: bytes, named: TaskType) -> tuple[Handle, Agent]:
        """The handle in these bytes and the agent for it; an absent one if this service cannot serve it now."""
        try:
            handle = self._unseal(data)
        except BadSignature as exc:
            self._tell(What.FORGED, named, str(exc))
            raise
        except ForeignHandle as exc:
            foreign = self._agent(named)
            meta = await foreign.read_handle(data)
            if meta is None:
                self._tell(What.FOREIGN, named, str(exc))
                raise
            return Handle(task_type=named, meta=meta, created_at=0.0), foreign
        except UnreadableHandle as exc:
            return self._absent(Handle(task_type=named), named, str(exc))
        agent = self.agents.get(handle.task_type)
        if agent is None:
            return self._absent(handle, named, f"no agent here serves task type {handle.task_type} now")
        if handle.connection and self._connections.get(handle.connection) is None:
            return self._absent(handle, named, f"this service has no connection {handle.connection!r} now")
        return handle, agent

    def _absent(self, handle: Handle, named: TaskType, reason: str) -> tuple[Handle, Agent]:
        """The job is honest, but nobody here can answer for it now: RUNNING from the start, with the reason."""
        self._tell(What.UNSERVED, named, reason)
        return replace(handle, created_at=0.0), AbsentAgent(reason, self.settings.unserved_tolerance)

    async def _watch_pending(self, sealed: bytes) -> None:
        """Watch a pending create from its beginning, so that it is noticed if nobody ever asks for it."""
        await self._job(sealed, self._unseal(sealed).task_type, None)

    def _found(self, job: Job, handle: Handle, agent: Agent, links: tuple[LogLink, ...]) -> None:
        """From now on the job of a pending create is asked for as any other: with others, if its agent can."""
        job.handle = replace(handle, created_at=job.handle.created_at, key_id=job.handle.key_id)
        job.agent, job.links, job.began_pending = agent, links, True

    def _opened(self, sealed: bytes) -> tuple[Handle, Agent]:
        handle = self._unseal(sealed)
        return handle, self._agent(handle.task_type)

    def _tell(self, what: What, named: TaskType, message: str) -> None:
        kind = named.name if self.serves(named.name) else ""
        self.hooks.tell(Event(what=what, task_type=kind, message=message))

    # -- delete -----------------------------------------------------------------------------------------------------

    async def delete(self, data: bytes, named: TaskType, connection: Connection | None, deadline: float | None) -> None:
        """Cancel a job unless it is over. Returns when the backend accepted; a repeated call joins the first."""
        try:
            job = await self._job(data, named, connection)
        except (ForeignHandle, UnknownTaskType):
            # An engine repeats a refused delete for ever, and there is nothing here to cancel.
            log.warning("delete of a handle that never was ours", extra={"task_type": str(named)})
            return
        if job.deleted or job.handle.kind in {Kind.DONE, Kind.FAILED}:
            return
        if job.deletion is None:
            job.deletion = asyncio.create_task(self._begin_delete(job, self._call(job.handle, connection, None)))
            job.deletion.add_done_callback(lambda _: setattr(job, "deletion", None))
        refusal: Exception | None = None
        try:
            async with asyncio.timeout(patience(deadline)):
                cancelling = await asyncio.shield(job.deletion)
                if cancelling is not None:
                    refusal = await cancelling.outcome()
        except TimeoutError:
            raise Retry("The backend has not accepted the cancel yet; it is being asked on.") from None
        if isinstance(refusal, Fail):
            said = explained(refusal, key=job.handle.key)
            log.info("delete refused for good: %s", said, extra={"key": job.handle.key})
            raise Fail(said, code=refusal.code)
        if refusal is not None:
            said = explained(refusal, key=job.handle.key)
            log.info("delete not accepted yet: %s", said, extra={"key": job.handle.key})
            text = "The backend has not accepted the cancel yet, it is being asked on"
            raise Retry(f"{text}: {said}")

    async def _begin_delete(self, job: Job, call: Call) -> Cancelling | None:
        """Learn whether the job is over; if not, begin to cancel it."""
        if isinstance(job.agent, PendingAgent) and not job.agent.is_settled:
            phase = job.resource.phase  # asking would begin the create anew
        else:
            phase = (await self.watch.learn(job)).phase
        agent = job.agent
        if not phase.is_terminal:
            return self.cancellation.begin(agent, job.handle.meta, call, accepted=partial(self._cancelled, job))
        if job.given_up:
            return self._cancel_given_up(job)
        if agent.settings.delete_finished and not isinstance(agent, PendingAgent):
            return self.cancellation.begin(
                agent, job.handle.meta, call, accepted=partial(self._cancelled, job), confirm=False
            )
        return None

    async def _cancelled(self, job: Job) -> None:
        """The backend took the cancel: from now on the job is told as aborted, unless it is known to be over."""
        job.deleted = True
        await self.watch.record(job, Resource(Phase.ABORTED, message="cancelled on request"))

    def _cancel_given_up(self, job: Job) -> Cancelling | None:
        """Go on cancelling, for a day, a job that failed for us but may be running."""
        call = self._call(job.handle, job.call.connection, None)
        if isinstance(job.agent, AbsentAgent):
            reason = "it was given up, and nothing here can cancel it"
            self.uncertain.add(reason, call=call, agent=job.agent, meta=job.handle.meta)
            return None
        if job.handle.key in self.uncertain and not self.cancellation.is_running(job.agent, job.handle.meta, call):
            return None  # the day is over; a person has to look
        return self.cancellation.begin(job.agent, job.handle.meta, call)

    def _no_longer_asked_for(self, job: Job) -> None:
        """List the job of a pending create whose asker stays away: it may have deleted the job at another process."""
        made = job.agent.made() if isinstance(job.agent, PendingAgent) else None
        if job.began_pending:
            made = job.handle.meta
        if made is not None and not job.is_over:
            call = self._call(job.handle, None, None)
            self.uncertain.add("nobody asks for it since it was made", call=call, agent=job.agent, meta=made)

    # -- logs and metrics -------------------------------------------------------------------------------------------

    async def logs(
        self, data: bytes, named: TaskType, *, after: str, limit: int, connection: Connection | None
    ) -> AsyncIterator[LogLine]:
        """The job's log lines, as they come."""
        handle, agent = await self._offering("logs", data, named, connection)
        if handle.kind is not Kind.JOB:  # no job was made, or none is known by this handle yet
            return
        async for line in agent.logs(handle.meta, after=after, limit=limit, call=self._call(handle, connection, None)):
            yield line

    async def metrics(
        self,
        data: bytes,
        named: TaskType,
        *,
        queries: Sequence[str],
        start: datetime,
        end: datetime,
        step: float,
        connection: Connection | None,
    ) -> Sequence[Metric]:
        """The job's metrics; raises `NoData` if there are none in the range."""
        handle, agent = await self._offering("metrics", data, named, connection)
        call = self._call(handle, connection, None)
        found: Sequence[Metric] = ()
        if handle.kind is Kind.JOB:
            found = await agent.metrics(handle.meta, queries=queries, start=start, end=end, step=step, call=call)
        if not found:
            raise NoData(f"Agent {agent.name} has no metrics between {start.isoformat()} and {end.isoformat()}.")
        return found

    async def _offering(
        self, method: str, data: bytes, named: TaskType, connection: Connection | None
    ) -> tuple[Handle, Agent]:
        handle, agent = await self._open(data, named)
        if method not in agent.supports:
            raise NotOffered(f"Agent {agent.name or named} offers no {method}.")
        if handle.kind is Kind.PENDING:
            job = await self._job(data, named, connection)
            if isinstance(job.agent, PendingAgent):
                await self.watch.learn(job)
            handle = job.handle
        return handle, agent

    # -- shared -----------------------------------------------------------------------------------------------------

    def _agent(self, task_type: TaskType) -> Agent:
        agent = self.agents.get(task_type)
        if agent is None:
            raise UnknownTaskType(f"No agent here serves task type {task_type}.")
        return agent

    def _call(self, handle: Handle, given: Connection | None, deadline: float | None) -> Call:
        """The circumstances of a call about a job. A handle that names a connection of ours wins over the caller's."""
        return Call(
            connection=self._connections.get(handle.connection) if handle.connection else given,
            output_prefix=handle.output_prefix,
            key=handle.key,
            deadline=deadline,
            task_type=handle.task_type,
        )

    async def _serialise(self, job: Job, resource: Resource) -> tuple[Resource, bytes]:
        return await self._transfer.write(resource, job.handle, deleted=job.deleted)


def _by_type(agents: Sequence[Agent]) -> Mapping[TaskType, Agent]:
    """The agent of each task type; `PluginError` if two of them want the same one."""
    owners: dict[TaskType, Agent] = {}
    for agent in agents:
        for task_type in agent.task_types:
            owner = owners.setdefault(task_type, agent)
            if owner is not agent:
                raise PluginError(f"Task type {task_type} is served by {owner.name} and by {agent.name}; drop one.")
    return owners


def _identity(data: bytes, named: TaskType) -> bytes:
    """What tells jobs apart: our handle, or foreign bytes with their type, since two backends may use the same ids."""
    return data if data.startswith(MAGIC) else b"%s %d %s" % (named.name.encode(), named.version, data)


def _result_of(handle: Handle) -> Resource:
    """What the result in a handle says; its outputs stay in the bytes."""
    message = connector_pb2.Resource.FromString(handle.result)
    return Resource(Phase(message.phase), message=message.message)
