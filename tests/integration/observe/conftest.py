"""Services whose hooks and spans are looked at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio
import pytest

from airside.sdk.adapt import adapt
from airside.server.app import Server
from airside.server.settings import ServerSettings
from airside.testing.client import RawClient

SETTINGS = ServerSettings(port=0, max_age=0.0, drain_delay=0.0, grace=0.1)
Start = Callable[..., Awaitable[tuple[Server, RawClient]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a server for these agents, and get a client of it; both are stopped after the test."""
    opened: list[tuple[Server, grpc.aio.Channel]] = []

    async def start(*agents: Any, settings: ServerSettings = SETTINGS, **arguments: Any) -> tuple[Server, RawClient]:
        server = Server([adapt(agent) for agent in agents], settings, **arguments)
        await server.start()
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", [("grpc.enable_http_proxy", 0)])
        opened.append((server, channel))
        return server, RawClient(channel, "v2")

    yield start
    for server, channel in opened:
        await channel.close(None)
        await server.stop(drain_delay=0.0)
