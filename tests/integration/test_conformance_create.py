"""Conformance S07 to S18, and S36: CreateTask."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from airside import Resource, Task
from airside.model import Phase
from airside.sdk.agent import AgentSettings
from airside.testing.client import RawClient, refused
from airside.testing.scripted import ScriptedAgent

Serve = Callable[..., Awaitable[RawClient]]

_RUNNING = Resource(Phase.RUNNING)
_UNKNOWN_FIELDS = b"\xa2\x06\x05hello\xa8\x06\x2a"  # field 100 a string, field 101 a number


async def test_s07_the_agent_gets_its_own_bytes_back(serve: Serve) -> None:
    agent = ScriptedAgent(create=b"job-1", get=_RUNNING)
    client = await serve(agent)
    handle = await client.create(prefix="/run/0", inputs={"x": 3})
    await client.get(handle)
    await client.delete(handle)
    [created] = agent.calls("create")
    assert created.task is not None
    assert dict(created.task.inputs) == {"x": 3}
    assert created.task.type == ("scripted", 0)
    assert [call.meta for call in agent.calls("delete")] == [b"job-1"]
    assert {call.meta for call in agent.calls("get")} == {b"job-1"}


async def test_s08_a_version_that_is_not_registered_is_not_found(serve: Serve) -> None:
    agent = ScriptedAgent(task_types=[("scripted", 1)])
    client = await serve(agent)
    error = await refused(client.create("scripted", 0))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert await client.create("scripted", 1)
    assert len(agent.calls("create")) == 1


async def test_s09_an_unknown_type_is_not_found_and_named(serve: Serve) -> None:
    client = await serve(ScriptedAgent())
    error = await refused(client.create("bigquery_query_job_task"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "bigquery_query_job_task" in error.details()


async def test_s10_a_handler_that_raises_is_internal_with_its_text(serve: Serve) -> None:
    client = await serve(ScriptedAgent(create=[ValueError("no such warehouse: blue"), b"job-1"]))
    error = await refused(client.create(prefix="/run/0"))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "no such warehouse: blue" in error.details()
    assert "Traceback" not in error.details()
    assert "scripted.py" not in error.details()
    assert await client.create(prefix="/run/0")  # the server is up, and the failed create is not remembered


async def test_s10_a_huge_error_text_still_arrives(serve: Serve) -> None:
    client = await serve(ScriptedAgent(create=ValueError("y" * 1024 * 1024)))
    error = await refused(client.create())
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "yyy" in error.details()
    assert len(error.details()) < 8 * 1024  # gRPC carries details in a header of bounded size


async def test_s11_a_create_without_inputs_has_none(serve: Serve) -> None:
    agent = ScriptedAgent()
    client = await serve(agent)
    request = client.create_request(inputs=None)
    assert not request.HasField("inputs")
    await client.call("CreateTask", request)
    [created] = agent.calls("create")
    assert created.task is not None
    assert dict(created.task.inputs) == {}


async def test_s12_a_create_without_metadata_or_interface_is_taken(serve: Serve) -> None:
    agent = ScriptedAgent()
    client = await serve(agent)
    bare = client.family.message("CreateTaskRequest")()
    bare.template.type = "scripted"
    assert (await client.call("CreateTask", bare)).resource_meta
    [created] = agent.calls("create")
    assert created.task is not None
    assert created.task.execution.attempt == 0
    assert created.task.interface.outputs == {}


async def test_s13_a_repeated_create_is_one_job(serve: Serve) -> None:
    agent = ScriptedAgent(create=[b"job-1", b"job-2"])
    client = await serve(agent)
    first = await client.create(prefix="/run/0", inputs={"x": 1, "y": 2})
    assert await client.create(prefix="/run/0", inputs={"y": 2, "x": 1}) == first
    assert len(agent.calls("create")) == 1


async def test_s13_concurrent_creates_are_one_job(serve: Serve) -> None:
    release = asyncio.Event()

    async def slowly(task: Task) -> bytes:
        await release.wait()
        return b"job-1"

    agent = ScriptedAgent(create=slowly)
    client = await serve(agent)
    creates = [asyncio.create_task(client.create(prefix="/run/0")) for _ in range(5)]
    while not agent.received:
        await asyncio.sleep(0.001)
    release.set()
    assert len(set(await asyncio.gather(*creates))) == 1
    assert len(agent.calls("create")) == 1


@pytest.mark.parametrize("way", ["token", "find", "neither"])
async def test_s36_a_caller_whose_deadline_passes_leaves_one_job_or_none(serve: Serve, way: str) -> None:
    release = asyncio.Event()
    live: list[bytes] = []
    was_undone = asyncio.Event()

    async def slowly(task: Task) -> bytes:
        await release.wait()
        live.append(b"job-%d" % len(live))
        return live[-1]

    def delete(meta: bytes) -> None:
        live.remove(meta)
        was_undone.set()

    def get(meta: bytes) -> Resource:
        return _RUNNING if meta in live else Resource(Phase.ABORTED)

    scripts: dict[str, Any] = {"create": slowly, "get": get, "delete": delete}
    if way == "find":
        scripts["find"] = lambda _: live[0] if live else None
    agent = ScriptedAgent(settings=AgentSettings(create_is_idempotent=way == "token"), **scripts)
    client = await serve(agent)
    request = client.create_request(prefix="/run/0")
    impatient = client.call("CreateTask", request, timeout=0.5)
    if way == "neither":
        error = await refused(impatient)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        release.set()
        async with asyncio.timeout(10):  # the job came too late, and nobody could find it again
            await was_undone.wait()
        assert not live
    else:
        handle = (await impatient).resource_meta
        release.set()
        async with asyncio.timeout(10):
            while (await client.get(handle)).phase != Phase.RUNNING:
                await asyncio.sleep(0.01)
        assert len(agent.calls("create")) == 1
    again, once_more = await client.create(prefix="/run/0"), await client.create(prefix="/run/0")
    assert again == once_more
    assert Phase((await client.get(again)).phase) is Phase.RUNNING
    assert len(live) == 1
    assert len(agent.calls("create")) == (2 if way == "neither" else 1)


async def test_s14_the_next_attempt_is_a_second_job(serve: Serve) -> None:
    def get(meta: bytes) -> Resource:
        cancelled = {call.meta for call in agent.calls("delete")}
        return Resource(Phase.ABORTED) if meta in cancelled else _RUNNING

    agent = ScriptedAgent(create=[b"job-1", b"job-2"], get=get)
    client = await serve(agent)
    one, two = ("/run/0", "/run/1") if client.wire == "v1" else ("/run/1", "/run/2")  # as each engine numbers them
    first = await client.create(prefix=one, attempt=0)
    second = await client.create(prefix=two, attempt=1)
    assert first != second
    await client.get(second)
    assert agent.calls("get")[-1].meta == b"job-2"
    tasks = [call.task for call in agent.calls("create") if call.task]
    assert [task.execution.attempt for task in tasks] == [0, 1]
    assert tasks[0].key != tasks[1].key
    assert {call.meta for call in agent.calls("delete")} == {b"job-1"}  # never two live jobs of one task


async def test_s14_the_first_attempt_has_none_before_it(serve: Serve) -> None:
    """Flyte 1 counts from 0 and Flyte 2 from 1: no look-up for an attempt that never was."""
    agent = ScriptedAgent(find=None)
    client = await serve(agent)
    await client.create(prefix="/run/0" if client.wire == "v1" else "/run/1", attempt=0)
    [made] = [call.task for call in agent.calls("create") if call.task]
    assert {call.arguments["key"] for call in agent.calls("find")} == {made.key}


async def test_s15_eight_mebibytes_of_inputs_arrive(serve: Serve) -> None:
    seen: list[int] = []

    def measure(task: Task) -> bytes:
        seen.append(len(task.inputs["text"]))
        return b"job-1"

    client = await serve(ScriptedAgent(create=measure))
    await client.create(inputs={"text": "x" * 8 * 1024 * 1024})
    assert seen == [8 * 1024 * 1024]


async def test_s16_unknown_fields_are_ignored(serve: Serve) -> None:
    agent = ScriptedAgent(get=_RUNNING)
    client = await serve(agent)
    request = client.create_request(inputs={"x": 3}, prefix="/run/0")
    for part in (request, request.template, request.inputs, request.template.interface):
        part.MergeFromString(_UNKNOWN_FIELDS)
    handle = (await client.call("CreateTask", request)).resource_meta
    asked = client.job_request("GetTaskRequest", handle, "scripted")
    asked.MergeFromString(_UNKNOWN_FIELDS)
    assert (await client.call("GetTask", asked)).resource.phase == Phase.RUNNING
    [created] = agent.calls("create")
    assert created.task is not None
    assert dict(created.task.inputs) == {"x": 3}


async def test_s17_empty_job_bytes_reach_get_and_delete(serve: Serve) -> None:
    agent = ScriptedAgent(create=b"", get=_RUNNING)
    client = await serve(agent)
    handle = await client.create(prefix="/run/0")
    await client.get(handle)
    await client.delete(handle)
    assert {call.meta for call in agent.calls("get")} == {b""}
    assert [call.meta for call in agent.calls("delete")] == [b""]


async def test_s18_any_job_bytes_come_back_unchanged(serve: Serve) -> None:
    every_byte = bytes(range(256)) + b"\x00\xff\x00"
    agent = ScriptedAgent(create=every_byte, get=_RUNNING)
    client = await serve(agent)
    handle = await client.create(prefix="/run/0")
    await client.get(handle)
    await client.delete(handle)
    assert {call.meta for call in agent.calls("get")} == {every_byte}
    assert [call.meta for call in agent.calls("delete")] == [every_byte]
