"""RPCs as spans: a handler within a span that continues the caller's trace."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from airside.observe.tracing import Tracing
from airside.wire.families import Method


def traced(
    method: Method, handle: Callable[[bytes, Any], Awaitable[bytes]], tracing: Tracing
) -> Callable[[bytes, Any], Awaitable[bytes]]:
    """The handler of a unary call, within a span."""

    async def traced_handle(data: bytes, context: Any) -> bytes:
        with tracing.rpc(method.path, context.invocation_metadata(), context.code):
            return await handle(data, context)

    return traced_handle


def traced_stream(
    method: Method, handle: Callable[[Any, Any], AsyncIterator[bytes]], tracing: Tracing
) -> Callable[[Any, Any], AsyncIterator[bytes]]:
    """The handler of a call with a stream of answers, within a span."""

    async def traced_handle(request: Any, context: Any) -> AsyncIterator[bytes]:
        with tracing.rpc(method.path, context.invocation_metadata(), context.code):
            async with aclosing(handle(request, context)) as answers:  # type: ignore[type-var]  # a generator
                async for answer in answers:
                    yield answer

    return traced_handle
