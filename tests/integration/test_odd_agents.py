"""Agents written in odd but legitimate ways, served for real on both families."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from airside import AsyncAgent, LogLine, Resource, Task, kwtypes
from airside.model import Phase
from airside.sdk.adapt import adapt
from airside.server.app import Server
from airside.server.settings import ServerSettings
from airside.testing import harness
from airside.testing.client import RawClient, Wire

M = TypeVar("M")


def traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain wrapper around whatever it is given, as tracing libraries make them."""

    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return inner


class Ticket(NamedTuple):
    number: int
    queue: str = "low"


class Base(AsyncAgent[M], Generic[M]):
    task_type = "odd"

    async def delete(self, job: M) -> None: ...


class Odd(Base[Ticket]):
    """Generic in between, a NamedTuple, wrapped coroutines, a class method."""

    @traced
    async def create(self, task: Task) -> Ticket:
        return Ticket(len(task.inputs))

    @classmethod
    @traced
    async def get(cls, job: Ticket) -> Resource:
        return Resource(Phase.SUCCEEDED, outputs={"number": job.number, "queue": job.queue})


async def test_metadata_and_wrapped_coroutines(wire: Wire) -> None:
    async with harness(Odd(), wire=wire) as h:
        job = await h.create(inputs={"a": 1, "b": 2}, outputs=kwtypes(number=float, queue=str))
        await h.restart()
        resource = await h.finish(job)
    assert dict(resource.outputs or {}) == {"number": 2.0, "queue": "low"}


class Lines(Odd):
    @staticmethod
    async def logs(job: Ticket, *, after: str, limit: int) -> AsyncIterator[LogLine]:
        for number in range(int(after or 0), 5):  # gives more than it was asked for
            yield LogLine(f"{number}", cursor=f"{number + 1}")


class PlainLines(Odd):
    def logs(self, job: Ticket, *, after: str, limit: int, call: object) -> Iterator[LogLine]:
        return (LogLine(f"{number}", cursor=f"{number + 1}") for number in range(int(after or 0), 5))


class GatheredLines(Odd):
    async def logs(self, job: Ticket, **asked: Any) -> list[LogLine]:
        return [LogLine(f"{number}", cursor=f"{number + 1}") for number in range(int(asked["after"] or 0), 5)]


async def test_logs_of_every_kind_come_in_pages(wire: Wire) -> None:
    for kind in (Lines, PlainLines, GatheredLines):
        async with harness(kind(), wire=wire) as h:
            job = await h.create()
            client, token, pages = RawClient(h.service.channel, wire), "", []
            while True:
                *bodies, closing = [part async for part in client.logs(job.handle, "odd", lines=2, token=token)]
                lines = [part.body.structured_lines if wire == "v1" else part.body.lines for part in bodies]
                pages.append([line.message for batch in lines for line in batch])
                token = closing.header.token
                if not token:
                    break
        assert pages == [["0", "1"], ["2", "3"], ["4"]], kind


class Waits(Odd):
    """Opens once another agent has begun to open."""

    def __init__(self, task_type: str, mine: asyncio.Event, theirs: asyncio.Event) -> None:
        self.task_type = self.name = task_type
        self._mine, self._theirs = mine, theirs

    async def open(self) -> None:
        self._mine.set()
        await self._theirs.wait()


async def test_no_agent_waits_until_another_has_opened() -> None:
    first, second = asyncio.Event(), asyncio.Event()
    agents = [adapt(Waits("first", first, second)), adapt(Waits("second", second, first))]
    async with asyncio.timeout(10), Server(agents, ServerSettings(port=0)) as server:
        assert [agent.name for agent in server.agents] == ["first", "second"]
