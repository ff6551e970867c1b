"""`sensor`: a task that waits until a file is there, an endpoint answers, a query has rows, or a time has come.

There is no job anywhere: the handle says what is waited for and until when, so that any process can look, and a
restart neither loses a sensor nor gives it more time. flytekit's `FileSensor` runs as it is, and so do users' own
subclasses of its `BaseSensor` whose modules an operator allows.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airside.agents.destinations import Destinations
from airside.agents.json_values import is_optional, kind_of
from airside.agents.sensor_flytekit import FILE_SENSOR, KEYS, PokeCondition
from airside.agents.sensor_http import HttpCondition
from airside.agents.sensor_job import MET, Condition, Look, Waiting, inputs_of
from airside.agents.sensor_places import FileCondition, TimeCondition, iso, moment
from airside.agents.sensor_sql import Database, SqlCondition
from airside.agents.sensor_tasks import FileSensor, HttpSensor, SqlSensor, TimeSensor
from airside.model import AirsideError, Call, Fail, Phase, Resource, Retry, Task
from airside.sdk.agent import AsyncAgent
from airside.sdk.hosts import HostAllowList

__all__ = ("FileSensor", "HttpSensor", "SensorAgent", "SqlSensor", "TimeSensor")

_PATIENCE = 15.0  # seconds for one look
_LARGEST = 16 * 1024  # characters of JSON; the handle that carries them is stored by Flyte
_REMEMBERED = 86400.0  # seconds for which a cancel is known
_SOONEST = 0.05  # seconds between two looks, also shortly before the end
_CHECKED = (
    "CredentialNotAllowed",
    "MissingExtra",
    "ModuleNotAllowed",
    "NoCredentials",
    "NoSuchDatabase",
    "SecretMissing",
)
"""What a create has checked already: later it is the service that is to blame, perhaps for a while."""

_TIMING = ("sensor", "timeout", "poke_interval", "soft_fail", "secrets", "configs")
_KEYS = {
    "file": ("path",),
    "http": (
        *("url", "method", "headers", "params", "json", "body", "expected"),
        *("json_path", "equals", "contains", "request_timeout"),
    ),
    "sql": ("query", "database"),
    "time": ("at", "after"),
    "flytekit": KEYS,
}


class SensorAgent(AsyncAgent[Waiting]):
    """Looks whether what a task waits for has come, every `poke_interval`, until its time is up.

    Sensors that wait for the same share a look. A cancel is remembered by the process that was asked.
    """

    name = "sensor"
    task_type = "sensor"
    poll_interval = 1.0
    create_is_idempotent = True
    extras = ("sensor",)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """How long tasks wait, and where they may look.

        timeout: seconds that a task waits which does not say how long. poke_interval: seconds between two looks of a
            task that does not say. least_poke_interval: the least that a task may ask for.
        allowed_directories: folders of this machine in which files may be waited for. Default: none.
        hosts, private_hosts, credentials, max_response_bytes: where HTTP requests may go, with which secrets, as
            for the webhook agent.
        databases: those that tasks may ask, by name; each has a `url` and the name of the secret `password`.
        allowed_hosts: hosts of databases that a connection may name. Default: none.
        max_rows: how many rows of a query may be outputs.
        modules: modules whose sensors, written for flytekit, may run: `acme.sensors`, `acme.*`. Default: none.
        """

        timeout: float = 7 * 86400.0
        poke_interval: float = 10.0
        least_poke_interval: float = 1.0
        allowed_directories: tuple[str, ...] = ()
        hosts: tuple[str, ...] = ("*",)
        private_hosts: tuple[str, ...] = ()
        credentials: dict[str, tuple[str, ...]] = field(default_factory=dict)
        max_response_bytes: int = 1024 * 1024
        databases: dict[str, Database] = field(default_factory=dict)
        allowed_hosts: tuple[str, ...] = ()
        max_rows: int = 1000
        modules: tuple[str, ...] = ()

        def __post_init__(self) -> None:
            for name in ("timeout", "poke_interval", "least_poke_interval"):
                if not 0 < getattr(self, name) < math.inf:
                    raise ValueError(f"{name} is a number of seconds above 0")
            if self.max_rows < 1:
                raise ValueError("max_rows is a number from 1")

    def __init__(self) -> None:
        self._cancelled: dict[str, float] = {}

    def open(self, options: Options) -> None:
        self._options = options
        destinations = Destinations(options.hosts, options.private_hosts, self.name)
        credentials = {name: HostAllowList(hosts) for name, hosts in options.credentials.items()}
        self._files = FileCondition(options.allowed_directories, _PATIENCE)
        self._sql = SqlCondition(
            options.databases,
            options.allowed_hosts,
            options.allowed_directories,
            max_rows=options.max_rows,
            patience=_PATIENCE,
        )
        self._pokes = PokeCondition(options.modules, _PATIENCE)
        self._conditions: Mapping[str, Condition] = {
            "file": self._files,
            "http": HttpCondition(destinations, credentials, options.max_response_bytes, _PATIENCE),
            "sql": self._sql,
            "time": TimeCondition(),
            "flytekit": self._pokes,
        }

    def close(self) -> None:
        for one in (self._files, self._pokes, self._sql):
            one.close()

    def create(self, task: Task, call: Call) -> Waiting:
        now = time.time()
        job = self._waiting(task, now)
        if job.kind == "time":
            at = moment(job.config, job, now)
            until = max(job.until, at) if "timeout" not in task.config else job.until
            if at > until:
                raise Fail(f"The task waits for {iso(at)}, but gives up at {iso(until)}.", code="NoSuchTime")
            job = replace(job, config={"at": at}, inputs={}, until=until)
        if len(json.dumps([job.config, job.inputs])) > _LARGEST:
            raise Fail("What a sensor waits for may take 16 KiB with its inputs: it travels in the job's handle.")
        if job.soft:
            for name, kind in job.outputs.items():
                if name != MET and not is_optional(kind):
                    raise Fail(f"outputs.{name}: with soft_fail there may be no such output; declare it as optional.")
        self._conditions[job.kind].check(job, replace(call, connection=task.connection or call.connection))
        return job

    async def get(self, job: Waiting, call: Call) -> Resource:
        [answer] = await self.get_many([job], call)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def get_many(self, jobs: Sequence[Waiting], call: Call) -> Sequence[Resource | Exception]:
        """All at once; those that wait for the same share a look."""
        looks: dict[str, asyncio.Task[Look | Exception]] = {}
        for job in jobs:
            if job.id not in self._cancelled and _what(job) not in looks:
                looks[_what(job)] = asyncio.create_task(self._look(job, call))
        try:
            return [
                _answer(job, await looks[_what(job)])
                if job.id not in self._cancelled
                else Resource(Phase.ABORTED, message="cancelled")
                for job in jobs
            ]
        finally:
            for look in looks.values():
                look.cancel()

    async def delete(self, job: Waiting) -> None:
        now = time.time()
        self._cancelled[job.id] = now
        for old in [key for key, at in self._cancelled.items() if at < now - _REMEMBERED]:
            del self._cancelled[old]

    async def _look(self, job: Waiting, call: Call) -> Look | Exception:
        condition = self._conditions.get(job.kind)
        if condition is None:  # of a newer version
            return Retry(f"This service knows no sensor of the kind {job.kind!r}.")
        try:
            return await condition.look(job, call)
        except Fail as exc:
            return Retry(exc.message) if exc.code in _CHECKED else exc
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is no reason to wait longer than was said
            return exc

    def _waiting(self, task: Task, now: float) -> Waiting:
        kind, config = _kind(task.config)
        for key in config:
            if key not in (*_KEYS[kind], *_TIMING):
                raise Fail(f"config.{key}: a {kind} sensor knows no such key (known: {', '.join(_KEYS[kind])}).")
        timeout = _seconds(config, "timeout") or _timeout_of(task.template) or self._options.timeout
        interval = _seconds(config, "poke_interval") or self._options.poke_interval
        return Waiting(
            id=task.key or uuid.uuid4().hex,
            kind=kind,
            config={key: value for key, value in config.items() if key in _KEYS[kind]},
            inputs=inputs_of(task),
            outputs={name: kind_of(annotation) for name, annotation in task.interface.outputs.items()},
            until=now + timeout,
            interval=max(interval, self._options.least_poke_interval),
            soft=bool(config.get("soft_fail")),
        )


def _kind(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What kind of sensor a task is, and its config in our own words."""
    told = dict(config)
    if "sensor_module" in told:
        if (told["sensor_module"], told.get("sensor_name")) == FILE_SENSOR:
            return "file", {"path": "{{.inputs.path}}"}
        return "flytekit", told
    kind = told.get("sensor")
    if kind not in _KEYS or kind == "flytekit":
        raise Fail("config.sensor: a sensor is one of file, http, sql, time, or one that was written for flytekit.")
    return str(kind), told


