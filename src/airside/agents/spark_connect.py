"""`spark_connect`: a task that is a statement of SQL for a Spark Connect server, and `SparkConnectTask` to write one.

The ids of session and operation are made from the key of the attempt, so that the server itself does not run it twice.
An operation belongs to nobody's connection: whoever polls attaches to it for a moment, in whichever process, and keeps
it alive by that.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from airside.agents import spark_connect_statement as statement
from airside.agents.http_api import bearer, check_server, pattern_of
from airside.agents.json_values import Kind, kind_of
from airside.agents.spark_connect_server import Server, to_server
from airside.agents.spark_connect_session import Seen, Servers, Session
from airside.agents.spark_connect_states import error_of, failure_of
from airside.agents.spark_connect_task import TYPE, SparkConnectTask
from airside.agents.sql_outputs import needs_rows, to_outputs
from airside.model import (
    AgentError,
    Call,
    Connection,
    ConversionError,
    Fail,
    LogLink,
    NotFound,
    Phase,
    Resource,
    Retry,
    StructuredDataset,
    Task,
    UsageError,
)
from airside.sdk.agent import AsyncAgent
from airside.sdk.hosts import HostAllowList

_TOKEN = "spark_connect_token"  # noqa: S105 - a name
_MOST_PLACES = 10_000
_DROPPED = (
    "Spark has dropped the statement and its rows, since nobody asked for them for longer than its "
    "spark.connect.execute.manager.detachedTimeout."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectJob:
    """What finds an operation again, and what it is to give.

    `outputs` are their kinds by name, `results` the folder of its table, `limit` how many rows it tells at most.
    """

    key: str
    server: str
    outputs: dict[str, Any] = field(default_factory=dict)
    results: str = ""
    limit: int = 0


class SparkConnectAgent(AsyncAgent[ConnectJob]):
    """Runs statements on Spark Connect servers, attaches to them, and interrupts them."""

    name = "spark_connect"
    task_type = TYPE
    poll_interval = 5.0
    call_timeout = 60.0  # a look, and a table's rows
    create_is_idempotent = True
    requires = MappingProxyType(
        {"pyspark": "spark_connect", "pyarrow": "spark_connect", "grpc_status": "spark_connect"}
    )

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which servers may be used, and where they put tables.

        server: the server of tasks that name none: `sc://spark.example.org:15002/;use_ssl=true`. Default: SPARK_REMOTE.
        allowed_hosts: further servers that tasks and connections may name: `spark.example.org:15002`, or
            `http://10.0.0.8:15002` for one without encryption. Default: none.
        user: whose sessions are used where the address has no `user_id`.
        results: a folder for the tables of tasks that name none: `s3a://flights/results`.
        ui: the web interface of the application of `server`, `https://spark.example.org:4040`, for links.
        ca_file: a PEM file of the authorities that servers' certificates are checked with. Default: gRPC's own.
        max_rows: how many rows may be outputs by value.
        timeout: seconds that one call may take.
        """

        server: str = ""
        allowed_hosts: tuple[str, ...] = ()
        user: str = "airside"
        results: str = ""
        ui: str = ""
        ca_file: str = ""
        max_rows: int = 10_000
        timeout: float = 25.0

        def __post_init__(self) -> None:
            if self.server:
                to_server(self.server)
            if not self.user or self.max_rows < 1 or self.timeout <= 0:
                raise ValueError("user is a name, max_rows a number from 1, timeout a number of seconds above 0")

    async def open(self, options: Options) -> None:
        self._options = options
        self._server = _own_server(options)
        own = (pattern_of(self._server.url),) if self._server is not None else ()
        self._hosts = HostAllowList((*options.allowed_hosts, *own))
        authorities = await asyncio.to_thread(Path(options.ca_file).read_bytes) if options.ca_file else None
        self._servers = Servers(timeout=options.timeout, authorities=authorities)
        self._places: OrderedDict[str, str] = OrderedDict()  # by key: how far the responses of an operation were read
        if self._hosts:  # else no task can be sent anywhere, and nothing is loaded for it
            self._servers.start()

    async def close(self) -> None:
        await self._servers.close()

    async def check_credentials(self) -> str:
        """Which credentials there are for tasks that bring none."""
        if not self._hosts:
            raise UsageError("no server is set: set server")
        return f"the secret {_TOKEN}" if await bearer(_TOKEN, None) else "no token: the server must do without"

    async def probe(self) -> str:
        """Ask the server of tasks that name none for its version."""
        if self._server is None:
            return "no server is set"
        async with self._passing(self._server, None) as session:
            return f"Spark {await session.version()} answers at {self._server.target}"

    async def create(self, task: Task) -> ConnectJob:
        config = statement.config_of(task)
        job = await asyncio.to_thread(self._job, task, config)
        plan = await asyncio.to_thread(statement.plan_of, task, job.results, job.limit)
        properties = await asyncio.to_thread(statement.properties_of, task)
        if await self._is_written(job, task.connection, polling=False):  # by a server that has forgotten since
            return job
        session = await self._session(job, task.connection)
        if properties:
            await session.configure(properties)
        seen = await session.start(statement.operation_id(job.key), plan, ("airside", job.key))
        told = seen.error
        if told is None or told.handle in ("there", "again", "dropped", "closed", "trimmed"):
            return job
        if not told.is_sparks or told.handle is not None:
            raise error_of(told)
        end = failure_of(told)
        if end.phase is Phase.FAILED:
            raise Fail(end.message, code=end.code)
        kept = (await session.look(statement.operation_id(job.key))).error
        if kept is not None and kept.handle == "unknown":  # it was asked for twice at the same instant, and never run
            raise Retry(end.message)
        return job  # Spark keeps what went wrong, and `get` tells it

    async def find(self, task: Task, key: str) -> ConnectJob | None:
        job = await asyncio.to_thread(self._job, replace(task, key=key), statement.config_of(task))
        session = await self._session(job, task.connection)
        told = (await session.look(statement.operation_id(key))).error
        if told is not None and not told.is_sparks:
            raise error_of(told, polling=True)
        if told is None or told.handle != "unknown":
            return job
        try:
            return job if await self._is_written(job, task.connection, polling=False) else None
        except Fail:  # no place for a table: `create` says why
            return None

    async def get(self, job: ConnectJob, call: Call) -> Resource:
        session = await self._session(job, call.connection)
        seen = await session.look(statement.operation_id(job.key), self._places.get(job.key, ""))
        self._note(job.key, seen.place)
        resource = await self._resource(job, seen, call)
        facts = {"session": statement.session_id(job.key), "operation": statement.operation_id(job.key)}
        info = {**facts, **(seen.progress or {}), **(resource.info or {})}
        return replace(resource, links=self.links(job), info=info)

    async def delete(self, job: ConnectJob, call: Call) -> None:
        """Interrupt the operation. Its session ends by itself, and nothing that is over is touched."""
        session = await self._session(job, call.connection)
        operation = statement.operation_id(job.key)
        if await session.interrupt(operation):
            return
        told = (await session.look(operation)).error
        if told is not None and not told.is_sparks:
            raise error_of(told, polling=True)
        if told is not None and told.handle == "unknown":
            raise NotFound("Spark does not know the statement.")

    def links(self, job: ConnectJob) -> Sequence[LogLink]:
        if not self._options.ui or self._server is None or job.server != str(self._server):
            return ()
        page = f"{self._options.ui.rstrip('/')}/connect/session/?id={statement.session_id(job.key)}"
        return (LogLink(page, "Spark UI"),)

    # -- what is known of operations --------------------------------------------------------------------------------

    async def _resource(self, job: ConnectJob, seen: Seen, call: Call) -> Resource:
        if seen.error is not None:
            return await self._failed(job, seen, call)
        if not seen.is_over:
            return Resource(Phase.RUNNING, message=_words(seen.progress))
        return await self._succeeded(job, seen, call)

    async def _failed(self, job: ConnectJob, seen: Seen, call: Call) -> Resource:
        told = seen.error
        assert told is not None  # noqa: S101 - the caller has looked
        if not told.is_sparks:
            raise error_of(told, polling=True)
        if told.handle is None:
            return failure_of(told)
        self._places.pop(job.key, None)
        if told.handle == "again":
            raise Retry(told.words)
        if await self._is_written(job, call.connection):  # what the server has forgotten is in the table
            return await self._succeeded(job, seen, call)
        match told.handle:
            case "unknown":
                raise NotFound("Spark does not know the statement: it has been restarted, or has ended the session.")
            case "dropped":
                return Resource(Phase.RETRYABLE_FAILED, message=_DROPPED, code="ResultLost")
            case "closed":
                words = "Somebody has closed the session."
                return Resource(Phase.RETRYABLE_FAILED, message=words, code="SessionClosed")
        raise Retry(told.words)

    async def _succeeded(self, job: ConnectJob, seen: Seen, call: Call) -> Resource:
        try:
            rows, total = await self._rows(job, seen, call) if needs_rows(job.outputs) else ([], 0)
            table = StructuredDataset(_told_uri(job.results), format="parquet") if job.results else None
            outputs = to_outputs(job.outputs, table, rows, total)
        except ConversionError as exc:
            return Resource(Phase.FAILED, message=str(exc), code="OutputConversionError")
        return Resource(Phase.SUCCEEDED, outputs=outputs)

    async def _rows(self, job: ConnectJob, seen: Seen, call: Call) -> tuple[list[dict[str, Any]], int]:
        """The rows that may be outputs, and how many there are."""
        total = 0
        if job.results:
            table = statement.table_at(job.results)
            async with self._passing(to_server(job.server), call.connection) as session:
                seen = await session.rows(statement.limited(table, job.limit))
                counted = await session.rows(statement.count_of(table))
            [total] = (await asyncio.to_thread(counted.rows))[0].values()
        rows = await asyncio.to_thread(seen.rows)
        if seen.is_cut or (not job.results and len(rows) >= job.limit):
            most = f"the {job.limit - 1} rows" if not seen.is_cut else "the 8 MiB"
            raise ConversionError(
                "outputs", f"the result has more than {most} that may be outputs; declare a StructuredDataset"
            )
        return rows[: job.limit - 1], total or len(rows)

    async def _is_written(self, job: ConnectJob, connection: Connection | None, *, polling: bool = True) -> bool:
        """True if the table of the job is complete."""
        if not job.results:
            return False
        async with self._passing(to_server(job.server), connection) as session:
            return await session.is_readable(statement.mark_of(job.results), polling=polling)

    def _note(self, key: str, place: str) -> None:
        """Keep in mind how far an operation's responses were read, so that they are not sent again."""
        if place:
            self._places[key] = place
            self._places.move_to_end(key)
            if len(self._places) > _MOST_PLACES:
                self._places.popitem(last=False)

    # -- which server -----------------------------------------------------------------------------------------------

    def _job(self, task: Task, config: Mapping[str, Any]) -> ConnectJob:
        """The job of a task, whether it is there or not. Reads inputs, so it may block."""
        given = task.connection.configs.get("server", "") if task.connection is not None else ""
        server = self._server
        if named := config.get("server") or given:
            try:
                server = to_server(named, user=self._options.user)
            except ValueError as exc:
                raise Fail(f"config.server: {exc}.") from None
        check_server(server.url if server is not None else "", self._hosts, "config.server")
        outputs = {name: kind_of(annotation) for name, annotation in task.interface.outputs.items()}
        folder = (config.get("results") or self._options.results) if _has_table(outputs) else ""
        if _has_table(outputs) and not folder:
            raise Fail("config.results: a task with a StructuredDataset needs a folder that Spark can write to.")
        return ConnectJob(
            key=task.key,
            server=str(server),
            outputs=outputs,
            results=statement.place_of(folder, task) if folder else "",
            limit=self._options.max_rows + 1,
        )

    async def _session(self, job: ConnectJob, connection: Connection | None) -> Session:
        return await self._open(to_server(job.server), statement.session_id(job.key), connection)

    @asynccontextmanager
    async def _passing(self, server: Server, connection: Connection | None) -> AsyncIterator[Session]:
        """A session that is released in the end."""
        session = await self._open(server, str(uuid.uuid4()), connection)
        try:
            yield session
        finally:
            with suppress(AgentError):  # it ends by itself, later
                await session.release()

    async def _open(self, server: Server, session_id: str, connection: Connection | None) -> Session:
        check_server(server.url, self._hosts, "config.server")
        return await self._servers.session(server, session_id, await bearer(_TOKEN, connection))


def _own_server(options: SparkConnectAgent.Options) -> Server | None:
    named = options.server or os.environ.get("SPARK_REMOTE", "")
    if not named.startswith("sc://"):
        return None
    try:
        return to_server(named, user=options.user)
    except ValueError as exc:
        raise UsageError(f"SPARK_REMOTE: {exc}.") from None


def _has_table(outputs: Mapping[str, Kind]) -> bool:
    return any(kind in ("dataset", ["optional", "dataset"]) for kind in outputs.values())


def _words(progress: Mapping[str, int] | None) -> str:
    if not progress or not progress["tasks"]:
        return ""
    return f"{progress['tasks_done']} of {progress['tasks']} of Spark's tasks are done."


def _told_uri(place: str) -> str:
    """The place of a table as others than Hadoop name it.

    >>> _told_uri("s3a://flights/results/0a")
    's3://flights/results/0a'
    """
    return place.replace("s3a://", "s3://", 1) if place.startswith("s3a://") else place


__all__ = ("ConnectJob", "SparkConnectAgent", "SparkConnectTask")
