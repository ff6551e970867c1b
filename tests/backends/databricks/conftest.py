"""A Databricks workspace for tests: minilake, an emulator that really runs the scripts, and a door before it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.backends.door import Door, opened

TOKEN = "dapi-0123456789abcdef"

Environment = Callable[..., Path]


class WorkspaceDoor(Door):
    def upload(self, path: str, script: str) -> str:
        """Put a script into the workspace."""
        self.ask("POST", "/api/2.0/workspace/mkdirs", {"path": path.rpartition("/")[0] or "/"})
        content = base64.b64encode(script.encode()).decode()
        order = {"path": path, "content": content, "format": "SOURCE", "language": "PYTHON", "overwrite": True}
        self.ask("POST", "/api/2.0/workspace/import", order)
        return path

    def target(self, path: str) -> str:
        """Jobs API 2.1, of which the emulator has only the next version: what the agent asks for is the same there."""
        return path.replace("/api/2.1/jobs/", "/api/2.2/jobs/")

    def runs(self) -> list[dict[str, Any]]:
        """Every run that the emulator knows."""
        runs: list[dict[str, Any]] = self.ask("GET", "/api/2.2/jobs/runs/list")["runs"]
        return runs


@pytest.fixture(scope="session")
def minilake(
    environment: Environment, start_process: Callable[..., Any], free_port: Callable[[], int], tmp_path_factory: Any
) -> int:
    """The emulator's port."""
    folder, port = environment("minilake", "minilake==1.9.0"), free_port()
    settings = {
        "MINILAKE_JOB_EXECUTOR": "subprocess",
        "MINILAKE_DATA_DIR": str(tmp_path_factory.mktemp("minilake")),
        "MINILAKE_HOST": "127.0.0.1",
    }
    start_process([str(folder / "bin" / "minilake"), "--port", str(port)], port=port, env=settings)
    return port


@pytest.fixture
def door(minilake: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkspaceDoor]:
    """A door to the emulator, with a token for the agent in the environment."""
    monkeypatch.setenv("_FSEC_FLYTE_DATABRICKS_ACCESS_TOKEN", TOKEN)
    for name in ("FLYTE_DATABRICKS_INSTANCE", "DATABRICKS_HOST", "DATABRICKS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with opened(WorkspaceDoor(minilake)) as door:
        yield door


@pytest.fixture
def second_door(minilake: int) -> Iterator[WorkspaceDoor]:
    """Another workspace, as far as the agent can tell."""
    with opened(WorkspaceDoor(minilake)) as door:
        yield door
