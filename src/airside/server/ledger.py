"""The ledger: one attempt, one job. Concurrent and repeated creates of a key share one call and one answer."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from airside.observe.events import Event, Hooks, What

log = logging.getLogger("airside.server")


@dataclass(slots=True)
class Entry:
    """One create: the running call, then its answer. `inputs` tells whether a repeat asks for the same thing."""

    inputs: int
    running: asyncio.Task[bytes] | None
    answer: bytes = b""


class Ledger:
    """Key → create. Answers of the latest `capacity` keys are kept, so that a repeated create finds them."""

    def __init__(self, capacity: int, hooks: Hooks = Hooks()) -> None:  # noqa: B008 - it has no state
        self._capacity = capacity
        self._hooks = hooks
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._tasks: set[asyncio.Task[bytes]] = set()

    async def create(self, key: str, inputs: int, start: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """The answer to the create of `key`: the known one, the running call's, or that of `start()`.

        The call goes on if its caller goes away, so that the next one finds its answer. A create that raises is
        forgotten: the next one tries again. The same key with other inputs is not joined.
        """
        entry = self._entries.get(key)
        if entry is not None and entry.inputs != inputs:
            log.warning("create repeated with other inputs: it is not joined", extra={"key": key})
            self._hooks.tell(Event(what=What.OTHER_INPUTS, key=key))
            return await self._run(start)
        if entry is None:
            entry = Entry(inputs, None)
            self._entries[key] = entry
            entry.running = self._begin(key, entry, start)
            self._forget_oldest()
        else:
            self._hooks.tell(Event(what=What.JOINED, key=key))
        if entry.running is None:
            return entry.answer
        return await asyncio.shield(entry.running)

    @property
    def running(self) -> int:
        """How many creates are under way."""
        return len(self._tasks)

    async def drain(self) -> None:
        """Wait until no create is under way."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def _begin(self, key: str, entry: Entry, start: Callable[[], Coroutine[Any, Any, bytes]]) -> asyncio.Task[bytes]:
        task = self._spawn(start)

        def finish(done: asyncio.Task[bytes]) -> None:
            entry.running = None
            if done.cancelled() or done.exception() is not None:
                if self._entries.get(key) is entry:
                    del self._entries[key]
            else:
                entry.answer = done.result()

        task.add_done_callback(finish)
        return task

    async def _run(self, start: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        return await asyncio.shield(self._spawn(start))

    def _spawn(self, start: Callable[[], Coroutine[Any, Any, bytes]]) -> asyncio.Task[bytes]:
        task = asyncio.create_task(start())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _forget_oldest(self) -> None:
        """Keep within capacity; a create under way is never forgotten."""
        while len(self._entries) > self._capacity:
            key, entry = next(iter(self._entries.items()))
            if entry.running is not None:
                return
            del self._entries[key]
