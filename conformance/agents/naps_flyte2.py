"""Naps as a connector of Flyte 2's SDK. Runs in that SDK's own environment, so it imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import naps
from flyte.connectors import AsyncConnector, ConnectorRegistry, Resource, ResourceMeta
from flyteidl2.core.execution_pb2 import TaskExecution, TaskLog


@dataclass
class Nap(ResourceMeta):
    """What finds the nap again."""

    id: str
    until: float
    word: str


class Naps(AsyncConnector[Nap]):
    """Naps for `seconds`, then says `word`; fails if `seconds` is negative."""

    name = "Naps"
    task_type_name = "nap"
    metadata_type = Nap

    async def create(
        self, task_template: Any, output_prefix: str, inputs: dict[str, Any] | None = None, **_: Any
    ) -> Nap:
        given = inputs or {}
        return Nap(uuid4().hex, naps.end_of(given.get("seconds", 0.1)), given.get("word", ""))

    async def get(self, resource_meta: Nap, **_: Any) -> Resource:
        links = [TaskLog(uri=f"https://naps.example/{resource_meta.id}", name="Nap")]
        if resource_meta.until < 0:
            failed = TaskExecution.FAILED
            return Resource(phase=failed, message="nobody naps for less than no time", log_links=links)
        match naps.state(resource_meta.id, resource_meta.until):
            case "cancelled":
                return Resource(phase=TaskExecution.ABORTED, log_links=links)
            case "done":
                return Resource(phase=TaskExecution.SUCCEEDED, outputs={"said": resource_meta.word}, log_links=links)
        return Resource(phase=TaskExecution.RUNNING, log_links=links)

    async def delete(self, resource_meta: Nap, **_: Any) -> None:
        naps.cancel(resource_meta.id)


ConnectorRegistry.register(Naps())
