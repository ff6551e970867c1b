"""An agent that is known by its outline, and loaded when the first job needs it.

A service comes with all built-in agents, and most of them never get a job: their modules would be a third of what
the service loads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from airside.model import Call, LogLine, LogLink, Metric, Resource, Retry, Task, TaskType
from airside.sdk.adapt import Face, adapt
from airside.sdk.agent import Agent, AgentSettings
from airside.sdk.declare import missing_extra
from airside.sdk.discovery import explain
from airside.sdk.lane import THREADS
from airside.sdk.options import read_options


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a service must know of an agent before it has a job."""

    name: str
    task_types: Sequence[tuple[str, int]]
    is_sync: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The fields of `AgentSettings` that are not as they are by default."""
    supports: Sequence[str] = ()
    requires: Mapping[str, str] = field(default_factory=dict)


class DeferredAgent(Agent):
    """The agent that `load` gives, which has this outline. It is opened with its default options.

    An agent that cannot be loaded, or not be opened, raises `Retry`; the next call tries again.

    >>> from airside.agents.echo import EchoAgent
    >>> agent = DeferredAgent(Outline(name="echo", task_types=[("echo", 0)], is_sync=True), EchoAgent)
    >>> agent.task_types, agent.behind
    ((TaskType(name='echo', version=0),), None)
    """

    def __init__(self, outline: Outline, load: Callable[[], object], *, threads: int = THREADS) -> None:
        self.name = outline.name
        self.task_types = tuple(TaskType(*task_type) for task_type in outline.task_types)
        self.is_sync = outline.is_sync
        self.settings = AgentSettings(**outline.settings)
        self.supports = frozenset(outline.supports)
        self.requires = outline.requires
        self.behind: Agent | None = None
        """The agent itself, once it has been needed."""
        self._load = load
        self._threads = threads
        self._opening: asyncio.Task[Agent] | None = None

    async def open(self, options: Any) -> None:
        """Say which library is missing; everything else waits for the first job."""
        del options
        missing = missing_extra(self)
        if missing is not None:
            raise missing

    async def close(self) -> None:
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if self.behind is not None:
            await self.behind.close()

    async def create(self, task: Task, call: Call) -> bytes:
        return await (await self._get()).create(task, call)

    async def get(self, meta: bytes, call: Call) -> Resource:
        return await (await self._get()).get(meta, call)

    async def delete(self, meta: bytes, call: Call) -> None:
        await (await self._get()).delete(meta, call)

    async def do(self, task: Task, call: Call) -> Resource:
        return await (await self._get()).do(task, call)

    async def get_many(self, metas: Sequence[bytes], call: Call) -> Sequence[Resource | Exception]:
        return await (await self._get()).get_many(metas, call)

    async def find(self, task: Task, key: str, call: Call) -> bytes | None:
        return await (await self._get()).find(task, key, call)

    async def links(self, meta: bytes) -> Sequence[LogLink]:
        return await (await self._get()).links(meta)

    async def logs(self, meta: bytes, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        lines: Any = (await self._get()).logs(meta, after=after, limit=limit, call=call)
        async with aclosing(lines):
            async for line in lines:
                yield line

    async def metrics(
        self, meta: bytes, *, queries: Sequence[str], start: datetime, end: datetime, step: float, call: Call
    ) -> Sequence[Metric]:
        agent = await self._get()
        return await agent.metrics(meta, queries=queries, start=start, end=end, step=step, call=call)

    async def read_handle(self, data: bytes) -> bytes | None:
        return await (await self._get()).read_handle(data)

    async def _get(self) -> Agent:
        if self.behind is None:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.create_task(self._open())
            self.behind = await asyncio.shield(self._opening)
        return self.behind

    async def _open(self) -> Agent:
        try:
            agent = await asyncio.to_thread(lambda: adapt(self._load()))
            if isinstance(agent, Face):
                agent.invoker.threads = self._threads
            await agent.open(read_options(agent.options_type, {}, f"agents.{self.name}"))
        except (Exception, SystemExit) as exc:
            raise Retry(f"The {self.name} agent cannot be opened: {explain(exc)}") from exc
        return agent
