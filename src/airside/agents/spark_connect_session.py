"""Calls to a session of a Spark Connect server, over channels that are kept."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from airside.agents.spark_connect_server import Server
from airside.agents.spark_connect_states import END, PROGRESS, RESPONSES, ROWS, Told, error_of, log
from airside.model import Retry
from airside.model.redaction import redact

_QUIET = 0.25  # seconds without a further response, after which all that there was has been read
_PATIENCE = 2.5  # seconds: Spark tells of progress every two
_NO_FILE = "-"
_LARGEST = 64 * 1024 * 1024  # bytes of one response; Spark's own have up to four
_MOST = 8 * 1024 * 1024  # bytes of rows; Spark keeps ten of what was read once


@dataclass(slots=True)
class Seen:
    """What the responses about an operation told. `place` is the last of them before any rows.

    `is_over`: the operation has ended well. `is_closed`: the server has no more to say for now.
    """

    is_over: bool = False
    error: Told | None = None
    batches: list[bytes] = field(default_factory=list)
    size: int = 0
    progress: Mapping[str, int] | None = None
    place: str = ""
    is_silent: bool = True
    is_closed: bool = False

    def take(self, response: Any) -> None:
        self.is_silent = False
        name = response.WhichOneof("response_type")
        kind = RESPONSES.get(name) if name else None
        if name and kind is None:
            log.warning("Spark sends a response that is not in the table: %s", name)
        if kind == ROWS:
            self.size += len(response.arrow_batch.data)
            if self.size <= _MOST:
                self.batches.append(response.arrow_batch.data)
        elif kind == PROGRESS:
            self.progress = _progress(response.execution_progress)
        self.is_over = self.is_over or kind == END
        if not self.size:
            self.place = response.response_id

    @property
    def is_cut(self) -> bool:
        """True if there were more rows than are kept."""
        return self.size > _MOST

    def rows(self) -> list[dict[str, Any]]:
        """The rows as dictionaries. Takes time, so call it on a thread."""
        return rows_of(self.batches)


def rows_of(batches: Sequence[bytes]) -> list[dict[str, Any]]:
    import pyarrow as pa

    rows: list[dict[str, Any]] = []
    for batch in batches:
        with pa.ipc.open_stream(batch) as reader:
            rows += reader.read_all().to_pylist(maps_as_pydicts="lossy")
    return rows


def _progress(told: Any) -> Mapping[str, int]:
    stages = told.stages
    return {
        "stages": len(stages),
        "stages_done": sum(stage.done for stage in stages),
        "tasks": sum(stage.num_tasks for stage in stages),
        "tasks_done": sum(stage.num_completed_tasks for stage in stages),
        "tasks_running": told.num_inflight_tasks,
        "bytes_read": sum(stage.input_bytes_read for stage in stages),
    }


class Servers:
    """Channels to servers, one for each. `start` before use: the library takes seconds to load, on a thread."""

    def __init__(self, *, timeout: float, authorities: bytes | None = None) -> None:
        self._timeout = timeout
        self._authorities = authorities
        self._channels: dict[tuple[str, bool], Any] = {}
        self._loading: asyncio.Task[Any] | None = None

    def start(self) -> asyncio.Task[Any]:
        """Load the client, on a thread: that takes a second or two."""
        if self._loading is None:
            self._loading = asyncio.create_task(asyncio.to_thread(protocol))
        return self._loading

    async def close(self) -> None:
        if self._loading is not None:
            await asyncio.wait([self._loading])
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(channel.close() for channel in channels))

    async def session(self, server: Server, session_id: str, headers: Mapping[str, str]) -> Session:
        """The session of this id, which the server makes when it is first used."""
        await asyncio.shield(self.start())
        from pyspark.sql.connect.proto import base_pb2_grpc

        place = (server.target, server.encrypted)
        channel = self._channels.get(place)
        if channel is None:
            channel = self._channels[place] = self._open(server)
        metadata = tuple((name.lower(), value) for name, value in headers.items())
        return Session(base_pb2_grpc.SparkConnectServiceStub(channel), server.user, session_id, metadata, self._timeout)

    def _open(self, server: Server) -> Any:
        import grpc

        options = [
            ("grpc.max_receive_message_length", _LARGEST),
            ("grpc.max_send_message_length", _LARGEST),
            ("grpc.max_reconnect_backoff_ms", 5000),  # a server that was restarted is back within seconds
            ("grpc.primary_user_agent", "airside"),
            ("grpc.enable_http_proxy", 0),
        ]
        if not server.encrypted:
            return grpc.aio.insecure_channel(server.target, options)
        return grpc.aio.secure_channel(server.target, grpc.ssl_channel_credentials(self._authorities), options)


def protocol() -> Any:
    """The messages of Spark Connect, as its own client has them."""
    with warnings.catch_warnings(), _program_with_a_file():
        warnings.simplefilter("ignore")  # the client is not sure of newer releases of pandas, which is not used
        from pyspark.sql.connect import proto

    return proto


@contextmanager
def _program_with_a_file() -> Iterator[None]:
    """A program without a file (`python -c`) is a doctest to the client, which then looks for a whole Spark."""
    program = vars(sys.modules["__main__"])
    lacks = "pyspark.sql.connect" not in sys.modules and program.setdefault("__file__", _NO_FILE) is _NO_FILE
    try:
        yield
    finally:
        if lacks:
            program.pop("__file__", None)


class Session:
    """Calls to one session of one server, as one identity."""

    def __init__(
        self, stub: Any, user: str, session_id: str, metadata: Sequence[tuple[str, str]], timeout: float
    ) -> None:
        self._stub = stub
        self._metadata = metadata
        self._timeout = timeout
        self._proto = protocol()
        self._who = {
            "session_id": session_id,
            "user_context": self._proto.UserContext(user_id=user),
            "client_type": "airside",
        }

    async def version(self) -> str:
        """The server's version."""
        request = self._proto.AnalyzePlanRequest.SparkVersion()
        return str((await self._ask("AnalyzePlan", spark_version=request)).spark_version.version)

    async def configure(self, properties: Mapping[str, str]) -> None:
        """Set properties of the session."""
        pairs = [self._proto.KeyValue(key=name, value=value) for name, value in properties.items()]
        operation = self._proto.ConfigRequest.Operation(set=self._proto.ConfigRequest.Set(pairs=pairs))
        await self._ask("Config", polling=False, operation=operation)

    async def is_readable(self, path: str, *, polling: bool) -> bool:
        """True if there is a file of this name. What keeps Spark from looking is raised."""
        source = self._proto.Read.DataSource(format="text", paths=[path])
        plan = self._proto.Plan(root=self._proto.Relation(read=self._proto.Read(data_source=source)))
        request = self._proto.AnalyzePlanRequest.Schema(plan=plan)
        answer = await self._try("AnalyzePlan", schema=request)
        if isinstance(answer, Told) and answer.condition != "PATH_NOT_FOUND":
            raise error_of(answer, polling=polling)
        return not isinstance(answer, Told)

    async def interrupt(self, operation: str) -> bool:
        """Ask for the end of an operation. True if there was one that runs."""
        kind = self._proto.InterruptRequest.INTERRUPT_TYPE_OPERATION_ID
        answer = await self._ask("Interrupt", interrupt_type=kind, operation_id=operation)
        return operation in answer.interrupted_ids

    async def release(self) -> None:
        """Let the server forget this session."""
        await self._ask("ReleaseSession")

    async def start(self, operation: str, plan: Any, tags: Sequence[str]) -> Seen:
        """Run a plan under an id, which the server takes once. Returns as soon as it has said anything.

        The plan runs on when nobody listens.
        """
        options = self._proto.ExecutePlanRequest.RequestOption(
            reattach_options=self._proto.ReattachOptions(reattachable=True)
        )
        request = self._proto.ExecutePlanRequest(
            **self._who, operation_id=operation, plan=plan, tags=tags, request_options=[options]
        )
        seen = await self._read(self._stub.ExecutePlan(request, metadata=self._metadata), self._timeout)
        if seen.is_silent and seen.error is None and not seen.is_closed:
            raise Retry("Spark did not say whether it has taken the statement.")
        return seen

    async def look(self, operation: str, place: str = "") -> Seen:
        """What there is to learn of an operation after a place, within a moment."""
        request = self._proto.ReattachExecuteRequest(**self._who, operation_id=operation)
        if place:
            request.last_response_id = place
        seen = await self._read(self._stub.ReattachExecute(request, metadata=self._metadata), _PATIENCE)
        if seen.is_silent and seen.error is None and not seen.is_closed:
            await self.version()  # raises, if it is the server that is silent
        return seen

    async def rows(self, relation: Any) -> Seen:
        """The rows of a relation, which is soon computed. Raises what keeps Spark from it."""
        request = self._proto.ExecutePlanRequest(
            **self._who, operation_id=str(uuid.uuid4()), plan=self._proto.Plan(root=relation)
        )
        call = self._stub.ExecutePlan(request, metadata=self._metadata, timeout=self._timeout)
        seen = await self._read(call, self._timeout, self._timeout)
        if seen.error is not None or not seen.is_closed:
            raise error_of(seen.error or Told("DEADLINE_EXCEEDED", "no rows yet"), polling=True)
        return seen

    async def _read(self, call: Any, patience: float, quiet: float = _QUIET) -> Seen:
        import grpc

        seen, now = Seen(), asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(patience) as limit:
                async for response in call:
                    seen.take(response)
                    if seen.is_over:
                        break
                    limit.reschedule(now() + quiet)
                else:
                    seen.is_closed = True
        except TimeoutError:
            pass
        except grpc.aio.AioRpcError as exc:
            seen.error = told_of(exc)
        finally:
            call.cancel()
        return seen

    async def _ask(self, method: str, *, polling: bool = True, **fields: Any) -> Any:
        answer = await self._try(method, **fields)
        if isinstance(answer, Told):
            raise error_of(answer, polling=polling)
        return answer

    async def _try(self, method: str, **fields: Any) -> Any:
        import grpc

        request = getattr(self._proto, f"{method}Request")(**self._who, **fields)
        try:
            return await getattr(self._stub, method)(request, metadata=self._metadata, timeout=self._timeout)
        except grpc.aio.AioRpcError as exc:
            return told_of(exc)


def told_of(error: Any) -> Told:
    """What a failed call tells."""
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    words, info, after = redact(error.details() or ""), None, None
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # the details are of another message than the status
        status = None
    for detail in status.details if status is not None else ():
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            after = retry.retry_delay.ToMilliseconds() / 1000
    if info is None:
        return Told(error.code().name, words, after=after)
    told = info.metadata
    return Told(
        error.code().name,
        words,
        condition=told.get("errorClass", ""),
        sql_state=told.get("sqlState", ""),
        classes=_classes(told.get("classes", "")),
        is_sparks=True,
        after=after,
    )


def _classes(text: str) -> tuple[str, ...]:
    """The exception's class and those it is made from; Spark cuts a long list off."""
    try:
        return tuple(json.loads(text))
    except ValueError:
        return tuple(name.strip('[]" ') for name in text.split(","))
