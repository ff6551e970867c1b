"""Drive a built-in agent through the raw protocol, as the service does, with real processes and real files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from airside.model import Call, Interface, LogLine, Phase, Resource, Task, TaskTemplate
from airside.sdk.adapt import adapt
from airside.sdk.agent import Agent
from airside.sdk.options import read_options


class Driver:
    """One opened agent and the calls of an engine."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    async def create(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        **task: Any,
    ) -> bytes:
        return await self.agent.create(self._task(config, inputs, outputs, task), Call())

    async def do(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        **task: Any,
    ) -> Resource:
        return await self.agent.do(self._task(config, inputs, outputs, task), Call())

    async def run(self, *args: Any, **kwargs: Any) -> Resource:
        return await self.finish(await self.create(*args, **kwargs))

    async def run_template(self, template: TaskTemplate, *, output_prefix: str = "", **inputs: Any) -> Resource:
        """A task as its author wrote it, with these inputs."""
        return await self.run(
            template.config,
            inputs=template.complete(inputs),
            outputs=template.outputs,
            sql=template.sql,
            output_prefix=output_prefix,
        )

    async def get(self, meta: bytes) -> Resource:
        return await self.agent.get(meta, Call())

    async def delete(self, meta: bytes) -> None:
        await self.agent.delete(meta, Call())

    async def finish(self, meta: bytes, *, within: float = 15.0) -> Resource:
        return await self.until(meta, lambda resource: resource.phase.is_terminal, within=within)

    async def until(self, meta: bytes, wanted: Callable[[Resource], bool], *, within: float = 15.0) -> Resource:
        last = time.monotonic() + within
        while not wanted(resource := await self.get(meta)):
            assert time.monotonic() < last, resource
            await asyncio.sleep(0.01)
        return resource

    async def running(self, meta: bytes) -> int:
        """Wait until the job's process runs; returns its id."""
        resource = await self.until(meta, lambda resource: resource.phase is Phase.RUNNING)
        return int(resource.message.split()[1])

    async def logs(self, meta: bytes, *, after: str = "", limit: int = 1000) -> list[LogLine]:
        return [line async for line in self.agent.logs(meta, after=after, limit=limit, call=Call())]

    def _task(
        self,
        config: Mapping[str, Any] | None,
        inputs: Mapping[str, Any] | None,
        outputs: Mapping[str, Any] | None,
        more: Mapping[str, Any],
    ) -> Task:
        return Task(
            type=self.agent.task_types[0],
            config=config or {},
            inputs=inputs or {},
            interface=Interface({name: type(value) for name, value in (inputs or {}).items()}, outputs or {}),
            **more,
        )


Open = Callable[..., Awaitable[Driver]]


@pytest.fixture
async def open_agent() -> AsyncIterator[Open]:
    """Open an agent with the options of airside.toml given as keyword arguments; closed after the test."""
    opened: list[Agent] = []

    async def open_one(author: object, **table: Any) -> Driver:
        agent = adapt(author)
        opened.append(agent)
        await agent.open(read_options(agent.options_type, table, f"agents.{agent.name}"))
        return Driver(agent)

    yield open_one
    for agent in opened:
        await agent.close()
