"""The ledger: one attempt, one job. Concurrent and repeated creates of a key share one call and one answer."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from airside.model import AirsideError
from airside.observe.events import Event, Hooks, What
from airside.wire.status import sentence

log = logging.getLogger("airside.server")


class Unanswered(TimeoutError):
    """A create is still under way; it goes on."""


class Undone(AirsideError):
    """A create was stopped, or nobody wanted its job any more."""


@dataclass(slots=True, eq=False)
class Entry:
    """One create: the call that is under way, then its answer (sealed handle bytes).

    `inputs` tells whether a repeat asks for the same thing. `waiting` counts the callers; `promised` is set once a
    pending handle went out, so that somebody will come back for the job. `made` is the agent's metadata as soon as
    there is a job, `until` the `time.monotonic()` after which none is begun. `stopped` means that the job is not to
    be; `undone` that it was cancelled. `error` says how the last try failed.
    """

    key: str
    inputs: bytes
    task: asyncio.Task[bytes] | None = field(default=None, repr=False)
    answer: bytes = b""
    made: bytes | None = None
    error: str = ""
    until: float = float("inf")
    waiting: int = 0
    promised: bool = False
    stopped: bool = False
    undone: bool = False
    sleeper: asyncio.Future[None] | None = field(default=None, repr=False)

    @property
    def is_wanted(self) -> bool:
        """True if somebody waits for the job, or holds a handle for it."""
        return (self.waiting > 0 or self.promised) and not self.stopped

    def stop(self) -> None:
        """Make no job, and cancel the one that may come out of a call that is under way."""
        self.stopped = True
        if self.sleeper is not None and not self.sleeper.done():
            self.sleeper.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Wait before the next try, but not once the create is stopped."""
        self.sleeper = asyncio.get_running_loop().create_future()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.sleeper
        self.sleeper = None


_UNKNOWN = b"unknown"  # the inputs of a create that was stopped before it was seen here

Start = Callable[[Entry], Coroutine[Any, Any, bytes]]


class Ledger:
    """Key → create. Answers of the latest `capacity` keys are kept, so that a repeated create finds them."""

    def __init__(self, capacity: int, hooks: Hooks) -> None:
        self._capacity = capacity
        self._hooks = hooks
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._tasks: set[asyncio.Task[bytes]] = set()
        self._waiters: set[Callable[[], None]] = set()
        self._hurried = False

    def key_for(self, key: str, inputs: bytes) -> str:
        """The key under which to enter a create: another one if the attempt is known with other inputs.

        Such a create is not joined: one of the two callers is wrong, and nobody here knows which.
        """
        entry = self._entries.get(key)
        if entry is None or entry.inputs in {inputs, _UNKNOWN}:
            return key
        log.warning("create repeated with other inputs: it is not joined", extra={"key": key})
        self._hooks.tell(Event(what=What.OTHER_INPUTS, key=key))
        return hashlib.sha256(key.encode() + inputs).hexdigest()[:32]

    def enter(self, key: str, inputs: bytes, start: Start, *, repeatable: bool = True) -> Entry:
        """The entry of a key: the known one, or a new one whose `start(entry)` is under way from now on.

        A create that raises is forgotten, so that the next one tries again.
        """
        entry = self._entries.get(key)
        if entry is not None and (entry.undone or (entry.task is None and not entry.answer)):
            entry = None  # it failed behind its pending handle, or is being cancelled
        if entry is None:
            entry = self._entries[key] = Entry(key, inputs)
            self._begin(entry, start, repeatable)
            self._forget_oldest()
        else:
            self._hooks.tell(Event(what=What.JOINED, key=key))
        return entry

    def get(self, key: str) -> Entry | None:
        """The entry of a key, if there is one."""
        return self._entries.get(key)

    def stop(self, key: str) -> Entry:
        """The entry of a key, stopped; a new one if there was none, so that nobody here takes the create up again."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(key, _UNKNOWN, promised=True)
            self._forget_oldest()
        entry.stop()
        return entry

    async def answer(self, entry: Entry, wait: float | None = None, *, may_hurry: bool = False) -> bytes:
        """The answer of an entry, or `Unanswered` after `wait` seconds. The create goes on if its caller goes away.

        With `may_hurry` the wait ends as well when the service is about to stop.
        """
        task = entry.task
        if task is None:
            return entry.answer
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()  # `asyncio.wait` does the same at thrice the cost

        def wake(*_: object) -> None:
            if not waiter.done():
                waiter.set_result(None)

        task.add_done_callback(wake)
        timer = None if wait is None else loop.call_later(wait, wake)
        entry.waiting += 1
        if may_hurry:
            self._waiters.add(wake)
            if self._hurried:
                wake()
        try:
            await waiter
        finally:
            entry.waiting -= 1
            self._waiters.discard(wake)
            task.remove_done_callback(wake)
            if timer is not None:
                timer.cancel()
        if not task.done():
            raise Unanswered("The agent was not done in time.")
        return task.result()

    @property
    def running(self) -> tuple[Entry, ...]:
        """The creates that are under way."""
        return tuple(entry for entry in self._entries.values() if entry.task is not None)

    def hurry(self) -> None:
        """End the waits that may be ended: the service is about to stop."""
        self._hurried = True
        for wake in tuple(self._waiters):
            wake()

    async def drain(self) -> None:
        """Wait until no create is under way."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def __len__(self) -> int:
        return len(self._entries)

    def _begin(self, entry: Entry, start: Start, repeatable: bool) -> None:
        task = asyncio.create_task(start(entry))
        entry.task = task
        self._tasks.add(task)

        def finish(done: asyncio.Task[bytes]) -> None:
            self._tasks.discard(done)
            entry.task = None
            error = None if done.cancelled() else done.exception()
            if error is None and not done.cancelled():
                entry.answer = done.result()
                if not repeatable and not entry.promised:
                    self._entries.pop(entry.key, None)
                return
            if isinstance(error, Exception) and not isinstance(error, Undone):
                entry.error = sentence(error)
            if self._entries.get(entry.key) is entry and not entry.promised:
                del self._entries[entry.key]  # one with a pending handle keeps its error: it will be asked for

        task.add_done_callback(finish)

    def _forget_oldest(self) -> None:
        """Keep within capacity; a create under way is never forgotten."""
        for _ in range(len(self._entries) - self._capacity):
            key, entry = next(iter(self._entries.items()))
            if entry.task is not None:
                self._entries.move_to_end(key)
            else:
                del self._entries[key]
