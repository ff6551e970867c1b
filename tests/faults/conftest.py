"""What the proofs share: replicas that can be killed, and a place for their figures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from airside.testing.replicas import Replica

AGENTS = tuple(f"airside.testing.faulty:{name}" for name in ("TokenAgent", "FindingAgent", "BareAgent"))
FIGURES = pytest.StashKey[list[str]]()
StartReplicas = Callable[..., Awaitable[list[Replica]]]


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[StartReplicas]:
    """Start replicas that serve the agents of a faulty backend; they are killed after the test."""
    started: list[Replica] = []

    async def start(url: str, count: int = 1, agents: Sequence[str] = AGENTS, **options: Any) -> list[Replica]:
        tables = {name.rpartition(":")[2]: {"url": url, **options} for name in agents}
        for _ in range(count):
            replica = Replica(agents, tables, tmp_path / f"replica{len(started)}.log")
            await replica.start()
            started.append(replica)
        return started

    yield start
    for replica in started:
        await replica.stop()


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
