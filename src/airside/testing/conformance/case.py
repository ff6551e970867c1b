"""What a conformance case is, and what it does its work with."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf import text_format

from airside.model import Connection, Phase, TaskType
from airside.model.redaction import redact
from airside.testing.client import WIRES, RawClient, Wire
from airside.testing.conformance.report import Exchange
from airside.testing.service import Service

_SHOWN = 240  # characters of a message that a report shows
_BETWEEN_POLLS = 0.05  # seconds


class CaseFailed(Exception):
    """The service broke the rule; the text says how."""


class NotApplicable(Exception):
    """The case cannot be tried on this service; the text says why."""


class NotOver(NotApplicable):
    """The job did not come to an end in the time given."""


Trial = Callable[["Probe"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """One rule of the protocol and the function that tries it."""

    id: str
    group: str
    rule: str
    run: Trial
    wires: Sequence[Wire] = WIRES


def cases(
    group: str, trials: Mapping[str, Trial], *, only: Mapping[str, Sequence[Wire]] | None = None
) -> Sequence[Case]:
    """The cases of one group. A trial's docstring is the rule that it tries; `only` limits ids to some families."""
    limited = only or {}
    return tuple(
        Case(number, group, (trial.__doc__ or "").strip().rstrip("."), trial, limited.get(number, WIRES))
        for number, trial in trials.items()
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimen:
    """The task that the cases are tried with. `template` and `inputs` are serialised protobuf.

    `task_types` are all that the agent announces under its name; `supports` names its optional methods
    (None: unknown, as for a service elsewhere). `bad_inputs` make the task fail. `prefix` is where the output
    prefixes of its jobs begin.
    """

    task_type: TaskType
    template: bytes
    inputs: bytes = b""
    has_inputs: bool = False
    outputs: frozenset[str] = frozenset()
    connection: Connection | None = None
    prefix: str = ""
    is_sync: bool = False
    bad_inputs: bytes | None = None
    task_types: tuple[TaskType, ...] = ()
    supports: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call brought back: a status, its details, and the message if the status is OK."""

    code: grpc.StatusCode
    details: str = ""
    message: Any = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.code is grpc.StatusCode.OK

    def __str__(self) -> str:
        text = shorten(self.message) if self.ok else f"{self.code.name} {self.details!r}"
        return redact(text)[: 2 * _SHOWN]


@dataclass
class Probe:
    """Tries one service on one wire family, and remembers what was said.

    `second` makes another service of the same agent, in a process of its own (None: there can be none).
    """

    service: Service
    specimen: Specimen
    wire: Wire
    timeout: float = 30.0
    slow: bool = False
    second: Callable[[], Service] | None = None
    exchanges: list[Exchange] = field(default_factory=list)
    made: dict[bytes, bool] = field(default_factory=dict)
    prefixes: dict[bytes, str] = field(default_factory=dict)
    _finished: tuple[bytes, Any] | None = None
    _not_over: NotOver | None = None
    _told: list[Exchange] = field(default_factory=list)
    _seen: list[Any] = field(default_factory=list)

    @property
    def client(self) -> RawClient:
        """The raw client of this family on the service's present channel."""
        return RawClient(self.service.channel, self.wire, timeout=self.timeout)

    def expect(self, holds: object, why: str) -> None:
        """Fail the case, saying why, unless `holds` is true."""
        if not holds:
            raise CaseFailed(why)

    def expect_ok(self, answer: Answer, what: str) -> None:
        """Fail the case unless the call succeeded."""
        self.expect(answer.ok, f"{what} is answered {answer.code.name}: {answer.details}")

    def expect_success(self, resource: Any) -> None:
        """Fail the case unless the task succeeded: with one that cannot, the agent is hardly tried at all."""
        phase = Phase(resource.phase)
        why = f"{phase.name}: {resource.message}" if resource.message else phase.name
        self.expect(phase.is_success, f"the task ended {redact(shorten(why))}; try one that succeeds here")

    def skip(self, why: str) -> NoReturn:
        """Say that the case does not apply, and why."""
        raise NotApplicable(why)

    async def call(self, method: str, request: Any, *, timeout: float | None = None) -> Answer:
        """Call a unary method. A failed call is an answer, too."""
        return await self.record(method, request, self.client.call(method, request, timeout=timeout))

    async def stream(self, method: str, requests: Sequence[Any], messages: AsyncIterator[Any]) -> Answer:
        """Read a stream to its end; the answer's message is the list of what came."""

        async def collect() -> list[Any]:
            return [message async for message in messages]

        return await self.record(method, requests, collect())

    async def record(self, method: str, request: Any, pending: Awaitable[Any]) -> Answer:
        """The answer of a call that is made in a way of its own."""
        began = time.monotonic()
        try:
            message = await asyncio.wait_for(pending, self.timeout + 1)
        except grpc.aio.AioRpcError as exc:
            answer = Answer(exc.code(), exc.details() or "", seconds=time.monotonic() - began)
        except TimeoutError:
            answer = Answer(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time", seconds=time.monotonic() - began)
        else:
            answer = Answer(grpc.StatusCode.OK, message=message, seconds=time.monotonic() - began)
        self.exchanges.append(Exchange(method, redact(shorten(request)), str(answer)))
        return answer

    def new_prefix(self) -> str:
        """An output prefix that no other create has."""
        return f"{self.specimen.prefix}/{uuid.uuid4().hex}/0"

    def create_request(self, **changes: Any) -> Any:
        """A CreateTaskRequest for the specimen, with a prefix of its own unless told."""
        specimen = self.specimen
        fields: dict[str, Any] = {
            "inputs": specimen.inputs,
            "template": specimen.template,
            "prefix": self.new_prefix(),
            "connection": specimen.connection if self.wire == "v2" else None,
        }
        return self.client.create_request(specimen.task_type.name, specimen.task_type.version, **{**fields, **changes})

    async def create(self, request: Any = None) -> Answer:
        """Create the specimen's job, or what the request says. Jobs made here are deleted after the last case."""
        self._needs_create()
        if request is None:
            request = self.create_request()
        answer = await self.call("CreateTask", request)
        if answer.ok:
            handle = answer.message.resource_meta
            self.made.setdefault(handle, False)
            self.prefixes.setdefault(handle, request.output_prefix)
        return answer

    async def start(self) -> Answer:
        """Start the specimen's task in the way that its kind is started: by a create, or by a sync call."""
        if not (self.specimen.is_sync and self.wire == "v1"):
            return await self.create()
        task_type, specimen = self.specimen.task_type, self.specimen
        header = self.client.sync_header(*task_type, template=specimen.template, prefix=self.new_prefix())
        requests = [header, self.client.sync_inputs(specimen.inputs)]
        return await self.record("ExecuteTaskSync", requests, self.client.do(*requests))

    async def new_job(self) -> bytes:
        """The handle of a new job of the specimen."""
        answer = await self.create()
        self.expect_ok(answer, "CreateTask")
        return bytes(answer.message.resource_meta)

    def job_request(self, name: str, handle: bytes, **fields: Any) -> Any:
        """A request about a job of the specimen."""
        connection = self.specimen.connection if self.wire == "v2" else None
        has_connection = name in ("GetTaskRequest", "DeleteTaskRequest")
        if connection is not None and has_connection:
            fields.setdefault("connection", connection)
        if name == "GetTaskRequest" and handle in self.prefixes:
            fields.setdefault("output_prefix", self.prefixes[handle])
        task_type = self.specimen.task_type
        return self.client.job_request(name, handle, task_type.name, task_type.version, **fields)

    async def get(self, handle: bytes, **fields: Any) -> Answer:
        """Ask for a job once. The phases seen are kept for the cases about phases."""
        answer = await self.call("GetTask", self.job_request("GetTaskRequest", handle, **fields))
        if answer.ok:
            resource = answer.message.resource
            self._seen.append(resource)
            if is_over(resource):
                self.made[handle] = True
        return answer

    async def delete(self, handle: bytes) -> Answer:
        """Ask for a job to be cancelled."""
        answer = await self.call("DeleteTask", self.job_request("DeleteTaskRequest", handle))
        if answer.ok:
            self.made[handle] = True
        return answer

    async def finish(self, handle: bytes) -> Any:
        """The resource of a job once it is over; raises `NotOver` if it is not in time."""
        until = time.monotonic() + self.timeout
        while True:
            shown = len(self.exchanges)
            answer = await self.get(handle)
            self.expect_ok(answer, "GetTask")
            if is_over(answer.message.resource):
                return answer.message.resource
            if time.monotonic() > until:
                raise NotOver(
                    f"the job was not over after {self.timeout:g} s ({_state_of(answer.message.resource)}); "
                    "give it longer with a timeout, or a task that ends"
                )
            del self.exchanges[shown:]
            await asyncio.sleep(_BETWEEN_POLLS)

    async def finished(self) -> tuple[bytes, Any]:
        """One job that has been run to its end, shared by the cases that only look: its handle and resource."""
        if self._not_over is not None:
            raise self._not_over  # waiting as long once more for each case would help nobody
        if self._finished is not None:
            self.exchanges.extend(one for one in self._told if one not in self.exchanges)
            return self._finished
        began = len(self.exchanges)
        handle = await self.new_job()
        try:
            self._finished = handle, await self.finish(handle)
        except NotOver as exc:
            self._not_over = exc
            raise
        self._told = self.exchanges[began:]
        return self._finished

    async def seen(self) -> Sequence[Any]:
        """Every resource that GetTask has answered so far; at least those of one job."""
        try:
            await self.finished()
        except NotOver:
            if not self._seen:
                raise
        return tuple(self._seen)

    @asynccontextmanager
    async def elsewhere(self) -> AsyncIterator[Probe | None]:
        """A probe of the same agent in another process while it runs; None if there can be none."""
        if self.second is None:
            yield None
            return
        service = self.second()
        await service.start()
        try:
            yield replace(self, service=service, made={}, prefixes=dict(self.prefixes), _seen=[])
        finally:
            await service.stop()

    def _needs_create(self) -> None:
        if self.specimen.is_sync and self.wire == "v1":
            self.skip("a sync agent is called by ExecuteTaskSync on Flyte 1")


@contextmanager
def never_over(why: str) -> Iterator[None]:
    """Where a job must come to an end, fail the case if it does not."""
    try:
        yield
    except NotOver as exc:
        raise CaseFailed(f"{why}: {exc}") from exc


def is_over(resource: Any) -> bool:
    """True if a `Resource` message has a terminal phase."""
    return resource.phase in _PHASES and Phase(resource.phase).is_terminal


def name_of(resource: Any) -> str:
    """The phase of a `Resource` message in words; one that Flyte does not know by its number."""
    return Phase(resource.phase).name if resource.phase in _PHASES else f"{resource.phase}"


def _state_of(resource: Any) -> str:
    phase = name_of(resource)
    return redact(shorten(f"{phase}: {resource.message}" if resource.message else phase))


_PHASES = frozenset(Phase)
_HANDLE = re.compile(r'resource_meta: "((?:[^"\\]|\\.)*)"')


def shorten(message: Any) -> str:
    """A message, or several, in one line of bounded length.

    >>> shorten(b"abc"), len(shorten("x" * 1000))
    ("b'abc'", 241)
    """
    if isinstance(message, Mapping):
        text = str(dict(message))
    elif isinstance(message, (list, tuple)):
        text = f"[{', '.join(shorten(one) for one in message)}]"
    elif hasattr(message, "DESCRIPTOR"):
        size = message.ByteSize()
        plain = text_format.MessageToString(message, as_one_line=True) if size < 64 * 1024 else f"({size:,} bytes)"
        text = f"{{{_HANDLE.sub(lambda found: f'resource_meta: ({len(found[1])} characters)', plain)}}}"
    else:
        text = message if isinstance(message, str) else repr(message)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
