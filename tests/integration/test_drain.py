"""A stop loses nothing: not serving is said first, calls in flight end well, creates are done or answered pending."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from flyteidl.admin import agent_pb2
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.service.agent_pb2_grpc import AsyncAgentServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

from airside import AsyncAgent, Phase, Resource, Task
from airside.observe.events import Event, What
from airside.sdk.adapt import adapt
from airside.server.app import SERVICE_NAMES, Server
from airside.server.settings import ServerSettings


class Backend:
    """Jobs by key, made slowly; shared by the services of a test."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}
        self.made = 0
        self.deleted = 0
        self.gate = threading.Event()
        self.begun = threading.Event()


class Slow(AsyncAgent[str]):
    """Makes no job before the gate is open, and cannot find it again."""

    task_type = "slow"
    max_age = 0.001

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def create(self, task: Task) -> str:
        self.backend.begun.set()
        self.backend.gate.wait(20)
        self.backend.made += 1
        self.backend.jobs[task.key] = "running"
        return task.key

    def get(self, job: str) -> Resource:
        self.backend.begun.set()
        if job in self.backend.jobs:
            return Resource(Phase.RUNNING, message="there")
        return Resource(Phase.FAILED)

    def delete(self, job: str) -> None:
        self.backend.deleted += 1


class Findable(Slow):
    """Can find its job again."""

    task_type = "findable"

    def find(self, task: Task, key: str) -> str | None:
        return key if key in self.backend.jobs else None


class Client:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = AsyncAgentServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    async def create(self, kind: str, run: str = "r") -> bytes:
        request = agent_pb2.CreateTaskRequest(output_prefix=f"s3://b/{run}/0")
        request.template.type = kind
        meta: bytes = (await self.stub.CreateTask(request, timeout=30)).resource_meta
        return meta

    async def get(self, kind: str, meta: bytes) -> Any:
        ask = agent_pb2.GetTaskRequest(resource_meta=meta, task_category={"name": kind})
        return (await self.stub.GetTask(ask, timeout=10)).resource

    async def check(self, name: str) -> int:
        status: int = (await self.health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)).status
        return status


@asynccontextmanager
async def served(
    backend: Backend, *, events: list[Event] | None = None, **settings: Any
) -> AsyncIterator[tuple[Server, Client]]:
    agents = [adapt(Slow(backend)), adapt(Findable(backend))]
    hooks = [] if events is None else [events.append]
    server = Server(agents, ServerSettings(port=0, **settings), hooks=hooks, strict=True)
    await server.start()
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options) as channel:
        yield server, Client(channel)
    if server.agents:
        await server.stop(drain_delay=0.0, grace=0.0)


async def begun(backend: Backend) -> None:
    assert await asyncio.to_thread(backend.begun.wait, 5)
    backend.begun.clear()


async def test_s46_health_says_at_once_that_it_stops_and_calls_are_answered_meanwhile() -> None:
    backend = Backend()
    backend.gate.set()
    async with served(backend, drain_delay=0.5, grace=1.0) as (server, client):
        for name in ("", *SERVICE_NAMES):
            assert await client.check(name) == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.05)
        for name in ("", *SERVICE_NAMES):
            assert await client.check(name) == health_pb2.HealthCheckResponse.NOT_SERVING
        meta = await client.create("slow")
        assert (await client.get("slow", meta)).message == "there"
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options) as late:
            assert (await Client(late).get("slow", meta)).message == "there"
        assert not stopping.done()
        await stopping


async def test_s47_calls_in_flight_finish_and_new_ones_are_unavailable() -> None:
    backend = Backend()
    async with served(backend, drain_delay=0.0, grace=10.0) as (server, client):
        create = asyncio.create_task(client.create("slow"))
        await begun(backend)
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.1)
        options = [("grpc.use_local_subchannel_pool", 1)]
        for channel in (None, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await (Client(channel) if channel else client).create("slow", "new")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            if channel:
                await channel.close()
        backend.gate.set()
        began = time.monotonic()
        assert await create
        await stopping
        assert time.monotonic() - began < 2.0  # it ends when the calls have, not with the grace
    assert (backend.made, backend.deleted) == (1, 0)


async def test_a_create_that_another_process_can_take_up_is_answered_pending() -> None:
    backend = Backend()
    async with served(backend, drain_delay=0.0, grace=1.0) as (server, client):
        create = asyncio.create_task(client.create("findable"))
        await begun(backend)
        stopping = asyncio.create_task(server.stop())
        meta = await create
        await stopping
    assert backend.made == 0
    backend.gate.set()  # the thread that was left behind makes its job after all
    async with asyncio.timeout(5):
        while not backend.made:
            await asyncio.sleep(0.01)
    async with served(backend) as (_, client):
        async with asyncio.timeout(5):
            while (resource := await client.get("findable", meta)).phase != TaskExecution.RUNNING:
                await asyncio.sleep(0.02)
    assert resource.message == "there"
    assert (backend.made, backend.deleted) == (1, 0)


async def test_a_create_that_nobody_can_take_up_and_is_not_done_is_told_by_its_key() -> None:
    backend, events = Backend(), list[Event]()
    async with served(backend, events=events, drain_delay=0.0, grace=0.3) as (server, client):
        create = asyncio.create_task(client.create("slow"))
        await begun(backend)
        began = time.monotonic()
        await server.stop()
        assert time.monotonic() - began < 2.0
        with pytest.raises(grpc.aio.AioRpcError):
            await create
    (event,) = [event for event in events if event.what is What.UNCERTAIN]
    assert len(event.key) == 32
    backend.gate.set()


async def test_a_stop_touches_no_job() -> None:
    backend = Backend()
    backend.gate.set()
    async with served(backend, drain_delay=0.0, grace=0.5) as (server, client):
        meta = await client.create("slow")
        await client.get("slow", meta)
        await server.stop()
    assert backend.deleted == 0
    async with served(backend) as (_, client):
        assert (await client.get("slow", meta)).message == "there"
