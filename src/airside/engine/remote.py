"""Agents that live in another process: an `Agent` whose every method is an RPC, in either family."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

from flyteidl.admin import agent_pb2
from flyteidl2.connector import connector_pb2
from google.protobuf.message import DecodeError

from airside.engine.endpoint import Endpoint, Tls
from airside.model import Call, Fail, LogLine, Metric, NotFound, Resource, Retry, Task, TaskType, UsageError
from airside.sdk.agent import Agent
from airside.wire.families import V1, V2, Family, Verb
from airside.wire.frame import frame
from airside.wire.resource import read_resource
from airside.wire.telemetry import read_lines, read_metrics
from airside.wire.template import split_header, write_connection, write_request

FamilyName = Literal["v1", "v2"]

_FAMILIES: Mapping[str, Family] = {"v1": V1, "v2": V2}
NOT_SERVED = "TaskTypeNotServed"


class RemoteAgent(Agent):
    """An agent behind an endpoint: whoever drives it cannot tell it from one in this process.

    `open` asks the service what it serves, unless `family` and `task_types` are given. `family` is Flyte 1's
    services ("v1"), Flyte 2's ("v2"), or whichever the service serves, "v1" first. `task_type` picks one agent of
    several; without it the agent stands for all of them, and is sync only if all are. `target`, `tls`, `token` and
    `timeouts` are as for `Endpoint`.

    `get` and `delete` are for the type in `call.task_type`, or else for the first of `task_types`.

    ```python
    agent = RemoteAgent("localhost:8000", task_type="bigquery_query_job_task")
    await agent.open(None)
    meta = await agent.create(task, Call())
    ```
    """

    supports = frozenset({"logs", "metrics"})
    joins_creates = True

    def __init__(
        self,
        target: str,
        *,
        family: FamilyName | None = None,
        task_type: str | TaskType | None = None,
        name: str = "",
        task_types: Sequence[TaskType] = (),
        is_sync: bool = False,
        tls: Tls | None = None,
        token: str = "",
        timeouts: Mapping[str, float] | None = None,
        service_config: str = "",
    ) -> None:
        self.target = target
        self.family = None if family is None else _FAMILIES[family]
        self.name = name
        self.is_sync = is_sync
        self._wanted = TaskType(task_type) if isinstance(task_type, str) else task_type
        self._is_told = bool(task_types)
        self.task_types = tuple(task_types) or (() if self._wanted is None else (self._wanted,))
        self._connect = partial(
            Endpoint, target, tls=tls, token=token, timeouts=timeouts, service_config=service_config
        )
        self._endpoint: Endpoint | None = None

    def __repr__(self) -> str:
        types = ", ".join(map(str, self.task_types))
        return f"RemoteAgent({self.target!r}, name={self.name!r}, task_types=[{types}])"

    @property
    def takes_connection(self) -> bool:  # type: ignore[override]  # known once the service has said what it speaks
        """Flyte 2's services are sent connections, Flyte 1's know none."""
        return self.family is V2

    async def open(self, options: Any = None) -> None:
        """Connect, and learn what the service serves. `Retry` if nothing answers, `UsageError` if it is another one."""
        del options
        endpoint = self._connect()
        try:
            if self.family is None or not self._is_told:
                self._learn(*await endpoint.list(self.family))
        except BaseException:
            await endpoint.close()
            raise
        self._endpoint = endpoint

    async def close(self) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            await endpoint.close()

    async def create(self, task: Task, call: Call) -> bytes:
        request = write_request(task)
        if not self.takes_connection:
            request.ClearField("connection")  # its secrets are nobody's business there
        try:
            answer = await self._ask("create", request.SerializeToString(), call)
        except NotFound as exc:
            raise Fail(str(exc), code=NOT_SERVED) from exc
        meta: bytes = _parse(connector_pb2.CreateTaskResponse, answer).resource_meta
        return meta

    async def get(self, meta: bytes, call: Call) -> Resource:
        request = connector_pb2.GetTaskRequest(resource_meta=meta, output_prefix=call.output_prefix)
        answer = await self._ask("get", self._addressed(request, agent_pb2.GetTaskRequest, call), call)
        found = _parse(connector_pb2.GetTaskResponse, answer)
        return read_resource(found.resource, None, family=self._spoken.name)

    async def delete(self, meta: bytes, call: Call) -> None:
        request = connector_pb2.DeleteTaskRequest(resource_meta=meta)
        await self._ask("delete", self._addressed(request, agent_pb2.DeleteTaskRequest, call), call)

    async def do(self, task: Task, call: Call) -> Resource:
        if "do" not in self._spoken.methods:
            raise Fail(f"{self._connected.name} speaks Flyte 2, which has no sync calls.", code="Unimplemented")
        request = write_request(task)
        request.ClearField("connection")  # as in `create`
        header, inputs = split_header(request)
        messages = (frame(1, header.SerializeToString()), frame(2, inputs))
        try:
            async with aclosing(self._connected.listen(self._spoken.methods["do"], messages, call)) as answers:
                first = await anext(answers, None)
        except NotFound as exc:
            raise Fail(str(exc), code=NOT_SERVED) from exc
        if first is None:
            raise Retry(f"{self._connected.name} ended the call without an answer.")
        answer = _parse(agent_pb2.ExecuteTaskSyncResponse, first)
        if not answer.HasField("header"):
            raise Retry(f"{self._connected.name} answered without a result.")
        resource = read_resource(answer.header.resource, None)
        if not resource.phase.is_terminal:
            raise Fail(f"The sync agent answered {resource.phase.name}, which is not terminal.", code="AgentError")
        return resource

    async def logs(self, meta: bytes, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        request = connector_pb2.GetTaskLogsRequest(resource_meta=meta, lines=limit, token=after)
        data = self._addressed(request, agent_pb2.GetTaskLogsRequest, call)
        last: LogLine | None = None
        seen = 0
        async with aclosing(self._connected.listen(self._spoken.methods["logs"], (data,), call)) as parts:
            async for part in parts:
                message = _parse(connector_pb2.GetTaskLogsResponse, part)
                if last is not None:
                    yield replace(last, cursor=message.header.token)
                    last = None
                for line in read_lines(message):
                    seen += 1
                    if seen == limit:
                        last = line  # its cursor is in the header, which comes next
                    else:
                        yield line
        if last is not None:
            yield last

    async def metrics(
        self, meta: bytes, *, queries: Sequence[str], start: datetime, end: datetime, step: float, call: Call
    ) -> Sequence[Metric]:
        request = connector_pb2.GetTaskMetricsRequest(resource_meta=meta, queries=queries)
        request.start_time.FromDatetime(start)
        request.end_time.FromDatetime(end)
        request.step.FromTimedelta(timedelta(seconds=step))
        answer = await self._ask("metrics", self._addressed(request, agent_pb2.GetTaskMetricsRequest, call), call)
        return read_metrics(_parse(connector_pb2.GetTaskMetricsResponse, answer))

    @property
    def _connected(self) -> Endpoint:
        if self._endpoint is None:
            raise UsageError(f"The agent at {self.target} is not open: call open() first.")
        return self._endpoint

    @property
    def _spoken(self) -> Family:
        if self.family is None:
            raise UsageError(f"The agent at {self.target} is not open: call open() first.")
        return self.family

    async def _ask(self, verb: Verb, request: bytes, call: Call) -> bytes:
        answer: bytes = await self._connected.ask(self._spoken.methods[verb], request, call)
        return answer

    def _addressed(self, request: Any, v1_request: Any, call: Call) -> bytes:
        """A request with the task type that routes it; for Flyte 1 also in the form that engines before 1.11 used."""
        task_type = call.task_type or self._first_type()
        request.task_category.name, request.task_category.version = task_type
        if self.takes_connection and call.connection is not None and "connection" in request.DESCRIPTOR.fields_by_name:
            request.connection.CopyFrom(write_connection(call.connection))
        data: bytes = request.SerializeToString()
        if self._spoken is V1:
            data += v1_request(task_type=task_type.name).SerializeToString()
        return data

    def _first_type(self) -> TaskType:
        if not self.task_types:
            raise UsageError(f"The agent at {self.target} serves no task type that is known here.")
        return self.task_types[0]

    def _learn(self, family: Family, entries: Sequence[Any]) -> None:
        """Take over what the service lists."""
        self.family = family
        found = [read_listing(entry) for entry in entries]
        if self._wanted is not None:
            found = [one for one in found if self._wanted in one.task_types]
            if not found:
                known = ", ".join(str(one) for entry in entries for one in read_listing(entry).task_types)
                raise UsageError(f"{self.target} serves no task type {self._wanted} (it serves: {known or 'none'}).")
        types = tuple(dict.fromkeys(one for listing in found for one in listing.task_types))
        if self._wanted is not None:  # the wanted type is the one that get and delete are for
            types = (self._wanted, *(one for one in types if one != self._wanted))
        self.task_types = self.task_types if self._is_told else types
        self.name = self.name or ", ".join(listing.name for listing in found)
        self.is_sync = bool(found) and all(listing.is_sync for listing in found)


async def discover(
    target: str,
    *,
    family: FamilyName | None = None,
    tls: Tls | None = None,
    token: str = "",
    timeouts: Mapping[str, float] | None = None,
    service_config: str = "",
) -> list[RemoteAgent]:
    """The agents that a service lists, in its order; `open` each before use.

    Raises `Retry` if nothing answers there, `UsageError` if what answers is no agent service.
    """
    endpoint = Endpoint(target, tls=tls, token=token, timeouts=timeouts, service_config=service_config)
    try:
        spoken, entries = await endpoint.list(None if family is None else _FAMILIES[family])
    finally:
        await endpoint.close()
    return [
        RemoteAgent(
            target,
            family=spoken.name,
            name=listing.name,
            task_types=listing.task_types,
            is_sync=listing.is_sync,
            tls=tls,
            token=token,
            timeouts=timeouts,
            service_config=service_config,
        )
        for listing in map(read_listing, entries)
    ]


@dataclass(frozen=True, slots=True)
class Listed:
    """One agent, as a service lists it."""

    name: str
    task_types: tuple[TaskType, ...]
    is_sync: bool


def read_listing(entry: Any) -> Listed:
    """An `Agent` of Flyte 1 or a `Connector` of Flyte 2. Agents before 1.11 list names only, which mean version 0."""
    types = [TaskType(category.name, category.version) for category in entry.supported_task_categories]
    if not types:
        types = [TaskType(name) for name in getattr(entry, "supported_task_types", ())]
    return Listed(entry.name, tuple(dict.fromkeys(types)), getattr(entry, "is_sync", False))


def _parse(message: Any, data: bytes) -> Any:
    try:
        return message.FromString(data)
    except DecodeError as exc:
        raise Retry(f"The agent service answered with bytes that are no {message.DESCRIPTOR.name}.") from exc
