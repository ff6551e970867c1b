"""Virtual time: hours of watching pass in milliseconds."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

EPOCH = 1_700_000_000.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it. It has no real input or output."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.turns = 0
        select = self._selector.select  # type: ignore[attr-defined]  # the loop's own, which no stub knows

        def jump(timeout: float | None = None) -> Any:
            if timeout is None:
                raise RuntimeError("everything waits, and no timer is set")
            self.turns = self.turns + 1 if timeout < 1e-6 else 0
            if self.turns > 50_000:
                raise RuntimeError("the loop turns and turns, and no time passes")
            self.now += timeout
            return select(0)

        self._selector.select = jump  # type: ignore[attr-defined]  # the loop's own, which no stub knows

    def time(self) -> float:
        return self.now


Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def virtual(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a coroutine function in virtual time: `time.monotonic` and `time.time` follow the loop."""

    def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        loop = VirtualLoop()
        random.seed(0)  # waits are jittered: a run can be repeated
        with monkeypatch.context() as patch, asyncio.Runner(loop_factory=lambda: loop) as runner:
            patch.setattr(time, "monotonic", lambda: loop.now)
            patch.setattr(time, "time", lambda: EPOCH + loop.now)
            runner.run(main())

    return run
