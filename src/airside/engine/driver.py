"""What drives a job: an agent, the rules it is driven by, and its limits; found once for all jobs of a kind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Protocol

from airside.engine.database import Record
from airside.engine.job import Rules
from airside.engine.lane import Lane
from airside.sdk.agent import Agent

LOOK_AGAIN = 1.0
"""Seconds until an agent that could not be found is looked for again."""


@dataclass(eq=False, slots=True)
class Driver:
    """An agent as jobs are driven with it: by which rules, and within which limits."""

    agent: Agent
    rules: Rules = field(default_factory=Rules)
    lane: Lane = field(default_factory=Lane)
    lost: float | None = None
    """When it was not found, in loop time, if this stands for an agent that could not be found."""
    held: str = ""
    """Why no job may begin with it yet: it is not known which agent it will be."""


class Drivers(Protocol):
    """Finds the driver of a job."""

    def key(self, record: Record) -> Any:
        """Jobs of the same key have the same driver."""

    async def find(self, record: Record) -> Driver:
        """The driver, its agent open. Never raises for want of an agent: that is the agent's own error to tell."""


class Crew:
    """The drivers that were found so far. One that stands for a missing agent is looked for again after a while."""

    def __init__(self, drivers: Drivers) -> None:
        self._drivers = drivers
        self._found: dict[Any, asyncio.Task[Driver]] = {}

    async def of(self, record: Record) -> Driver:
        """The driver of a job."""
        key = self._drivers.key(record)
        known = self._found.get(key)
        if known is None or (known.done() and _is_stale(known.result())):
            known = self._found[key] = asyncio.create_task(self._drivers.find(record))
        return known.result() if known.done() else await asyncio.shield(known)

    @property
    def found(self) -> list[Driver]:
        """Those that are there."""
        return [one.result() for one in self._found.values() if one.done() and not one.cancelled()]

    @property
    def coming(self) -> set[asyncio.Task[Driver]]:
        """Those that are being found."""
        return {one for one in self._found.values() if not one.done()}


def _is_stale(driver: Driver) -> bool:
    return driver.lost is not None and asyncio.get_running_loop().time() - driver.lost >= LOOK_AGAIN
