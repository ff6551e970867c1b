"""Naps as flytekit's connectors. Runs in flytekit's own environment, so it imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import naps
from flyteidl.core.execution_pb2 import TaskExecution, TaskLog
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    ConnectorRegistry,
    Resource,
    ResourceMeta,
    SyncConnectorBase,
)
from flytekit.models.literals import LiteralMap


@dataclass
class Nap(ResourceMeta):
    """What finds the nap again."""

    id: str
    until: float
    word: str


def primitive(inputs: LiteralMap | None, name: str, otherwise: Any) -> Any:
    """One input as a Python value."""
    found = inputs.literals.get(name) if inputs else None
    return otherwise if found is None else found.scalar.primitive.value


class Naps(AsyncConnectorBase):
    """Naps for `seconds`, then says `word`; fails if `seconds` is negative."""

    name = "Naps"

    def __init__(self) -> None:
        super().__init__(task_type_name="nap", metadata_type=Nap)

    async def create(self, inputs: LiteralMap | None = None, **_: Any) -> Nap:
        return Nap(uuid4().hex, naps.end_of(primitive(inputs, "seconds", 0.1)), primitive(inputs, "word", ""))

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


class Words(SyncConnectorBase):
    """Says `word` at once."""

    name = "Words"

    def __init__(self) -> None:
        super().__init__(task_type_name="word")

    async def do(self, inputs: LiteralMap | None = None, **_: Any) -> Resource:
        return Resource(phase=TaskExecution.SUCCEEDED, outputs={"said": primitive(inputs, "word", "")})


ConnectorRegistry.register(Naps())
ConnectorRegistry.register(Words())
