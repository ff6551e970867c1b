"""The RPCs of both wire families, on raw bytes: parse, call the service, frame the answer, map the error.

The families share their bytes, so an answer is made once; only names and Flyte 1's deprecated fields differ.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any

import grpc
from flyteidl2.connector import connector_pb2

from airside.observe.events import Event, What
from airside.server import streams
from airside.server.metadata import Directory, flyte1_directory, flyte2_directory
from airside.server.refusal import Refusal, TooManyCalls, UnknownAgent, wire_status
from airside.server.service import Service
from airside.server.target import target_of
from airside.server.traced import traced, traced_stream
from airside.wire.families import V1, V2, Family, Method, Verb
from airside.wire.frame import frame
from airside.wire.template import join_header

Context = grpc.aio.ServicerContext[Any, Any]

_CALL = What.CALL  # looking a member up takes longer than the rest of the event
MARGIN = 0.01  # seconds before the caller's deadline at which it is answered that the call goes on


def generic_handlers(service: Service) -> list[grpc.GenericRpcHandler[Any, Any]]:
    """Handlers for every RPC of both families."""
    agents = list(dict.fromkeys(service.agents.values()))
    return [
        *_handlers_of(V1, Rpcs(service, V1, flyte1_directory(agents))),
        *_handlers_of(V2, Rpcs(service, V2, flyte2_directory(agents))),
    ]


def _handlers_of(family: Family, rpcs: Rpcs) -> list[grpc.GenericRpcHandler[Any, Any]]:
    services: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
    for verb, method in family.methods.items():
        service_name = method.path.split("/")[1]
        services.setdefault(service_name, {})[method.name] = _handler(verb, method, rpcs)
    return [grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items()]


def _handler(verb: Verb, method: Method, rpcs: Rpcs) -> grpc.RpcMethodHandler[Any, Any]:
    call, tracing = getattr(rpcs, verb), rpcs.service.tracing
    if method.kind == "unary":
        handle = _observed(verb, call, rpcs.service)
        return grpc.unary_unary_rpc_method_handler(traced(method, handle, tracing) if tracing else handle)
    make = (
        grpc.unary_stream_rpc_method_handler
        if method.kind == "server_stream"
        else grpc.stream_stream_rpc_method_handler
    )
    handle_stream = _observed_stream(verb, call, rpcs.service)
    return make(traced_stream(method, handle_stream, tracing) if tracing else handle_stream)


class Seen:
    """What is learnt of a call while it is carried out, for the event that tells of it."""

    __slots__ = ("age", "began", "size", "task_type")

    def __init__(self, size: int) -> None:
        self.began = time.perf_counter()
        self.size = size
        self.task_type = ""
        self.age: float | None = None


def _observed(verb: Verb, call: Any, service: Service) -> Any:
    limit = _limit(verb, service)

    async def handle(data: bytes, context: Context) -> bytes:
        seen, code = Seen(len(data)), ""
        service.calls_in_flight += 1
        try:
            _admit(service, limit)
            answer: bytes = await call(data, context, seen)
            return answer
        except Exception as exc:  # noqa: BLE001 - every error has a status; the table maps it
            status, details = wire_status(exc)
            code = status.name
            await context.abort(status, details)
        finally:
            service.calls_in_flight -= 1
            _tell(service, verb, seen, code)

    return handle


def _observed_stream(verb: Verb, call: Any, service: Service) -> Any:
    limit = _limit(verb, service)

    async def handle(request: Any, context: Context) -> AsyncIterator[bytes]:
        seen, code = Seen(0), ""
        service.calls_in_flight += 1
        try:
            _admit(service, limit)
            async for message in call(request, context, seen):
                yield message
        except Exception as exc:  # noqa: BLE001 - as above
            status, details = wire_status(exc)
            code = status.name
            await context.abort(status, details)
        finally:
            service.calls_in_flight -= 1
            _tell(service, verb, seen, code)

    return handle


def _limit(verb: Verb, service: Service) -> float:
    """Listings cost nothing, and an engine that gets none routes its tasks elsewhere."""
    return float("inf") if verb in ("list", "describe") else service.settings.max_calls


def _admit(service: Service, limit: float) -> None:
    if service.calls_in_flight > limit:
        raise TooManyCalls(
            f"The service carries out {service.settings.max_calls:,} calls already, as many as it may at once; "
            "call again, or raise [serve] max_calls."
        )


def _tell(service: Service, verb: Verb, seen: Seen, code: str) -> None:
    # A caller must not be able to make up metric series.
    task_type = seen.task_type if service.serves(seen.task_type) else ""
    seconds = time.perf_counter() - seen.began
    service.hooks.tell(Event(_CALL, task_type, "", verb, code, seconds, seen.size, age=seen.age))


class Rpcs:
    """The RPC methods of one family, named by verb."""

    def __init__(self, service: Service, family: Family, directory: Directory) -> None:
        self.service = service
        self._family = family
        self._directory = directory

    async def create(self, data: bytes, context: Context, seen: Seen) -> bytes:
        large = len(data) > self.service.settings.off_loop_bytes
        parse = connector_pb2.CreateTaskRequest.FromString
        request = await asyncio.to_thread(parse, data) if large else parse(data)
        template = request.template  # held while the create goes on: else each look at it would make it anew
        seen.task_type = template.type
        sealed = await self.service.create(
            request, deadline=_deadline(context), first_attempt=0 if self._family is V1 else 1, is_large=large
        )
        return frame(1, sealed)

    async def get(self, data: bytes, context: Context, seen: Seen) -> bytes:
        request = self._message("get", data)
        job = self.service.recall(request.resource_meta)
        if job is not None:
            seen.task_type = job.handle.task_type.name
        else:
            target = target_of(request)
            seen.task_type = target.named.name
            job = await self.service.get(target.data, target.named, target.connection, _deadline(context))
        seen.age = job.age
        return frame(1, job.answer)

    async def delete(self, data: bytes, context: Context, seen: Seen) -> bytes:
        target = target_of(self._message("delete", data))
        seen.task_type = target.named.name
        await self.service.delete(target.data, target.named, target.connection, _deadline(context))
        return b""

    async def do(self, messages: AsyncIterator[bytes], context: Context, seen: Seen) -> AsyncIterator[bytes]:
        request, is_large = await self._sync_request(messages)
        seen.task_type = request.template.type
        resource = await _within(self.service.do(request, is_large=is_large), context)
        yield frame(1, frame(1, resource))  # header { resource }

    async def logs(self, data: bytes, context: Context, seen: Seen) -> AsyncIterator[bytes]:
        del context
        request = self._message("logs", data)
        target = target_of(request)
        seen.task_type = target.named.name
        async for message in streams.logs(self.service, target, request):
            yield message

    async def metrics(self, data: bytes, context: Context, seen: Seen) -> bytes:
        request = self._message("metrics", data)
        target = target_of(request)
        seen.task_type = target.named.name
        answer: bytes = await _within(streams.metrics(self.service, target, request), context)
        return answer

    async def list(self, data: bytes, context: Context, seen: Seen) -> bytes:
        del data, context, seen
        return self._directory.everyone

    async def describe(self, data: bytes, context: Context, seen: Seen) -> bytes:
        del context, seen
        name = self._message("describe", data).name
        entry = self._directory.by_name.get(name)
        if entry is None:
            raise UnknownAgent(f"No agent here is named {name!r}.")
        return entry

    def _message(self, verb: Verb, data: bytes) -> Any:
        return self._family.methods[verb].request.FromString(data)

    async def _parse(self, message: Any, data: bytes) -> Any:
        if len(data) > self.service.settings.off_loop_bytes:
            return await asyncio.to_thread(message.FromString, data)
        return message.FromString(data)

    async def _sync_request(self, messages: AsyncIterator[bytes]) -> tuple[connector_pb2.CreateTaskRequest, bool]:
        """The create request that a stream of header and inputs amounts to, and whether it is large. Inputs may be
        missing."""
        header: Any = None
        inputs: Any = None
        size = 0
        async for data in messages:
            size += len(data)
            message = await self._parse(self._family.methods["do"].request, data)
            if header is None and message.HasField("header"):
                header = message.header
            elif header is not None and message.HasField("inputs"):
                inputs = message.inputs
                break
            else:
                raise Refusal("ExecuteTaskSync takes one header, then one message of inputs.")
        if header is None:
            raise Refusal("The first message of ExecuteTaskSync must be the header.")
        is_large = size > self.service.settings.off_loop_bytes
        join = partial(_joined, header, inputs)
        return (await asyncio.to_thread(join) if is_large else join()), is_large


def _joined(header: Any, inputs: Any) -> connector_pb2.CreateTaskRequest:
    """Header and inputs of Flyte 1 as one request; they share their bytes with Flyte 2's."""
    read = connector_pb2.CreateRequestHeader.FromString(header.SerializeToString())
    return join_header(read, b"" if inputs is None else inputs.SerializeToString())


def _deadline(context: Context) -> float | None:
    remaining: float | None = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


async def _within(work: Coroutine[Any, Any, bytes | None], context: Context) -> Any:
    """The result of `work`, or `TimeoutError` shortly before the caller's deadline."""
    remaining: float | None = context.time_remaining()
    if remaining is None:
        return await work
    async with asyncio.timeout(max(0.0, remaining - MARGIN)):
        return await work
