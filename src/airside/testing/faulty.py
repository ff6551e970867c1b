"""A backend that breaks: jobs over HTTP, where a share of all calls goes wrong at random, and agents for it.

It counts the jobs it was asked to make by their key, so that a test can tell whether one was lost or made twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from airside.model import Call, NotFound, Phase, Resource, Retry, Task
from airside.sdk.agent import AsyncAgent

FAULTS = ("timeout", "reset", "429", "401", "503", "malformed", "hang")
"""How a call may go wrong: a late 504, a closed connection, a status, a body that is no JSON, no answer at all."""
PATIENCE = 3.0
"""Seconds that the agents' HTTP client waits for an answer, as any client does."""


@dataclass(slots=True, eq=False)
class BackendCheck:
    """One call that asked how a job is; `fault` is how it went wrong, if it did. Times are `time.monotonic()`."""

    began: float
    ended: float = float("inf")
    fault: str = ""


@dataclass(slots=True, eq=False)
class BackendJob:
    """One job: it succeeds `seconds` after it was made, unless it is cancelled. Times are `time.monotonic()`.

    `maker` is the process id of the service that made it, `known_at` when that was first told, `checks` are the calls
    that asked how it is.
    """

    id: str
    key: str
    made_at: float
    ends_at: float
    maker: int = 0
    known_at: float = float("inf")
    cancel_asked_at: float | None = None
    cancelled_at: float | None = None
    checks: list[BackendCheck] = field(default_factory=list)

    @property
    def state(self) -> str:
        """RUNNING, SUCCEEDED or CANCELLED, now."""
        now = time.monotonic()
        if self.cancelled_at is not None and self.cancelled_at <= min(now, self.ends_at):
            return "CANCELLED"
        return "SUCCEEDED" if now >= self.ends_at else "RUNNING"

    @property
    def is_live(self) -> bool:
        """True if it is neither over nor cancelled."""
        return self.state == "RUNNING"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendRequest:
    """What an agent asked of the backend. Of a repeated query parameter the first value counts."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes


Answer = Callable[[BackendRequest], tuple[int, Any]]


class FaultyBackend:
    """An HTTP service on a free port of loopback that breaks. Its address is `url`; use it with `async with`.

    `answer(request)` gives the status and what the body is as JSON: your own idea of the service that your agent talks
    to. Without it, the backend runs the jobs of `airside.testing.faulty`'s agents.

    `faults` is the share of calls that go wrong, each in a way drawn from `kinds`; one that goes wrong has taken effect
    or not, by the toss of a coin. `latency` is the range of seconds that a call takes, drawn by its logarithm, so that
    most are quick and some slow. `cancel_seconds` is how long a job goes on after a cancel was accepted.
    `calls` counts the calls by method, `failed` those that went wrong by kind.

    >>> import asyncio, urllib.request
    >>> async def main() -> str:
    ...     async with FaultyBackend(lambda request: (200, {"path": request.path})) as backend:
    ...         with await asyncio.to_thread(urllib.request.urlopen, f"{backend.url}/jobs/7") as answer:
    ...             return answer.read().decode()
    >>> asyncio.run(main())
    '{"path": "/jobs/7"}'
    """

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        faults: float = 0.0,
        latency: tuple[float, float] = (0.0, 0.0),
        kinds: tuple[str, ...] = FAULTS,
        retry_after: int = 1,
        cancel_seconds: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._carry_out = answer or self._run_jobs
        self.faults = faults
        self.latency = latency
        self.kinds = kinds
        self.retry_after = retry_after
        self.cancel_seconds = cancel_seconds
        self.url = ""
        self.jobs: dict[str, BackendJob] = {}
        self.calls: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._random = random.Random(seed)  # noqa: S311 - a test must be repeatable
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    @property
    def p95(self) -> float:
        """The 95th percentile of the seconds that the calls took that went well."""
        return sorted(self.seconds)[int(0.95 * len(self.seconds))] if self.seconds else 0.0

    def of_key(self, key: str) -> list[BackendJob]:
        """The jobs that were made for a key, the first one first."""
        return [job for job in self.jobs.values() if job.key == key]

    def live(self) -> list[BackendJob]:
        """The jobs that run now."""
        return [job for job in self.jobs.values() if job.is_live]

    # -- HTTP -------------------------------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._answer(await _read(reader), writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client is gone
        except asyncio.CancelledError:
            pass  # the backend is closed
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, request: BackendRequest, writer: asyncio.StreamWriter) -> None:
        self.calls[request.method] += 1
        fault = self._random.choice(self.kinds) if self._random.random() < self.faults else ""
        low, high = self.latency
        delay = low * (high / low) ** self._random.random() if low else high
        takes_effect = not fault or self._random.random() < 0.5
        check = self._note(request, fault)
        await asyncio.sleep(delay / 2)
        status, body = self._carry_out(request) if takes_effect else (500, {})
        await asyncio.sleep(delay / 2)
        if fault != "hang":
            check.ended = time.monotonic()
        if not fault:
            self.seconds.append(delay)
            job = self.jobs.get(body.get("id", "")) if isinstance(body, dict) else None
            if job is not None:
                job.known_at = min(job.known_at, time.monotonic())
        if fault:
            self.failed[fault] += 1
            await self._fail(fault, writer)
        else:
            _write(writer, status, json.dumps(body))

    async def _fail(self, fault: str, writer: asyncio.StreamWriter) -> None:
        match fault:
            case "timeout":
                _write(writer, 504, "upstream timed out")
            case "reset":
                writer.transport.abort()
            case "429":
                _write(writer, 429, "slow down", f"Retry-After: {self.retry_after}\r\n")
            case "401" | "503":
                _write(writer, int(fault), "no")
            case "malformed":
                _write(writer, 200, '{"state": "RUNN')
            case "hang":
                await asyncio.sleep(3600.0)

    def _run_jobs(self, request: BackendRequest) -> tuple[int, Mapping[str, Any]]:
        job = self.jobs.get(request.path.rpartition("/")[2])
        if request.method == "POST":
            return 200, {"id": self._make(request.query).id}
        if request.path == "/jobs":
            return 200, {"ids": [one.id for one in self.of_key(request.query["key"])]}
        if job is None:
            return 404, {}
        if request.method == "DELETE" and job.cancel_asked_at is None:
            job.cancel_asked_at = time.monotonic()
            job.cancelled_at = job.cancel_asked_at + self.cancel_seconds
        return 200, {"state": job.state}

    def _note(self, request: BackendRequest, fault: str) -> BackendCheck:
        job, check = self.jobs.get(request.path.rpartition("/")[2]), BackendCheck(time.monotonic(), fault=fault)
        if job is not None and request.method == "GET":
            job.checks.append(check)
        return check

    def _make(self, query: Mapping[str, str]) -> BackendJob:
        key = query["key"]
        same = self.of_key(key) if query.get("once") else []
        if same:
            return same[0]
        now = time.monotonic()
        job = BackendJob(f"j{len(self.jobs)}", key, now, now + float(query["seconds"]), int(query.get("maker", 0)))
        self.jobs[job.id] = job
        return job


async def _read(reader: asyncio.StreamReader) -> BackendRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *headers = head.split("\r\n")
    method, target, _ = first.split(" ")
    lengths = [line.partition(":")[2] for line in headers if line.lower().startswith("content-length:")]
    body = await reader.readexactly(int(lengths[0])) if lengths else b""
    parts = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return BackendRequest(method=method, path=parts.path, query=query, body=body)


def _write(writer: asyncio.StreamWriter, status: int, body: str, header: str = "") -> None:
    head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{header}\r\n"
    writer.write((head + body).encode())


async def ask(method: str, url: str) -> Any:
    """The JSON that the backend answers. Raises `Retry`, `NotFound`, `OSError`, or `ValueError` for a bad body."""
    async with asyncio.timeout(PATIENCE):
        return await _ask(method, url)


async def _ask(method: str, url: str) -> Any:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head:
        raise ConnectionResetError("the backend closed the connection")
    status = int(head.split(b" ", 2)[1])
    if status == 404:
        raise NotFound("no such job")
    if status >= 400:
        after = next((line for line in head.split(b"\r\n") if line.startswith(b"Retry-After: ")), b"")
        raise Retry(f"the backend answered {status}", after=float(after[13:]) if after else None)
    return json.loads(body)


@dataclass(frozen=True)
class Ticket:
    """The metadata of a job at the faulty backend."""

    id: str


class BareAgent(AsyncAgent[Ticket]):
    """An agent of the faulty backend without token and without `find`: a lost create is lost.

    The task's config names the backend's `url` and the `seconds` that the job takes.
    """

    task_type = "faulty_bare"
    max_age = 1.0
    call_timeout = 4.0
    create_timeout = 20.0

    @dataclass(frozen=True)
    class Options:
        """`url` is the backend's."""

        url: str = ""
        seconds: float = 5.0
        once: bool = field(default=False)

    async def open(self, options: Options) -> None:
        """Remember where the backend is."""
        self.options = options

    async def create(self, task: Task) -> Ticket:
        """Make the job."""
        seconds = task.config.get("seconds", self.options.seconds)
        once = "&once=1" if self.create_is_idempotent else ""
        query = f"key={task.key}&seconds={seconds}&maker={os.getpid()}{once}"
        made = await ask("POST", f"{self.options.url}/jobs?{query}")
        return Ticket(made["id"])

    async def get(self, job: Ticket) -> Resource:
        """How it stands."""
        state = (await ask("GET", f"{self.options.url}/jobs/{job.id}"))["state"]
        return Resource(Phase.ABORTED if state == "CANCELLED" else Phase[state])

    async def delete(self, job: Ticket, call: Call) -> None:
        """Cancel it."""
        del call
        await ask("DELETE", f"{self.options.url}/jobs/{job.id}")


class TokenAgent(BareAgent):
    """The same, with a native token: the same key makes one job."""

    task_type = "faulty_token"
    create_is_idempotent = True


class FindingAgent(BareAgent):
    """The same, with a strongly consistent look-up by key."""

    task_type = "faulty_find"

    async def find(self, task: Task, key: str) -> Ticket | None:
        """The first job of the key."""
        del task
        ids = (await ask("GET", f"{self.options.url}/jobs?key={key}"))["ids"]
        return Ticket(ids[0]) if ids else None
