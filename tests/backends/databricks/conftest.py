"""A Databricks workspace for tests: minilake, an emulator that really runs the scripts, and a door before it.

Through the door every request is seen; it may be answered with an answer of the real service that the emulator does not
give, and an answer may be kept back.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

TOKEN = "dapi-0123456789abcdef"

Environment = Callable[..., Path]


@dataclass
class Asked:
    """One request as it came through the door."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    authorization: str


@dataclass
class Door:
    """Where the agent is sent. `answers` are given instead of the emulator's, each once, by the end of the path."""

    upstream: int
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, list[tuple[int, Any, dict[str, str]]]] = field(default_factory=dict)
    keep_back: set[str] = field(default_factory=set)
    kept: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, end: str, body: Any, status: int = 200, **headers: str) -> None:
        """Answer the next request whose path ends so."""
        self.answers.setdefault(end, []).append((status, body, headers))

    def calls(self, end: str) -> list[Asked]:
        return [one for one in self.asked if one.path.endswith(end)]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the emulator itself."""
        status, _, answer = forward(self.upstream, method, path, json.dumps(body).encode() if body else b"")
        assert status == 200, answer
        return json.loads(answer or b"{}")

    def upload(self, path: str, script: str) -> str:
        """Put a script into the workspace."""
        self.ask("POST", "/api/2.0/workspace/mkdirs", {"path": path.rpartition("/")[0] or "/"})
        content = base64.b64encode(script.encode()).decode()
        order = {"path": path, "content": content, "format": "SOURCE", "language": "PYTHON", "overwrite": True}
        self.ask("POST", "/api/2.0/workspace/import", order)
        return path

    def runs(self) -> list[dict[str, Any]]:
        """Every run that the emulator knows."""
        runs: list[dict[str, Any]] = self.ask("GET", "/api/2.2/jobs/runs/list")["runs"]
        return runs


def forward(port: int, method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body or None, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.headers.get_content_type(), response.read()
    finally:
        connection.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    door: Door

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        del format, args

    def handle_request(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        parts, door = urlsplit(self.path), self.door
        told = json.loads(body) if body else None
        by = self.headers.get("Authorization", "")
        door.asked.append(Asked(self.command, parts.path, dict(parse_qsl(parts.query)), told, by))
        prepared = next((queue for end, queue in door.answers.items() if parts.path.endswith(end) and queue), None)
        if prepared:
            status, answer, headers = prepared.pop(0)
            self.say(status, "application/json", json.dumps(answer).encode(), headers)
            return
        status, kind, content = forward(door.upstream, self.command, self.path, body)
        if any(parts.path.endswith(end) for end in door.keep_back):
            door.kept.set()
            door.released.wait(60)
            self.close_connection = True
            return
        self.say(status, kind, content, {})

    def say(self, status: int, kind: str, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = handle_request


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
def door(minilake: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """A door to the emulator, with a token for the agent in the environment."""
    monkeypatch.setenv("_FSEC_FLYTE_DATABRICKS_ACCESS_TOKEN", TOKEN)
    for name in ("FLYTE_DATABRICKS_INSTANCE", "DATABRICKS_HOST", "DATABRICKS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield from open_door(minilake)


@pytest.fixture
def second_door(minilake: int) -> Iterator[Door]:
    """Another workspace, as far as the agent can tell."""
    yield from open_door(minilake)


def open_door(upstream: int) -> Iterator[Door]:
    door = Door(upstream)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("DoorHandler", (Handler,), {"door": door}))
    door.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield door
    finally:
        door.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
