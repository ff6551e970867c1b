"""How often a create that goes wrong is repeated: by what the agent raised, in virtual time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest
from flyteidl2.connector import connector_pb2

from airside import Retry
from airside.model import Call, Task, TaskType
from airside.sdk.agent import Agent, AgentSettings
from airside.server.handle import Kind, unseal
from airside.server.service import Service
from airside.server.settings import ServerSettings
from airside.wire.template import key_of

Virtual = Callable[[Callable[[], Awaitable[None]]], None]


class Failing(Agent):
    """Raises `error` in its first `times` creates."""

    name = "failing"
    task_types = (TaskType("t"),)

    def __init__(self, error: Exception, times: int, *, safe: bool = True) -> None:
        self.error = error
        self.times = times
        self.tried: list[float] = []
        self.settings = AgentSettings(create_timeout=300.0, create_is_idempotent=safe)
        self.supports = frozenset[str]()

    async def create(self, task: Task, call: Call) -> bytes:
        self.tried.append(time.monotonic())
        if len(self.tried) <= self.times:
            raise self.error
        return b"made"


def request() -> connector_pb2.CreateTaskRequest:
    made = connector_pb2.CreateTaskRequest(output_prefix="s3://bucket/run/n0/0")
    made.template.type = "t"
    return made


BAD_BODY = json.JSONDecodeError("Unterminated string", "{", 1)


@pytest.mark.parametrize(
    ("error", "times", "tried"),
    [
        (ConnectionError("reset"), 12, 13),
        (TimeoutError("slow"), 12, 13),
        (Retry("503"), 12, 13),
        (BAD_BODY, 5, 6),
        (BAD_BODY, 100, 6),
        (KeyError("id"), 100, 6),
        (TypeError("a mistake"), 100, 3),
        (AttributeError("a mistake"), 2, 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_how_often_a_create_is_tried(virtual: Virtual, error: Exception, times: int, tried: int) -> None:
    async def main() -> None:
        agent = Failing(error, times)
        service = Service([agent], ServerSettings())
        if times >= tried:
            with pytest.raises(type(error)) as raised:
                await service.create(request())
            assert raised.value is error
        else:
            handle = unseal(await service.create(request()))
            assert (handle.kind, handle.meta) == (Kind.JOB, b"made")
        assert len(agent.tried) == tried
        await service.watch.close()

    virtual(main)


def test_a_create_that_may_not_be_repeated_is_tried_once(virtual: Virtual) -> None:
    async def main() -> None:
        agent = Failing(ConnectionError("reset"), 100, safe=False)
        service = Service([agent], ServerSettings())
        with pytest.raises(ConnectionError):
            await service.create(request())
        assert len(agent.tried) == 1
        await service.watch.close()

    virtual(main)


def test_tries_end_with_create_timeout_and_come_no_sooner_than_the_backend_asks(virtual: Virtual) -> None:
    async def main() -> None:
        began = time.monotonic()
        agent = Failing(Retry("429", after=40.0), 1000)
        service = Service([agent], ServerSettings())
        with pytest.raises(Retry):
            await service.create(request())
        pauses = [later - earlier for earlier, later in zip(agent.tried, agent.tried[1:], strict=False)]
        assert min(pauses) >= 40.0
        assert 250.0 < time.monotonic() - began <= 300.0
        await service.watch.close()

    virtual(main)


def test_creates_at_once_share_the_tries(virtual: Virtual) -> None:
    async def main() -> None:
        agent = Failing(ConnectionError("reset"), 3)
        service = Service([agent], ServerSettings())
        handles = await asyncio.gather(*(service.create(request()) for _ in range(10)))
        assert len(set(handles)) == 1
        assert len(agent.tried) == 4
        await service.watch.close()

    virtual(main)


@pytest.mark.parametrize("safe", [True, False])
def test_word_is_left_of_a_job_before_it_is_made(
    virtual: Virtual, caplog: pytest.LogCaptureFixture, safe: bool
) -> None:
    """Should the process be killed while it is made, only its log can name the job."""

    class Looking(Failing):
        async def create(self, task: Task, call: Call) -> bytes:
            for record in caplog.records:
                said.extend(record.__dict__.get("keys", ()))
            return b"made"

    async def main() -> None:
        service = Service([Looking(ConnectionError(), 0, safe=safe)], ServerSettings())
        await service.create(request())
        await service.watch.close()

    said: list[str] = []
    with caplog.at_level("INFO", logger="airside.server"):
        virtual(main)
    assert said == ([] if safe else [key_of(request())])
