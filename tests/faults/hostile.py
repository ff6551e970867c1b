"""A good agent, and agents that do what an agent must not. Served together by the tests beside this file."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from airside import AgentRegistry, AsyncAgent, Phase, Resource, Task

ISOLATED = ("blocks", "dies", "crashes", "freezes")
"""Those that hurt whoever is in their process, so that they need one of their own."""


class Plain(AsyncAgent[str]):
    """Each ask reaches the agent: nothing is answered from memory for long."""

    max_age = 0.001
    call_timeout = 0.5
    create_timeout = 5.0

    def create(self, task: Task) -> str:
        return "job"

    def delete(self, job: str) -> None: ...


class Good(Plain):
    task_type = "good"

    def get(self, job: str) -> Resource:
        return Resource(Phase.RUNNING, message="well")


class Blocks(Plain):
    """Stops its loop: 5 s without an `await`."""

    task_type = "blocks"

    async def get(self, job: str) -> Resource:
        time.sleep(5)
        return Resource(Phase.RUNNING)


class Freezes(Plain):
    """Stops its loop by counting."""

    task_type = "freezes"

    async def get(self, job: str) -> Resource:
        ends = time.monotonic() + 5
        while time.monotonic() < ends:
            pass
        return Resource(Phase.RUNNING)


class Dies(Plain):
    task_type = "dies"

    def get(self, job: str) -> Resource:
        os._exit(9)


class Crashes(Plain):
    """Takes its interpreter with it."""

    task_type = "crashes"

    def get(self, job: str) -> Resource:
        ctypes.string_at(0)
        return Resource(Phase.RUNNING)


class Exits(Plain):
    task_type = "exits"

    def get(self, job: str) -> Resource:
        sys.exit(3)


class ExitsLoop(Plain):
    task_type = "exits_loop"

    async def get(self, job: str) -> Resource:
        sys.exit(3)


class EatsThreads(Plain):
    """Never gives a thread back."""

    task_type = "eats_threads"

    def get(self, job: str) -> Resource:
        threading.Event().wait()
        return Resource(Phase.RUNNING)


class Hangs(Plain):
    """Waits for ever, and will not be told to stop."""

    task_type = "hangs"

    async def get(self, job: str) -> Resource:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue


class LeaksThreads(Plain):
    task_type = "leaks_threads"

    def get(self, job: str) -> Resource:
        for _ in range(10):
            if threading.active_count() < 1000:
                threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
        return Resource(Phase.RUNNING)


class Recurses(Plain):
    task_type = "recurses"

    def get(self, job: str) -> Resource:
        return self.get(job)


class RecursesLoop(Plain):
    task_type = "recurses_loop"

    async def get(self, job: str) -> Resource:
        return await self.get(job)


class Evil(BaseException):
    """Is no Exception."""


class Raises(Plain):
    task_type = "raises"

    async def get(self, job: str) -> Resource:
        raise random.choice([Evil, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])  # noqa: S311 - chaos, not secrets


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Mute(Plain):
    """Raises what cannot be told."""

    task_type = "mute"

    def get(self, job: str) -> Resource:
        raise Unprintable


GARBAGE: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: 42,
    lambda: "SUCCEEDED",
    lambda: [Resource(Phase.RUNNING)],
    lambda: Resource(Phase.UNDEFINED),
    lambda: Resource(Phase.RUNNING, message=b"\xff\x00" * 100),  # type: ignore[arg-type]  # what an author may return
    lambda: Resource(Phase.RUNNING, links=[1, None]),  # type: ignore[list-item]  # what an author may return
    lambda: Resource(Phase.RUNNING, info={"x": object(), "y": {1: 2}}),
    lambda: Resource(Phase.RUNNING, message="\ud800" + "m" * 10**6),
    lambda: Resource(Phase.RUNNING, poll_after="soon"),  # type: ignore[arg-type]  # what an author may return
    lambda: Resource(Phase.SUCCEEDED, outputs=7),  # type: ignore[arg-type]  # what an author may return
)


class Garbage(Plain):
    task_type = "garbage"

    def get(self, job: str) -> Resource:
        found: Resource = random.choice(GARBAGE)()  # noqa: S311 - chaos, not secrets
        return found


AGENTS: tuple[type[Plain], ...] = (
    *(Good, Blocks, Freezes, Dies, Crashes, Exits, ExitsLoop, EatsThreads, Hangs, LeaksThreads),
    *(Recurses, RecursesLoop, Raises, Mute, Garbage),
)

if __name__ == "hostile":  # in the service, not where the tests import it: the registry is one for all of them
    for agent in AGENTS:
        AgentRegistry.register(agent())
