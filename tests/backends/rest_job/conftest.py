"""A REST job service for tests, in its own process, and descriptions of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.request import urlopen

import pytest

TOKEN = "rest-0123456789abcdef"

DESCRIPTION = """
name = "words"
task_type = "count_words"
base_url = "http://127.0.0.1:{port}/v1"
link = "http://127.0.0.1:{port}/ui/{{{{.id}}}}"
error = "$.error.message"
poll_interval = 0.2

[auth]
secret = "words/token"

[create]
path = "/jobs"
json = {{text = "{{{{.inputs.text}}}}", seconds = "{{{{.inputs.seconds}}}}", label = "{{{{.key}}}}"}}
id = "$.id"

[get]
path = "/jobs/{{{{.id}}}}"
state = "$.status.state"
message = "$.status.reason"
states = {{running = "RUNNING", done = "SUCCEEDED", error = "FAILED", cancelled = "ABORTED"}}
outputs = {{words = "$.result.words", file = "$.result.file", took = "$.result.took"}}

[delete]
path = "/jobs/{{{{.id}}}}"

"""
FIND = """
[find]
path = "/jobs"
query = {label = "{{.key}}"}
id = "$.jobs[0].id"
"""
MANY = """
[many]
path = "/jobs?ids={{.ids}}"
jobs = "$.jobs[*]"
id = "$.id"
"""
LOGS = """
[logs]
path = "/jobs/{{.id}}/log"
"""


@dataclass(frozen=True)
class Words:
    """The running service."""

    port: int
    folder: Path

    def describe(self, more: str = "", changes: Mapping[str, str] = MappingProxyType({})) -> Path:
        """A file that describes it, with parts replaced."""
        text = DESCRIPTION.format(port=self.port) + more
        for old, new in changes.items():
            assert old in text, old
            text = text.replace(old, new)
        path = self.folder / "words.toml"
        path.write_text(text)
        return path

    def told(self) -> dict[str, Any]:
        """What the service was asked since the last time, and its jobs."""
        with urlopen(f"http://127.0.0.1:{self.port}/test/asked", timeout=10) as answer:
            told: dict[str, Any] = json.loads(answer.read())
        return told


@pytest.fixture(scope="session")
def port(start_process: Callable[..., Any], free_port: Callable[[], int]) -> int:
    number = free_port()
    start_process([sys.executable, str(Path(__file__).with_name("service.py")), str(number)], port=number)
    return number


@pytest.fixture
def words(port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Words:
    """The service, with the token for it in the environment."""
    monkeypatch.setenv("_FSEC_WORDS_TOKEN", TOKEN)
    service = Words(port, tmp_path)
    service.told()
    return service
