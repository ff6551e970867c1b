"""From a job to the agent that drives it: opened once, shared by all jobs of its kind, closed at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Protocol

from airside.engine.attempt import told
from airside.engine.database import Record
from airside.engine.driver import LOOK_AGAIN, Driver, Drivers
from airside.engine.job import Rules
from airside.engine.lane import Lane, Limits
from airside.model import Call, Fail, Resource, Retry, Task
from airside.sdk.agent import Agent

FAREWELL = 5.0
"""Seconds that an agent may take to close."""
AGAIN = 30.0
"""Seconds until an agent that could not be found is looked for again."""

Choose = Callable[[Record], Awaitable[tuple[Agent, Any]]]


class AgentSource(Drivers, Protocol):
    """Finds the drivers of jobs, from `open` to `close`."""

    async def open(self) -> None:
        """Prepare."""

    async def close(self) -> None:
        """Close every agent that was opened."""


class OpenedAgents:
    """The drivers of jobs whose agents a function chooses: it returns the agent, not open yet, and its options.

    It may raise whatever keeps an agent from being used; the jobs concerned tell it as their message.
    """

    def __init__(self, choose: Choose) -> None:
        self._choose = choose
        self._opened: list[Agent] = []

    def key(self, record: Record) -> Any:
        """Jobs of one task type from one source share an agent."""
        return record.task_type, json.dumps(record.source, sort_keys=True)

    async def find(self, record: Record) -> Driver:
        """The driver of a job; one that only tells what is wrong if its agent cannot be used."""
        agent: Agent | None = None
        try:
            agent, options = await self._choose(record)
            await agent.open(options)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is for those who wait for the job
            missing = MissingAgent(told(exc), may_come=isinstance(exc, Retry))
            return Driver(missing, lost=asyncio.get_running_loop().time())
        self._opened.append(agent)
        return Driver(agent, rules_for(agent), Lane(Limits()))

    async def open(self) -> None:
        """Nothing to do before the first job."""

    async def close(self) -> None:
        """Close every agent that was opened."""
        opened, self._opened = self._opened, []
        for agent in opened:
            with contextlib.suppress(Exception):  # how the jobs stand matters more
                async with asyncio.timeout(FAREWELL):
                    await agent.close()


class OpenAgent:
    """The driver of all jobs: one agent that its owner has opened, and will close."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def key(self, record: Record) -> Any:
        """All jobs share the agent."""
        del record

    async def find(self, record: Record) -> Driver:
        """The driver of a job."""
        del record
        return Driver(self._agent, rules_for(self._agent), Lane(Limits()))

    async def open(self) -> None:
        """The agent is open already."""

    async def close(self) -> None:
        """The agent stays open."""


class MissingAgent(Agent):
    """Stands for an agent that cannot be used: jobs that exist wait for it, what has none fails.

    For good, unless the agent `may_come`: then the attempt fails, and the next one looks again.
    """

    name = "missing"

    def __init__(self, why: str, *, may_come: bool = False) -> None:
        self.why = why
        self.may_come = may_come

    async def create(self, task: Task, call: Call) -> bytes:
        del task, call
        if self.may_come:
            raise Retry(self.why, after=LOOK_AGAIN)
        raise Fail(self.why, code="NoAgent")

    async def get(self, meta: bytes, call: Call) -> Resource:
        del meta, call
        raise Retry(self.why, after=AGAIN)

    async def delete(self, meta: bytes, call: Call) -> None:
        del meta, call
        raise Retry(self.why, after=AGAIN)


def rules_for(agent: Agent) -> Rules:
    """How jobs of an agent are driven, by what the agent says of itself.

    A service joins a create that is repeated, and a sync call is all there is to its job, so both may be repeated.
    """
    settings = agent.settings
    return Rules(
        poll_interval=settings.poll_interval,
        quick=True,
        fault_tolerance=settings.fault_tolerance,
        unfetched_tolerance=inf,
        delete_finished=settings.delete_finished,
        repeats_create=agent.joins_creates
        or agent.is_sync
        or settings.create_is_idempotent
        or "find" in agent.supports,
    )
