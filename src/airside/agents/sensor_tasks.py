"""Tasks that wait: for a file, for an HTTP answer, for rows of a query, for a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from airside.model import TaskTemplate, UsageError


@dataclass(frozen=True, kw_only=True)
class Sensor(TaskTemplate):
    """What all sensors have.

    timeout: seconds to wait, counted from the start of the attempt; a `timedelta` is taken, too. Then the task has
    failed. Without it, as long as the agent's options say: a week.
    poke_interval: seconds between two looks. Without it, as the agent's options say: 10.
    soft_fail: when the time is up the task succeeds, and its output `met`, a bool, is False.
    """

    task_type: str = "sensor"
    poke_interval: float | None = None
    soft_fail: bool = False

    def __post_init__(self) -> None:
        timing: dict[str, Any] = {"timeout": self.timeout, "poke_interval": self.poke_interval}
        given = {name: _seconds(value, name, self.name) for name, value in timing.items() if value is not None}
        if self.soft_fail:
            given["soft_fail"] = True
        object.__setattr__(self, "config", {**self.config, **given})
        object.__setattr__(self, "timeout", None)  # the agent keeps to it: an engine's own would cut off a soft end
        super().__post_init__()

    def _tell(self, kind: str, **config: Any) -> None:
        told = {name: value for name, value in config.items() if value not in (None, "", (), [], {})}
        object.__setattr__(self, "config", {**self.config, "sensor": kind, **told})


@dataclass(frozen=True, kw_only=True)
class FileSensor(Sensor):
    """A task that waits until a file is there, or a folder, or an object or anything below it in an object store.

    path: where; without it the task has an input `path`, as flytekit's `FileSensor`.

    An output gets the place, as a `File`, a `Directory` or a `str`.

    >>> from airside import File, kwtypes
    >>> landed = FileSensor(
    ...     name="landed", path="s3://trips/{{.inputs.day}}/_SUCCESS", timeout=3600,
    ...     inputs=kwtypes(day=str), outputs=kwtypes(marker=File),
    ... )
    >>> landed.config
    {'timeout': 3600.0, 'sensor': 'file', 'path': 's3://trips/{{.inputs.day}}/_SUCCESS'}
    >>> FileSensor(name="landed").inputs
    {'path': <class 'str'>}
    """

    path: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path and "path" not in self.inputs:
            object.__setattr__(self, "inputs", {**self.inputs, "path": str})
        self._tell("file", path=self.path or "{{.inputs.path}}")


@dataclass(frozen=True, kw_only=True)
class HttpSensor(Sensor):
    """A task that waits until an HTTP endpoint answers as it should.

    url, method, headers, params, json, body: the request, as of a `WebhookTask`.
    expected: the statuses that are waited for; empty: every 2xx.
    json_path: a JSONPath into the answer, which must find something; `equals`: and it must be this.
    contains: a text that must be in the answer.
    request_timeout: seconds for one request, 15 at most.

    An output gets, by its name: `status`, `body` (text), `json`, `headers`, or a field of the JSON answer.

    >>> from airside import kwtypes
    >>> HttpSensor(
    ...     name="built", url="https://ci.example.org/api/builds/{{.inputs.id}}", json_path="$.state", equals="passed",
    ...     inputs=kwtypes(id=int), outputs=kwtypes(artifact=str),
    ... ).config["equals"]
    'passed'
    """

    url: str | Mapping[str, str] = ""
    method: str = "GET"
    headers: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    body: str = ""
    expected: Sequence[int] = ()
    json_path: str = ""
    equals: Any = None
    contains: str = ""
    request_timeout: float = 15.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.url:
            raise UsageError(f"Task {self.name!r} needs a url.")
        if self.equals is not None and not self.json_path:
            raise UsageError(f"Task {self.name!r}: `equals` needs a json_path that says where.")
        self._tell(
            "http",
            url=self.url,
            method=self.method,
            headers=dict(self.headers),
            params=dict(self.params),
            json=self.json,
            body=self.body,
            expected=list(self.expected),
            json_path=self.json_path,
            contains=self.contains,
            request_timeout=self.request_timeout,
        )
        if self.equals is not None:  # also if it is nothing much, like ""
            object.__setattr__(self, "config", {**self.config, "equals": self.equals})


@dataclass(frozen=True, kw_only=True)
class SqlSensor(Sensor):
    """A task that waits until a query has rows.

    database: the name of one that an operator has described in the agent's `databases`; without it, the one of the
    task's connection.
    query: one SELECT. `:name` stands for an input, `$name` in DuckDB.

    An output gets, by its name: `rows`, `row_count` or `num_rows` (an int), or a column of the only row; a list of
    dictionaries gets the rows.

    >>> from airside import kwtypes
    >>> SqlSensor(
    ...     name="closed", database="warehouse", query="SELECT total FROM days WHERE day = :day AND closed",
    ...     inputs=kwtypes(day=str), outputs=kwtypes(total=float),
    ... ).config["database"]
    'warehouse'
    """

    query: str = ""
    database: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.query.strip():
            raise UsageError(f"Task {self.name!r} needs a query.")
        self._tell("sql", query=self.query, database=self.database)


@dataclass(frozen=True, kw_only=True)
class TimeSensor(Sensor):
    """A task that waits for a point in time: `at`, or so many seconds (or a `timedelta`) `after` its attempt began.

    at: a `datetime`, or a text in ISO 8601; without a time zone it is UTC. With neither, the task has an input `at`.

    >>> TimeSensor(name="tomorrow", at="2026-01-02T06:00:00+01:00").config
    {'sensor': 'time', 'at': '2026-01-02T06:00:00+01:00'}
    >>> TimeSensor(name="soon", after=90).config
    {'sensor': 'time', 'after': 90.0}
    """

    at: datetime | str = ""
    after: float | timedelta | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at and self.after is not None:
            raise UsageError(f"Task {self.name!r} has `at` and `after`; it can have one of them.")
        if self.after is not None:
            self._tell("time", after=_seconds(self.after, "after", self.name))
            return
        if not self.at and "at" not in self.inputs:
            object.__setattr__(self, "inputs", {**self.inputs, "at": datetime})
        at = self.at.isoformat() if isinstance(self.at, datetime) else self.at
        self._tell("time", at=at or "{{.inputs.at}}")


def _seconds(value: Any, name: str, task: str) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        raise UsageError(f"Task {task!r}: {name} is a number of seconds above 0, not {value!r}.")
    return float(seconds)
