"""Try an agent as Flyte would: the real service on loopback, and a client that calls it over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import grpc.aio

from airside.engine.remote import RemoteAgent
from airside.model import (
    Call,
    Connection,
    Container,
    Execution,
    LogLine,
    Metric,
    Resource,
    Sql,
    Task,
    TaskTemplate,
    UsageError,
    attempt_key,
)
from airside.sdk.agent import Agent
from airside.server.settings import ServerSettings
from airside.testing.assignment import assign
from airside.testing.client import WIRES, RawClient, Wire
from airside.testing.service import FAST, ChildService, LocalService
from airside.testing.target import address_of, find_agent
from airside.wire.template import template_id, write_template

_NOT_RUNNING = "The harness is not running; use it with `async with`."
_QUICK, _SLOW = 0.005, 0.2  # seconds between two asks: at first, and at most


@dataclass(frozen=True, slots=True)
class Job:
    """A job that a harness created: the task, and the handle that finds the job again."""

    task: Task
    handle: bytes

    @property
    def output_prefix(self) -> str:
        """Where the job may write files: a folder of the test."""
        return self.task.output_prefix


def harness(
    agent: object,
    *,
    wire: Wire = "v2",
    process: bool = False,
    options: Mapping[str, Any] | None = None,
    settings: ServerSettings = FAST,
) -> Harness:
    """Serve one agent for a test and call it over real gRPC. Use it with `async with`.

    `agent` is an instance, a class or `"module:Class"`; a class is made anew at each restart. `wire` is the family
    that the client speaks, `options` the agent's table of airside.toml. With `process=True` the service runs in a
    process of its own, so that `kill` and `restart` are what they say; the class must then be importable.

    >>> import asyncio
    >>> from airside import kwtypes
    >>> from airside.agents.echo import EchoAgent
    >>> async def main():
    ...     async with harness(EchoAgent(), wire="v1") as h:
    ...         job = await h.create(inputs={"x": 3}, outputs=kwtypes(x=int))
    ...         return await h.finish(job)
    >>> resource = asyncio.run(main())
    >>> resource.phase.name, dict(resource.outputs)
    ('SUCCEEDED', {'x': 3})
    """
    if wire not in WIRES:
        raise UsageError(f'wire is "v1" (Flyte 1) or "v2" (Flyte 2), not {wire!r}.')
    return Harness(agent, wire, process=process, options=options, settings=settings)


class Harness:
    """One agent, served; made by `harness`. Errors of the agent come as `Retry`, `Fail` and `NotFound`."""

    def __init__(
        self,
        agent: object,
        wire: Wire,
        *,
        process: bool,
        options: Mapping[str, Any] | None,
        settings: ServerSettings,
    ) -> None:
        make = find_agent(agent)
        self.agent: Agent = make()
        self.wire = wire
        tables = {self.agent.name: options} if options else None
        if process:
            where = address_of(agent)
            self._make_service: Callable[[Path], LocalService | ChildService] = lambda folder: ChildService(
                where, folder / "service.log", settings=settings, options=tables
            )
        else:
            self._make_service = lambda _: LocalService([make], settings=settings, options=tables)
        self._service: LocalService | ChildService | None = None
        self._folder: TemporaryDirectory[str] | None = None
        self._jobs = 0
        self._remote: RemoteAgent | None = None

    async def __aenter__(self) -> Self:
        self._folder = await asyncio.to_thread(TemporaryDirectory, prefix="airside-harness-")
        try:
            self._service = self._make_service(Path(self._folder.name))
            await self._service.start()
            await self._connect()
        except BaseException:
            if self._service is not None:
                await self._service.stop()
            await asyncio.to_thread(self._folder.cleanup)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.remote.close()
        await self.service.stop()
        if self._folder is not None:
            await asyncio.to_thread(self._folder.cleanup)

    @property
    def service(self) -> LocalService | ChildService:
        """The service that the harness runs."""
        if self._service is None:
            raise UsageError(_NOT_RUNNING)
        return self._service

    @property
    def remote(self) -> Agent:
        """The served agent as its caller sees it: every method is an RPC."""
        if self._remote is None:
            raise UsageError(_NOT_RUNNING)
        return self._remote

    @property
    def channel(self) -> grpc.aio.Channel:
        """A channel to the service, for raw stubs."""
        return self.service.channel

    @property
    def client(self) -> RawClient:
        """A raw client of the harness's wire family."""
        return RawClient(self.channel, self.wire)

    @property
    def address(self) -> str:
        """Host and port of the service."""
        return self.service.address

    @property
    def pid(self) -> int:
        """The process id of the service."""
        return self.service.pid

    @property
    def log(self) -> str:
        """Everything that the service has logged so far."""
        return self.service.log()

    async def create(
        self,
        *,
        task: TaskTemplate | None = None,
        task_type: str | tuple[str, int] | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        sql: str | Sql | None = None,
        container: Container | None = None,
        output_prefix: str | None = None,
        attempt: int = 0,
        connection: Connection | None = None,
    ) -> Job:
        """Start a job. Without a `task`, one is made of the other arguments, typed by the values of its inputs.

        `outputs` declares the outputs, as Flyte would; without it they are taken as the agent returns them. Without an
        `output_prefix` the job gets a folder of its own, gone after the test. Create twice with the same one to
        repeat a create.
        """
        work = self.task(
            task=task,
            task_type=task_type,
            inputs=inputs,
            outputs=outputs,
            config=config,
            sql=sql,
            container=container,
            output_prefix=output_prefix,
            attempt=attempt,
            connection=connection,
        )
        return Job(work, await self.remote.create(work, self._call(work)))

    async def get(self, job: Job) -> Resource:
        """What is known of the job now."""
        return await self.remote.get(job.handle, self._call(job.task))

    async def delete(self, job: Job) -> None:
        """Cancel the job."""
        await self.remote.delete(job.handle, self._call(job.task))

    async def do(self, **arguments: Any) -> Resource:
        """Run a sync agent's task and return its result; arguments as in `create`.

        On Flyte 2, which has no sync service, it is created and asked for.
        """
        if self.wire == "v2":
            return await self.finish(await self.create(**arguments))
        work = self.task(**arguments)
        return await self.remote.do(work, self._call(work))

    def logs(self, job: Job, *, after: str = "", limit: int = 1000) -> AsyncIterator[LogLine]:
        """The job's log lines after the cursor `after`, as they come."""
        return self.remote.logs(job.handle, after=after, limit=limit, call=self._call(job.task))

    async def metrics(
        self, job: Job, *, start: datetime, end: datetime, queries: Sequence[str] = (), step: float = 60.0
    ) -> Sequence[Metric]:
        """The job's metrics in a time range; `step` is in seconds."""
        call = self._call(job.task)
        return await self.remote.metrics(job.handle, queries=queries, start=start, end=end, step=step, call=call)

    async def finish(self, job: Job, timeout: float = 30.0) -> Resource:
        """The job's resource once it is over; `TimeoutError`, saying where it stands, after `timeout` seconds."""
        until, pause = time.monotonic() + timeout, _QUICK
        while True:
            resource = await self.get(job)
            if resource.phase.is_terminal:
                return resource
            if time.monotonic() + pause > until:
                said = f": {resource.message}" if resource.message else ""
                raise TimeoutError(f"the job is {resource.phase.name} after {timeout:g} s{said}")
            await asyncio.sleep(pause)
            pause = min(_SLOW, pause * 1.5)

    async def restart(self, *, kill: bool = False) -> None:
        """Stop the service, or kill it, and start another. Jobs are asked for as before.

        An agent given as a class is a new instance then; one given as an instance is closed and opened again.
        """
        await self.remote.close()
        await self.service.restart(kill=kill)
        await self._connect()

    async def kill(self) -> None:
        """End the service as a power failure would; `restart` brings it back. Only with `process=True`."""
        if isinstance(self.service, LocalService):
            raise UsageError("Only a service in a process of its own can be killed; use harness(..., process=True).")
        await self.service.kill()

    def task(
        self,
        *,
        task: TaskTemplate | None = None,
        inputs: Mapping[str, Any] | None = None,
        output_prefix: str | None = None,
        attempt: int = 0,
        connection: Connection | None = None,
        **parts: Any,
    ) -> Task:
        """The task that `create` sends for these arguments, without sending it."""
        described = assign(self.agent, inputs=inputs, **parts) if task is None else task
        template = write_template(described)
        if task is None and parts.get("outputs") is None:
            template.interface.ClearField("outputs")  # not said, so whatever the agent returns is shown
        prefix = self._new_prefix(attempt) if output_prefix is None else output_prefix
        return Task(
            type=described.type,
            inputs=described.complete(inputs or {}),
            config=described.config,
            sql=described.sql,
            container=described.container,
            interface=described.interface,
            output_prefix=prefix,
            key=attempt_key(*described.type, template_id(template), prefix),
            execution=Execution(name="harness", node_id="n0", attempt=attempt, task_name=described.name),
            connection=connection,
            template=template,
        )

    def _new_prefix(self, attempt: int) -> str:
        if self._folder is None:
            raise UsageError(_NOT_RUNNING)
        self._jobs += 1
        return str(Path(self._folder.name) / str(self._jobs) / str(attempt))

    def _call(self, task: Task) -> Call:
        return Call(connection=task.connection, output_prefix=task.output_prefix, key=task.key, task_type=task.type)

    async def _connect(self) -> None:
        self._remote = RemoteAgent(self.service.address, family=self.wire, task_types=self.agent.task_types)
        await self._remote.open(None)
