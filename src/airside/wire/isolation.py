"""Tasks, calls, resources and errors on their way to an agent in a process of its own, and back."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flyteidl2.connector import connector_pb2

from airside.model import (
    AirsideError,
    Call,
    Connection,
    ConversionError,
    Fail,
    LogLine,
    LogLink,
    Metric,
    NotFound,
    OutputsAt,
    Phase,
    Resource,
    Retry,
    Task,
    TaskType,
    UsageError,
)
from airside.model.redaction import hide, redact, redact_all
from airside.wire.literal_map import LiteralValues
from airside.wire.struct import StructValues, write_loosely
from airside.wire.template import read_request, write_request

_TRACE = 16 * 1024  # characters of a traceback, its end


def write_task(task: Task) -> list[Any]:
    """A task: its create request, and what the request does not say: files that its inputs are in go along."""
    connection = task.connection.name if task.connection is not None else ""
    fetched = dict(task.inputs.fetched) if isinstance(task.inputs, LiteralValues) else {}
    return [write_request(task).SerializeToString(), task.key, connection, fetched]


def read_task(data: Sequence[Any]) -> Task:
    """The task that `write_task` wrote, with its inputs still unread. They are read from what came along, and from
    nowhere else: which files a caller may name is for the service to say."""
    request, key, connection, fetched = data

    def fetch(uri: str) -> bytes:
        if uri not in fetched:
            raise Retry(f"The service did not send the input in {uri}.")
        content: bytes = fetched[uri]
        return content

    task = read_request(connector_pb2.CreateTaskRequest.FromString(request), key=key, fetch=fetch)
    if task.connection is not None and connection:
        task = replace(task, connection=replace(task.connection, name=connection))
    return task


def is_large(task: Task, limit: int) -> bool:
    """True if writing the task takes long enough to be done off the loop."""
    if isinstance(task.inputs, LiteralValues) and task.inputs.size > limit:
        return True
    return task.template is not None and task.template.ByteSize() > limit


def write_call(call: Call) -> list[Any]:
    """A call; its deadline travels as the seconds that are left."""
    one = call.connection
    connection = None if one is None else [one.name, dict(one.secrets), dict(one.configs)]
    return [connection, call.output_prefix, call.key, call.remaining, call.task_type and list(call.task_type)]


def read_call(data: Sequence[Any]) -> Call:
    """The call that `write_call` wrote; its connection's secrets are hidden from now on."""
    connection, prefix, key, remaining, task_type = data
    if connection is not None:
        for value in connection[1].values():
            hide(value, passing=not connection[0])  # a named one is the operator's own
    return Call(
        connection=None if connection is None else Connection(*connection),
        output_prefix=prefix,
        key=key,
        deadline=None if remaining is None else time.monotonic() + remaining,
        task_type=None if task_type is None else TaskType(*task_type),
    )


def write_resource(resource: Resource) -> list[Any]:
    """A resource as the agent returned it; secrets that only this process knows are hidden in its texts."""
    outputs = resource.outputs
    at = outputs.uri if isinstance(outputs, OutputsAt) else None
    return [
        int(resource.phase),
        redact(str(resource.message)),
        at,
        outputs if at is None else None,
        write_links(resource.links),
        None if resource.info is None else dict(StructValues(write_loosely(redact_all(resource.info)))),
        redact(str(resource.code)),
        resource.poll_after,
    ]


def read_resource(data: Sequence[Any]) -> Resource:
    """The resource that `write_resource` wrote."""
    phase, message, at, outputs, links, info, code, poll_after = data
    return Resource(
        Phase(phase),
        message=message,
        outputs=outputs if at is None else OutputsAt(at),
        links=read_links(links),
        info=info,
        code=code,
        poll_after=poll_after,
    )


def write_links(links: Sequence[LogLink]) -> list[Any]:
    """Links, without secrets."""
    return [[redact(link.uri), redact(link.name)] for link in links]


def read_links(data: Sequence[Any]) -> tuple[LogLink, ...]:
    """The links that `write_links` wrote."""
    return tuple(LogLink(*one) for one in data)


def write_line(line: LogLine) -> list[Any]:
    """One line of a job's log."""
    return [redact(line.message), line.timestamp, line.originator, line.cursor]


def read_line(data: Sequence[Any]) -> LogLine:
    """The line that `write_line` wrote."""
    return LogLine(*data)


def write_metric(metric: Metric) -> list[Any]:
    """One series."""
    return [metric.name, [list(point) for point in metric.points], metric.labels and dict(metric.labels)]


def read_metric(data: Sequence[Any]) -> Metric:
    """The series that `write_metric` wrote."""
    name, points, labels = data
    return Metric(name, [(when, value) for when, value in points], labels)


_ERRORS: Mapping[str, type[AirsideError]] = {
    "Fail": Fail,
    "Retry": Retry,
    "NotFound": NotFound,
    "ConversionError": ConversionError,
    "UsageError": UsageError,
    "AirsideError": AirsideError,
}
_BASES: Mapping[str, type[Exception]] = {
    "TimeoutError": TimeoutError,
    "OSError": OSError,
    "NotImplementedError": NotImplementedError,
    "Exception": Exception,
}


def write_error(error: BaseException) -> dict[str, Any]:
    """An error: which of ours or of Python's it is, its words, and where it came from for the log."""
    known = {**_ERRORS, **_BASES}
    kind = next((name for name, cls in known.items() if isinstance(error, cls)), "Exception")
    written: dict[str, Any] = {"kind": kind, "name": type(error).__name__, "text": redact(_text(error))}
    match error:
        case Fail():
            written["code"] = redact(error.code)
        case Retry():
            written["after"] = error.after
        case ConversionError():
            written["path"], written["problem"] = error.path, redact(error.problem)
        case AirsideError():
            pass
        case _:
            written["after"] = getattr(error, "after", None)
            written["trace"] = redact("".join(traceback.format_exception(error)))[-_TRACE:]
    return written


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an author's own exception may not even be printable
        return ""


def read_error(data: Mapping[str, Any]) -> Exception:
    """The error that `write_error` wrote. One that is Python's or a library's keeps its name and its place in the
    table of errors; its traceback there is a note of it."""
    text, kind = data["text"], data["kind"]
    if kind == "Fail":
        return Fail(text, code=data["code"])
    if kind == "Retry":
        return Retry(text, after=data["after"])
    if kind == "ConversionError":
        return ConversionError(data["path"], data["problem"])
    if kind in _ERRORS:
        return _ERRORS[kind](text)
    error: Exception = type(str(data["name"]), (_BASES[kind],), {})(text)
    if data["after"] is not None:
        error.after = data["after"]  # type: ignore[attr-defined]  # the author's own exception had it
    error.add_note(f"In the agent's process:\n{data['trace']}")
    return error
