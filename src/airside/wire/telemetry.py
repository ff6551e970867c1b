"""Log lines and metrics of a job, on the wire and in Python. The bytes are the same in both families."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from flyteidl2.connector import connector_pb2
from flyteidl2.logs.dataplane import payload_pb2

from airside.model import LogLine, Metric
from airside.model.redaction import redact
from airside.wire import limits
from airside.wire.instants import read_duration, read_timestamp
from airside.wire.misfit import Misfit
from airside.wire.struct import StructValues, write_struct

_ORIGINATORS = {number: name.lower() for name, number in payload_pb2.LogLineOriginator.items() if number}
_ORIGINATOR_NUMBERS = {name: number for number, name in _ORIGINATORS.items()}
_NAME_LABEL = "__name__"


def write_lines(lines: Iterable[LogLine]) -> connector_pb2.GetTaskLogsResponse:
    """One message of a log stream."""
    message = connector_pb2.GetTaskLogsResponse()
    message.body.SetInParent()
    for line in lines:
        entry = message.body.lines.add(
            message=limits.shorten(redact(line.message), limits.LOG_LINE),
            originator=_ORIGINATOR_NUMBERS.get(line.originator, 0),
        )
        if line.timestamp is not None:
            entry.timestamp.FromDatetime(line.timestamp)
    return message


def write_token(token: str) -> connector_pb2.GetTaskLogsResponse:
    """The message that ends a log stream: where the next page begins, or empty if there is none."""
    message = connector_pb2.GetTaskLogsResponse()
    message.header.token = token
    return message


def read_lines(message: connector_pb2.GetTaskLogsResponse) -> list[LogLine]:
    """The lines of one message of a log stream."""
    plain = [LogLine(text) for text in message.body.results]
    return plain + [
        LogLine(
            line.message,
            _told_at(line),
            _ORIGINATORS.get(line.originator, ""),
        )
        for line in message.body.lines
    ]


def read_range(request: connector_pb2.GetTaskMetricsRequest) -> tuple[datetime, datetime, float]:
    """From when to when metrics are asked for, and the seconds of a step; `ConversionError` for what is no time."""
    where = "start_time"
    try:
        start = read_timestamp(request.start_time)
        where = "end_time"
        end = read_timestamp(request.end_time)
        where = "step"
        return start, end, read_duration(request.step).total_seconds()
    except Misfit as exc:
        raise exc.at(where) from None


def write_metrics(metrics: Sequence[Metric]) -> connector_pb2.GetTaskMetricsResponse:
    """Series by name, each name's in the form of a Prometheus range query, as Flyte's console reads them."""
    message = connector_pb2.GetTaskMetricsResponse()
    for name in dict.fromkeys(metric.name for metric in metrics):
        series = [_series(metric) for metric in metrics if metric.name == name]
        result = message.results.add(metric=name)
        result.data.CopyFrom(write_struct({"resultType": "matrix", "result": series}, f"metrics.{name}"))
    return message


def read_metrics(message: connector_pb2.GetTaskMetricsResponse) -> list[Metric]:
    """The series of a metrics answer; what is not a Prometheus range query is left out."""
    metrics: list[Metric] = []
    for result in message.results:
        data = StructValues(result.data)
        found = data.get("data", data)  # some answer with the whole HTTP body of Prometheus
        for series in found.get("result", ()) if isinstance(found, Mapping) else ():
            labels = {name: str(value) for name, value in series.get("metric", {}).items() if name != _NAME_LABEL}
            points = [_point(pair) for pair in series.get("values", ())]
            metrics.append(Metric(result.metric, points, labels or None))
    return metrics


def _told_at(line: Any) -> datetime | None:
    """When a line was written; None too if a service says what is no time."""
    with suppress(Misfit):
        return read_timestamp(line.timestamp) if line.HasField("timestamp") else None
    return None


def _series(metric: Metric) -> dict[str, Any]:
    labels = {_NAME_LABEL: metric.name, **(metric.labels or {})}
    return {"metric": labels, "values": [[when.timestamp(), repr(float(value))] for when, value in metric.points]}


def _point(pair: Sequence[Any]) -> tuple[datetime, float]:
    when, value = pair
    return datetime.fromtimestamp(float(when), UTC), float(value)
