"""The RPCs of both wire families, on raw bytes: parse, call the service, frame the answer, map the error.

The families share their bytes, so an answer is made once; only names and Flyte 1's deprecated fields differ.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, NoReturn

import grpc
from flyteidl2.connector import connector_pb2

from airside.server import streams
from airside.server.metadata import Directory, flyte1_directory, flyte2_directory
from airside.server.refusal import Refusal, UnknownAgent, wire_status
from airside.server.service import Service
from airside.server.target import target_of
from airside.wire.families import V1, V2, Family, Method, Verb
from airside.wire.template import join_header

Context = grpc.aio.ServicerContext[Any, Any]

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
    call = getattr(rpcs, verb)
    if method.kind == "unary":
        return grpc.unary_unary_rpc_method_handler(_refusing(call))
    make = (
        grpc.unary_stream_rpc_method_handler
        if method.kind == "server_stream"
        else grpc.stream_stream_rpc_method_handler
    )
    return make(_refusing_stream(call))


def _refusing(call: Any) -> Any:
    async def handle(data: bytes, context: Context) -> bytes:
        try:
            answer: bytes = await call(data, context)
            return answer
        except Exception as exc:  # noqa: BLE001 - every error has a status; the table maps it
            await _refuse(context, exc)

    return handle


def _refusing_stream(call: Any) -> Any:
    async def handle(request: Any, context: Context) -> AsyncIterator[bytes]:
        try:
            async for message in call(request, context):
                yield message
        except Exception as exc:  # noqa: BLE001 - as above
            await _refuse(context, exc)

    return handle


async def _refuse(context: Context, exc: Exception) -> NoReturn:
    code, details = wire_status(exc)
    await context.abort(code, details)


class Rpcs:
    """The RPC methods of one family, named by verb."""

    def __init__(self, service: Service, family: Family, directory: Directory) -> None:
        self._service = service
        self._family = family
        self._directory = directory

    async def create(self, data: bytes, context: Context) -> bytes:
        request = await self._parse(connector_pb2.CreateTaskRequest, data)
        return field_1(await _within(self._service.create(request), context))

    async def get(self, data: bytes, context: Context) -> bytes:
        target = target_of(self._message("get", data))
        job = await self._service.get(target.data, target.named, target.connection, _deadline(context))
        return field_1(job.answer)

    async def delete(self, data: bytes, context: Context) -> bytes:
        target = target_of(self._message("delete", data))
        cancel = self._service.delete(target.data, target.named, target.connection, _deadline(context))
        await _within(cancel, context)
        return b""

    async def do(self, messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        request = await self._sync_request(messages)
        resource = await _within(self._service.do(request), context)
        yield field_1(field_1(resource))  # header { resource }

    async def logs(self, data: bytes, context: Context) -> AsyncIterator[bytes]:
        del context
        request = self._message("logs", data)
        async for message in streams.logs(self._service, target_of(request), request):
            yield message

    async def metrics(self, data: bytes, context: Context) -> bytes:
        request = self._message("metrics", data)
        answer: bytes = await _within(streams.metrics(self._service, target_of(request), request), context)
        return answer

    async def list(self, data: bytes, context: Context) -> bytes:
        del data, context
        return self._directory.everyone

    async def describe(self, data: bytes, context: Context) -> bytes:
        del context
        name = self._message("describe", data).name
        entry = self._directory.by_name.get(name)
        if entry is None:
            raise UnknownAgent(f"No agent here is named {name!r}.")
        return entry

    def _message(self, verb: Verb, data: bytes) -> Any:
        return self._family.methods[verb].request.FromString(data)

    async def _parse(self, message: Any, data: bytes) -> Any:
        if len(data) > self._service.settings.off_loop_bytes:
            return await asyncio.to_thread(message.FromString, data)
        return message.FromString(data)

    async def _sync_request(self, messages: AsyncIterator[bytes]) -> connector_pb2.CreateTaskRequest:
        """The create request that a stream of header and inputs amounts to. Inputs may be missing."""
        header: bytes | None = None
        inputs = b""
        async for data in messages:
            message = await self._parse(self._family.methods["do"].request, data)
            if header is None and message.HasField("header"):
                header = message.header.SerializeToString()
            elif header is not None and message.HasField("inputs"):
                inputs = message.inputs.SerializeToString()
                break
            else:
                raise Refusal("ExecuteTaskSync takes one header, then one message of inputs.")
        if header is None:
            raise Refusal("The first message of ExecuteTaskSync must be the header.")
        return join_header(connector_pb2.CreateRequestHeader.FromString(header), inputs)


def field_1(data: bytes) -> bytes:
    """A message whose only field is number 1, holding these bytes.

    >>> field_1(b"abc")
    b'\\n\\x03abc'
    """
    size, length = len(data), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return b"".join((b"\n", length, data))


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
