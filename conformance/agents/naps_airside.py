"""Naps as Airside's agents."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import naps

from airside import AgentRegistry, AsyncAgent, LogLink, Phase, Resource, SyncAgent, Task


@dataclass
class Nap:
    """What finds the nap again."""

    id: str
    until: float
    word: str


class Naps(AsyncAgent[Nap]):
    """Naps for `seconds`, then says `word`; fails if `seconds` is negative."""

    task_type = "nap"

    def create(self, task: Task) -> Nap:
        return Nap(uuid4().hex, naps.end_of(task.inputs.get("seconds", 0.1)), task.inputs.get("word", ""))

    def get(self, job: Nap) -> Resource:
        link = LogLink(f"https://naps.example/{job.id}", "Nap")
        if job.until < 0:
            return Resource(Phase.FAILED, message="nobody naps for less than no time", code="NegativeNap", links=[link])
        match naps.state(job.id, job.until):
            case "cancelled":
                return Resource(Phase.ABORTED, links=[link])
            case "done":
                return Resource(Phase.SUCCEEDED, outputs={"said": job.word}, links=[link])
        return Resource(Phase.RUNNING, links=[link])

    def delete(self, job: Nap) -> None:
        naps.cancel(job.id)


class Words(SyncAgent):
    """Says `word` at once."""

    task_type = "word"

    def do(self, task: Task) -> Resource:
        return Resource(Phase.SUCCEEDED, outputs={"said": task.inputs["word"]})


AgentRegistry.register(Naps())
AgentRegistry.register(Words())
