"""Agents that are loaded with their first job, and the outlines that stand for them until then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from airside import AsyncAgent, Call, LogLine, Metric, MissingExtra, Phase, Resource, Retry, SyncAgent, Task
from airside.agents import catalogue
from airside.observe.readings import LaneLoad
from airside.sdk.deferred import DeferredAgent, Outline
from airside.server.readings import lanes_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Queue(AsyncAgent[str]):
    name = task_type = "queue"

    def __init__(self) -> None:
        self.steps: list[str] = []

    async def open(self) -> None:
        self.steps.append("open")

    async def close(self) -> None:
        self.steps.append("close")

    def create(self, task: Task) -> str:
        return task.key

    async def get(self, job: str) -> Resource:
        return Resource(Phase.RUNNING, message=job)

    async def get_many(self, jobs: Sequence[str]) -> Sequence[Resource]:
        return [Resource(Phase.RUNNING, message=job) for job in jobs]

    async def delete(self, job: str) -> None:
        self.steps.append(f"delete {job}")

    async def find(self, task: Task, key: str) -> str:
        return f"{key} again"

    async def logs(self, job: str, *, after: str, limit: int) -> AsyncIterator[LogLine]:
        yield LogLine(job)

    async def metrics(self, job: str, **asked: Any) -> Sequence[Metric]:
        return [Metric(name=job, points=())]

    def read_handle(self, data: bytes) -> str:
        return data.decode()


class Greeter(SyncAgent):
    name = task_type = "greeter"

    async def do(self, task: Task) -> Resource:
        return Resource(Phase.SUCCEEDED, message="hello")


OUTLINE = Outline(name="queue", task_types=[("queue", 0)], supports=["get_many", "logs"])


def test_the_catalogue_is_as_the_agents_are() -> None:
    assert catalogue.FILE.read_text() == catalogue.written(), "run python -m airside.agents.catalogue"


async def test_every_call_reaches_the_agent() -> None:
    queue = Queue()
    agent = DeferredAgent(OUTLINE, lambda: queue)
    await agent.open(None)
    assert (agent.behind, queue.steps, lanes_of(agent)) == (None, [], ())
    meta = await agent.create(Task(type="queue", key="k"), Call())
    assert (await agent.get(meta, Call())).message == "k"
    assert [one.message for one in await agent.get_many([meta, meta], Call()) if isinstance(one, Resource)] == ["k"] * 2
    assert await agent.find(Task(type="queue", key="k"), "k", Call()) == b'"k again"'
    assert [line.message async for line in agent.logs(meta, after="", limit=9, call=Call())] == ["k"]
    [metric] = await agent.metrics(meta, queries=(), start=NOW, end=NOW, step=1.0, call=Call())
    assert metric.name == "k"
    assert await agent.links(meta) == ()
    assert await agent.read_handle(b"old") == b'"old"'
    await agent.delete(meta, Call())
    assert lanes_of(agent)[0] == LaneLoad("aside", 4, 0, 0)
    await agent.close()
    assert queue.steps == ["open", "delete k", "close"]


async def test_a_sync_agent_runs() -> None:
    agent = DeferredAgent(Outline(name="greeter", task_types=[("greeter", 0)], is_sync=True), Greeter)
    assert (await agent.do(Task(type="greeter"), Call())).message == "hello"
    await agent.close()


async def test_calls_at_once_load_it_once_and_it_gets_its_threads() -> None:
    made: list[Queue] = []

    def load() -> Queue:
        assert threading.current_thread() is not threading.main_thread()
        made.append(Queue())
        return made[-1]

    agent = DeferredAgent(OUTLINE, load, threads=7)
    await asyncio.gather(*(agent.create(Task(type="queue", key=f"{n}"), Call()) for n in range(5)))
    assert len(made) == 1
    assert {lane.size for lane in lanes_of(agent) if lane.name == "control"} == {7}
    await agent.close()


async def test_one_that_cannot_be_loaded_says_so_and_is_tried_again() -> None:
    failures = [ImportError("no such file"), ImportError("no such file")]

    def load() -> Queue:
        if failures:
            raise failures.pop()
        return Queue()

    agent = DeferredAgent(OUTLINE, load)
    for _ in range(2):
        with pytest.raises(Retry, match="The queue agent cannot be opened: ImportError: no such file"):
            await agent.get(b'"k"', Call())
    assert (await agent.get(b'"k"', Call())).message == "k"
    await agent.close()


async def test_a_missing_library_is_told_at_the_start() -> None:
    agent = DeferredAgent(Outline(name="far", task_types=[("far", 0)], requires={"far_away_sdk": "far"}), Queue)
    with pytest.raises(MissingExtra, match=r"The far agent needs an optional library: pip install 'airside\[far\]'"):
        await agent.open(None)
    await agent.close()
