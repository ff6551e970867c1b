"""The watchdog: notices that the event loop does not turn, and names the agent and the line that hold it up.

One blocking call in an `async def` stops every agent of the service and its health answers too. A thread beside the
loop sees it within half a second. Code that holds the interpreter's lock (a C extension, say) stops that thread as
well; then only the length of the pause is known afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from airside.observe.events import Event, Hooks, What
from airside.sdk.agent import Agent
from airside.sdk.invoke import guarded

log = logging.getLogger("airside.server")

INTERVAL = 0.05
"""Seconds between two looks at the loop."""
LIMIT = 0.2
"""Seconds for which the loop may leave a look unanswered."""
TELL = 1.0
"""Seconds between two tellings of the loop's lag."""


class Culprit(NamedTuple):
    """What the loop's thread does: for which agent (empty if for none), where in its code, and where that leads."""

    agent: str
    place: str
    within: str


class Watchdog:
    """Watches the loop that it is started on. Hooks are told `LOOP_BLOCKED` from the watchdog's own thread."""

    def __init__(self, agents: Sequence[Agent], hooks: Hooks) -> None:
        self._hooks = hooks
        self._types = {agent.name: agent.task_types[0].name for agent in agents if agent.task_types}
        self._owners = {_file_of(agent): agent.name for agent in agents}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._sent = self._told = 0.0
        self._answered = True
        self._worst = 0.0

    def start(self) -> None:
        """Watch the running loop until `stop`."""
        loop, ident = asyncio.get_running_loop(), threading.get_ident()
        self._thread = threading.Thread(target=self._watch, args=(loop, ident), name="airside-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more."""
        self._stop.set()

    def _watch(self, loop: asyncio.AbstractEventLoop, ident: int) -> None:
        reported, awake = False, time.monotonic()
        while not self._stop.wait(INTERVAL):
            now, before = time.monotonic(), awake
            awake = now
            waited = now - self._sent
            if not self._answered:
                if waited >= LIMIT and not reported and now - before < LIMIT:
                    reported = True
                    self._report(ident, waited)
                continue
            if reported or now - before >= LIMIT + INTERVAL:
                held = self._worst if reported else now - before
                log.warning("the loop turns again after %.1f s%s", held, "" if reported else _NOBODY_RAN)
                reported = False
            self._sent, self._answered = now, False
            try:
                loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # the loop is closed
                return

    def _answer(self) -> None:
        """On the loop: it turns. Tells the longest lag of the last second."""
        now = time.monotonic()
        self._worst = max(self._worst, now - self._sent)
        self._answered = True
        if now - self._told >= TELL:
            self._hooks.tell(Event(what=What.LOOP_LAG, seconds=self._worst))
            self._told, self._worst = now, 0.0

    def _report(self, ident: int, waited: float) -> None:
        frame = sys._current_frames().get(ident)
        if frame is None:
            return
        found = culprit(frame, self._owners)
        who = f"agent {found.agent}" if found.agent else "no agent"
        text = f"the loop has been blocked for {waited:.1f} s by {who}: {found.place}{found.within}"
        log.error("%s; use `def` for methods that block, or isolate the agent", text, extra={"agent": found.agent})
        self._hooks.tell(
            Event(
                what=What.LOOP_BLOCKED,
                agent=found.agent,
                task_type=self._types.get(found.agent, ""),
                seconds=waited,
                message=text,
            )
        )


_NOBODY_RAN = ", and nothing else in the process ran either: it was paused, or something held the interpreter's lock"


def culprit(frame: FrameType, owners: dict[str, str]) -> Culprit:
    """Who blocks, by the stack that ends in `frame`. `owners` names agents by the file of their class."""
    inner: list[FrameType] = []
    for one in _outwards(frame):
        if one.f_code is guarded.__code__:
            own = inner[-1] if inner else one
            return _culprit(str(one.f_locals.get("agent", "")), _deepest_in(own, inner) or own, frame)
        inner.append(one)
    for one in inner:  # an agent that is driven without the guard
        agent = owners.get(one.f_code.co_filename)
        if agent:
            return _culprit(agent, one, frame)
    return _culprit("", frame, frame)


def _culprit(agent: str, own: FrameType, innermost: FrameType) -> Culprit:
    within = "" if own is innermost else f", within {_place(innermost)}"
    return Culprit(agent, _place(own), within)


def _deepest_in(own: FrameType, inner: Sequence[FrameType]) -> FrameType | None:
    """The innermost frame of the code that `own` belongs to: its folder, which is its package."""
    folder = Path(own.f_code.co_filename).parent
    return next((one for one in inner if folder in Path(one.f_code.co_filename).parents), None)


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _file_of(agent: Agent) -> str:
    module = sys.modules.get(type(getattr(agent, "author", agent)).__module__)
    return getattr(module, "__file__", None) or ""
