"""A secret that an agent lets slip wherever it can shows nowhere: everything that `airside serve` says is read."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import pytest

from airside import Connection
from airside.testing.client import RawClient, Wire

AIRSIDE = str(Path(sys.executable).with_name("airside"))
TOKEN = "token-of-the-mesh-0123456789"
KEY = "9f8e7d6c5b4a39281706f5e4d3c2b1a09f8e7d6c5b4a39281706f5e4d3c2b1a0"
PLAIN = "s3cr3t/of+the=account"
NASTY = 'first "line" of\\a key\n  and-its-second-line-éà\nlast-line-of-the-key'
OWN = "a secret of the agent"
PATIENCE = 0.6  # seconds; the service waits for a check that fails for nearly as long as its caller does
CALLERS = "callers-own'password"
MODULE = """
import json, logging
from dataclasses import dataclass
from airside import AgentRegistry, AsyncAgent, Fail, LogLine, LogLink, NotFound, Phase, Resource, Retry, secret

log = logging.getLogger("leaky")

@dataclass
class Job:
    how: str

def said(call):
    values = list(call.connection.secrets.values())
    return " and ".join([*values, repr(values), json.dumps(values), secret("own")])

class Leaky(AsyncAgent[Job]):
    task_type = "leaky"
    max_age = 0.001

    def links(self, job):
        return [LogLink(f"https://example.org/{secret('own')}", secret("own"))]

    def create(self, task, call):
        text = said(call)
        log.warning("creating with %s", text)
        log.warning("creating with extra", extra={"token": text, "all": list(call.connection.secrets.values())})
        how = task.config["how"]
        if how == "fail":
            raise Fail(text, code=call.connection.secrets["plain"])
        if how == "retry":
            raise Retry(text)
        if how == "crash":
            raise KeyError(text)
        return Job(how)

    def get(self, job, call):
        text = said(call)
        if job.how == "lost":
            raise RuntimeError(text) from ValueError(text)
        if job.how == "gone":
            raise NotFound(text)
        if job.how == "over":
            return Resource(Phase.FAILED, message=text, code=call.connection.secrets["plain"])
        return Resource(Phase.RUNNING, message=text, links=[LogLink(f"https://example.org/?t={text}", text)],
                        info={"a": [text, {text: 1}], "b": (text,)}, code=secret("own"))

    def delete(self, job, call):
        raise RuntimeError(said(call))

    def logs(self, job, *, after, limit, call):
        yield LogLine(said(call))
        raise RuntimeError(said(call))

    def metrics(self, job, *, queries, start, end, step, call):
        raise ValueError(said(call))

class Broken(AsyncAgent[Job]):
    task_type = "broken"
    def open(self):
        raise RuntimeError("cannot log in with " + secret("nasty"))
    def create(self, task): ...
    def get(self, job): ...
    def delete(self, job): ...

AgentRegistry.register(Leaky())
AgentRegistry.register(Broken())
"""
SETTINGS = """
[serve.signing]
keys = "keys"
current = "k1"

