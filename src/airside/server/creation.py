"""Creating jobs: once an attempt, answered before the deadline, and nothing left behind that nobody knows of."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

from flyteidl2.connector import connector_pb2

from airside.model import Call, ConversionError, Fail, NotFound, Resource, Task, TaskType
from airside.model.task import attempt_key
from airside.observe.events import Event, Hooks, What
from airside.sdk.agent import Agent
from airside.server.cancellation import Cancellation
from airside.server.declared import pack_declared
from airside.server.handle import Handle, HandleTooLarge, Kind, SigningKeys, seal, unseal
from airside.server.ledger import Entry, Ledger, Unanswered
from airside.server.pending import connection_of, pack_request, unpack_request
from airside.server.tolerance import backoff
from airside.wire import limits
from airside.wire.status import sentence
from airside.wire.template import key_of, template_id

log = logging.getLogger("airside.server")

MAX_RESULT = 16 * limits.KIB
"""The result of a sync task travels in its handle up to this size; the outputs of a larger one go to a file."""
MAX_UNEXPECTED = 3
"""Tries of a create that fails in a way its agent does not explain."""
UNWANTED_AFTER = 30.0
"""Seconds for which a job that nobody was told of is kept for a repeated create, if its agent could find it again."""

Request: TypeAlias = connector_pb2.CreateTaskRequest
Read = Callable[[Request, str], Awaitable[Task]]
Write = Callable[[Resource, Handle], Awaitable[bytes]]


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """A create as it was asked for. `earlier` is the key of the attempt before this one, with its output prefix."""

    request: Request
    key: str
    agent: Agent
    earlier: tuple[str, str] | None = None
    resumed: bool = False

    @property
    def is_resumable(self) -> bool:
        """True if a create that got lost can be taken up again without making a second job."""
        return is_resumable(self.agent)


def is_resumable(agent: Agent) -> bool:
    """True if the agent can tell whether a job was made: by its native token or id, or by looking it up.

    A sync agent makes no job: what it does is done again if its process dies.
    """
    return agent.is_sync or agent.settings.create_is_idempotent or "find" in agent.supports


class Creation:
    """Carries out creates. `read` makes a task of a request, `write` serialises a result for a handle."""

    def __init__(
        self, ledger: Ledger, cancellation: Cancellation, keys: SigningKeys, hooks: Hooks, *, read: Read, write: Write
    ) -> None:
        self.ledger = ledger
        self._cancellation = cancellation
        self._keys = keys
        self._hooks = hooks
        self._read = read
        self._write = write

    async def create(self, agent: Agent, request: Request, *, deadline: float | None, first_attempt: int) -> bytes:
        """The sealed handle of a job: the agent's, or a pending one if the agent is not done shortly before `deadline`.

        `first_attempt` is how the caller counts its attempts in the output prefix: from 0 in Flyte 1, from 1 in
        Flyte 2. Raises what the agent raised, and `TimeoutError` if it is not done in time and could not tell later
        whether the job was made; a job that comes later still is cancelled.
        """
        order = Order(request, key_of(request), agent, earlier_attempt(request, first_attempt))
        entry = self._enter(order)
        try:
            return await self.ledger.answer(entry, patience(deadline))
        except Unanswered:
            if not order.is_resumable:
                raise
        entry.promised = True
        self._tell(What.PENDING, order)
        return self._pending(order)

    def resume(self, agent: Agent, handle: Handle, call: Call) -> Entry | None:
        """The create of a pending handle, taken up again if nobody here carries it out; None if it cannot be."""
        entry = self.ledger.get(handle.key)
        if entry is not None and (entry.answer or entry.task is not None):
            return entry
        overdue = time.time() - handle.created_at >= agent.settings.create_timeout
        if entry is not None and overdue:
            return entry
        if not handle.request:
            return None
        request = unpack_request(handle.request)
        connection_of(request, call.connection)
        self.ledger.forget(handle.key)
        entry = self._enter(Order(request, handle.key, agent, resumed=True))
        entry.promised = True
        return entry

    def _enter(self, order: Order) -> Entry:
        return self.ledger.enter(order.key, fingerprint(order.request), lambda entry: self._fulfil(order, entry))

    # -- the create itself ------------------------------------------------------------------------------------------

    async def _fulfil(self, order: Order, entry: Entry) -> bytes:
        try:
            task = await self._read(order.request, order.key)
            call = call_of(task)
            if order.agent.is_sync:
                handle = new_handle(order.request, order.key)
                result = await self._write(await finished(order.agent, task, call), handle)
                return seal(replace(handle, kind=Kind.DONE, declared=b"", result=result), self._keys)
            meta = await self._adopt_or_cancel_earlier(order, task)
            if meta is None:
                meta = await self._make(order, task, call, entry)
        except (Fail, ConversionError) as exc:
            log.info("task cannot be created: %s", sentence(exc), extra={"agent": order.agent.name, "key": order.key})
            handle = new_handle(order.request, order.key)
            failed = replace(handle, kind=Kind.FAILED, code=code_of(exc), message=sentence(exc))
            return seal(failed, self._keys)
        return await self._hand_out(order, entry, new_handle(order.request, order.key, meta), call)

    async def _make(self, order: Order, task: Task, call: Call, entry: Entry) -> bytes:
        """The agent's metadata. A create that may be repeated safely is, with back-off, up to `create_timeout`."""
        agent, tries, began = order.agent, 0, time.monotonic()
        while True:
            try:
                if (order.resumed or tries) and "find" in agent.supports:
                    found = await agent.find(task, order.key, call)
                    if found is not None:
                        return found
                return await agent.create(task, call)
            except (Fail, ConversionError):
                raise
            except Exception as exc:
                tries += 1
                entry.error = exc
                wait = backoff(tries, exc)
                explained = isinstance(exc, TimeoutError | OSError) or hasattr(exc, "after")
                too_late = time.monotonic() - began + wait > agent.settings.create_timeout
                spent = too_late or (not explained and tries >= MAX_UNEXPECTED)
                if not order.is_resumable or spent or not entry.is_wanted:
                    raise
                log.info("create failed, trying again in %.1f s: %s", wait, sentence(exc), extra={"key": order.key})
            await asyncio.sleep(wait)

    async def _hand_out(self, order: Order, entry: Entry, handle: Handle, call: Call) -> bytes:
        """The sealed handle; a job that nobody can ever find or that nobody wants any more is cancelled."""
        try:
            sealed = seal(handle, self._keys)
        except HandleTooLarge as exc:
            await self._cancellation.confirm(order.agent, handle.meta, call)
            text = f"{exc}; the job was cancelled"
            return seal(replace(handle, kind=Kind.FAILED, meta=b"", code="HandleTooLarge", message=text), self._keys)
        if not entry.is_wanted and order.is_resumable and not entry.stopped:
            await asyncio.sleep(UNWANTED_AFTER)
        if not entry.is_wanted:
            self._tell(What.UNDONE, order)
            self._cancellation.confirm_behind(order.agent, handle.meta, call)
            raise asyncio.CancelledError  # nobody waits; the next create of this key starts anew
        return sealed

    # -- the attempt before -----------------------------------------------------------------------------------------

    async def _adopt_or_cancel_earlier(self, order: Order, task: Task) -> bytes | None:
        """The earlier attempt's job if it may be taken over; else None, once that job is known to be over."""
        if order.earlier is None:
            return None
        key, prefix = order.earlier
        agent, entry = order.agent, self.ledger.get(key)
        call = replace(call_of(task), output_prefix=prefix, key=key)
        if entry is not None and entry.task is not None:
            if agent.settings.adoptable:
                with suppress(Exception):
                    return unseal(await self.ledger.answer(entry), self._keys).meta or None
            entry.stopped = True  # it cancels its job itself, once it has one
            await asyncio.wait({entry.task})
            self._tell(What.EARLIER_CANCELLED, order)
        meta = await self._meta_of_earlier(agent, entry, replace(task, key=key, output_prefix=prefix), call)
        if meta is not None and not await _is_over(agent, meta, call):
            self._tell(What.EARLIER_CANCELLED, order)
            await self._cancellation.confirm(agent, meta, call)
        return None

    async def _meta_of_earlier(self, agent: Agent, entry: Entry | None, task: Task, call: Call) -> bytes | None:
        if entry is not None and entry.answer:
            return unseal(entry.answer, self._keys).meta or None
        if "find" in agent.supports:
            return await agent.find(task, call.key, call)
        return None

    def _pending(self, order: Order) -> bytes:
        handle = replace(new_handle(order.request, order.key), kind=Kind.PENDING, request=pack_request(order.request))
        try:
            return seal(handle, self._keys)
        except HandleTooLarge:
            return seal(replace(handle, request=b""), self._keys)

    def _tell(self, what: What, order: Order) -> None:
        self._hooks.tell(Event(what=what, task_type=order.request.template.type, key=order.key))


