"""flytekit's side of the proof with a faulty backend: the connector as its users write them, with aiohttp.

Runs in flytekit's own environment, so it imports nothing of ours. `FAULTY_BACKEND` in the environment is the backend.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import aiohttp
from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.extend.backend.base_connector import AsyncConnectorBase, ConnectorRegistry, Resource, ResourceMeta
from flytekit.models.task import TaskTemplate

URL = os.environ["FAULTY_BACKEND"]
PATIENCE = aiohttp.ClientTimeout(total=3.0)


@dataclass
class Job(ResourceMeta):
    """What finds the job again."""

    id: str


async def ask(method: str, path: str, **query: str) -> Any:
    """The JSON that the backend answers; raises for a bad status, a bad body, and no answer."""
    async with (
        aiohttp.ClientSession(timeout=PATIENCE) as session,
        session.request(method, URL + path, params=query) as response,
    ):
        response.raise_for_status()
        return await response.json(content_type=None)


class Faulty(AsyncConnectorBase):
    """The jobs of the faulty backend."""

    name = "Faulty"

    def __init__(self) -> None:
        super().__init__(task_type_name="faulty_token", metadata_type=Job)

    async def create(self, task_template: TaskTemplate, output_prefix: str, **_: Any) -> Job:
        seconds = str(task_template.custom["seconds"])
        return Job(id=(await ask("POST", "/jobs", key=output_prefix, seconds=seconds, once="1"))["id"])

    async def get(self, resource_meta: Job, **_: Any) -> Resource:
        state = (await ask("GET", f"/jobs/{resource_meta.id}"))["state"]
        phase = {"RUNNING": TaskExecution.RUNNING, "SUCCEEDED": TaskExecution.SUCCEEDED}
        return Resource(phase=phase.get(state, TaskExecution.FAILED))

    async def delete(self, resource_meta: Job, **_: Any) -> None:
        await ask("DELETE", f"/jobs/{resource_meta.id}")


ConnectorRegistry.register(Faulty())
