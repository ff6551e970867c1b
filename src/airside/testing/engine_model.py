"""A model of Flyte's engines: it creates, polls, counts failures and deletes as they do, over real gRPC.

What it keeps of the real ones: every Create error costs an attempt; failed polls are counted over a task's life and
never forgiven, and after the sixth a task is not polled any more ("frozen"); a retryable failure is deleted before the
next attempt; attempts are counted from 0 in Flyte 1's output prefix and from 1 in Flyte 2's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from google.protobuf import json_format

from airside.model import Phase
from airside.testing.client import RawClient, Wire, task_template

MAX_FAILURES = 5
"""Failed polls of a task that are forgiven; with the next one the engine stops polling."""
CONNECT = 30.0
"""Seconds within which each target must be there."""
_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """The deadline of each method, in seconds; Flyte's own defaults for agents are 10 s and 3 s."""

    create: float = 10.0
    get: float = 10.0
    delete: float = 10.0


@dataclass(slots=True)
class Outcome:
    """What became of a task. `told_at` is when its end was told (`time.monotonic()`).

    `asks` are when polls were sent, `answers` when they were answered.
    """

    prefix: str
    phase: Phase = Phase.UNDEFINED
    message: str = ""
    code: str = ""
    attempts: int = 0
    handles: list[bytes] = field(default_factory=list)
    asks: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    told_at: float = 0.0
    failed_polls: int = 0
    failed_deletes: int = 0
    is_frozen: bool = False
    create_errors: list[str] = field(default_factory=list)


class EngineModel:
    """Runs tasks on a service as Flyte's engine would, with its defects. Use it with `async with`.

    `targets` are the addresses of the service's replicas: calls go round them, as with round_robin. `resync` is the
    seconds between two polls of a task, `wire` which Flyte it is.

    >>> import asyncio
    >>> from airside.agents.echo import EchoAgent
    >>> from airside.testing import harness
    >>> async def main() -> str:
    ...     async with harness(EchoAgent()) as h, EngineModel(h.address, resync=0.1) as engine:
    ...         outcome = await engine.run("echo", "my-task", inputs={"x": 3}, outputs={"x": int})
    ...     return outcome.phase.name
    >>> asyncio.run(main())
    'SUCCEEDED'
    """

    def __init__(
        self,
        *targets: str,
        wire: Wire = "v1",
        resync: float = 30.0,
        timeouts: Timeouts = Timeouts(),
    ) -> None:
        self.wire = wire
        self.resync = resync
        self.timeouts = timeouts
        self._targets = targets
        self._clients: list[RawClient] = []
        self._turn = 0

    async def __aenter__(self) -> EngineModel:
        self._clients = [
            RawClient(grpc.aio.insecure_channel(target, options=_CONNECTION), self.wire) for target in self._targets
        ]
        async with asyncio.timeout(CONNECT):  # the real ones have listed the agents long before the first task
            for client in self._clients:
                await client.channel.channel_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.channel.close(None)

    async def run(self, task_type: str, name: str, *, retries: int = 0, **task: Any) -> Outcome:
        """Run one task to its end, or until it is frozen. `name` makes its output prefix; `task` is as in `create`."""
        outcome = Outcome(f"s3://bucket/metadata/{name}/n0/data")
        while outcome.attempts <= retries:
            handle = await self.create(task_type, outcome, **task)
            if handle is None:
                outcome.phase = Phase.RETRYABLE_FAILED
                continue
            await self.poll(task_type, handle, outcome)
            if outcome.is_frozen or not outcome.phase.is_retryable or outcome.attempts > retries:
                break
            await self.delete(task_type, handle, outcome)
        return outcome

    async def create(
        self,
        task_type: str,
        outcome: Outcome,
        config: Mapping[str, Any] | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> bytes | None:
        """The handle of the next attempt, or None if Create failed. `outputs` declares names and Python types."""
        client = self._next()
        attempt = outcome.attempts
        outcome.attempts += 1
        template = task_template(task_type, inputs=inputs, outputs=outputs)
        if config is not None:
            json_format.ParseDict(dict(config), template.custom)
        prefix = f"{outcome.prefix}/{attempt + (self.wire == 'v2')}"
        request = client.create_request(template=template, inputs=inputs, prefix=prefix, attempt=attempt)
        try:
            answer = await client.call("CreateTask", request, timeout=self.timeouts.create)
        except grpc.aio.AioRpcError as exc:
            outcome.create_errors.append(f"{exc.code().name}: {exc.details()}")
            return None
        outcome.handles.append(bytes(answer.resource_meta))
        return outcome.handles[-1]

    async def poll(self, task_type: str, handle: bytes, outcome: Outcome) -> None:
        """Ask at once, then at each resync, until the task is over or frozen."""
        begin, turn = time.monotonic(), 0
        while True:
            outcome.asks.append(time.monotonic())
            resource = await self.ask(task_type, handle, outcome)
            outcome.answers.append(time.monotonic())
            if resource is not None:
                outcome.phase, outcome.message = Phase(resource.phase), resource.message
                outcome.code = resource.agent_error.code if self.wire == "v1" else ""  # Flyte 2 has no field for it
                if outcome.phase.is_terminal:
                    outcome.told_at = time.monotonic()
                    return
            elif outcome.failed_polls > MAX_FAILURES:
                outcome.is_frozen = True
                return
            turn = max(turn + 1, int((time.monotonic() - begin) / self.resync) + 1)
            await asyncio.sleep(begin + turn * self.resync - time.monotonic())

    async def ask(self, task_type: str, handle: bytes, outcome: Outcome) -> Any:
        """One GetTask: its resource, or None if it failed, which is counted."""
        client = self._next()
        request = client.job_request("GetTaskRequest", handle, task_type)
        try:
            return (await client.call("GetTask", request, timeout=self.timeouts.get)).resource
        except grpc.aio.AioRpcError as exc:
            outcome.failed_polls += 1
            outcome.message = f"{exc.code().name}: {exc.details()}"
            return None

    async def delete(self, task_type: str, handle: bytes, outcome: Outcome, tries: int = 10) -> bool:
        """Ask for the job to be cancelled until that is accepted, at most `tries` times, with a second between."""
        for attempt in range(tries):
            client = self._next()
            request = client.job_request("DeleteTaskRequest", handle, task_type)
            try:
                await client.call("DeleteTask", request, timeout=self.timeouts.delete)
            except grpc.aio.AioRpcError:
                outcome.failed_deletes += 1
                await asyncio.sleep(1.0 if attempt < tries - 1 else 0.0)
            else:
                return True
        return False

    def _next(self) -> RawClient:
        self._turn += 1
        return self._clients[self._turn % len(self._clients)]
