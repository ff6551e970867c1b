"""A gRPC service that follows a script, and engines that call it, polling more often than Flyte's would."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from flyteidl.admin import agent_pb2
from flyteidl2.connector import connector_pb2
from flyteidl2.core import literals_pb2

from airside import Engine, Phase, TaskTemplate, kwtypes
from airside.engine.flyteconfig import FlyteConfig, WebApi, read_config
from airside.engine.lane import Limits
from airside.wire.families import V1, Family

R = connector_pb2.Resource


TASK = TaskTemplate(name="work", task_type="spark")


ADD = TaskTemplate(name="add", task_type="spark", inputs=kwtypes(a=int), outputs=kwtypes(o0=int))


RUNNING = R(phase=Phase.RUNNING.value)


DONE = R(phase=Phase.SUCCEEDED.value)


@dataclass(frozen=True)
class Received:
    """One call that a service received; `limit` is how many seconds its deadline left."""

    verb: str
    request: Any
    limit: float | None


class Service:
    """A gRPC service that answers as told: an answer, a status, or a function of the request. The last repeats."""

    def __init__(self, family: Family = V1, types: Any = (("spark", 0),), *, is_sync: bool = False) -> None:
        self.family, self.types, self.is_sync = family, list(types), is_sync
        self.received: list[Received] = []
        self.script: dict[str, list[Any]] = {
            "create": [b"job-1"],
            "get": [DONE],
            "delete": [None],
            "do": [DONE],
            "list": [None],
        }
        self._asked: dict[str, int] = {}

    async def start(self) -> None:
        self._server = grpc.aio.server()
        for service in {method.path.split("/")[1] for method in self.family.methods.values()}:
            handlers = {
                method.name: self._handler(verb, method)
                for verb, method in self.family.methods.items()
                if method.path.split("/")[1] == service and verb in self.script
            }
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    def calls(self, verb: str) -> list[Any]:
        return [one.request for one in self.received if one.verb == verb]

    @property
    def verbs(self) -> list[str]:
        return [one.verb for one in self.received if one.verb != "list"]

    def _handler(self, verb: str, method: Any) -> Any:
        kwargs = {
            "request_deserializer": method.request.FromString,
            "response_serializer": lambda message: message.SerializeToString(),
        }

        async def answer(request: Any, context: Any) -> Any:
            limit = context.time_remaining()
            self.received.append(Received(verb, request, limit))
            return await self._answer(verb, request, context, method)

        async def stream(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            parts = [one async for one in requests]
            self.received.append(Received(verb, parts, None))
            yield await self._answer(verb, parts, context, method)

        if method.kind == "stream":
            return grpc.stream_stream_rpc_method_handler(stream, **kwargs)
        return grpc.unary_unary_rpc_method_handler(answer, **kwargs)

    async def _answer(self, verb: str, request: Any, context: Any, method: Any) -> Any:
        number = self._asked[verb] = self._asked.get(verb, -1) + 1
        steps = self.script[verb]
        step = steps[min(number, len(steps) - 1)]
        if callable(step):
            step = step(request)
        if inspect.isawaitable(step):
            step = await step
        if isinstance(step, grpc.StatusCode):
            await context.abort(step, f"{step.name} as told")
        if verb == "list":
            return self._listing(method)
        if verb == "create":
            return method.response(resource_meta=step)
        if verb == "delete":
            return method.response()
        resource = step if isinstance(step, bytes) else step.SerializeToString()
        if verb == "do":
            return method.response(
                header=agent_pb2.ExecuteTaskSyncResponseHeader(resource=agent_pb2.Resource.FromString(resource))
            )
        return method.response.FromString(b"\x0a" + _length(resource) + resource)

    def _listing(self, method: Any) -> Any:
        answer = method.response()
        entry = (answer.agents if self.family is V1 else answer.connectors).add(name="scripted")
        for name, version in self.types:
            entry.supported_task_categories.add(name=name, version=version)
        if self.is_sync:
            entry.is_sync = True
        return answer


def _length(data: bytes) -> bytes:
    size, out = len(data), b""
    while size > 127:
        out, size = out + bytes([size & 127 | 128]), size >> 7
    return out + bytes([size])


Start = Callable[..., Awaitable[Service]]


def config(
    default: Service | None = None, *, interval: float = 0.03, poll: str = "50ms", **section: Any
) -> FlyteConfig:
    """A configuration as FlytePropeller has it; polled more often than it would allow, for the tests' sake."""
    found: dict[str, Any] = {"pollInterval": poll, **section}
    if default is not None:
        found["defaultAgent"] = {"endpoint": default.endpoint, **section.get("defaultAgent", {})}
    read = read_config({"plugins": {"agent-service": found}}, "flyte.yaml")
    return quick(read, interval)


def quick(read: FlyteConfig, interval: float = 0.03) -> FlyteConfig:
    api = WebApi(resync_interval=interval, limits=Limits())
    return replace(read, sections=tuple(replace(one, web_api=api) for one in read.sections))


def engine(routes: FlyteConfig, store: str | Path = ":memory:") -> Engine:
    return Engine(store, routes=routes)


async def finish(routes: FlyteConfig, task: TaskTemplate = TASK, inputs: Any = None, **settings: Any) -> Any:
    async with asyncio.timeout(20), engine(routes) as running:
        return await running.wait(await running.submit(task, inputs or {}, **settings))


def let_rules(running: Engine, **rules: Any) -> None:
    """Have jobs driven by other rules than their agents say."""
    find = running._drivers.find

    async def changed(record: Any) -> Any:
        driver = await find(record)
        driver.rules = replace(driver.rules, **rules)
        return driver

    running._drivers.find = changed  # type: ignore[method-assign]  # held up for the test


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def agents(**services: Service) -> dict[str, Any]:
    return {"agents": {name: {"endpoint": one.endpoint, "insecure": True} for name, one in services.items()}}


def literals(**values: int) -> bytes:
    """A literal map of integers."""
    message = literals_pb2.LiteralMap()
    for name, value in values.items():
        entry = message.literals.add(name=name) if hasattr(message.literals, "add") else None
        target = message.literals[name] if entry is None else entry.value
        target.scalar.primitive.integer = value
    return bytes(message.SerializeToString())


def with_outputs(data: bytes) -> bytes:
    return DONE.SerializeToString() + b"\x12" + _length(data) + data
