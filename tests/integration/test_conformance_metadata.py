"""Conformance S01 to S06: what a service announces."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import grpc
import pytest

from airside import AsyncAgent, PluginError, Registry, Resource, SyncAgent, Task
from airside.model import Phase
from airside.sdk.adapt import adapt_all
from airside.testing.client import RawClient, refused
from airside.testing.scripted import ScriptedAgent, hang

Serve = Callable[..., Awaitable[RawClient]]


class Adder(SyncAgent):
    task_type = "add"

    def do(self, task: Task) -> Resource:
        return Resource(Phase.SUCCEEDED)


class Subtracter(Adder):
    """Another agent for the same type."""


async def test_s01_empty_registry_lists_nothing(serve: Serve) -> None:
    client = await serve()
    assert await client.list() == ()


async def test_s02_two_types_on_one_agent_are_one_entry(serve: Serve) -> None:
    client = await serve(ScriptedAgent("pair", ["query", ("query", 2), "load"]))
    [entry] = await client.list()
    assert entry.name == "pair"
    categories = [(one.name, one.version) for one in entry.supported_task_categories]
    assert categories == [("query", 0), ("query", 2), ("load", 0)]
    if client.wire == "v1":
        assert list(entry.supported_task_types) == ["query", "load"]


@pytest.mark.parametrize("wire", ["v1"])
async def test_s03_only_sync_agents_are_announced_as_sync(serve: Serve) -> None:
    client = await serve(Adder(), ScriptedAgent("watched"))
    assert {entry.name: entry.is_sync for entry in await client.list()} == {"Adder": True, "watched": False}


@pytest.mark.parametrize("style", ["async def", "def"])
async def test_s04_lists_at_once_while_handlers_hang(serve: Serve, style: str) -> None:
    released = threading.Event()

    class Stuck(AsyncAgent[str]):
        task_type = "scripted"

        def create(self, task: Task) -> str:
            return task.output_prefix

        def get(self, job: str) -> Resource:
            released.wait(30)
            return Resource(Phase.RUNNING)

        def delete(self, job: str) -> None: ...

    agent = Stuck() if style == "def" else ScriptedAgent(create=lambda task: task.output_prefix.encode(), get=hang)
    client = await serve(agent)
    jobs = [await client.create(prefix=f"/run/{number}/0") for number in range(20)]
    asked = [asyncio.create_task(client.get(job)) for job in jobs]
    try:
        await asyncio.sleep(0.05)
        began = time.monotonic()
        assert len(await client.list()) == 1
        assert time.monotonic() - began < 1
        assert not any(one.done() for one in asked)  # the handlers really hung
    finally:
        released.set()
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


def test_s05_a_type_registered_twice_is_refused() -> None:
    registry = Registry()
    registry.register(Adder())
    with pytest.raises(PluginError, match=r"add is already served by Adder .*Subtracter .*override=True"):
        registry.register(Subtracter())


async def test_s05_an_override_takes_the_type_over(serve: Serve) -> None:
    registry = Registry()
    old, new = ScriptedAgent("old", ["query", "load"]), ScriptedAgent("new", ["query"])
    registry.register(old)
    registry.register(new, override=True)
    client = await serve(*adapt_all(registry, registry))
    announced = {entry.name: [one.name for one in entry.supported_task_categories] for entry in await client.list()}
    assert announced == {"old": ["load"], "new": ["query"]}
    await client.create("query")
    assert (len(old.calls("create")), len(new.calls("create"))) == (0, 1)


async def test_s05_a_service_refuses_two_agents_of_one_type(serve: Serve) -> None:
    with pytest.raises(PluginError, match=r"add.*Adder.*Subtracter"):
        await serve(Adder(), Subtracter())


async def test_s06_finds_an_agent_by_name(serve: Serve) -> None:
    client = await serve(ScriptedAgent("known"), Adder())
    listed = {entry.name: entry for entry in await client.list()}
    assert await client.find("known") == listed["known"]
    error = await refused(client.find("unknown"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert "unknown" in error.details()
