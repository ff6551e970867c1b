"""Pending handles: the create was answered before the agent was done, and goes on behind the answer."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flyteidl2.connector import connector_pb2

from airside.model import Call, Connection, LogLink, Phase, Resource
from airside.sdk.agent import Agent
from airside.server.handle import Handle, Kind
from airside.server.job import links_of
from airside.server.standin import StandIn
from airside.wire import limits
from airside.wire.resource import read_resource

if TYPE_CHECKING:
    from airside.server.ledger import Entry

MAX_REQUEST = 32 * limits.KIB
"""A request travels in its pending handle up to this size, compressed; a larger one without its inputs, which is enough
to find its job."""
MOMENT = 1.0
"""Seconds to wait for a create that is taken up again here before it is told as pending."""
_MAX_UNPACKED = limits.REQUEST
_WITHOUT_INPUTS = 2  # a flag in the first byte, beside the number of the first attempt


@dataclass(frozen=True, slots=True)
class Packed:
    """A request out of a pending handle; `first_attempt` is how its caller counts."""

    request: connector_pb2.CreateTaskRequest
    first_attempt: int
    is_whole: bool


def pack_request(request: connector_pb2.CreateTaskRequest, first_attempt: int) -> bytes:
    """The request, compressed, without its connection's values; empty if it is too large even without its inputs."""
    bare = connector_pb2.CreateTaskRequest()
    bare.CopyFrom(request)
    bare.ClearField("connection")
    for flag in (0, _WITHOUT_INPUTS):
        if flag:
            bare.ClearField("inputs")
        packed = zlib.compress(bare.SerializeToString(deterministic=True), 6)
        if len(packed) < MAX_REQUEST:
            return bytes((flag | first_attempt,)) + packed
    return b""


def unpack_request(packed: bytes) -> Packed:
    """The request in a pending handle."""
    plain = zlib.decompressobj().decompress(packed[1:], _MAX_UNPACKED)
    request = connector_pb2.CreateTaskRequest.FromString(plain)
    return Packed(request, packed[0] & 1, is_whole(packed))


def is_whole(packed: bytes) -> bool:
    """True if a packed request has its inputs."""
    return not packed[0] & _WITHOUT_INPUTS


def connection_of(request: connector_pb2.CreateTaskRequest, connection: Connection | None) -> None:
    """Put the connection of a later call back into a request that travelled without it."""
    if connection is not None:
        request.connection.secrets.update(connection.secrets)
        request.connection.configs.update(connection.configs)


class PendingAgent(StandIn):
    """Stands in for the agent of a job that may not exist yet: QUEUED until it does, then the truth.

    `known()` gives the create's entry if there is one here; `resume(handle, call)` starts the create again if nobody
    here carries it out. `stop(handle, call)` ends it and gives the job that it made elsewhere. `opened(sealed)` gives
    the handle and the agent of an answer. `found(handle, agent, links)` is told of the job once it has answered: from
    then on nobody needs to stand in.
    """

    def __init__(
        self,
        agent: Agent,
        handle: Handle,
        *,
        known: Callable[[], Entry | None],
        resume: Callable[[Handle, Call], Entry | None],
        stop: Callable[[Handle, Call], Awaitable[bytes | None]],
        opened: Callable[[bytes], tuple[Handle, Agent]],
        found: Callable[[Handle, Agent, tuple[LogLink, ...]], None],
    ) -> None:
        self.real = agent
        self._handle = handle
        self._known = known
        self._resume = resume
        self._stop = stop
        self._opened = opened
        self._found = found
        self.name = agent.name
        self.task_types = agent.task_types
        self.settings = agent.settings

    @property
    def is_settled(self) -> bool:
        """True if the create is over as far as this process knows, so that there is a phase to learn."""
        entry = self._known()
        return entry is not None and bool(entry.answer)

    async def get(self, meta: bytes, call: Call) -> Resource:
        del meta
        known = self._known()
        was_begun = known is not None and known.task is not None
        entry = self._resume(self._handle, call)
        if entry is not None and entry.task is not None and not was_begun:
            await asyncio.wait((entry.task,), timeout=MOMENT)  # it may only have to be found
        overdue = time.time() - self._handle.created_at >= self.settings.create_timeout
        if entry is None:
            return self._unknown(overdue=overdue)
        if entry.answer:
            return await self._truth(entry.answer, call)
        if entry.stopped and entry.made is not None:
            return await self.real.get(entry.made, call)
        if entry.stopped:
            phase = Phase.ABORTED if entry.task is None else Phase.QUEUED
            return Resource(phase, message="The create is stopped.")
        if overdue and (entry.task is None or time.monotonic() >= entry.until):
            entry.stop()  # a job that shows after this was told must not run
            reason = entry.error or "the backend did not answer"
            text = f"The job could not be created within {self.settings.create_timeout:g} s: {reason}"
            return Resource(Phase.RETRYABLE_FAILED, message=text, code="CreateTimeout")
        last = f"; the last try failed: {entry.error}" if entry.error else ""
        return Resource(Phase.QUEUED, message=f"The job is being created{last}.")

    async def delete(self, meta: bytes, call: Call) -> None:
        """Stop the create, or cancel the job if it is there; if it shows later, it is cancelled then."""
        del meta
        entry = self._known()
        if entry is not None and entry.answer:
            handle, agent = self._opened(entry.answer)
            if handle.kind is Kind.JOB:
                await agent.delete(handle.meta, call)
            return
        made = await self._stop(self._handle, call)
        if made is not None:
            await self.real.delete(made, call)

    def made(self) -> bytes | None:
        """The metadata of the job, if it was made in this process, or found."""
        entry = self._known()
        return None if entry is None else entry.made

    async def _truth(self, answer: bytes, call: Call) -> Resource:
        handle, agent = self._opened(answer)
        if handle.kind is Kind.FAILED:
            return Resource(Phase.FAILED, message=handle.message, code=handle.code)
        if handle.kind is Kind.DONE:
            return read_resource(handle.result, None)
        resource = await agent.get(handle.meta, call)
        self._found(handle, agent, await links_of(agent, handle))
        return resource

    def _unknown(self, *, overdue: bool) -> Resource:
        """Another process carries the create out; or did, and its request was too large to travel."""
        if overdue:
            text = "The service that was creating the job is gone; the request was too large to go on elsewhere."
            return Resource(Phase.RETRYABLE_FAILED, message=text, code="CreateTimeout")
        return Resource(Phase.QUEUED, message="The job is being created elsewhere.")
