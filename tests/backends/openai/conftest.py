"""OpenAI for tests: llmock, an emulator, and a door before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.backends.door import Door, opened

KEY = "sk-0123456789abcdef"


@pytest.fixture(scope="session")
def llmock(environment: Callable[..., Path], start_process: Callable[..., Any], free_port: Callable[[], int]) -> int:
    """The emulator's port."""
    folder, port = environment("llmock", "llmock==0.2.2"), free_port()
    start_process([str(folder / "bin" / "llmock"), "serve", "--host", "127.0.0.1", "-p", str(port)], port=port)
    return port


@pytest.fixture
def door(llmock: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """A door to the emulator, with a key for the agent in the environment."""
    monkeypatch.setenv("_FSEC_FLYTE_OPENAI_API_KEY", KEY)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID"):
        monkeypatch.delenv(name, raising=False)
    with opened(Door(llmock)) as door:
        yield door
