"""Cancelling a job until it is known to be over: accepted first, confirmed behind, given up after a day."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from airside.model import Call, Fail, NotFound
from airside.observe.events import Hooks
from airside.sdk.agent import Agent
from airside.server.job import YOUNG, call_limit
from airside.server.schedule import CLOSE
from airside.server.standin import StandIn
from airside.server.tolerance import backoff
from airside.server.uncertain import Uncertain
from airside.server.unexpected import explained
from airside.wire.status import sentence

log = logging.getLogger("airside.server")

A_DAY = 24 * 3600.0
FIRST_LOOK = 0.1
"""Seconds between the accepted cancel and the second look whether it worked; they double ..."""
LONGEST_LOOK = 30.0
"""... up to this."""
ASK_AGAIN = 8
"""Looks that show the job running before the backend is asked to cancel again."""
CAPACITY = 20_000
"""Jobs that are being cancelled at once."""

Accepted = Callable[[], Awaitable[None]]
Place = tuple[Agent, str, tuple[tuple[str, str], ...], bytes]


class NotCancelled(Exception):
    """The backend will not cancel a job, or it could not be asked for a day."""


class Cancelling:
    """One job that is being cancelled. `accepted` once the backend took the request, `over` once it is confirmed."""

    __slots__ = ("_heard", "_outcome", "accepted", "call", "over", "refusal", "task")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.accepted = False
        self.over = False
        self.refusal: Exception | None = None
        self.task: asyncio.Task[None] | None = None
        self._outcome: asyncio.Future[None] | None = None
        self._heard = True  # somebody was told of the last refusal

    async def outcome(self) -> Exception | None:
        """Wait until the backend accepted, or until the try that is under way fails: then what the agent raised."""
        while not self.accepted:
            unheard = not self._heard or self.task is None or self.task.done()
            if not unheard:
                if self._outcome is None:
                    self._outcome = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._outcome)
            if self.refusal is not None:
                self._heard = True
                return self.refusal
        return None

    async def confirmed(self) -> None:
        """Wait until the job is known to be over; `NotCancelled` if that never came."""
        if self.task is not None and not self.task.done():
            await asyncio.wait((self.task,))
        if not self.over:
            raise NotCancelled(sentence(self.refusal) if self.refusal else "the job could not be cancelled")

    def tell(self, refusal: Exception | None) -> None:
        """A try ended: well, or with an error."""
        self.refusal = refusal and refusal.with_traceback(None)  # it is kept for long; its frames must not be
        self.accepted = self.accepted or refusal is None
        self._heard = False
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(None)
        self._outcome = None


class Cancellation:
    """Cancels jobs behind their callers. A job that is being cancelled already is joined."""

    def __init__(self, hooks: Hooks, uncertain: Uncertain) -> None:
        self._hooks = hooks
        self._uncertain = uncertain
        self._running: dict[Place, Cancelling] = {}

    def begin(
        self,
        agent: Agent,
        meta: bytes,
        call: Call,
        *,
        accepted: Accepted | None = None,
        confirm: bool = True,
        is_new: bool = False,
    ) -> Cancelling:
        """Cancel a job from now on; `accepted` is called once the backend has taken the request.

        Asks until the backend accepts, then, with `confirm`, looks until the job is over. Gives up after a day, or
        when the agent says that it will never work: then the job is listed as uncertain. That the backend does not
        know a job that `is_new` is not believed for a minute.
        """
        place = _place(agent, meta, call)
        running = self._running.get(place)
        if running is not None:
            return running
        cancelling = Cancelling(call)
        if len(self._running) >= CAPACITY:
            cancelling.refusal = NotCancelled("too many jobs are being cancelled")
            self._uncertain.add("too many jobs were being cancelled", call=call, agent=agent, meta=meta)
            return cancelling
        self._running[place] = cancelling
        cancelling.task = asyncio.create_task(
            self._run(cancelling, agent, meta, accepted, confirm=confirm, is_new=is_new)
        )
        cancelling.task.add_done_callback(lambda _: self._running.pop(place, None))
        return cancelling

    def is_running(self, agent: Agent, meta: bytes, call: Call) -> bool:
        """True if the job is being cancelled."""
        return _place(agent, meta, call) in self._running

    async def settled(self, key: str, *, pending: bool = True) -> bool:
        """Wait until the jobs of a task attempt that are being cancelled are over; False if there are none.

        Without `pending` not for its pending create: what is cancelled there is over only when that create is.
        """
        running = [
            one
            for (agent, *_), one in self._running.items()
            if key and one.call.key == key and (pending or not isinstance(agent, StandIn))
        ]
        for cancelling in running:
            await cancelling.confirmed()
        return bool(running)

    async def close(self) -> None:
        """Stop looking. What was accepted stays accepted; what was not is listed, at least in the log."""
        for (agent, *_, meta), one in self._running.items():
            if not one.accepted:
                reason = "the service stopped before the backend had accepted its cancel"
                self._uncertain.add(reason, call=one.call, agent=agent, meta=meta)
        tasks = [one.task for one in self._running.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE)

    def __len__(self) -> int:
        return len(self._running)

    async def _run(
        self,
        cancelling: Cancelling,
        agent: Agent,
        meta: bytes,
        accepted: Accepted | None,
        *,
        confirm: bool,
        is_new: bool,
    ) -> None:
        call, began, failures, looks = cancelling.call, time.monotonic(), 0, 0
        ask = known = True
        while (age := time.monotonic() - began) < A_DAY:
            try:
                if ask:
                    known = await self._ask(agent, meta, call, believe=not is_new or age > YOUNG)
                    await self._accept(cancelling, accepted)
                    ask = False
                if not known or not confirm or await _is_over(agent, meta, call):
                    cancelling.over = True
                    self._uncertain.settle(call.key, meta)
                    return
            except Fail as exc:
                cancelling.tell(exc)
                reason = f"the backend will not cancel it: {sentence(exc)}"
                self._uncertain.add(reason, call=call, agent=agent, meta=meta)
                return
            except Exception as exc:  # noqa: BLE001 - a job that may be running is cancelled through any weather
                failures += 1
                last = "" if cancelling.refusal is None else sentence(cancelling.refusal)
                said = explained(exc, agent=agent.name, key=call.key, told=last)
                log.info("cancelling failed: %s", said, extra={"agent": agent.name, "key": call.key})
                cancelling.tell(exc)
                await asyncio.sleep(backoff(failures, exc))
            else:
                await asyncio.sleep(min(FIRST_LOOK * 2.0**looks, LONGEST_LOOK))
                looks += 1
                ask = looks % ASK_AGAIN == 0
        self._uncertain.add("it could not be cancelled for a day", call=call, agent=agent, meta=meta)

    async def _ask(self, agent: Agent, meta: bytes, call: Call, *, believe: bool) -> bool:
        """Ask the backend once; returning means that it accepted. False: it does not know the job, which is as good."""
        try:
            async with asyncio.timeout(call_limit(agent)):
                await agent.delete(meta, call)
        except NotFound:
            if not believe:
                raise
            log.info("the backend does not know the job to cancel", extra={"agent": agent.name, "key": call.key})
            return False
        return True

    async def _accept(self, cancelling: Cancelling, accepted: Accepted | None) -> None:
        first = not cancelling.accepted
        if first and accepted is not None:
            await accepted()
        cancelling.tell(None)


async def _is_over(agent: Agent, meta: bytes, call: Call) -> bool:
    """True if the backend says that a job is over. Raises if it cannot be asked."""
    with suppress(NotFound, Fail):  # gone, or failed for good
        async with asyncio.timeout(call_limit(agent)):
            return (await agent.get(meta, call)).phase.is_terminal
    return True


def _place(agent: Agent, meta: bytes, call: Call) -> Place:
    """What tells jobs apart: two accounts of one backend may use the same ids."""
    connection = call.connection
    if connection is None:
        return agent, "", (), meta
    return agent, connection.name, tuple(sorted(connection.configs.items())), meta
