"""Fixtures for every test: a clean environment, a watch on the event loop, running services, a place for figures."""

from __future__ import annotations

import asyncio
import inspect
import os
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import blockbuster.blockbuster as watchdog
import pytest
from hypothesis import HealthCheck, settings

from airside.model import redaction
from airside.server.settings import ServerSettings
from airside.testing.client import WIRES, RawClient, Wire
from airside.testing.service import FAST, LocalService
from airside.testing.target import find_agent

# Generated tests have no deadline for one example: the machine may be busy with other tests.
settings.register_profile("airside", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("airside")

FIGURES = pytest.StashKey[list[str]]()
StartService = Callable[..., Awaitable[LocalService]]
Serve = Callable[..., Awaitable[RawClient]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--budget",
        action="append",
        default=[],
        metavar="FOLDER=SECONDS",
        help="Fail if the tests of this folder take longer: their times together, by the number of processes.",
    )


class Budget:
    """How long the tests of a folder may take."""

    def __init__(self, text: str, processes: int) -> None:
        folder, _, seconds = text.partition("=")
        self.folder, self.seconds, self._processes = folder.rstrip("/"), float(seconds), processes
        self._spent = 0.0

    @property
    def spent(self) -> float:
        return self._spent / self._processes

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid.startswith(f"{self.folder}/"):
            self._spent += report.duration

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.spent > self.seconds and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        over = ": over budget" if self.spent > self.seconds else ""
        terminalreporter.write_line(f"{self.folder}: {self.spent:.0f} s of {self.seconds:.0f} s{over}", red=bool(over))


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        processes = getattr(config.option, "numprocesses", None) or 1
        for text in config.getoption("--budget"):
            config.pluginmanager.register(Budget(text, processes))
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


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep a proof's figures, a line for each title; they are printed at the end of the run."""
    lines = request.config.stash.setdefault(FIGURES, [])

    def keep(title: str, **values: object) -> None:
        lines.append(f"{title}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items()))

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash.get(FIGURES, [])
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)
