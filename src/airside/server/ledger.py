"""The ledger: one attempt, one job. Concurrent and repeated creates of a key share one call and one answer."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from airside.model import AirsideError
from airside.observe.events import Event, Hooks, What
from airside.sdk.invoke import may_be_left
from airside.server.unexpected import explained

log = logging.getLogger("airside.server")

SWEEP = 0.25
"""Seconds between two looks for creates that are under way for too long."""
LATE = 0.1
"""Seconds beyond its time after which a create is cancelled: an agent that has a limit of its own comes first."""
IGNORED = 2.0
"""Seconds beyond its time after which it is left behind: its agent ignores that it was cancelled."""


MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""What the answers that are kept may weigh together."""

Waiter = asyncio.Future[bytes | None]

_NEVER = float("inf")


class Unanswered(TimeoutError):
    """A create is still under way; it goes on."""


class Undone(AirsideError):
    """A create was stopped, or nobody wanted its job any more."""


@dataclass(slots=True, eq=False)
class Entry:
    """One create: the call that is under way, then its answer (sealed handle bytes).

    `inputs` tells whether a repeat asks for the same thing. `waiters` are the callers; `promised` is set once a
    pending handle went out, so that somebody will come back for the job. `made` is the agent's metadata as soon as
    there is a job, `until` the `time.monotonic()` after which none is begun. `stopped` means that the job is not to
    be; `undone` that it was cancelled, `overdue` that its create was, since its time was over. `error` says how the
    last try failed, `weight` is what the answer adds to the ledger's bytes.
    """

    key: str
    inputs: bytes
    task: asyncio.Task[None] | None = field(default=None, repr=False)
    answer: bytes = b""
    made: bytes | None = None
    error: str = ""
    until: float = _NEVER
    waiters: list[Waiter] = field(default_factory=list, repr=False)
    promised: bool = False
    stopped: bool = False
    undone: bool = False
    overdue: bool = False
    weight: int = 0
    sleeper: asyncio.Future[None] | None = field(default=None, repr=False)

    @property
    def is_wanted(self) -> bool:
        """True if somebody waits for the job, or holds a handle for it."""
        return (bool(self.waiters) or self.promised) and not self.stopped

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


def wake(waiter: Waiter, answer: bytes | None = None) -> None:
    """Give a caller the answer, or none: its time is over."""
    if not waiter.done():
        waiter.set_result(answer)


UNKNOWN_INPUTS = b"unknown"
"""Of a create that was stopped before it was seen here, or whose inputs were too large to travel."""

Start = Callable[[Entry], Coroutine[Any, Any, bytes]]


