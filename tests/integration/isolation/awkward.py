"""Agents that are run in a process of their own by the tests beside this file."""

from __future__ import annotations

import enum
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from opentelemetry import propagate

from airside import (
    AgentRegistry,
    AsyncAgent,
    Call,
    ConversionError,
    Directory,
    Fail,
    File,
    LogLine,
    LogLink,
    Metric,
    NotFound,
    OutputsAt,
    Phase,
    Resource,
    Retry,
    StructuredDataset,
    SyncAgent,
    Task,
    secret,
)


@dataclass(frozen=True)
class Job:
    id: str
    order: str = ""
    env: dict[str, str] = field(default_factory=dict)


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: int
    y: float


class Strange:
    def __repr__(self) -> str:
        return "<strange>"


OUTPUTS: dict[str, Any] = {
    "i": 3,
    "big": 2**62,
    "f": 1.5,
    "b": True,
    "s": "grüße",
    "none": None,
    "raw": b"\x00\xff",
    "when": datetime(2026, 3, 29, 2, 30, tzinfo=UTC),
    "span": timedelta(days=2, seconds=3, microseconds=4),
    "list": [1, 2, 3],
    "map": {"a": [1.0, 2.0]},
    "colour": Colour.RED,
    "point": Point(1, 2.5),
    "file": File("s3://b/x.csv", "csv"),
    "folder": Directory("s3://b/d", ""),
    "table": StructuredDataset("s3://b/t", "parquet", {"n": int}),
}


class QuotaError(Exception):
    """A library's own."""


class BackendError(ConnectionResetError):
    """A library's own, of the operating system's kind."""


def trace_seen() -> str:
    """The trace that an instrumented client would go on in."""
    told: dict[str, str] = {}
    propagate.inject(told)
    return told.get("traceparent", "")


class Everything(AsyncAgent[Job]):
    """Has every method, and does what the order in the task's config says."""

    name = "Everything"
    task_types = ("everything", ("everything", 1))
    poll_interval = 7.0
    call_timeout = 1.5
    create_timeout = 20.0

    @dataclass(frozen=True)
    class Options:
        host: str = ""

    async def open(self, options: Options) -> None:
        self.options = options
        print("a word on standard error", file=sys.stderr, flush=True)

    def create(self, task: Task, call: Call) -> Job:
        order = str(task.config.get("order", ""))
        _obey(order)
        seen = {
            "host": self.options.host,
            "pid": str(os.getpid()),
            "key": task.key,
            "prefix": task.output_prefix,
            "x": repr(task.inputs.get("x")),
            "connection": repr(task.connection and (dict(task.connection.secrets), dict(task.connection.configs))),
            "node": task.execution.node_id,
            "trace": trace_seen(),
            "visible": ",".join(sorted(name for name in os.environ if name.startswith(("_FSEC_", "OTHER_", "OTEL_")))),
        }
        return Job("j1", order, seen)

    def get(self, job: Job, call: Call) -> Resource:
        _obey(job.order.removeprefix("get:") if job.order.startswith("get:") else "")
        left = "" if call.remaining is None else f"{call.remaining:.0f}"
        return Resource(
            Phase.SUCCEEDED,
            message=f"done {left}",
            outputs=OutputsAt("s3://elsewhere") if job.order == "at" else OUTPUTS,
            links=[LogLink("https://example.org/j1", "Job")],
            info={"rows": 3, "when": datetime(2026, 1, 1, tzinfo=UTC), "odd": Strange()},
            code="Fine",
            poll_after=12.5,
        )

    def delete(self, job: Job) -> None:
        raise NotFound("no such job")

    def get_many(self, jobs: Sequence[Job], call: Call) -> list[Resource | Exception]:
        return [Resource(Phase.RUNNING, message=jobs[0].id), Retry("quota", after=4.5), *self._rest(jobs)]

    def _rest(self, jobs: Sequence[Job]) -> list[Resource | Exception]:
        return [NotFound("gone")] * (len(jobs) - 2)

    def find(self, task: Task, key: str) -> Job | None:
        return Job(f"found {key}") if task.config.get("order") == "find" else None

    def links(self, job: Job) -> Sequence[LogLink]:
        return [LogLink(f"https://example.org/{job.id}", "Job")]

    async def logs(self, job: Job, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        for number in range(int(after or 0), 1_000_000):
            yield LogLine(f"line {number}", datetime(2026, 1, 1, tzinfo=UTC), "user", str(number + 1))
            if job.order == "short logs" and number >= 2:
                raise Fail("the log is broken", code="LogBroken")

    def metrics(
        self, job: Job, *, queries: Sequence[str], start: datetime, end: datetime, step: float, call: Call
    ) -> Sequence[Metric]:
        return [Metric(queries[0], [(start, 1.0), (end, step)], {"job": job.id}), Metric("empty", [])]

    def read_handle(self, data: bytes) -> Job | None:
        return Job(data.decode()[4:]) if data.startswith(b"old:") else None


def _obey(order: str) -> None:
    if error := _ERRORS.get(order):
        raise error()
    match order:
        case "slow":
            time.sleep(60)
        case "exit":
            sys.exit(3)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die later":
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
            time.sleep(60)
        case "secret":
            raise ValueError(f"refused: {secret('token')}")


def _quota() -> QuotaError:
    error = QuotaError("too many")
    error.after = 9.0  # type: ignore[attr-defined]  # as a library's exception has it
    return error


_ERRORS: dict[str, Callable[[], Exception]] = {
    "retry": lambda: Retry("later, please", after=2.5),
    "fail": lambda: Fail("no such table", code="TableNotFound"),
    "not found": lambda: NotFound("nothing there"),
    "conversion": lambda: ConversionError("config.rows", "expected int"),
    "value": lambda: ValueError("a word of the author's"),
    "quota": _quota,
    "reset": lambda: BackendError("peer went away"),
}


class Careless(AsyncAgent[Job]):
    """Cannot find its jobs again, blocks its loop, and prints its secret."""

    task_type = "careless"
    create_timeout = 20.0
    call_timeout = 1.0

    async def create(self, task: Task) -> Job:
        if task.config.get("order") == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return Job("c1", str(task.config.get("order", "")))

    async def get(self, job: Job) -> Resource:
        if job.order == "block":
            time.sleep(1.0)
        elif job.order == "freeze":
            time.sleep(600)
        return Resource(Phase.RUNNING)

    async def delete(self, job: Job) -> None: ...


class Sum(SyncAgent):
    task_type = "sum"

    def do(self, task: Task) -> Resource:
        return Resource(Phase.SUCCEEDED, outputs={"o": task.inputs["a"] + task.inputs["b"]})


if __name__ == "awkward":  # not where the tests import it: the registry is one for all of them
    for agent in (Everything(), Careless(), Sum()):
        AgentRegistry.register(agent)