def call_of(task: Task) -> Call:
    """The call that starts a task: it outlives its caller, so it has no deadline."""
    return Call(connection=task.connection, output_prefix=task.output_prefix, key=task.key, task_type=task.type)


async def finished(agent: Agent, task: Task, call: Call) -> Resource:
    """What a sync agent's `do` returns, which must be terminal: the poller of Flyte 1 dies of anything else."""
    resource = await agent.do(task, call)
    if not isinstance(resource, Resource):
        raise TypeError(f"{agent.name}.do returned {type(resource).__name__}, not a Resource")
    if not resource.phase.is_terminal:
        text = f"{agent.name}.do returned the phase {resource.phase.name}, which is not terminal."
        raise Fail(text, code="AgentError")
    return resource


async def _is_over(agent: Agent, meta: bytes, call: Call) -> bool:
    try:
        return (await agent.get(meta, call)).phase.is_terminal
    except NotFound:
        return True
    except Exception:  # noqa: BLE001 - not known to be over, so it is cancelled
        return False


def new_handle(request: Request, key: str, meta: bytes = b"") -> Handle:
    """The handle of a request, with the agent's own bytes."""
    template = request.template
    outputs = template.interface.outputs.SerializeToString(deterministic=True)
    return Handle(
        task_type=TaskType(template.type, template.task_type_version),
        key=key,
        output_prefix=request.output_prefix,
        declared=pack_declared(outputs) if template.interface.HasField("outputs") else b"",
        meta=meta,
    )


