"""What Flyte's engines do to agents, and this one too: over real gRPC, against a service that follows a script.

Cases are named by their ids; those that say "deviation" are where Flyte's own engines do worse.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine_cases.service import Service, Start


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    started: list[Service] = []

    async def begin(*args: Any, script: dict[str, list[Any]] | None = None, **kwargs: Any) -> Service:
        service = Service(*args, **kwargs)
        service.script |= script or {}
        await service.start()
        started.append(service)
        return service

    yield begin
    for service in started:
        await service.stop()


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRSIDE_STATE", str(tmp_path / "state"))
