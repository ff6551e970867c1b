"""What a sensor waits for, as its handle keeps it, and what one look at it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Protocol

from airside.agents.json_values import from_json, is_optional, kind_of, to_json
from airside.model import Call, Fail, MissingExtra, Task, TaskType

MET = "met"
"""The output, a bool, that says whether what was waited for has come."""

SENSOR = TaskType("sensor")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A sensor's job: there is no other one anywhere, so all that a look needs is in here.

    `inputs` are pairs of kind and JSON by name, `outputs` the declared kinds. `until` is when it gives up (seconds
    since 1970), `interval` the seconds between two looks. `soft`: giving up is a success, too.
    """

    id: str
    kind: str
    config: dict[str, Any]
    inputs: dict[str, list[Any]] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    until: float = 0.0
    interval: float = 10.0
    soft: bool = False

    def values(self) -> dict[str, Any]:
        """The inputs as Python values."""
        return {name: from_json(value, kind, f"inputs.{name}") for name, (kind, value) in self.inputs.items()}

    def task(self, call: Call) -> Task:
        """The task as an agent would get it now."""
        return Task(type=SENSOR, config=self.config, inputs=self.values(), key=self.id, connection=call.connection)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look has found. `said` is what to tell the person who waits, `after` when to look again (seconds)."""

    met: bool
    said: str = ""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    after: float | None = None


class Condition(Protocol):
    """One kind of thing that can be waited for."""

    def check(self, job: Waiting, call: Call) -> None:
        """Raise `Fail` for what can never be met. May block."""

    async def look(self, job: Waiting, call: Call) -> Look:
        """Raise `Retry` if there is no telling now, `Fail` if there never will be."""


def need(module: str, who: str, extra: str = "sensor") -> None:
    """Raise `Fail` if this library is not installed."""
    if find_spec(module) is None:
        raise Fail(str(MissingExtra(extra, who)), code="MissingExtra")


def inputs_of(task: Task) -> dict[str, list[Any]]:
    """A task's inputs as JSON, with their kinds. Raises `Fail` for one that has no form in JSON."""
    kept = {}
    for name, value in task.inputs.items():
        try:
            kept[name] = [kind_of(task.interface.inputs.get(name, type(value))), to_json(value)]
        except TypeError as exc:
            raise Fail(f"inputs.{name}: a sensor cannot keep it, since {exc}.") from exc
    return kept


def place_outputs(job: Waiting, uri: str) -> dict[str, Any]:
    """The outputs of a sensor that has found something at a place: each a file, a folder or a text."""
    made: dict[str, Any] = {}
    for name, kind in job.outputs.items():
        plain = kind[1] if isinstance(kind, list) and is_optional(kind) else kind
        if name == MET:
            continue
        if plain not in ("file", "directory", "dataset", "str"):
            raise Fail(f"outputs.{name}: a file sensor has the place only, as a File, a Directory or a str.")
        made[name] = from_json(uri, plain, f"outputs.{name}")
    return made


def no_outputs(job: Waiting) -> None:
    """Raise `Fail` if the task wants to know more than whether it was met."""
    for name in job.outputs:
        if name != MET:
            raise Fail(f"outputs.{name}: this sensor has one output only, the bool {MET!r}.")