def patience(deadline: float | None) -> float | None:
    """Seconds to wait for the agent: until 20 % of the time, and at least 10 ms, before the deadline.

    >>> patience(None) is None
    True
    """
    if deadline is None:
        return None
    remaining = max(0.0, deadline - time.monotonic())
    return max(0.0, remaining - max(0.01, 0.2 * remaining))


def earlier_attempt(request: Request, first: int) -> tuple[str, str] | None:
    """The key and output prefix of the attempt before this one, if the prefix ends with a later attempt's number."""
    base, _, last = request.output_prefix.rstrip("/").rpartition("/")
    if not base or not last.isascii() or not last.isdecimal() or str(int(last)) != last or int(last) <= first:
        return None
    template, prefix = request.template, f"{base}/{int(last) - 1}"
    key = attempt_key(template.type, template.task_type_version, template_id(template), prefix)
    return key, prefix


def fingerprint(request: Request) -> int:
    """Tells inputs apart; their order does not matter, since Flyte 2 shuffles it."""
    literals = request.inputs.literals
    return hash(frozenset((one.name, one.value.SerializeToString(deterministic=True)) for one in literals))


def code_of(exc: Exception) -> str:
    """The code of a permanent failure."""
    return exc.code if isinstance(exc, Fail) else "InputConversionError"
