"""What the proofs share: replicas that can be killed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from airside.testing.replicas import Replica

AGENTS = tuple(f"airside.testing.faulty:{name}" for name in ("TokenAgent", "FindingAgent", "BareAgent"))
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
