"""Iterate an author's generator from the loop, be it `async def` or plain `def`."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from airside.sdk.invoke import AgentCrash

_END = object()
_AHEAD = 64  # lines that a plain generator may be ahead of its reader


async def iterate(start: Callable[[], Any], *, name: str) -> AsyncIterator[Any]:
    """The items of an async iterator or of a blocking one, as they come.

    A blocking iterator runs on a thread of its own and stops soon after its reader does.
    """
    source = await asyncio.to_thread(start)
    if inspect.iscoroutine(source):  # asyncio.iscoroutine takes a plain generator for one before Python 3.12
        source = await source
    if hasattr(source, "__aiter__"):
        async for item in _guarded(source):
            yield item
        return
    async for item in _from_thread(source, name):
        yield item


async def _guarded(source: Any) -> AsyncIterator[Any]:
    """The items of an async iterator; whatever it raises to end the process ends only this stream."""
    iterator = aiter(source)
    try:
        while True:
            try:
                item = await anext(iterator)
            except StopAsyncIteration:
                return
            except (SystemExit, KeyboardInterrupt) as exc:
                raise AgentCrash(f"{type(exc).__name__} raised in the agent") from exc
            yield item
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


async def _from_thread(source: Any, name: str) -> AsyncIterator[Any]:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Any] = asyncio.Queue()
    room = threading.Semaphore(_AHEAD)
    stopped = threading.Event()

    def hand_over(item: Any) -> None:
        if not stopped.is_set():
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def work() -> None:
        try:
            for item in source:
                room.acquire()
                if stopped.is_set():
                    return
                hand_over(item)
        except BaseException as exc:  # noqa: BLE001 - it must reach the reader, not kill the thread silently
            hand_over(exc if isinstance(exc, Exception) else AgentCrash(f"{type(exc).__name__} raised in the agent"))
        else:
            hand_over(_END)

    threading.Thread(target=work, name=name, daemon=True).start()
    try:
        while (item := await queue.get()) is not _END:
            room.release()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        room.release()
