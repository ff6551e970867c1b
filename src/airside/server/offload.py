"""Work of the service itself that may block, as storage does, on threads that each task type has for itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from airside.sdk.lane import Lane

THREADS = 8
PATIENCE = 120.0
"""Seconds that storage may take."""


class Offload:
    """Runs blocking functions, so that one task type's slow storage holds up no other's.

    `owner` is a task type that is served; there are no more lanes than of those.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}

    async def run(self, owner: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What the function returns; `TimeoutError` after two minutes."""
        lane = self._lanes.get(owner)
        if lane is None:
            lane = self._lanes[owner] = Lane(f"{owner}-storage", THREADS)
        return await lane.run(partial(function, *args, **kwargs), timeout=PATIENCE)

    def close(self) -> None:
        """Let go of the threads."""
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()
