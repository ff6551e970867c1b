"""`sleep`: a job that does nothing for a while. For first steps, demonstrations and tests of waiting and cancelling."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airside.agents.json_values import from_json, kind_of, to_json
from airside.model import Fail, Phase, Resource, Task, TaskTemplate
from airside.sdk.agent import AsyncAgent

_LARGEST_ECHO = 8192  # characters of JSON; the handle that carries them is stored by Flyte
_REMEMBERED = 86400.0  # seconds for which a cancel is known after the job's end


@dataclass(frozen=True, slots=True)
class Nap:
    """When the job ends (seconds since 1970), and what it will answer."""

    id: str
    ends_at: float
    outputs: dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class SleepTask(TaskTemplate):
    """A task that lasts `seconds`, unless it has an input `seconds` that says otherwise. It gives its inputs back.

    >>> SleepTask(name="nap", seconds=2.5).config
    {'seconds': 2.5}
    """

    task_type: str = "sleep"
    seconds: float | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seconds is not None:
            object.__setattr__(self, "config", {**self.config, "seconds": self.seconds})
        super().__post_init__()


class SleepAgent(AsyncAgent[Nap]):
    """Runs for `seconds` (an input, or in the config), then succeeds; declared outputs are the inputs of that name.

    There is no job anywhere: the handle says when it ends, so any process can answer. A cancel is remembered by
    the process that was asked.
    """

    name = "sleep"
    task_type = "sleep"
    poll_interval = 1.0
    max_age = 0.2
    create_is_idempotent = True

    def __init__(self) -> None:
        self._cancelled: dict[str, float] = {}

    def create(self, task: Task) -> Nap:
        seconds = _seconds(task)
        echoed = {name: [kind_of(of), to_json(task.inputs[name])] for name, of in _echoed(task).items()}
        if len(str(echoed)) > _LARGEST_ECHO:
            raise Fail("sleep gives back only small inputs, 8 KiB together: they travel in the job's handle.")
        return Nap(task.key or uuid.uuid4().hex, time.time() + seconds, echoed)

    async def get(self, job: Nap) -> Resource:
        if job.id in self._cancelled:
            return Resource(Phase.ABORTED, message="cancelled")
        left = job.ends_at - time.time()
        if left > 0:
            return Resource(Phase.RUNNING, message=f"asleep for {left:.1f} s more", poll_after=left)
        outputs = {name: from_json(value, kind, f"outputs.{name}") for name, (kind, value) in job.outputs.items()}
        return Resource(Phase.SUCCEEDED, outputs=outputs)

    async def delete(self, job: Nap) -> None:
        now = time.time()
        if job.ends_at > now:
            self._cancelled[job.id] = job.ends_at
        for old in [key for key, ends_at in self._cancelled.items() if ends_at < now - _REMEMBERED]:
            del self._cancelled[old]


def _seconds(task: Task) -> float:
    value = task.inputs["seconds"] if "seconds" in task.inputs else task.config.get("seconds")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise Fail(f"A sleep task needs `seconds`, a number from 0, in its inputs or config, not {value!r}.")
    return float(value)


def _echoed(task: Task) -> dict[str, Any]:
    declared = task.interface.outputs or dict.fromkeys(task.inputs, Any)
    return {name: annotation for name, annotation in declared.items() if name in task.inputs}