[connections.account]
task_types = ["leaky"]
projects = ["trips"]
secrets = {plain = "plain", nasty = "nasty"}
"""

ISOLATED = """
[isolate.leaky]
modules = ["leaky"]
env = ["FLYTE_SECRETS_DEFAULT_DIR"]
"""


def looks(secret: str) -> set[bytes]:
    """The secret in every spelling that something may have given it."""
    plain = {secret, quote(secret, safe=""), " ".join(secret.split()), *(secret.splitlines() if "\n" in secret else ())}
    found = set()
    for one in plain:
        once = {one, json.dumps(one)[1:-1], json.dumps(one, ensure_ascii=False)[1:-1], repr(one)[1:-1]}
        found |= once | {json.dumps(each)[1:-1] for each in once}
    return {one.encode() for one in found if one.strip()}


@pytest.mark.parametrize(("log_format", "isolate"), [("json", False), ("console", False), ("json", True)])
async def test_a_secret_that_slips_shows_nowhere(tmp_path: Path, wire: Wire, log_format: str, isolate: bool) -> None:
    for name, content in {
        "leaky.py": MODULE, "airside.toml": SETTINGS + ISOLATED * isolate, "keys/k1": KEY, "tokens": TOKEN,
        "secrets/plain": PLAIN, "secrets/nasty": NASTY, "secrets/own": OWN,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    command = [AIRSIDE, "serve", "--port", "0", "--metrics-port", "0", "--drain-delay", "0", "--modules", "leaky"]
    command += ["--token-file", "tokens", "--log-format", log_format, "--log-level", "debug"]
    log_file = tmp_path / "log"
    with log_file.open("w") as log:
        service = subprocess.Popen(
            command, cwd=tmp_path, stdout=log, stderr=log, env={"FLYTE_SECRETS_DEFAULT_DIR": str(tmp_path / "secrets")}
        )
        try:
            port, pages = _ports(log_file, service)
            said = await _everything(port, wire)
            said += [_page(pages, path) for path in ("/readyz", "/metrics", "/healthz", "/none")]
        finally:
            service.send_signal(signal.SIGTERM)
            service.wait(20)
    said.append(log_file.read_bytes())
    everything = b"\n".join(said)
    assert everything.count(b"***") > 40  # it did slip
    assert b"cannot log in with ***" in everything
    for secret in (PLAIN, NASTY, OWN, CALLERS, TOKEN, KEY):
        for look in looks(secret):
            at = everything.find(look)
            assert at < 0, f"{look!r} shows in {everything[max(0, at - 300) : at + 300]!r}"


def _ports(log_file: Path, service: subprocess.Popen[bytes]) -> tuple[int, int]:
    until = time.monotonic() + 20
    while time.monotonic() < until and service.poll() is None:
        text = log_file.read_text()
        found = re.search(r'port"?[:=] ?(\d+),? "?metrics_port"?[:=] ?(\d+)', text)
        if found:
            return int(found[1]), int(found[2])
        time.sleep(0.05)
    raise AssertionError(log_file.read_text())


def _page(port: int, path: str) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as page:
            return bytes(page.read())
    except urllib.error.HTTPError as exc:
        with exc:
            return bytes(exc.read())


async def _everything(port: int, wire: Wire) -> list[bytes]:
    """What a caller gets to see, in whatever way an agent fails."""
    credentials = (("authorization", f"Bearer {TOKEN}"),)
    said: list[bytes] = []

    class Unary(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return await continuation(details._replace(metadata=grpc.aio.Metadata(*credentials)), request)

    class Stream(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
            return await continuation(details._replace(metadata=grpc.aio.Metadata(*credentials)), request)

    async def note(call: Any) -> Any:
        try:
            answer = await call
        except grpc.aio.AioRpcError as exc:
            said.append(f"{exc.code()} {exc.details()} {exc.trailing_metadata()}".encode())
            return None
        said.append(answer if isinstance(answer, bytes) else answer.SerializeToString() if answer is not None else b"")
        return answer

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=[Unary(), Stream()]) as channel:
        client = RawClient(channel, wire)
        own = Connection(secrets={"plain": CALLERS}) if wire == "v2" else None
        for how in ("fail", "retry", "crash", "lost", "gone", "over", "run"):
            for connection in (None, own) if own else (None,):
                request = client.create_request("leaky", prefix=f"a/{how}/{connection is None}", connection=connection)
                request.template.custom.update({"how": how})
                run = request.task_execution_metadata.task_execution_id.node_execution_id.execution_id
                run.project, run.domain = "trips", "d"
                asked = partial(client.job_request, task_type="leaky", connection=connection)
                patience = PATIENCE if how in ("lost", "gone") else 10.0
                created = await note(client.call("CreateTask", request))
                if created is None:
                    continue
                meta = created.resource_meta
                for _ in range(2):
                    await note(client.call("GetTask", asked("GetTaskRequest", meta), timeout=patience))
                await note(client.call("DeleteTask", asked("DeleteTaskRequest", meta), timeout=patience))
                request = client.job_request("GetTaskMetricsRequest", meta, "leaky", 0)
                await note(client.call("GetTaskMetrics", request))
                await note(_lines(client, meta))
    return said


async def _lines(client: RawClient, meta: bytes) -> bytes:
    said = b""
    try:
        async for message in client.logs(meta, "leaky"):
            said += message.SerializeToString()
    except grpc.aio.AioRpcError as exc:
        said += (exc.details() or "").encode()
    return said
