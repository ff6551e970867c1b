"""Agents whose backend blocks for 100 ms: one is asked job by job, one for many jobs at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

from airside import AgentRegistry, AsyncAgent, Phase, Resource, Task

BLOCKS = 0.1  # seconds


class Single(AsyncAgent[str]):
    task_type = "single"

    async def create(self, task: Task) -> str:
        return task.key

    def get(self, job: str) -> Resource:
        time.sleep(BLOCKS)
        return Resource(Phase.RUNNING, message="computing")

    def delete(self, job: str) -> None: ...


class Many(AsyncAgent[str]):
    task_type = "many"
    poll_interval = 5.0
    max_age = 15.0

    async def create(self, task: Task) -> str:
        return task.key

    def get(self, job: str) -> Resource:
        return self.get_many([job])[0]

    def get_many(self, jobs: Sequence[str]) -> Sequence[Resource]:
        time.sleep(BLOCKS)
        return [Resource(Phase.RUNNING, message="computing") for _ in jobs]

    def delete(self, job: str) -> None: ...


AgentRegistry.register(Single())
AgentRegistry.register(Many())
