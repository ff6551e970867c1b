"""Flyte's documented agent runs, against a REST service in a process of its own.

What had to be repaired in the code of the documentation, besides its import lines:

- the closing parenthesis of `GetTaskResponse(resource=Resource(state=...))` was missing;
- `url`, `data` and `logger` were used but never defined, and `grpc`, `typing`, `json`, `asdict`, `TaskTemplate`,
  `LiteralMap` and the messages never imported;
- the return types `TaskCreateResponse`, `TaskGetResponse` and `TaskDeleteResponse` do not exist: the messages are
  `CreateTaskResponse`, `GetTaskResponse` and `DeleteTaskResponse`;
- `CustomAgent()` was registered without `task_type`, which its `__init__` requires;
- the job's id and state were read as attributes of the HTTP response (`res.job_id`, `res.state`); they are in its
  JSON body;
- no call had a timeout, and no HTTP status was looked at, so an error page would have passed for a job;
- the comment in `delete` spoke of a failure to create.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

import pytest
import requests

from airside import AgentRegistry, Call, Execution, NotFound, Phase, Registry, Retry, Task, TaskType
from airside.engine.remote import RemoteAgent
from airside.hosting import ADAPTERS
from airside.sdk.adapt import adapt
from airside.sdk.agent import Agent
from airside.sdk.discovery import load_modules
from airside.server.app import Server
from airside.server.settings import ServerSettings

HERE = Path(__file__).parent


@pytest.fixture
def service() -> Iterator[str]:
    """The address of a job service in a process of its own."""
    command = [sys.executable, str(HERE / "rest_service.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.fixture
def agent(service: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    """The agent, found as `airside serve --modules custom_agent` finds it."""
    monkeypatch.setenv("CUSTOM_SERVICE_URL", service)
    monkeypatch.chdir(HERE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    AgentRegistry.clear()
    registry = Registry()
    load_modules(registry, ["custom_agent"])
    (entry,) = registry
    yield adapt(entry.agent, ADAPTERS)
    AgentRegistry.clear()
    sys.modules.pop("custom_agent")


@pytest.fixture(params=["v1", "v2"])
async def remote(agent: Agent, request: pytest.FixtureRequest) -> AsyncIterator[RemoteAgent]:
    """The agent behind the real service, called as each generation of Flyte calls it."""
    family: Literal["v1", "v2"] = request.param
    async with Server([agent], ServerSettings(port=0, max_age=0.05)) as server:
        proxy = RemoteAgent(f"127.0.0.1:{server.port}", family=family, task_type="custom")
        await proxy.open(None)
        yield proxy
        await proxy.close()


def a_task(prefix: str, **config: object) -> Task:
    return Task(
        type=TaskType("custom"),
        config=config,
        output_prefix=prefix,
        execution=Execution(project="flights", domain="development", task_name="custom"),
    )


async def _wait_for(agent: Agent, meta: bytes, phase: Phase) -> None:
    async with asyncio.timeout(20):
        while (await agent.get(meta, Call())).phase is not phase:
            await asyncio.sleep(0.05)


async def test_the_agent_alone(agent: Agent) -> None:
    meta = await agent.create(a_task("/tmp/a/0", seconds=0.2), Call())
    assert set(json.loads(meta)) == {"job_id"}
    assert await agent.create(a_task("/tmp/a/0", seconds=0.2), Call()) == meta
    assert (await agent.get(meta, Call())).phase is Phase.RUNNING
    await _wait_for(agent, meta, Phase.SUCCEEDED)

    long = await agent.create(a_task("/tmp/a/1", seconds=60), Call())
    assert long != meta
    await agent.delete(long, Call())
    await agent.delete(long, Call())
    assert (await agent.get(long, Call())).phase is Phase.FAILED


async def test_what_it_sets_on_the_context_reaches_the_caller(agent: Agent) -> None:
    with pytest.raises(NotFound, match=r"^the service knows no job j-1$"):
        await agent.get(b'{"job_id": "j-1"}', Call())
    with pytest.raises(Retry, match=r"^the job was not cancelled: Expecting value"):
        await agent.delete(b"not json", Call())


async def test_a_job_through_the_service(remote: RemoteAgent) -> None:
    meta = await remote.create(a_task("/tmp/b/0", seconds=0.2), Call())
    await _wait_for(remote, meta, Phase.SUCCEEDED)
    await remote.delete(meta, Call())


async def test_a_cancelled_job_through_the_service(remote: RemoteAgent) -> None:
    meta = await remote.create(a_task("/tmp/c/0", seconds=60), Call())
    await _wait_for(remote, meta, Phase.RUNNING)
    await remote.delete(meta, Call())
    await _wait_for(remote, meta, Phase.ABORTED)


async def test_a_create_that_the_service_refuses(agent: Agent) -> None:
    with pytest.raises(requests.HTTPError, match="400 Client Error"):
        await agent.create(a_task("/tmp/d/0", seconds=-1), Call())
