"""What authors write must type-check, and their likely mistakes must not. Checked by `make types`, never run.

A `type: ignore[...]` here is an expectation: mypy reports it as unused if the mistake goes unnoticed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from airside import AsyncAgent, Call, LogLine, LogLink, Phase, Resource, SyncAgent, Task


@dataclass(frozen=True)
class Query:
    job_id: str


class Warehouse(AsyncAgent[Query]):
    task_types = ("my_query", ("my_query", 1))
    poll_interval = 3.0

    @dataclass(frozen=True)
    class Options:
        host: str = ""

    async def open(self, options: Options) -> None: ...
    async def close(self) -> None: ...

    def create(self, task: Task) -> Query:
        return Query(job_id=f"q-{task.key}")

    async def get(self, job: Query, call: Call) -> Resource:
        return Resource(Phase.SUCCEEDED, outputs={"rows": 3})

    def delete(self, job: Query) -> None: ...

    def find(self, task: Task, key: str) -> Query | None: ...

    def get_many(self, jobs: Sequence[Query], call: Call) -> Sequence[Resource | Exception]: ...

    def links(self, job: Query) -> Sequence[LogLink]: ...

    async def logs(self, job: Query, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        yield LogLine("line")


class Blocking(AsyncAgent[Query]):
    task_type = "blocking"

    async def create(self, task: Task, call: Call) -> Query: ...
    def get(self, job: Query) -> Resource: ...
    async def delete(self, job: Query, call: Call) -> None: ...

    def logs(self, job: Query, *, after: str, limit: int, call: Call) -> Iterator[LogLine]:
        yield LogLine("line")


class Adder(SyncAgent):
    task_type = "add"

    async def do(self, task: Task) -> Resource:
        return Resource(Phase.SUCCEEDED)


class WrongMetadata(AsyncAgent[Query]):
    task_type = "wrong"

    def create(self, task: Task) -> int:  # type: ignore[override]
        return 3

    def get(self, job: str) -> Resource: ...  # type: ignore[override]
    def delete(self, job: Query) -> str: ...  # type: ignore[override]
