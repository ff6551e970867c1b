"""A door before an emulator: every request is seen, may be answered otherwise, or its answer kept back.

Answers that the emulator does not give are given here, in the shape of the real service's own.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

D = TypeVar("D", bound="Door")


@dataclass
class Asked:
    """One request as it came through the door."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


@dataclass
class Door:
    """Where the agent is sent. `answers` are given instead of the emulator's, each once, by the end of the path.

    Answers to paths that end as `cut` says break off in the middle.
    """

    upstream: int
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, list[tuple[int, Any, dict[str, str]]]] = field(default_factory=dict)
    keep_back: set[str] = field(default_factory=set)
    cut: set[str] = field(default_factory=set)
    kept: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, end: str, body: Any, status: int = 200, **headers: str) -> None:
        """Answer the next request that ends so: `/runs/get`, or `POST /v1/batches`."""
        self.answers.setdefault(end, []).append((status, body, headers))

    def calls(self, end: str) -> list[Asked]:
        return [one for one in self.asked if one.path.endswith(end)]

    def prepared(self, asked: Asked) -> tuple[int, Any, dict[str, str]] | None:
        """Status, body and headers of the answer to give instead of the emulator's; None for none."""
        line = f"{asked.method} {asked.path}"
        queue = next((queue for end, queue in self.answers.items() if line.endswith(end) and queue), None)
        return queue.pop(0) if queue else None

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the emulator itself."""
        status, _, answer = forward(self.upstream, method, path, json.dumps(body).encode() if body else b"")
        assert status == 200, answer
        return json.loads(answer or b"{}")

    def target(self, path: str) -> str:
        """What the emulator is asked for in place of this path."""
        return path

    def send_get(self, path: str) -> bytes:
        """Read something else than JSON from the emulator itself."""
        return forward(self.upstream, "GET", path, b"")[2]

    def send(self, path: str, body: bytes, kind: str) -> bytes:
        """Send something else than JSON to the emulator itself."""
        status, _, answer = forward(self.upstream, "POST", path, body, kind)
        assert status == 200, answer
        return answer


def forward(
    port: int, method: str, path: str, body: bytes, kind: str = "application/json", authorization: str = ""
) -> tuple[int, str, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"Content-Type": kind} if body else {}
        headers |= {"Authorization": authorization} if authorization else {}
        connection.request(method, path, body or None, headers)
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
        body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        parts, door = urlsplit(self.path), self.door
        kind = self.headers.get("Content-Type", "")
        told = json.loads(body) if body and kind == "application/json" else body
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, parts.path, dict(parse_qsl(parts.query)), told, headers)
        door.asked.append(asked)
        prepared = door.prepared(asked)
        if prepared is not None:
            status, answer, headers = prepared
            text = answer if isinstance(answer, str) else json.dumps(answer)
            self.say(status, "application/json", text.encode(), headers, cut=parts.path.endswith(tuple(door.cut)))
            return
        authorization = self.headers.get("Authorization", "")
        status, kind, content = forward(door.upstream, self.command, door.target(self.path), body, kind, authorization)
        if any(parts.path.endswith(end) for end in door.keep_back):
            door.kept.set()
            door.released.wait(60)
            self.close_connection = True
            return
        self.say(status, kind, content, {})

    def say(self, status: int, kind: str, content: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    do_GET = do_POST = handle_request


@contextmanager
def opened(door: D) -> Iterator[D]:
    """The door, open."""
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
