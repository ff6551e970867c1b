"""`python fuzzed.py`: serves agents of every kind with small tables, and prints its ports: gRPC, metrics.

What they do never fails, so an INTERNAL is the service's own mistake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from airside import AsyncAgent, Fail, LogLine, LogLink, Metric, NotFound, Phase, Resource, Retry, SyncAgent, Task
from airside.agents.echo import EchoAgent
from airside.observe.logs import configure
from airside.observe.prometheus import Metrics
from airside.sdk.adapt import adapt
from airside.server.app import Server
from airside.server.handle import SigningKeys
from airside.server.settings import ServerSettings

KEYS = SigningKeys(current="k1", known={"k1": b"1" * 32})


class Full(AsyncAgent[str]):
    """Has every method. The job's name says what becomes of it."""

    task_types = ("full", ("full", 3))
    create_is_idempotent = True
    max_age = 0.01

    async def create(self, task: Task) -> str:
        seen = dict(task.inputs)
        return str(seen.get("end", "done")) if isinstance(seen.get("end"), str) else "done"

    def get(self, job: str) -> Resource:
        match job:
            case "retry":
                raise Retry("busy")
            case "fail":
                raise Fail("never")
            case "gone":
                raise NotFound
            case "running":
                return Resource(Phase.RUNNING, message="x" * 100_000, links=[LogLink("https://example.org", "log")])
        return Resource(Phase.SUCCEEDED, outputs={"o0": 3, "o1": job}, info={"a": [1, None, {"b": 2.5}]})

    def delete(self, job: str) -> None:
        if job == "gone":
            raise NotFound

    async def find(self, task: Task, key: str) -> str | None:
        return None

    def links(self, job: str) -> Sequence[LogLink]:
        return [LogLink("https://example.org/job", "job")]

    def logs(self, job: str, *, after: str, limit: int) -> Iterator[LogLine]:
        for number in range(min(limit, 20)):
            yield LogLine(f"line {number}", cursor=str(number))

    def metrics(self, job: str, *, queries: Any, start: datetime, end: datetime, step: float) -> Sequence[Metric]:
        return [Metric("cpu", [(datetime(2024, 1, 1, tzinfo=UTC), 0.5)])]

    def read_handle(self, data: bytes) -> str | None:
        return data[7:].decode("utf-8", "replace") if data.startswith(b"foreign") else None


class Many(AsyncAgent[dict[str, Any]]):
    task_type = "many"

    async def create(self, task: Task) -> dict[str, Any]:
        return {"key": task.key}

    async def get(self, job: dict[str, Any]) -> Resource:
        return Resource(Phase.RUNNING)

    async def get_many(self, jobs: Sequence[dict[str, Any]]) -> Sequence[Resource]:
        return [Resource(Phase.RUNNING) for _ in jobs]

    async def delete(self, job: dict[str, Any]) -> None: ...


class Sum(SyncAgent):
    task_type = "sum"

    def do(self, task: Task) -> Resource:
        return Resource(Phase.SUCCEEDED, outputs={"o0": sum(v for v in task.inputs.values() if isinstance(v, int))})


async def main() -> None:
    """Serve until the process is ended."""
    configure("json", "INFO")
    settings = ServerSettings(port=0, metrics_port=0, max_jobs=500, local_storage=(), max_wait=0.2)
    agents = [adapt(agent) for agent in (Full(), Many(), Sum(), EchoAgent())]
    metrics = Metrics()
    async with Server(agents, settings, keys=KEYS, hooks=[metrics], metrics=metrics.render) as server:
        print(server.port, server.metrics_port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
