"""The attempt before: its job is cancelled, and known to be over, before the next attempt makes one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from airside.model import Call, NotFound, Retry, Task
from airside.observe.events import Event, Hooks, What
from airside.sdk.agent import Agent
from airside.server.cancellation import Cancellation, NotCancelled
from airside.server.handle import Kind, SigningKeys, unseal
from airside.server.job import Job, call_limit
from airside.server.ledger import Entry, Ledger
from airside.server.order import Order, call_of, earlier_attempts
from airside.server.schedule import CLOSE
from airside.server.uncertain import Uncertain
from airside.wire.status import sentence

log = logging.getLogger("airside.server")

LOOKED_BACK = 5
"""Attempts before a new one that are looked at."""
LOOKS = (0.5, 1.5, 4.0, 14.0, 40.0)
"""Seconds between the looks for a job that another process may have been making when it was no longer wanted."""


class EarlierAttempts:
    """Clears the way for a new attempt. `watched(key)` is the watched job of an attempt that any process made."""

    def __init__(
        self,
        ledger: Ledger,
        cancellation: Cancellation,
        uncertain: Uncertain,
        keys: SigningKeys,
        hooks: Hooks,
        watched: Callable[[str], Job | None],
    ) -> None:
        self._ledger = ledger
        self._cancellation = cancellation
        self._uncertain = uncertain
        self._keys = keys
        self._hooks = hooks
        self._watched = watched
        self._looking: set[asyncio.Task[None]] = set()

    async def adopt_or_cancel(self, order: Order, task: Task) -> bytes | None:
        """The earlier attempt's job if it may be taken over; else None, once that job is known to be over.

        An attempt that this process knows has cleared the way in its turn; the one before an unknown attempt is looked
        at too. Raises `Retry` if a job cannot be cancelled: two attempts of one task must not run side by side.
        """
        for key, prefix in earlier_attempts(order.request, order.first_attempt, LOOKED_BACK):
            entry = self._ledger.get(key)
            if entry is not None and entry.task is not None:
                adopted = await self._take_over_or_stop(order, entry)
                if adopted is not None:
                    return adopted
            try:
                if not await self._cancellation.settled(key):
                    await self._cancel(order, entry, replace(task, key=key, output_prefix=prefix))
            except NotCancelled as exc:
                text = "The job of the attempt before may be running and could not be cancelled"
                raise Retry(f"{text}: {exc}") from exc
            if (entry is not None and entry.answer) or self._watched(key) is not None:
                break
        return None

    async def _take_over_or_stop(self, order: Order, entry: Entry) -> bytes | None:
        """What comes of the earlier attempt's create that is still under way here."""
        running = entry.task
        if order.agent.settings.adoptable and not entry.promised and not entry.stopped:
            with suppress(Exception):
                handle = unseal(await self._ledger.answer(entry), self._keys)
                if handle.kind is Kind.JOB:
                    self._tell(What.ADOPTED, order)
                    return handle.meta
            return None
        entry.stop()  # it cancels its job itself, once it has one
        self._tell(What.EARLIER_CANCELLED, order)
        if running is not None:
            await asyncio.wait({running})
        return None

    async def _cancel(self, order: Order, entry: Entry | None, task: Task) -> None:
        agent, call = order.agent, call_of(task)
        watched = self._watched(call.key)
        if watched is not None and watched.is_over and not watched.given_up:
            self._settle(order, call, watched.handle.meta)
            return
        meta = await self._meta_of(agent, entry, watched, task)
        if meta is None and entry is not None and entry.answer:
            self._uncertain.settle(call.key)  # it failed for good, without a job
            return
        if meta is None:
            if "find" not in agent.supports and entry is None and not agent.is_sync:
                reason = "a new attempt began, and nothing here tells whether the attempt before left a job"
                self._uncertain.add(reason, call=call, agent=agent)
            elif "find" in agent.supports:
                reason = "a new attempt began, and another process may just be making the job of the attempt before"
                self._uncertain.add(reason, call=call, agent=agent)
                self.look_again(agent, task).add_done_callback(lambda done: self._looked(done, call.key))
            return
        if await _is_over(agent, meta, call):
            self._settle(order, call, meta)
            return
        self._tell(What.EARLIER_CANCELLED, order)
        self._uncertain.add("a new attempt cancels it", call=call, agent=agent, meta=meta)  # should we die meanwhile
        await self._cancellation.begin(agent, meta, call).confirmed()
        self._settle(order, call, meta)

    def look_again(self, agent: Agent, task: Task, wanted: Callable[[], bool] = lambda: True) -> asyncio.Task[None]:
        """Look for the job of an attempt that is not to be, which another process may just be making; cancel it."""
        looking = asyncio.create_task(self._look_again(agent, task, wanted))
        self._looking.add(looking)
        looking.add_done_callback(self._looking.discard)
        return looking

    def _looked(self, done: asyncio.Task[None], key: str) -> None:
        if not done.cancelled():
            self._uncertain.settle(key)

    async def _look_again(self, agent: Agent, task: Task, wanted: Callable[[], bool]) -> None:
        call = call_of(task)
        for pause in LOOKS:
            await asyncio.sleep(pause)
            if not wanted():
                return
            try:
                async with asyncio.timeout(call_limit(agent)):
                    meta = await agent.find(task, task.key, call)
            except Exception as exc:  # noqa: BLE001 - it is looked for again
                log.info("looking for a job that is not to be failed: %s", sentence(exc), extra={"key": task.key})
                continue
            if meta is not None and not await _is_over(agent, meta, call):
                self._cancellation.begin(agent, meta, call)

    async def close(self) -> None:
        """Look for no more jobs."""
        for looking in self._looking:
            looking.cancel()
        if self._looking:
            await asyncio.wait(self._looking, timeout=CLOSE)

    def _settle(self, order: Order, call: Call, meta: bytes) -> None:
        """The earlier attempt's job is over: its only one, if its agent can tell whether there is one."""
        self._uncertain.settle(call.key, None if order.is_resumable else meta)

    async def _meta_of(self, agent: Agent, entry: Entry | None, watched: Job | None, task: Task) -> bytes | None:
        """The metadata of the earlier attempt's job: from its create here, from its handle seen here, or found."""
        if entry is not None and entry.answer:
            handle = unseal(entry.answer, self._keys)
            return handle.meta if handle.kind is Kind.JOB else None
        if watched is not None and watched.handle.kind is Kind.JOB:
            return watched.handle.meta
        if "find" in agent.supports:
            async with asyncio.timeout(call_limit(agent)):
                return await agent.find(task, task.key, call_of(task))
        return None

    def _tell(self, what: What, order: Order) -> None:
        self._hooks.tell(Event(what=what, task_type=order.task_type.name, key=order.key))


async def _is_over(agent: Agent, meta: bytes, call: Call) -> bool:
    try:
        async with asyncio.timeout(call_limit(agent)):
            return (await agent.get(meta, call)).phase.is_terminal
    except NotFound:
        return True
    except Exception:  # noqa: BLE001 - not known to be over, so it is cancelled
        return False