class Ledger:
    """Key → create. Answers of the latest `capacity` keys are kept, so that a repeated create finds them.

    They weigh at most `max_bytes` together. What is under way, or was stopped and must not be begun again, is not
    forgotten for that.
    """

    def __init__(self, capacity: int, hooks: Hooks, max_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._bytes = 0
        self._hooks = hooks
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._running: dict[asyncio.Task[None], Entry] = {}
        self._waiters: set[Waiter] = set()
        self._left: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._hurried = False

    def key_for(self, key: str, inputs: bytes) -> str:
        """The key under which to enter a create: another one if the attempt is known with other inputs.

        Such a create is not joined: one of the two callers is wrong, and nobody here knows which.
        """
        entry = self._entries.get(key)
        if entry is None or entry.inputs in {inputs, UNKNOWN_INPUTS}:
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
            self._forget(key)
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
            entry = self._entries[key] = Entry(key, UNKNOWN_INPUTS, promised=True)
            self._forget_oldest()
        entry.stop()
        return entry

    async def answer(self, entry: Entry, wait: float | None = None, *, may_hurry: bool = False) -> bytes:
        """The answer of an entry, or `Unanswered` after `wait` seconds. The create goes on if its caller goes away.

        With `may_hurry` the wait ends as well when the service is about to stop.
        """
        if entry.task is None:
            return entry.answer
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        timer = None if wait is None else loop.call_later(wait, wake, waiter)
        entry.waiters.append(waiter)
        if may_hurry:
            self._waiters.add(waiter)
            if self._hurried:
                wake(waiter)
        try:
            answer = await waiter
        finally:
            entry.waiters.remove(waiter)
            self._waiters.discard(waiter)
            if timer is not None:
                timer.cancel()
        if answer is None:
            raise Unanswered("The agent was not done in time.")
        return answer

    @property
    def running(self) -> tuple[Entry, ...]:
        """The creates that are under way."""
        return tuple(entry for entry in self._entries.values() if entry.task is not None)

    def hurry(self) -> None:
        """End the waits that may be ended: the service is about to stop."""
        self._hurried = True
        for waiter in tuple(self._waiters):
            wake(waiter)

    async def drain(self) -> None:
        """Wait until no create is under way."""
        while self._running:
            await asyncio.wait(tuple(self._running))

    def __len__(self) -> int:
        return len(self._entries)

    def _begin(self, entry: Entry, start: Start, repeatable: bool) -> None:
        loop = asyncio.get_running_loop()
        entry.task = loop.create_task(self._carry_out(entry, start, repeatable))
        self._running[entry.task] = entry
        if self._sweep is None:
            self._sweep = loop.call_later(SWEEP, self._end_overdue)

    async def _carry_out(self, entry: Entry, start: Start, repeatable: bool) -> None:
        may_be_left.set(True)
        try:
            answer = await start(entry)
        except asyncio.CancelledError:
            self._fail(entry, TimeoutError("The create was cancelled."))
            raise
        except Exception as exc:  # noqa: BLE001 - it is for those who wait
            self._fail(entry, exc)
            return
        if self._over(entry):
            entry.answer, entry.until = answer, _NEVER
            if not entry.promised:
                entry.made = None  # the answer has it, and nobody asks for it without
            if not repeatable and not entry.promised:
                self._forget(entry.key)
            elif self._entries.get(entry.key) is entry:
                self._weigh(entry)
            for waiter in entry.waiters:
                wake(waiter, answer)

    def _fail(self, entry: Entry, error: Exception) -> None:
        if not self._over(entry):
            return
        if not isinstance(error, Undone):
            entry.error = explained(error, key=entry.key)
            log.info("create failed: %s", entry.error, extra={"key": entry.key})
        if self._entries.get(entry.key) is entry and not entry.promised:
            self._forget(entry.key)  # one with a pending handle keeps its error: it will be asked for
        for waiter in entry.waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def _over(self, entry: Entry) -> bool:
        """Take note that a create is no longer under way; False if it was left behind long ago."""
        task, entry.task = entry.task, None
        return task is not None and self._running.pop(task, None) is entry

    def _end_overdue(self) -> None:
        """Cancel the creates that outlast their time, and leave behind those that ignore it."""
        now = time.monotonic()
        for task, entry in tuple(self._running.items()):
            late = now - entry.until
            if late >= IGNORED:
                self._leave(task, entry)
            elif late >= LATE and not entry.overdue:
                entry.overdue = True
                task.cancel()
        self._sweep = None
        if self._running:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP, self._end_overdue)

    def _leave(self, task: asyncio.Task[None], entry: Entry) -> None:
        log.error("an agent ignores that its create was cancelled", extra={"key": entry.key})
        entry.stop()  # a job that comes out of it all the same is cancelled
        self._left.add(task)
        task.add_done_callback(self._left.discard)
        self._fail(entry, TimeoutError("The agent did not come back, and ignores that it was cancelled."))

    def _forget_oldest(self) -> None:
        """Keep within capacity; a create under way is never forgotten."""
        for _ in range(len(self._entries) - self._capacity):
            key, entry = next(iter(self._entries.items()))
            if entry.task is not None:
                self._entries.move_to_end(key)
            else:
                self._forget(key)

    def _weigh(self, entry: Entry) -> None:
        """Count a new answer, and forget the oldest ones if there is too much of them now; never the new one."""
        entry.weight = len(entry.answer) + len(entry.made or b"")
        self._bytes += entry.weight
        while self._bytes > self._max_bytes and self._bytes > entry.weight:
            key, oldest = next(iter(self._entries.items()))
            if oldest.weight and oldest is not entry:
                self._forget(key)
            else:
                self._entries.move_to_end(key)

    def _forget(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.weight
