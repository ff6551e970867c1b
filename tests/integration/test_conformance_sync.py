"""Conformance S37 to S42: ExecuteTaskSync, which Flyte 1 alone has, and sync agents through CreateTask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest

from airside import Resource, SyncAgent, Task
from airside.model import Phase
from airside.testing.client import RawClient, Wire, refused
from airside.testing.scripted import ScriptedAgent
from airside.testing.service import LocalService

Serve = Callable[..., Awaitable[RawClient]]
StartService = Callable[..., Awaitable[LocalService]]

only_v1 = pytest.mark.parametrize("wire", ["v1"])


class Adder(SyncAgent):
    task_type = "add"

    def do(self, task: Task) -> Resource:
        return Resource(Phase.SUCCEEDED, outputs={"o0": sum(task.inputs.values())})


@only_v1
async def test_s37_one_header_with_the_outputs_inside(serve: Serve) -> None:
    client = await serve(Adder())
    header = client.sync_header("add", inputs={"a": 1, "b": 2}, outputs={"o0": int}, prefix="/run/0")
    [answer] = await client.do(header, client.sync_inputs({"a": 1, "b": 2}))
    assert answer.WhichOneof("res") == "header"
    assert answer.header.resource.phase == Phase.SUCCEEDED
    assert answer.header.resource.outputs.literals["o0"].scalar.primitive.integer == 3


@only_v1
async def test_s37_a_failure_travels_in_the_header(serve: Serve) -> None:
    failed = Resource(Phase.FAILED, message="1 + None", code="BadSum")
    client = await serve(ScriptedAgent(is_sync=True, do=failed))
    [answer] = await client.do(client.sync_header(prefix="/run/0"), client.sync_inputs({}))
    resource = answer.header.resource
    assert (resource.phase, resource.agent_error.code) == (Phase.FAILED, "BadSum")
    assert resource.message.startswith("1 + None (id ")  # the engine shows the code


@only_v1
async def test_s38_a_client_may_go_after_the_first_message(start_service: StartService, wire: Wire) -> None:
    service = await start_service(Adder())
    client = RawClient(service.channel, wire)
    await client.list()
    before = len(asyncio.all_tasks())
    for number in range(5):
        header = client.sync_header("add", inputs={"a": number}, prefix=f"/run/{number}")
        call = client.sync_call([header, client.sync_inputs({"a": number})])
        assert (await call.read()).WhichOneof("res") == "header"
        call.cancel()
    for _ in range(100):
        if len(asyncio.all_tasks()) <= before:
            break
        await asyncio.sleep(0.01)
    assert len(asyncio.all_tasks()) <= before
    assert "Traceback" not in service.log()
    assert "ERROR" not in service.log()


@only_v1
@pytest.mark.parametrize("sent", ["inputs first", "empty stream", "an empty message"])
async def test_s39_a_stream_without_header_is_invalid(serve: Serve, sent: str) -> None:
    agent = ScriptedAgent(is_sync=True)
    client = await serve(agent)
    first = client.sync_inputs({"x": 1})
    empty = type(first)()
    requests = {"inputs first": [first], "empty stream": [], "an empty message": [empty]}[sent]
    error = await refused(client.do(*requests))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "header" in error.details()
    assert not agent.calls("do")


@only_v1
async def test_s40_a_header_alone_runs_with_empty_inputs(serve: Serve) -> None:
    agent = ScriptedAgent(is_sync=True)
    client = await serve(agent)
    [answer] = await client.do(client.sync_header(prefix="/run/0"))
    assert answer.header.resource.phase == Phase.SUCCEEDED
    [done] = agent.calls("do")
    assert done.task is not None
    assert dict(done.task.inputs) == {}


@only_v1
@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.QUEUED, Phase.UNDEFINED])
async def test_s41_a_sync_agent_never_answers_running(serve: Serve, phase: Phase) -> None:
    """Flyte 1's poller dies of a sync answer that is not terminal."""

    class Lazy(SyncAgent):
        task_type = "scripted"

        def do(self, task: Task) -> Resource:
            return Resource(phase)

    client = await serve(Lazy())
    [answer] = await client.do(client.sync_header(prefix="/run/0"), client.sync_inputs({}))
    assert answer.header.resource.phase == Phase.FAILED
    assert "not terminal" in answer.header.resource.message


@only_v1
async def test_s41_neither_does_a_raw_sync_agent(serve: Serve) -> None:
    client = await serve(ScriptedAgent(is_sync=True, do=Resource(Phase.RUNNING)))
    try:
        [answer] = await client.do(client.sync_header(prefix="/run/0"), client.sync_inputs({}))
    except grpc.aio.AioRpcError as exc:
        assert exc.code() is grpc.StatusCode.INTERNAL  # noqa: PT017 - an error is as good as FAILED here
    else:
        assert Phase(answer.header.resource.phase).is_failure


@only_v1
async def test_s42_a_sync_call_on_an_async_type_says_what_to_do(serve: Serve) -> None:
    agent = ScriptedAgent()
    client = await serve(agent)
    error = await refused(client.do(client.sync_header(prefix="/run/0"), client.sync_inputs({})))
    assert error.code() not in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
    assert "scripted" in error.details()
    assert "CreateTask" in error.details()
    assert not agent.received


@only_v1
async def test_s42_a_sync_call_on_an_unknown_type_is_not_found(serve: Serve) -> None:
    client = await serve(Adder())
    error = await refused(client.do(client.sync_header("nobody"), client.sync_inputs({})))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "nobody" in error.details()


async def test_s42_a_sync_agent_is_served_through_create_and_get(serve: Serve) -> None:
    """Flyte 2 has no sync service, and a route that pins a type forces async on Flyte 1."""
    client = await serve(Adder())
    handle = await client.create("add", inputs={"a": 1, "b": 2}, outputs={"o0": int}, prefix="/run/0")
    resource = await client.get(handle, "add")
    assert resource.phase == Phase.SUCCEEDED
    literals = resource.outputs.literals
    [value] = literals.values() if client.wire == "v1" else [one.value for one in literals]
    assert value.scalar.primitive.integer == 3
    await client.delete(handle, "add")
    assert (await client.get(handle, "add")).phase == Phase.SUCCEEDED
