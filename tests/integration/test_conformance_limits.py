"""Conformance S46 and S48 to S50: health, connections, input order, keepalive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc.aio
import pytest
from flyteidl2.task import common_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from airside import Connection, LogLine, Resource
from airside.model import Phase
from airside.testing.client import FAMILIES, SYNC_SERVICE, WIRES, RawClient, Wire, literal, refused
from airside.testing.scripted import ScriptedAgent
from airside.testing.service import LocalService

Serve = Callable[..., Awaitable[RawClient]]
StartService = Callable[..., Awaitable[LocalService]]

only_v2 = pytest.mark.parametrize("wire", ["v2"])

_SECRET = "hunter2-is-the-password"
_CONNECTION = Connection("blue", {"token": _SECRET}, {"host": "blue.example.org"})


async def test_s46_every_service_is_serving(start_service: StartService) -> None:
    service = await start_service(ScriptedAgent())
    stub = health_pb2_grpc.HealthStub(service.channel)
    names = [SYNC_SERVICE, *(n for f in FAMILIES.values() for n in (f.service, f.metadata_service))]
    for name in ("", *names):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, name
    error = await refused(stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=5))
    assert error.code() is grpc.StatusCode.NOT_FOUND


@only_v2
async def test_s48_a_connection_reaches_the_agent_each_time(start_service: StartService, wire: Wire) -> None:
    agent = ScriptedAgent(get=Resource(Phase.RUNNING))
    service = await start_service(agent)
    client = RawClient(service.channel, wire)
    handle = await client.create(connection=_CONNECTION)
    await client.get(handle, connection=_CONNECTION)
    await client.delete(handle, connection=_CONNECTION)
    for verb in ("create", "get", "delete"):
        call = agent.calls(verb)[-1].call
        assert call is not None
        assert call.connection is not None
        assert call.connection.secrets == {"token": _SECRET}
        assert call.connection.configs == {"host": "blue.example.org"}
    [created] = agent.calls("create")
    assert created.task is not None
    assert created.task.connection is not None
    assert created.task.connection.secrets == {"token": _SECRET}
    assert _SECRET.encode() not in handle
    assert _SECRET not in service.log()


@only_v2
async def test_s48_a_secret_in_an_agent_s_words_is_hidden(start_service: StartService, wire: Wire) -> None:
    words = f"401 for token {_SECRET}"
    agent = ScriptedAgent(create=[ValueError(words), b"job-1"], get=[Resource(Phase.RUNNING, message=words)])
    service = await start_service(agent)
    client = RawClient(service.channel, wire)
    error = await refused(client.create(connection=_CONNECTION, prefix="/run/0"))
    assert "401 for token ***" in error.details()
    handle = await client.create(connection=_CONNECTION, prefix="/run/0")
    assert (await client.get(handle, connection=_CONNECTION)).message == "401 for token ***"


@only_v2
async def test_s49_inputs_come_in_any_order_and_the_last_wins(serve: Serve) -> None:
    agent = ScriptedAgent()
    client = await serve(agent)
    request = client.create_request(inputs={"a": 1, "b": 2, "c": 3})
    named = [("c", 3), ("a", 7), ("b", 2), ("a", 1)]
    del request.inputs.literals[:]
    request.inputs.literals.extend(common_pb2.NamedLiteral(name=n, value=literal(v)) for n, v in named)
    await client.call("CreateTask", request)
    [created] = agent.calls("create")
    assert created.task is not None
    assert dict(created.task.inputs) == {"a": 1, "b": 2, "c": 3}


async def test_s50_pings_on_a_long_stream_are_accepted(start_service: StartService) -> None:
    """Flyte 2 pings every 30 s for minutes; six pings in three seconds are harder to bear.

    A gRPC server that does not allow for them ends the connection at the fourth ping or so ("too_many_pings"). The
    families are asked side by side, each on a connection of its own.
    """

    async def slowly() -> AsyncIterator[LogLine]:
        yield LogLine("first")
        await asyncio.sleep(3.3)
        yield LogLine("last")

    service = await start_service(ScriptedAgent(logs=lambda meta: slowly()))
    options = [
        ("grpc.keepalive_time_ms", 500),
        ("grpc.keepalive_timeout_ms", 2000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]

    async def follow(wire: Wire) -> int:
        async with grpc.aio.insecure_channel(service.address, options=options) as channel:
            client = RawClient(channel, wire)
            return len([message async for message in client.logs(await client.create())])

    assert await asyncio.gather(*map(follow, WIRES)) == [3, 3]
