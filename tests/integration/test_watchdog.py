"""The watchdog: who blocks the loop is named while it is blocked."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest

from airside import AsyncAgent, Call, Phase, Resource, Task, TaskType
from airside.observe.events import Event, Hooks, What
from airside.sdk.adapt import adapt
from airside.sdk.agent import Agent
from airside.server.watchdog import Watchdog


@dataclass(frozen=True)
class Job:
    id: str = ""


def blocked(seconds: float) -> None:
    time.sleep(seconds)


LINE = inspect.getsourcelines(blocked)[1] + 1


class Blocking(AsyncAgent[Job]):
    """Blocks the loop in its `get`."""

    task_type = "blocking"

    async def create(self, task: Task) -> Job:
        return Job()

    async def get(self, job: Job) -> Resource:
        blocked(0.7)
        return Resource(Phase.RUNNING)

    async def delete(self, job: Job) -> None: ...


class Raw(Agent):
    """The raw protocol, which nobody guards."""

    name = "Raw"
    task_types = (TaskType("raw"),)

    async def get(self, meta: bytes, call: Call) -> Resource:
        del meta, call
        blocked(0.7)
        return Resource(Phase.RUNNING)


class Seen:
    """A hook that notes when it was told what, and on which thread."""

    def __init__(self) -> None:
        self.events: list[tuple[float, str, Event]] = []

    def __call__(self, event: Event) -> None:
        self.events.append((time.monotonic(), threading.current_thread().name, event))

    def of(self, what: What) -> list[tuple[float, str, Event]]:
        return [one for one in self.events if one[2].what is what]


async def _watched(work: Any, *agents: Agent) -> Seen:
    seen = Seen()
    watchdog = Watchdog(agents, Hooks([seen]))
    watchdog.start()
    await asyncio.sleep(0.1)
    await work
    await asyncio.sleep(0.2)
    watchdog.stop()
    return seen


@pytest.mark.may_block
@pytest.mark.parametrize("agent", [adapt(Blocking()), Raw()], ids=["guarded", "raw"])
async def test_agent_and_line_are_named_within_half_a_second(agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    began = time.monotonic() + 0.1
    seen = await _watched(agent.get(b"{}", Call()), agent)
    ((when, thread, event),) = seen.of(What.LOOP_BLOCKED)  # once, however long it lasts
    assert when - began < 0.5
    assert thread == "airside-watchdog"
    assert event.agent == agent.name
    assert event.task_type == agent.task_types[0].name
    assert f"{__file__}:{LINE} in blocked" in event.message
    logged = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.levelname for record in logged] == ["ERROR", "WARNING"]
    assert f"by agent {agent.name}: {__file__}:{LINE}" in logged[0].getMessage()
    assert "turns again after 0." in logged[1].getMessage()


@pytest.mark.may_block
async def test_a_library_called_by_the_agent_is_named_beside_the_agents_own_line() -> None:
    class Querying(Blocking):
        async def get(self, job: Job) -> Resource:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), asyncio.get_running_loop())
            threading.Event().wait(0.5)
            return Resource(Phase.RUNNING)

    seen = await _watched(adapt(Querying()).get(b"{}", Call()))
    ((_, _, event),) = seen.of(What.LOOP_BLOCKED)
    assert event.agent == "Querying"
    assert f"{__file__}:" in event.message
    assert "in get, within " in event.message
    assert "threading.py" in event.message.partition("within")[2]


@pytest.mark.may_block
async def test_what_no_agent_does_is_named_by_its_line() -> None:
    async def ours() -> None:
        time.sleep(0.5)

    seen = await _watched(ours())
    ((_, _, event),) = seen.of(What.LOOP_BLOCKED)
    assert event.agent == ""
    assert "by no agent" in event.message
    assert __file__ in event.message


async def test_threads_and_short_work_raise_no_alarm_and_lag_is_told() -> None:
    class Sleeping(Blocking):
        def get(self, job: Job) -> Resource:  # type: ignore[override]  # authors choose their own signature
            time.sleep(0.5)
            return Resource(Phase.RUNNING)

    agent = adapt(Sleeping())
    seen = await _watched(asyncio.gather(agent.get(b"{}", Call()), asyncio.sleep(1.0)))
    await agent.close()
    assert seen.of(What.LOOP_BLOCKED) == []
    lags = [event.seconds for _, _, event in seen.of(What.LOOP_LAG)]
    assert lags
    assert all(0 <= lag < 0.5 for lag in lags)


async def test_it_ends_when_told() -> None:
    watchdog = Watchdog((), Hooks())
    watchdog.start()
    watchdog.stop()
    async with asyncio.timeout(2):
        while [one for one in threading.enumerate() if one.name == "airside-watchdog"]:
            await asyncio.sleep(0.01)
