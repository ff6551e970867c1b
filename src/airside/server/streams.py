"""Logs and metrics: the two verbs whose answers are series."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from airside.server.service import Service
from airside.server.target import Target
from airside.wire.telemetry import read_range, write_lines, write_metrics, write_token

DEFAULT_LINES = 1000


async def logs(service: Service, target: Target, request: Any) -> AsyncIterator[bytes]:
    """The job's log lines as they come, then a header with the token of the next page, empty at the end."""
    limit = int(request.lines) or DEFAULT_LINES
    sent, cursor = 0, ""
    async for line in service.logs(
        target.data, target.named, after=request.token, limit=limit, connection=target.connection
    ):
        yield write_lines([line]).SerializeToString()
        sent, cursor = sent + 1, line.cursor
        if sent >= limit:
            break
    yield write_token(cursor if sent >= limit else "").SerializeToString()


async def metrics(service: Service, target: Target, request: Any) -> bytes:
    """The job's metrics, one result a name, in the form of a Prometheus range query."""
    start, end, step = read_range(request)
    found = await service.metrics(
        target.data,
        target.named,
        queries=tuple(request.queries),
        start=start,
        end=end,
        step=step,
        connection=target.connection,
    )
    return bytes(write_metrics(found).SerializeToString())
