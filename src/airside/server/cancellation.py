"""Cancelling a job until it is known to be over: accepted first, confirmed behind, given up after a day."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

from airside.model import Call, Fail, NotFound
from airside.observe.events import Event, Hooks, What
from airside.sdk.agent import Agent
from airside.server.tolerance import backoff
from airside.wire.status import sentence

log = logging.getLogger("airside.server")

A_DAY = 24 * 3600.0
_FIRST_LOOK = 0.1  # seconds between the accepted cancel and the first look whether it worked
_ASK_AGAIN = 8  # looks that show the job running before the backend is asked to cancel again


class Cancellation:
    """Cancels jobs, in the background where nobody waits."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, agent: Agent, meta: bytes, call: Call) -> None:
        """Ask the backend once; returning means that it accepted. A job it does not know counts as cancelled."""
        try:
            await agent.delete(meta, call)
        except NotFound:
            log.info("the backend does not know the job to cancel", extra={"agent": agent.name, "key": call.key})

    async def confirm(self, agent: Agent, meta: bytes, call: Call) -> None:
        """Ask until the backend accepts, then look until the job is over. Gives up after a day, with an event."""
        began, failures, looks = time.monotonic(), 0, 0
        accepted = False
        while time.monotonic() - began < A_DAY:
            try:
                if not accepted or looks % _ASK_AGAIN == _ASK_AGAIN - 1:
                    await self.ask(agent, meta, call)
                    accepted = True
                    await asyncio.sleep(min(_FIRST_LOOK * 2.0 ** min(looks, 8), 30.0))
                looks += 1
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
                await asyncio.sleep(min(_FIRST_LOOK * 2.0 ** min(looks, 8), 30.0))
        self._give_up(agent, call, "a day went by")

    def confirm_behind(self, agent: Agent, meta: bytes, call: Call) -> None:
        """`confirm`, while nobody waits."""
        self._spawn(self.confirm(agent, meta, call))

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

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
