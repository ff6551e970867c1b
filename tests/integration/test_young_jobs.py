"""How soon the service finds out about a job that is asked for often, and what that costs the backend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from airside import AsyncAgent, Phase, Resource, Task
from airside.model import Call
from airside.sdk.adapt import adapt
from airside.server.handle import Handle
from airside.server.job import watched
from airside.server.settings import ServerSettings
from airside.testing.client import RawClient, Wire
from airside.testing.service import LocalService

StartService = Callable[..., Awaitable[LocalService]]

QUIET = ServerSettings(port=0, drain_delay=0.0, grace=0.2)


@dataclass(frozen=True)
class Ends:
    at: float


class Short(AsyncAgent[Ends]):
    """A job of 0.8 s."""

    task_type = "short"

    def __init__(self) -> None:
        self.asked = 0

    async def create(self, task: Task) -> Ends:
        return Ends(time.time() + 0.8)

    async def get(self, job: Ends) -> Resource:
        self.asked += 1
        return Resource(Phase.RUNNING if time.time() < job.at else Phase.SUCCEEDED)

    async def delete(self, job: Ends) -> None:
        raise NotImplementedError


class Strict(Short):
    max_age = 5.0


async def ask(client: RawClient, meta: bytes, until: float) -> tuple[int, float | None]:
    """Ask every 20 ms: how often, and how many seconds after its begin the job was found to have succeeded."""
    began, asks = time.monotonic(), 0
    while (now := time.monotonic()) < began + until:
        answer = await client.get(meta, "short")
        asks += 1
        if answer.phase == Phase.SUCCEEDED.value:
            return asks, now - began
        await asyncio.sleep(0.02)
    return asks, None


async def test_a_short_job_is_found_out_soon_and_at_little_cost(start_service: StartService, wire: Wire) -> None:
    agent = Short()
    service = await start_service(agent, settings=QUIET)
    client = RawClient(service.channel, wire)
    asks, found_after = await ask(client, await client.create("short"), until=5.0)
    assert found_after is not None
    assert found_after < 1.3
    assert agent.asked <= min(asks, 25)


async def test_an_agent_that_declares_max_age_is_not_asked_twice_within_it(start_service: StartService) -> None:
    agent = Strict()
    service = await start_service(agent, settings=QUIET)
    client = RawClient(service.channel, "v2")
    asks, found_after = await ask(client, await client.create("short"), until=1.2)
    assert (found_after, agent.asked) == (None, 1)
    assert asks > 10


@pytest.mark.parametrize(
    ("age", "fresh_for"), [(0.0, 0.0), (1.0, 0.25), (8.0, 2.0), (20.0, 5.0), (3600.0, 5.0), (-60, 0)]
)
async def test_an_answer_stays_fresh_for_longer_as_the_job_gets_older(age: float, fresh_for: float) -> None:
    agent = adapt(Short())
    handle = Handle(task_type=agent.task_types[0], created_at=time.time() - age)
    assert watched(b"", handle, agent, Call()).fresh_for == pytest.approx(fresh_for, abs=0.05)
