"""Iterate an author's generator from the loop, be it `async def` or plain `def`."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

from airside.model import Retry
from airside.sdk.invoke import Invoker, guarded
from airside.sdk.lane import crash

STREAMS = 64
"""Blocking iterators of one agent that may be read at once, each on a thread of its own."""
START = 30.0
"""Seconds within which an iterator must be there; its items may take as long as they like."""

_END = object()
_AHEAD = 64  # lines that a plain generator may be ahead of its reader


class Streams:
    """Reads the iterators of one agent."""

    def __init__(self, name: str, invoker: Invoker) -> None:
        self._name = name
        self._invoker = invoker
        self._threads: set[threading.Thread] = set()

    async def iterate(self, start: Callable[[], Any]) -> AsyncIterator[Any]:
        """The items of the async iterator or of the blocking one that `start` makes, as they come.

        A blocking iterator runs on a thread of its own and stops soon after its reader does. `Retry` if too many
        are read already, or have not come back.
        """
        source = await self._invoker.aside(start, timeout=START)
        if inspect.iscoroutine(source):  # asyncio.iscoroutine takes a plain generator for one before Python 3.12
            source = await guarded(source, self._name)
        if hasattr(source, "__aiter__"):
            async for item in _items(source, self._name):
                yield item
            return
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        if len(self._threads) >= STREAMS:
            raise Retry(f"{self._name} writes {len(self._threads)} logs already.")
        async for item in _from_thread(source, f"{self._name}-logs", self._threads.add):
            yield item


async def _items(source: Any, name: str) -> AsyncIterator[Any]:
    """The items of an async iterator; whatever it raises ends only this stream."""
    iterator = aiter(source)
    try:
        while True:
            try:
                item = await guarded(anext(iterator), name)
            except StopAsyncIteration:
                return
            yield item
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


async def _from_thread(source: Any, name: str, started: Callable[[threading.Thread], None]) -> AsyncIterator[Any]:
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
            hand_over(exc if isinstance(exc, Exception) else crash(exc))
        else:
            hand_over(_END)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    started(thread)
    try:
        while (item := await queue.get()) is not _END:
            room.release()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        room.release()
