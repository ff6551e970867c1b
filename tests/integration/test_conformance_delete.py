"""Conformance S33 to S35: DeleteTask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc
import pytest

from airside import NotFound, Resource, Retry
from airside.model import Phase
from airside.sdk.agent import AgentSettings
from airside.testing.client import RawClient, refused
from airside.testing.scripted import ScriptedAgent

Serve = Callable[..., Awaitable[RawClient]]

_RUNNING = Resource(Phase.RUNNING)


async def test_s33_delete_cancels_a_running_job(serve: Serve) -> None:
    agent = ScriptedAgent(create=b"job-7", get=_RUNNING)
    client = await serve(agent)
    await client.delete(await client.create())
    assert [call.meta for call in agent.calls("delete")] == [b"job-7"]


async def test_s34_delete_may_be_repeated(serve: Serve) -> None:
    agent = ScriptedAgent(get=_RUNNING, delete=[None, NotFound("already gone")])
    client = await serve(agent)
    handle = await client.create()
    await client.delete(handle)
    await client.delete(handle)
    assert Phase((await client.get(handle)).phase).is_failure


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.FAILED, Phase.RETRYABLE_FAILED])
async def test_s34_a_finished_job_is_not_deleted(serve: Serve, phase: Phase) -> None:
    """Flyte 2 sends Delete for every succeeded task an hour later; the agent must not destroy the result."""
    agent = ScriptedAgent(get=Resource(phase))
    client = await serve(agent)
    handle = await client.create()
    await client.delete(handle)
    await client.delete(handle)
    assert not agent.calls("delete")
    assert (await client.get(handle)).phase == phase


async def test_s34_an_agent_may_ask_to_delete_finished_jobs(serve: Serve) -> None:
    agent = ScriptedAgent(settings=AgentSettings(delete_finished=True), get=Resource(Phase.SUCCEEDED))
    client = await serve(agent)
    handle = await client.create()
    await client.delete(handle)
    assert len(agent.calls("delete")) == 1
    assert (await client.get(handle)).phase == Phase.SUCCEEDED


async def test_s34_a_job_that_the_backend_does_not_know_is_ok(serve: Serve) -> None:
    agent = ScriptedAgent(get=NotFound("no such job"), delete=NotFound("no such job"))
    client = await serve(agent)
    await client.delete(await client.create())
    assert len(agent.calls("delete")) == 1


@pytest.mark.parametrize("task_type", ["scripted", "no-such-type"])
async def test_s34_bytes_that_never_were_ours_are_ok(serve: Serve, task_type: str) -> None:
    """Flyte 2's engine never gives up deleting, so it must not be told no for ever."""
    agent = ScriptedAgent()
    client = await serve(agent)
    await client.delete(b"not a handle", task_type)
    assert not agent.calls("delete")


@pytest.mark.parametrize("error", [Retry("the warehouse is down"), ConnectionError("connection refused")])
async def test_s35_a_backend_that_is_down_is_an_error(serve: Serve, error: Exception) -> None:
    agent = ScriptedAgent(get=_RUNNING, delete=[error, None])
    client = await serve(agent)
    handle = await client.create()
    refusal = await refused(client.delete(handle))
    assert refusal.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
    assert str(error) in refusal.details()
    assert (await client.get(handle)).phase == Phase.RUNNING  # not cancelled yet
    await client.delete(handle)  # the engine retries
    assert len(agent.calls("delete")) == 2


async def test_s35_a_backend_that_cannot_even_be_asked_is_an_error(serve: Serve) -> None:
    down = ConnectionError("connection refused")
    agent = ScriptedAgent(get=down, delete=down)
    client = await serve(agent)
    refusal = await refused(client.delete(await client.create()))
    assert refusal.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
