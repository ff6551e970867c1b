"""Fixtures for every test: a clean environment, a watch on the event loop, running services."""

from __future__ import annotations

import asyncio
import inspect
import os
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import blockbuster.blockbuster as watchdog
import pytest

from airside.model import redaction
from airside.server.settings import ServerSettings
from airside.testing.client import WIRES, RawClient, Wire
from airside.testing.service import FAST, LocalService
from airside.testing.target import find_agent

StartService = Callable[..., Awaitable[LocalService]]
Serve = Callable[..., Awaitable[RawClient]]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "may_block: the test blocks the event loop on purpose")
    # looptime asks for the event loop before the first test; asyncio would make one that nobody closes, and the
    # warning about that would fail a test far from here.
    asyncio.set_event_loop(None)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting or secret of the machine reaches a test."""
    for name in os.environ:
        if name.startswith(("AIRSIDE_", "_FSEC_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def secrets_of_other_tests_are_forgotten() -> None:
    """A test's secrets may be ordinary words, which must not be masked in the texts of another test."""
    redaction._known.clear()
    redaction._passing.clear()
    redaction._stale = True


@pytest.fixture(autouse=True)
def loop_is_never_blocked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail an async test in which our code blocks the event loop, even if the error was caught on its way."""
    function = getattr(request.node, "function", None)
    if not inspect.iscoroutinefunction(function) or request.node.get_closest_marker("may_block"):
        yield
        return
    seen: list[str] = []

    class Blocked(watchdog.BlockingError):
        def __init__(self, func: str) -> None:
            super().__init__(func)
            seen.append(f"{func}\n{''.join(traceback.format_stack(limit=12)[:-2])}")

    monkeypatch.setattr(watchdog, "BlockingError", Blocked)
    with watchdog.blockbuster_ctx("airside", excluded_modules=["airside.testing"]) as watched:
        for name in ("TextIOWrapper", "BufferedWriter"):
            # A log handler writes where the line is made; that is the price of a log.
            watched.functions[f"io.{name}.write"].can_block_in("logging/__init__.py", {"emit"})
        # gRPC joins its poller's thread when the last of its objects is collected, which happens anywhere.
        watched.functions["threading.Lock.acquire"].can_block_in("threading.py", {"_wait_for_tstate_lock"})
        yield
    if seen:
        pytest.fail(f"the event loop was blocked by {seen[0]}", pytrace=False)


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> Wire:
    """Each wire family in turn. A test of one family only parametrises it itself."""
    family: Wire = request.param
    return family


@pytest.fixture
async def start_service() -> AsyncIterator[StartService]:
    """Start a service for these agents (instances or classes); stopped after the test."""
    started: list[LocalService] = []

    async def start(*agents: Any, settings: ServerSettings = FAST, options: Any = None) -> LocalService:
        service = LocalService([find_agent(agent) for agent in agents], settings=settings, options=options)
        await service.start()
        started.append(service)
        return service

    yield start
    for service in reversed(started):
        await service.stop()


@pytest.fixture
async def serve(start_service: StartService, wire: Wire) -> Serve:
    """Serve these agents and get a raw client of the test's wire family."""

    async def start(*agents: Any, **settings: Any) -> RawClient:
        service = await start_service(*agents, **settings)
        return RawClient(service.channel, wire)

    return start
