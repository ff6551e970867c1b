"""TLS handshakes that came to nothing: gRPC tells when one begins, and never how it ended."""

from __future__ import annotations

import inspect
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from airside.observe.events import Event, What

PATIENCE = 10.0
"""Seconds after the beginning of a handshake in which its caller must have made a call."""
_REMEMBERED = 4_096  # callers; one is its address and port, which are soon another connection's

Tell = Callable[[Event], None]


class Handshakes(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # not generic at run time
    """Counts the handshakes that begin, and the connections that calls come from: what is left was refused.

    Everything happens on the loop. A handshake is told as refused `PATIENCE` seconds after it began if until then
    fewer connections have made a call than there were handshakes. So a connection that is opened and not used counts
    too, and if it is used later, one refused handshake less is told.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._begun: deque[list[float]] = deque()  # [second, handshakes]
        self._callers: OrderedDict[str, None] = OrderedDict()
        self._due = self._let_in = self._told = 0

    def began(self) -> None:
        """A connection was opened, and a handshake begins."""
        second = float(int(time.monotonic()))
        if not self._begun or self._begun[-1][0] != second:
            self._begun.append([second, 0])
        self._begun[-1][1] += 1
        self._tell(Event(what=What.HANDSHAKE))

    def look(self) -> None:
        """Tell of the handshakes that have come to nothing."""
        now = time.monotonic()
        while self._begun and self._begun[0][0] + 1.0 + PATIENCE <= now:
            self._due += int(self._begun.popleft()[1])
        for _ in range(self._due - self._let_in - self._told):
            self._told += 1
            self._tell(Event(what=What.HANDSHAKE_REFUSED))

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler of the call, which takes note of its caller first."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        kind = next(kind for kind in _KINDS if getattr(handler, kind) is not None)
        return handler._replace(**{kind: self._noting(getattr(handler, kind))})

    def _noting(self, method: Any) -> Any:
        if inspect.isasyncgenfunction(method):

            async def answers(request: Any, context: Any) -> Any:
                self._note(context.peer())
                async for answer in method(request, context):
                    yield answer

            return answers

        async def answer(request: Any, context: Any) -> Any:
            self._note(context.peer())
            return await method(request, context)

        return answer

    def _note(self, caller: str) -> None:
        if caller in self._callers:
            self._callers.move_to_end(caller)
            return
        self._let_in += 1
        self._callers[caller] = None
        if len(self._callers) > _REMEMBERED:
            self._callers.popitem(last=False)


_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
