"""Sensors that somebody wrote for flytekit: subclasses of its `BaseSensor`, whose `poke` says whether to go on.

A task names the module and the class. Importing a module runs its code, so it must be among those that an operator
allows. What the class gets is JSON and the task's inputs; nothing is ever unpickled.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from threading import Lock
from typing import Any, get_type_hints

from airside.agents.sensor_job import Look, Waiting, no_outputs
from airside.model import Call, Directory, Fail, File, Retry, StructuredDataset
from airside.model.redaction import redact
from airside.sdk.lane import Lane

FILE_SENSOR = ("flytekit.sensor.file_sensor", "FileSensor")
"""flytekit's own: what it does, the agent does without flytekit."""
KEYS = ("sensor_module", "sensor_name", "sensor_config", "inputs")
_KEPT = 256  # sensors that are made already: flytekit remembers every task that is ever made


class PokeCondition:
    """A user's sensor says that it is met. Each poke has a thread and an event loop of its own."""

    def __init__(self, modules: Sequence[str], patience: float) -> None:
        self._modules = tuple(modules)
        self._patience = patience
        self._lane = Lane("sensor-pokes")
        self._sensors: OrderedDict[str, Any] = OrderedDict()
        self._lock = Lock()

    def check(self, job: Waiting, call: Call) -> None:
        del call
        no_outputs(job)
        self._sensor(job)

    async def look(self, job: Waiting, call: Call) -> Look:
        del call
        name = job.config["sensor_name"]
        met = await self._lane.run(lambda: self._poke(job), timeout=self._patience)
        return Look(met=met, said="" if met else f"{name} is not met yet")

    def close(self) -> None:
        self._lane.close()

    def _poke(self, job: Waiting) -> bool:
        try:
            poke = self._sensor(job).poke
        except Fail as exc:  # it could be made when the task began
            raise Retry(exc.message) from exc
        answer = poke(**_arguments(poke, job.values()))
        if inspect.iscoroutine(answer):
            answer = asyncio.run(answer)
        if not isinstance(answer, bool):
            name = job.config["sensor_name"]
            raise Fail(f"{name}.poke must return True or False, not {type(answer).__name__}.", code="SensorBroken")
        return answer

    def _sensor(self, job: Waiting) -> Any:
        module, name, config = (job.config.get(key) for key in KEYS[:3])
        if not isinstance(module, str) or not isinstance(name, str) or not name.isidentifier():
            raise Fail("config: a sensor of flytekit has a sensor_module and a sensor_name.")
        if not any(_covers(one, module) for one in self._modules):
            raise Fail(
                f"Sensors of {module} may not run; an operator may allow the module in the sensor agent's `modules`.",
                code="ModuleNotAllowed",
            )
        key = json.dumps([module, name, config], sort_keys=True)
        with self._lock:
            sensor = self._sensors.get(key)
            if sensor is None:
                sensor = self._sensors[key] = _make(module, name, config)
            self._sensors.move_to_end(key)
            if len(self._sensors) > _KEPT:
                self._sensors.popitem(last=False)
        return sensor


def _covers(allowed: str, module: str) -> bool:
    """
    >>> _covers("acme.sensors", "acme.sensors"), _covers("acme.*", "acme.sensors"), _covers("acme", "acme.sensors")
    (True, True, False)
    """
    if allowed.endswith(".*"):
        return module.startswith(allowed[:-1])
    return module == allowed


def _make(module: str, name: str, config: Any) -> Any:
    """The sensor as flytekit's own engine makes it."""
    try:
        sensor_class = getattr(import_module(module), name, None)
        base: Any = import_module("flytekit.sensor.base_sensor").BaseSensor
    except Exception as exc:
        words = redact(" ".join(str(exc).split()))
        raise Fail(
            f"The sensor's module {module} cannot be imported where the service runs: {words}.", code="SensorBroken"
        ) from exc
    if not (isinstance(sensor_class, type) and issubclass(sensor_class, base)):
        raise Fail(f"{module} has no sensor {name}: a subclass of flytekit's BaseSensor.", code="SensorBroken")
    try:
        return sensor_class("sensor", config=config)
    except TypeError as exc:
        raise Fail(
            f"{name} cannot be made as flytekit does, {name}(name, config=...): {exc}.", code="SensorBroken"
        ) from exc


def _arguments(poke: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs as `poke` declares them: a file is one of flytekit's if that is what it wants."""
    hints = get_type_hints(poke)
    made = {}
    for name, value in values.items():
        hint = hints.get(name)
        if isinstance(value, (File, Directory, StructuredDataset)):
            made[name] = hint(value.uri) if isinstance(hint, type) else value.uri
        else:
            made[name] = value
    return made
