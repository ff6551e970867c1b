"""Cancelling a job until it is known to be over: accepted first, confirmed behind, given up after a day."""

from __future__ import annotations

import asyncio
import logging
import time

from airside.model import Call, Fail, NotFound
from airside.observe.events import Event, Hooks, What
from airside.sdk.agent import Agent
from airside.server.tolerance import backoff
from airside.wire.status import sentence

log = logging.getLogger("airside.server")

A_DAY = 24 * 3600.0
FIRST_LOOK = 0.1
"""Seconds between the accepted cancel and the second look whether it worked; they double ..."""
LONGEST_LOOK = 30.0
"""... up to this."""
ASK_AGAIN = 8
"""Looks that show the job running before the backend is asked to cancel again."""


class Cancellation:
    """Cancels jobs, in the background where nobody waits."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, agent: Agent, meta: bytes, call: Call) -> bool:
        """Ask the backend once; returning means that it accepted. False: it does not know the job, which is as good."""
        try:
            await agent.delete(meta, call)
        except NotFound:
            log.info("the backend does not know the job to cancel", extra={"agent": agent.name, "key": call.key})
            return False
        return True

    async def confirm(self, agent: Agent, meta: bytes, call: Call, *, accepted: bool = False) -> None:
        """Ask until the backend accepts, then look until the job is over. Gives up after a day, with an event."""
        began, failures, looks = time.monotonic(), 0, 0
        while time.monotonic() - began < A_DAY:
            try:
                if not accepted:
                    await self.ask(agent, meta, call)
                    accepted = True
                if (await agent.get(meta, call)).phase.is_terminal:
                    return
            except NotFound:
                return
            except Fail as exc:
                self._give_up(agent, call, sentence(exc))
                return
            except Exception as exc:  # noqa: BLE001 - a job that may be running is cancelled through any weather
                failures += 1
                await asyncio.sleep(backoff(failures, exc))
            else:
                await asyncio.sleep(min(FIRST_LOOK * 2.0**looks, LONGEST_LOOK))
                looks += 1
                accepted = looks % ASK_AGAIN != 0
        self._give_up(agent, call, "a day went by")

    def confirm_behind(self, agent: Agent, meta: bytes, call: Call, *, accepted: bool = False) -> None:
        """`confirm`, while nobody waits."""
        task = asyncio.create_task(self.confirm(agent, meta, call, accepted=accepted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop looking. What was accepted stays accepted."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._tasks)

    def _give_up(self, agent: Agent, call: Call, reason: str) -> None:
        log.error("job not known to be cancelled: %s", reason, extra={"agent": agent.name, "key": call.key})
        self._hooks.tell(Event(what=What.UNCERTAIN, task_type=agent.task_types[0].name, key=call.key, message=reason))
