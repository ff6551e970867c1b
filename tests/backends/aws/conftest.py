"""AWS for tests: the emulators `ministack` (Athena, which runs SQL) and `moto` (the rest), and a door before Athena."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest

REGION = "eu-west-1"
KEYS = {"aws_access_key_id": "AKIDTESTING", "aws_secret_access_key": "testing-secret-key"}
BUCKET = "flights"


@pytest.fixture(autouse=True)
def clean_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No account of the machine is used."""
    settings = {
        "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
    }
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


def connect(service: str, endpoint: str) -> Any:
    """A client that looks at an emulator from outside."""
    return boto3.client(service, endpoint_url=endpoint, region_name=REGION, **KEYS)


@pytest.fixture(scope="session")
def ministack(
    environment: Callable[..., Path],
    start_process: Callable[..., Any],
    free_port: Callable[[], int],
    tmp_path_factory: Any,
) -> int:
    """The port of an AWS with the bucket `flights`."""
    folder, port = environment("ministack", "ministack[full]==1.5.33"), free_port()
    settings = {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "IOT_MTLS_ENABLED": "0",
        "S3_DATA_DIR": str(tmp_path_factory.mktemp("ministack")),
    }
    process = start_process([str(folder / "bin" / "ministack")], port=port, env=settings)
    connect("s3", f"http://127.0.0.1:{port}").create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    yield port
    process.kill()  # it would take its time


@dataclass
class AthenaDoor:
    """What Athena does and the emulator leaves out: a request whose token was seen is answered with the same query.

    A token that comes with another request is refused, as the API's description says. `answers` are given instead of
    the emulator's, each once, by the name of the operation.
    """

    upstream: int
    port: int = 0
    tokens: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    repeats: int = 0
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    answers: dict[str, list[tuple[int, Any, dict[str, str]]]] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, operation: str, status: int, body: Any, **headers: str) -> None:
        self.answers.setdefault(operation, []).append((status, body, headers))

    def calls(self, operation: str) -> list[dict[str, Any]]:
        return [body for name, body in self.asked if name == operation]

    def handle(self, operation: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        told = json.loads(body or b"{}")
        self.asked.append((operation, told))
        if self.answers.get(operation):
            status, answer, more = self.answers[operation].pop(0)
            return status, json.dumps(answer).encode(), more
        if operation != "StartQueryExecution":
            return *self.forward(headers, body), {}
        with self.lock:
            token = told["ClientRequestToken"]
            if token in self.tokens:
                first, answer = self.tokens[token]
                if json.loads(first) != told:
                    said = {"__type": "InvalidRequestException", "Message": "Idempotent parameters do not match"}
                    return 400, json.dumps(said).encode(), {}
                self.repeats += 1
                return 200, answer, {}
            status, answer = self.forward(headers, body)
            if status == 200:
                self.tokens[token] = (body, answer)
            return status, answer, {}

    def forward(self, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        kept = {name: value for name, value in headers.items() if name.lower() not in ("host", "content-length")}
        request = Request(f"http://127.0.0.1:{self.upstream}/", data=body, headers=kept, method="POST")
        try:
            with urlopen(request, timeout=60) as answer:  # noqa: S310
                return answer.status, answer.read()
        except OSError as error:
            if hasattr(error, "read"):
                return error.code, error.read()  # type: ignore[attr-defined]
            raise


@pytest.fixture
def athena_door(ministack: int) -> Iterator[AthenaDoor]:
    door = AthenaDoor(ministack)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            operation = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
            status, answer, headers = door.handle(operation, dict(self.headers.items()), body)
            self.send_response(status)
            for name, value in {"Content-Type": "application/x-amz-json-1.1", **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    door.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield door
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def athena(ministack: int, athena_door: AthenaDoor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Athena as another user sees it; the agent under test is led to the door before it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_ATHENA", athena_door.url)
    return connect("athena", f"http://127.0.0.1:{ministack}")
