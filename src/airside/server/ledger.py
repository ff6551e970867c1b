"""The ledger: one attempt, one job. Concurrent and repeated creates of a key share one call and one answer."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from airside.observe.events import Event, Hooks, What

log = logging.getLogger("airside.server")


class Unanswered(TimeoutError):
    """A create is still under way; it goes on."""


DISPUTED = "disputed/"
"""Begins the key of a create that repeats an attempt with other inputs."""


@dataclass(slots=True, eq=False)
class Entry:
    """One create: the call that is under way, then its answer (sealed handle bytes).

    `inputs` tells whether a repeat asks for the same thing. `waiting` counts the callers; `promised` is set once a
    pending handle went out, so that somebody will come back for the job.
    """

    key: str
    inputs: int
    task: asyncio.Task[bytes] | None = field(default=None, repr=False)
    answer: bytes = b""
    error: Exception | None = None
    waiting: int = 0
    promised: bool = False
    stopped: bool = False

    @property
    def is_wanted(self) -> bool:
        """True if somebody waits for the job, or holds a handle for it."""
        return (self.waiting > 0 or self.promised) and not self.stopped


Start = Callable[[Entry], Coroutine[Any, Any, bytes]]


class Ledger:
    """Key → create. Answers of the latest `capacity` keys are kept, so that a repeated create finds them."""

    def __init__(self, capacity: int, hooks: Hooks) -> None:
        self._capacity = capacity
        self._hooks = hooks
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._tasks: set[asyncio.Task[bytes]] = set()

    def enter(self, key: str, inputs: int, start: Start) -> Entry:
        """The entry of a key: the known one, or a new one whose `start(entry)` is under way from now on.

        A create that raises is forgotten, so that the next one tries again. The same key with other inputs is not
        joined: one of the two callers is wrong, and nobody here knows which.
        """
        entry = self._entries.get(key)
        if entry is not None and entry.inputs != inputs:
            log.warning("create repeated with other inputs: it is not joined", extra={"key": key})
            self._hooks.tell(Event(what=What.OTHER_INPUTS, key=key))
            key = f"{DISPUTED}{key}/{inputs:x}"
            entry = self._entries.get(key)
        if entry is not None and entry.task is None and not entry.answer:
            entry = None  # it failed behind its pending handle
        if entry is None:
            entry = self._entries[key] = Entry(key, inputs)
            self._begin(entry, start)
            self._forget_oldest()
        else:
            self._hooks.tell(Event(what=What.JOINED, key=key))
        return entry

    def get(self, key: str) -> Entry | None:
        """The entry of a key, if there is one."""
        return self._entries.get(key)

    def forget(self, key: str) -> None:
        """Let the next create of this key start anew."""
        self._entries.pop(key, None)

    async def answer(self, entry: Entry, wait: float | None = None) -> bytes:
        """The answer of an entry, or `Unanswered` after `wait` seconds. The create goes on if its caller goes away."""
        task = entry.task
        if task is None:
            return entry.answer
        entry.waiting += 1
        try:
            done, _ = await asyncio.wait((task,), timeout=wait)
        finally:
            entry.waiting -= 1
        if not done:
            raise Unanswered("The agent was not done in time.")
        return task.result()

    @property
    def running(self) -> tuple[Entry, ...]:
        """The creates that are under way."""
        return tuple(entry for entry in self._entries.values() if entry.task is not None)

    async def drain(self) -> None:
        """Wait until no create is under way."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def _begin(self, entry: Entry, start: Start) -> None:
        task = asyncio.create_task(start(entry))
        entry.task = task
        self._tasks.add(task)

        def finish(done: asyncio.Task[bytes]) -> None:
            self._tasks.discard(done)
            entry.task = None
            failed = done.cancelled() or done.exception() is not None
            if not failed:
                entry.answer = done.result()
            elif self._entries.get(entry.key) is entry and not entry.promised:
                del self._entries[entry.key]  # one with a pending handle keeps its error: it will be asked for

        task.add_done_callback(finish)

    def _forget_oldest(self) -> None:
        """Keep within capacity; a create under way is never forgotten."""
        while len(self._entries) > self._capacity:
            key, entry = next(iter(self._entries.items()))
            if entry.task is not None:
                return
            del self._entries[key]
