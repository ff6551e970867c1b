"""flytekit's side: the echo connectors that its service loads, and the tasks that `pyflyte run` runs.

Runs in flytekit's own environment, so it imports nothing of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from flyteidl.core.execution_pb2 import TaskExecution
from flytekit import kwtypes
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    AsyncConnectorExecutorMixin,
    ConnectorRegistry,
    Resource,
    ResourceMeta,
    SyncConnectorBase,
    SyncConnectorExecutorMixin,
)
from flytekit.models.literals import LiteralMap


@dataclass
class Job(ResourceMeta):
    """What finds the job again."""

    id: str
    x: int


def start(inputs: LiteralMap | None) -> Job:
    """The job that the inputs ask for."""
    values = inputs.literals if inputs else {}
    return Job(id=uuid4().hex, x=values["x"].scalar.primitive.integer)


def look(job: Job) -> Resource:
    """The job as it is: done with its input as output, or for ever running if that is 0."""
    if job.x == 0:
        return Resource(phase=TaskExecution.RUNNING, message="working")
    return Resource(phase=TaskExecution.SUCCEEDED, outputs={"x": job.x})


class Echo(AsyncConnectorBase):
    """`async def` throughout."""

    name = "Bench Echo"

    def __init__(self) -> None:
        super().__init__(task_type_name="bench_echo", metadata_type=Job)

    async def create(self, inputs: LiteralMap | None = None, **_: Any) -> Job:
        return start(inputs)

    async def get(self, resource_meta: Job, **_: Any) -> Resource:
        return look(resource_meta)

    async def delete(self, resource_meta: Job, **_: Any) -> None: ...


class SyncEcho(SyncConnectorBase):
    """Done in one call."""

    name = "Bench Sync Echo"

    def __init__(self) -> None:
        super().__init__(task_type_name="bench_sync_echo")

    async def do(self, inputs: LiteralMap | None = None, **_: Any) -> Resource:
        values = inputs.literals if inputs else {}
        return Resource(phase=TaskExecution.SUCCEEDED, outputs={"x": values["x"].scalar.primitive.integer})


class EchoTask(AsyncConnectorExecutorMixin, PythonTask):
    """A task that the asynchronous connector runs."""

    def __init__(self, name: str) -> None:
        super().__init__("bench_echo", name, None, Interface(kwtypes(x=int), kwtypes(x=int)))


class SyncEchoTask(SyncConnectorExecutorMixin, PythonTask):
    """A task that the synchronous connector runs."""

    def __init__(self, name: str) -> None:
        super().__init__("bench_sync_echo", name, None, Interface(kwtypes(x=int), kwtypes(x=int)))


ConnectorRegistry.register(Echo())
ConnectorRegistry.register(SyncEcho())

echo = EchoTask("echo")
sync_echo = SyncEchoTask("sync_echo")
