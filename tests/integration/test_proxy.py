"""Whoever drives an agent cannot tell a remote one from a local one: the same checks, in process and over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airside import (
    AsyncAgent,
    Call,
    Execution,
    Fail,
    LogLine,
    Metric,
    OutputsAt,
    Phase,
    Resource,
    SyncAgent,
    Task,
    TaskTemplate,
    TaskType,
    kwtypes,
)
from airside.engine.remote import RemoteAgent
from airside.sdk.adapt import adapt
from airside.sdk.agent import Agent
from airside.server.app import Server
from airside.server.settings import ServerSettings
from airside.wire import storage
from airside.wire.literal_map import LiteralValues, pack
from airside.wire.template import create_request, read_request, write_template

NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)
SETTINGS = ServerSettings(port=0, max_age=0.01)


@dataclass(frozen=True)
class Job:
    id: str
    size: int


class Counter(AsyncAgent[Job]):
    """Counts to `x`: three lines of log, then an output, large or in a file if asked for."""

    task_type = "count"

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}
        self.deleted: list[str] = []

    def create(self, task: Task) -> Job:
        if task.inputs["x"] < 0:
            raise Fail("cannot count below zero", code="Negative")
        return Job(task.output_prefix, task.inputs["x"])

    def get(self, job: Job) -> Resource:
        self.asked[job.id] = self.asked.get(job.id, 0) + 1
        if self.asked[job.id] < 2:
            return Resource(Phase.RUNNING, message="counting", info={"at": 1})
        if job.size == 0:
            storage.write(storage.join(job.id, "outputs.pb"), pack({"text": "from a file"}).data)
            return Resource(Phase.SUCCEEDED, outputs=OutputsAt(job.id))
        return Resource(Phase.SUCCEEDED, outputs={"text": "x" * job.size})

    def delete(self, job: Job) -> None:
        self.deleted.append(job.id)

    async def logs(self, job: Job, *, after: str, limit: int) -> AsyncIterator[LogLine]:
        for number in range(int(after or 0), 3)[:limit]:
            yield LogLine(f"line {number}", NOON, "user", cursor=str(number + 1))

    def metrics(self, job: Job, *, queries: Sequence[str], start: datetime, end: datetime, step: float) -> list[Metric]:
        return [Metric(query, [(start, 1.5)], {"job": "a"}) for query in queries]


class Upper(SyncAgent):
    task_type = "upper"

    def do(self, task: Task) -> Resource:
        return Resource(Phase.SUCCEEDED, outputs={"text": task.inputs["x"].upper()})


@pytest.fixture(params=["local", "v1", "v2", "v1 through v2"])
async def agents(request: pytest.FixtureRequest) -> AsyncIterator[dict[str, Agent]]:
    """The two agents, by task type: in this process, behind a service, behind a proxy of a service."""
    async with AsyncExitStack() as stack:
        found: list[Agent] = [adapt(Counter()), adapt(Upper())]
        for hop in [] if request.param == "local" else request.param.split(" through ")[::-1]:
            server = await stack.enter_async_context(Server(found, SETTINGS))
            target = f"127.0.0.1:{server.port}"
            found = [RemoteAgent(target, family=hop, task_type=name) for name in ("count", "upper")]
        for agent in found:
            await agent.open(None)
            stack.push_async_callback(agent.close)
        yield {"count": found[0], "upper": found[1]}


def a_task(task_type: str, prefix: Path, x: object) -> Task:
    template = TaskTemplate(name="t", task_type=task_type, inputs=kwtypes(x=type(x)), outputs=kwtypes(text=str))
    inputs = pack({"x": x}, where="inputs").data
    return read_request(create_request(write_template(template), inputs, str(prefix), Execution()), key="")


async def finish(agent: Agent, meta: bytes, prefix: Path) -> Resource:
    async with asyncio.timeout(20):
        while True:
            resource = await agent.get(meta, Call(output_prefix=str(prefix)))
            if resource.phase.is_terminal:
                return resource
            assert resource.phase is Phase.RUNNING
            assert resource.message == "counting"
            assert resource.info == {"at": 1}
            await asyncio.sleep(0.02)


async def test_a_job(agents: dict[str, Agent], tmp_path: Path) -> None:
    agent = agents["count"]
    meta = await agent.create(a_task("count", tmp_path, 3), Call())
    resource = await finish(agent, meta, tmp_path)
    assert (resource.phase, resource.outputs) == (Phase.SUCCEEDED, {"text": "xxx"})


async def test_outputs_that_no_answer_can_carry(agents: dict[str, Agent], tmp_path: Path) -> None:
    agent = agents["count"]
    meta = await agent.create(a_task("count", tmp_path, 4 << 20), Call())
    resource = await finish(agent, meta, tmp_path)
    assert resource.phase is Phase.SUCCEEDED
    outputs = resource.outputs
    if outputs is None:
        outputs = LiteralValues((tmp_path / "outputs.pb").read_bytes())
    assert not isinstance(outputs, OutputsAt)
    assert len(outputs["text"]) == 4 << 20


async def test_outputs_in_a_file(agents: dict[str, Agent], tmp_path: Path) -> None:
    agent = agents["count"]
    meta = await agent.create(a_task("count", tmp_path, 0), Call())
    resource = await finish(agent, meta, tmp_path)
    assert resource.phase is Phase.SUCCEEDED
    assert resource.outputs in ({"text": "from a file"}, OutputsAt(str(tmp_path)))  # the latter from the agent itself


async def test_a_failure_for_good(agents: dict[str, Agent], tmp_path: Path) -> None:
    agent = agents["count"]
    try:
        meta = await agent.create(a_task("count", tmp_path, -1), Call())
    except Fail as exc:
        code, message = exc.code, exc.message
    else:
        resource = await finish(agent, meta, tmp_path)
        assert resource.phase is Phase.FAILED
        code, message = resource.code, resource.message
    assert message.startswith("cannot count below zero")
    assert code == "Negative"


async def test_logs_and_metrics(agents: dict[str, Agent], tmp_path: Path) -> None:
    agent = agents["count"]
    meta = await agent.create(a_task("count", tmp_path, 1), Call())
    first = [line async for line in agent.logs(meta, after="", limit=2, call=Call())]
    assert [(line.message, line.timestamp, line.originator) for line in first] == [
        ("line 0", NOON, "user"),
        ("line 1", NOON, "user"),
    ]
    rest = [line async for line in agent.logs(meta, after=first[-1].cursor, limit=5, call=Call())]
    assert [line.message for line in rest] == ["line 2"]
    end = NOON + timedelta(minutes=1)
    metrics = await agent.metrics(meta, queries=["cpu"], start=NOON, end=end, step=30, call=Call())
    assert metrics == [Metric("cpu", [(NOON, 1.5)], {"job": "a"})]


async def test_a_sync_task(agents: dict[str, Agent], tmp_path: Path) -> None:
    agent = agents["upper"]
    task = a_task("upper", tmp_path, "abc")
    if agent.is_sync:
        resource = await agent.do(task, Call())
    else:  # Flyte 2 knows no sync agents: the service runs it behind create and get
        resource = await finish(agent, await agent.create(task, Call()), tmp_path)
    assert (resource.phase, resource.outputs) == (Phase.SUCCEEDED, {"text": "ABC"})


async def test_a_cancelled_job(agents: dict[str, Agent], tmp_path: Path) -> None:
    agent = agents["count"]
    meta = await agent.create(a_task("count", tmp_path, 5), Call())
    await agent.delete(meta, Call(task_type=TaskType("count")))
    await agent.delete(meta, Call())
