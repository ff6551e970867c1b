"""Log lines and metrics, both ways, in both families."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from flyteidl.admin import agent_pb2
from flyteidl2.connector import connector_pb2

from airside import LogLine, Metric
from airside.model.redaction import hide
from airside.wire import limits
from airside.wire.telemetry import read_lines, read_metrics, write_lines, write_metrics, write_token

NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)


def test_lines_come_back() -> None:
    lines = [
        LogLine("starting", NOON, "system"),
        LogLine("héllo", NOON.astimezone(timezone(timedelta(hours=2))), "user"),
        LogLine("no time"),
    ]
    assert read_lines(write_lines(lines)) == lines


def test_a_line_of_no_time_is_read_all_the_same() -> None:
    message = write_lines([LogLine("a", NOON, "user")])
    message.body.lines[0].timestamp.seconds = 2**46
    assert read_lines(message) == [LogLine("a", None, "user")]


def test_flyte_1_reads_the_same_lines() -> None:
    message = agent_pb2.GetTaskLogsResponse.FromString(
        write_lines([LogLine("a", NOON, "user"), LogLine("b")]).SerializeToString()
    )
    first, second = message.body.structured_lines
    assert (first.message, first.timestamp.ToDatetime(UTC), first.originator) == ("a", NOON, 1)
    assert not second.HasField("timestamp")


def test_a_last_page_has_an_empty_token_in_a_header() -> None:
    message = agent_pb2.GetTaskLogsResponse.FromString(write_token("").SerializeToString())
    assert message.WhichOneof("part") == "header"
    assert write_lines([]).WhichOneof("part") == "body"


def test_old_agents_plain_lines_are_read() -> None:
    message = connector_pb2.GetTaskLogsResponse()
    message.body.results.append("plain")
    assert read_lines(message) == [LogLine("plain")]


def test_lines_are_bounded_and_hide_secrets() -> None:
    hide("l0g-secret")
    line = write_lines([LogLine("l0g-secret " + "x" * 1_000_000)]).body.lines[0]
    assert line.message.startswith("*** x")
    assert len(line.message.encode()) <= limits.LOG_LINE


def test_metrics_come_back() -> None:
    metrics = [
        Metric("cpu", [(NOON, 0.5), (NOON + timedelta(seconds=30), 2.0)], {"pod": "a"}),
        Metric("cpu", [(NOON, 1e300)], {"pod": "b"}),
        Metric("memory", [(NOON, float("inf"))]),
    ]
    message = write_metrics(metrics)
    assert [result.metric for result in message.results] == ["cpu", "memory"]
    assert message.results[0].data["resultType"] == "matrix"
    assert read_metrics(message) == metrics


def test_the_whole_answer_of_prometheus_is_read() -> None:
    message = connector_pb2.GetTaskMetricsResponse()
    matrix = {"resultType": "matrix", "result": [{"metric": {"a": "b"}, "values": [[NOON.timestamp(), "3"]]}]}
    message.results.add(metric="m").data.update({"status": "success", "data": matrix})
    message.results.add(metric="odd").data.update({"data": "text"})
    assert read_metrics(message) == [Metric("m", [(NOON, 3.0)], {"a": "b"})]
