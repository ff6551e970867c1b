"""Pending handles: the create was answered before the agent was done, and goes on behind the answer."""

from __future__ import annotations

import time
import zlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from flyteidl2.connector import connector_pb2

from airside.model import Call, Connection, Phase, Resource
from airside.sdk.agent import Agent
from airside.server.handle import Handle, Kind
from airside.wire import limits
from airside.wire.resource import read_resource
from airside.wire.status import sentence

if TYPE_CHECKING:
    from airside.server.ledger import Entry

MAX_REQUEST = 32 * limits.KIB
"""A request travels in its pending handle up to this size, compressed; without it only this process can go on."""
OVERDUE = 30.0
"""Seconds beyond its last try for which a create may go on."""
_MAX_UNPACKED = limits.REQUEST


def pack_request(request: connector_pb2.CreateTaskRequest) -> bytes:
    """The request, compressed, without its connection's secrets; empty if it is too large."""
    bare = connector_pb2.CreateTaskRequest()
    bare.CopyFrom(request)
    bare.ClearField("connection")
    packed = zlib.compress(bare.SerializeToString(deterministic=True), 6)
    return packed if len(packed) <= MAX_REQUEST else b""


def unpack_request(packed: bytes) -> connector_pb2.CreateTaskRequest:
    """The request in a pending handle."""
    plain = zlib.decompressobj().decompress(packed, _MAX_UNPACKED)
    return connector_pb2.CreateTaskRequest.FromString(plain)


class PendingAgent(Agent):
    """Stands in for the agent of a job that may not exist yet: QUEUED until it does, then the truth.

    `resume(handle, call)` gives the create's entry, and starts the create again if nobody here carries it out.
    `opened(sealed)` gives the handle and the agent of an answer.
    """

    def __init__(
        self,
        agent: Agent,
        handle: Handle,
        resume: Callable[[Handle, Call], Entry | None],
        opened: Callable[[bytes], tuple[Handle, Agent]],
        cancel: Callable[[Agent, bytes, Call], Awaitable[object]],
    ) -> None:
        self._handle = handle
        self._resume = resume
        self._opened = opened
        self._cancel = cancel
        self.name = agent.name
        self.task_types = agent.task_types
        self.settings = agent.settings

    async def get(self, meta: bytes, call: Call) -> Resource:
        del meta
        age = time.time() - self._handle.created_at
        overdue = age >= self.settings.create_timeout
        entry = self._resume(self._handle, call)
        if entry is None:
            return self._unknown(overdue=overdue)
        if entry.answer:
            return await self._truth(entry.answer, call)
        if entry.task is not None and age >= 2 * self.settings.create_timeout + OVERDUE:
            entry.stopped = True  # the agent ignores its timeout; a job that shows all the same is cancelled
        if overdue and (entry.task is None or entry.stopped):
            reason = sentence(entry.error) if entry.error else "the backend did not answer"
            text = f"The job could not be created within {self.settings.create_timeout:g} s: {reason}"
            return Resource(Phase.RETRYABLE_FAILED, message=text, code="CreateTimeout")
        last = f"; the last try failed: {sentence(entry.error)}" if entry.error else ""
        return Resource(Phase.QUEUED, message=f"The job is being created{last}.")

    async def delete(self, meta: bytes, call: Call) -> None:
        """Stop the create, or cancel the job if it is there; if it shows later, it is cancelled then."""
        del meta
        entry = self._resume(self._handle, call)
        if entry is None:
            return
        entry.stopped = True
        if entry.answer:
            handle, agent = self._opened(entry.answer)
            if handle.kind is Kind.JOB:
                await self._cancel(agent, handle.meta, call)

    async def _truth(self, answer: bytes, call: Call) -> Resource:
        handle, agent = self._opened(answer)
        if handle.kind is Kind.FAILED:
            return Resource(Phase.FAILED, message=handle.message, code=handle.code)
        if handle.kind is Kind.DONE:
            return read_resource(handle.result, None)
        return await agent.get(handle.meta, call)

    def _unknown(self, *, overdue: bool) -> Resource:
        """Another process was creating the job, and its request was too large to travel."""
        if overdue:
            text = "The service that was creating the job is gone; the request was too large to go on elsewhere."
            return Resource(Phase.RETRYABLE_FAILED, message=text, code="CreateTimeout")
        return Resource(Phase.QUEUED, message="The job is being created elsewhere.")


def connection_of(request: connector_pb2.CreateTaskRequest, connection: Connection | None) -> None:
    """Put the connection of a later call back into a request that travelled without it."""
    if connection is not None:
        request.connection.secrets.update(connection.secrets)
        request.connection.configs.update(connection.configs)
