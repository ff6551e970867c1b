"""Our side: the echo agents that `airside serve` loads, and the tasks that `airside run` runs."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

from airside import AgentRegistry, AsyncAgent, Phase, Resource, SyncAgent, Task, TaskTemplate, kwtypes


@dataclass(frozen=True)
class Job:
    """What finds the job again."""

    id: str
    x: int


def start(task: Task) -> Job:
    """The job that the inputs ask for."""
    return Job(id=uuid4().hex, x=task.inputs["x"])


def look(job: Job) -> Resource:
    """The job as it is: done with its input as output, or for ever running if that is 0."""
    if job.x == 0:
        return Resource(Phase.RUNNING, message="working")
    return Resource(Phase.SUCCEEDED, outputs={"x": job.x})


class Echo(AsyncAgent[Job]):
    """`async def` throughout."""

    task_type = "bench_echo"

    async def create(self, task: Task) -> Job:
        return start(task)

    async def get(self, job: Job) -> Resource:
        return look(job)

    async def delete(self, job: Job) -> None: ...


class ThreadEcho(AsyncAgent[Job]):
    """`def` throughout, so each call runs on a thread."""

    task_type = "bench_thread_echo"

    def create(self, task: Task) -> Job:
        return start(task)

    def get(self, job: Job) -> Resource:
        return look(job)

    def delete(self, job: Job) -> None: ...


class SyncEcho(SyncAgent):
    """Done in one call."""

    task_type = "bench_sync_echo"

    async def do(self, task: Task) -> Resource:
        return Resource(Phase.SUCCEEDED, outputs={"x": task.inputs["x"]})


AgentRegistry.register(Echo())
AgentRegistry.register(ThreadEcho())
AgentRegistry.register(SyncEcho())

echo = TaskTemplate(name="echo", task_type="bench_echo", inputs=kwtypes(x=int), outputs=kwtypes(x=int))
sync_echo = TaskTemplate(name="sync_echo", task_type="bench_sync_echo", inputs=kwtypes(x=int), outputs=kwtypes(x=int))
