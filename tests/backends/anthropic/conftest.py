"""Anthropic for tests: mock-ai-api, an emulator, and a door before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.backends.door import Door, opened

KEY = "sk-ant-0123456789abcdef"


@pytest.fixture(scope="session")
def mock_ai_api(
    environment: Callable[..., Path], start_process: Callable[..., Any], free_port: Callable[[], int]
) -> int:
    """The emulator's port."""
    folder, port = environment("mock-ai-api", "mock-ai-api==0.1.1"), free_port()
    python = str(folder / "bin" / "python")
    start_process([python, "-m", "uvicorn", "app.anthropic_app:app", "--port", str(port)], port=port)
    return port


@pytest.fixture
def door(mock_ai_api: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """A door to the emulator, with a key for the agent in the environment."""
    monkeypatch.setenv("_FSEC_FLYTE_ANTHROPIC_API_KEY", KEY)
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with opened(Door(mock_ai_api)) as door:
        yield door
