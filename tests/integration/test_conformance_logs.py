"""Conformance S43 to S45: GetTaskLogs and GetTaskMetrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from airside import LogLine, Metric
from airside.testing.client import RawClient, refused
from airside.testing.scripted import ScriptedAgent

Serve = Callable[..., Awaitable[RawClient]]

_NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)


def five_lines() -> ScriptedAgent:
    lines = [LogLine(f"line {n}", timestamp=_NOON, originator="user", cursor=str(n + 1)) for n in range(5)]
    return ScriptedAgent(logs=lines)


def lines_of(client: RawClient, message: Any) -> list[Any]:
    return list(message.body.structured_lines if client.wire == "v1" else message.body.lines)


async def page(client: RawClient, handle: bytes, **fields: Any) -> tuple[list[Any], str]:
    """The lines of one page and the token of the next."""
    *bodies, header = [message async for message in client.logs(handle, **fields)]
    assert header.WhichOneof("part") == "header"
    assert {body.WhichOneof("part") for body in bodies} <= {"body"}
    return [line for body in bodies for line in lines_of(client, body)], header.header.token


async def test_s43_logs_come_in_pages(serve: Serve) -> None:
    agent = five_lines()
    client = await serve(agent)
    handle = await client.create()
    pages, token = [], ""
    while True:
        lines, token = await page(client, handle, lines=2, token=token)
        pages.append([line.message for line in lines])
        if not token:
            break
    assert pages == [["line 0", "line 1"], ["line 2", "line 3"], ["line 4"]]
    assert [call.arguments for call in agent.calls("logs")] == [
        {"after": "", "limit": 2},
        {"after": "2", "limit": 2},
        {"after": "4", "limit": 2},
    ]


async def test_s43_a_line_says_when_and_whose(serve: Serve) -> None:
    client = await serve(five_lines())
    lines, token = await page(client, await client.create())
    assert (len(lines), token) == (5, "")
    assert lines[0].timestamp.ToDatetime(UTC) == _NOON
    assert lines[0].originator == 1  # USER


async def test_s43_no_line_count_means_a_thousand(serve: Serve) -> None:
    client = await serve(ScriptedAgent(logs=[LogLine(str(n), cursor=str(n + 1)) for n in range(1500)]))
    lines, token = await page(client, await client.create())
    assert (len(lines), token) == (1000, "1000")


async def test_s43_lines_stream_as_they_come(serve: Serve) -> None:
    release = asyncio.Event()

    async def follow() -> AsyncIterator[LogLine]:
        yield LogLine("first")
        await release.wait()
        yield LogLine("second")

    client = await serve(ScriptedAgent(logs=lambda meta: follow()))
    stream = client.logs(await client.create())
    async with asyncio.timeout(5):
        first = await anext(stream)
    assert [line.message for line in lines_of(client, first)] == ["first"]
    release.set()
    rest = [message async for message in stream]
    assert [line.message for message in rest for line in lines_of(client, message)] == ["second"]
    assert rest[-1].header.token == ""


async def test_s43_an_error_in_the_middle_is_an_error(serve: Serve) -> None:
    async def break_off() -> AsyncIterator[LogLine]:
        yield LogLine("first")
        raise ValueError("the log was rotated away")

    client = await serve(ScriptedAgent(logs=lambda meta: break_off()))
    error = await refused(page(client, await client.create()))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "the log was rotated away" in error.details()


async def test_s44_logs_and_metrics_that_are_not_there_are_unimplemented(serve: Serve) -> None:
    client = await serve(ScriptedAgent("plain"))
    handle = await client.create()
    for call in (page(client, handle), client.metrics(handle)):
        error = await refused(call)
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "plain" in error.details()


async def test_s45_a_range_without_metrics_is_out_of_range(serve: Serve) -> None:
    def cpu(meta: bytes) -> list[Metric]:
        start = agent.calls("metrics")[-1].arguments["start"]
        return [Metric("cpu", [(_NOON, 0.5)], {"pod": "a"})] if start <= _NOON else []

    agent = ScriptedAgent(metrics=cpu)
    client = await serve(agent)
    handle = await client.create()
    noon, later = Timestamp(), Timestamp()
    noon.FromDatetime(_NOON)
    later.FromDatetime(_NOON.replace(hour=13))
    [result] = await client.metrics(handle, queries=["cpu"], start_time=noon, end_time=later)
    assert result.metric == "cpu"
    [series] = result.data["result"]
    assert series["metric"]["pod"] == "a"
    assert list(series["values"][0]) == [_NOON.timestamp(), "0.5"]
    assert list(agent.calls("metrics")[-1].arguments["queries"]) == ["cpu"]
    error = await refused(client.metrics(handle, queries=["cpu"], start_time=later, end_time=later))
    assert error.code() is grpc.StatusCode.OUT_OF_RANGE


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("start_time", Timestamp(seconds=2**46), "timestamp out of range: 70368744177664 s, 0 ns"),
        ("end_time", Timestamp(nanos=-1), "timestamp out of range: 0 s, -1 ns"),
        ("step", Duration(seconds=2**62), "duration out of range: 4611686018427387904 s"),
    ],
)
async def test_s45_what_is_no_time_is_refused(serve: Serve, field: str, value: Any, problem: str) -> None:
    client = await serve(ScriptedAgent(metrics=[]))
    error = await refused(client.metrics(await client.create(), **{field: value}))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{field}: {problem}" in (error.details() or "")


@pytest.mark.parametrize("method", ["GetTaskLogs", "GetTaskMetrics"])
async def test_s45_bytes_that_are_no_handle_are_refused(serve: Serve, method: str) -> None:
    client = await serve(ScriptedAgent(logs=[], metrics=[]))
    call = page(client, b"junk") if method == "GetTaskLogs" else client.metrics(b"junk")
    assert (await refused(call)).code() is grpc.StatusCode.INVALID_ARGUMENT
