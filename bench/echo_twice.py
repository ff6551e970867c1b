"""The agent of the engine's figures: a job runs at its first poll and has succeeded at its second."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

from airside import AgentRegistry, AsyncAgent, Phase, Resource, Task


@dataclass(frozen=True)
class Job:
    """What finds the job again."""

    id: str
    x: int


class EchoTwice(AsyncAgent[Job]):
    """Each poll is an answer of its own: nothing is answered from memory."""

    task_type = "bench_twice"
    poll_interval = 0.05
    max_age = 0.001

    def __init__(self) -> None:
        self.seen: set[str] = set()

    async def create(self, task: Task) -> Job:
        return Job(id=uuid4().hex, x=task.inputs["x"])

    async def get(self, job: Job) -> Resource:
        if job.id not in self.seen:
            self.seen.add(job.id)
            return Resource(Phase.RUNNING, message="working")
        self.seen.discard(job.id)
        return Resource(Phase.SUCCEEDED, outputs={"x": job.x})

    async def delete(self, job: Job) -> None: ...


AgentRegistry.register(EchoTwice())