def _seconds(config: Mapping[str, Any], key: str) -> float | None:
    value = config.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise Fail(f"config.{key} is a number of seconds above 0, not {value!r}.")
    return float(value)


def _timeout_of(template: Any) -> float | None:
    """The timeout that flytekit's tasks have in their template; None without one."""
    metadata = getattr(template, "metadata", None)
    if metadata is None or not metadata.HasField("timeout"):
        return None
    return float(metadata.timeout.ToTimedelta().total_seconds()) or None


def _what(job: Waiting) -> str:
    """The same for sensors that wait for the same, and want to know the same of it."""
    return json.dumps([job.kind, job.config, job.inputs, job.outputs], sort_keys=True)


def _answer(job: Waiting, look: Look | Exception) -> Resource | Exception:
    """What a look means for one sensor. The last one is made when the time is up."""
    left = job.until - time.time()
    if isinstance(look, Look) and look.met:
        outputs = {**look.outputs, MET: True} if MET in job.outputs else look.outputs
        return Resource(Phase.SUCCEEDED, message=look.said, outputs=outputs or None)
    if isinstance(look, Fail):
        return look
    if left > 0:
        if isinstance(look, Look):
            after = look.after if job.kind == "time" else max(job.interval, look.after or 0.0)
            pause = max(_SOONEST, min(left, after or job.interval))
            message = f"{look.said}; waiting until {iso(job.until)}"
            return Resource(Phase.RUNNING, message=message, poll_after=pause)
        if isinstance(look, Retry):
            return Retry(look.message, after=max(_SOONEST, min(left, max(job.interval, look.after or 0.0))))
        return look
    said = look.said if isinstance(look, Look) else _words(look)
    message = f"Gave up at {iso(job.until)}: {said}"
    if not job.soft:
        return Resource(Phase.FAILED, message=message, code="SensorTimeout")
    return Resource(Phase.SUCCEEDED, message=message, outputs=dict.fromkeys(job.outputs) | _unmet(job))


def _unmet(job: Waiting) -> dict[str, Any]:
    return {MET: False} if MET in job.outputs else {}


def _words(exc: Exception) -> str:
    return str(exc) if isinstance(exc, AirsideError) else "the last look went wrong, see the service's log"
