"""Lanes and the invoker: an agent's calls end, whatever the agent does, and harm nobody else's."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airside.model import Retry
from airside.sdk import lane as lanes
from airside.sdk.invoke import Invoker
from airside.sdk.lane import AgentCrash, Lane


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hanging calls wait for; opened at the end, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


async def _ended(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_as_many_calls_at_once_as_there_are_threads() -> None:
    lane = Lane("wide", 200)
    began = time.monotonic()
    await asyncio.gather(*(lane.run(lambda: time.sleep(0.1), timeout=5) for _ in range(400)))
    took = time.monotonic() - began
    lane.close()
    assert 0.2 <= took < 1.0


async def test_a_stuck_thread_is_replaced_and_comes_back_as_a_spare(gate: threading.Event) -> None:
    lane = Lane("small", 1)
    with pytest.raises(TimeoutError, match=r"small did not come back within 0.05 s\."):
        await lane.run(gate.wait, timeout=0.05)
    assert lane.stuck == 1
    assert await lane.run(lambda: "served", timeout=1) == "served"
    gate.set()
    await _ended(lambda: lane.stuck == 0)
    assert await asyncio.gather(*(lane.run(lambda: 1, timeout=1) for _ in range(20))) == [1] * 20
    assert lane.busy == 0
    lane.close()


async def test_with_twice_the_lane_stuck_calls_fail_at_once_and_later_recover(gate: threading.Event) -> None:
    lane = Lane("small", 2)
    for _ in range(2):
        results = await asyncio.gather(*(lane.run(gate.wait, timeout=0.05) for _ in range(2)), return_exceptions=True)
        assert [type(one) for one in results] == [TimeoutError, TimeoutError]
    began = time.monotonic()
    with pytest.raises(Retry, match="All threads of small are stuck: 4 calls"):
        await lane.run(lambda: 1, timeout=30)
    assert time.monotonic() - began < 0.05
    gate.set()
    await _ended(lambda: lane.stuck == 0)
    assert await lane.run(lambda: 1, timeout=1) == 1
    lane.close()


async def test_a_call_that_never_got_a_thread_says_so_and_never_runs(gate: threading.Event) -> None:
    lane = Lane("small", 1)
    ran: list[int] = []
    first = asyncio.create_task(lane.run(gate.wait, timeout=5))
    await asyncio.sleep(0.01)
    with pytest.raises(Retry, match=r"No thread of small was free within 0.05 s; all 1 are busy"):
        await lane.run(lambda: ran.append(1), timeout=0.05)
    gate.set()
    await first
    assert await lane.run(lambda: "next", timeout=1) == "next"
    assert ran == []
    lane.close()


async def test_no_more_calls_wait_than_the_queue_holds(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "QUEUE", 3)
    lane = Lane("small", 1)
    waiting = [asyncio.create_task(lane.run(gate.wait, timeout=5)) for _ in range(4)]
    await asyncio.sleep(0.01)
    with pytest.raises(Retry, match="3 calls wait for the 1 threads of small already"):
        await lane.run(lambda: 1, timeout=1)
    gate.set()
    await asyncio.gather(*waiting)
    lane.close()


async def test_a_cancelled_caller_leaves_its_thread_behind(gate: threading.Event) -> None:
    lane = Lane("small", 1)
    call = asyncio.create_task(lane.run(gate.wait, timeout=None))
    await asyncio.sleep(0.02)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert lane.stuck == 1
    assert await lane.run(lambda: 1, timeout=1) == 1
    lane.close()


async def test_threads_without_work_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "IDLE", 0.05)
    lane = Lane("burst", 8)
    await asyncio.gather(*(lane.run(lambda: time.sleep(0.02), timeout=1) for _ in range(8)))
    await _ended(lambda: not [one for one in threading.enumerate() if one.name.startswith("burst-")])
    assert await lane.run(lambda: 1, timeout=1) == 1
    lane.close()


async def test_a_machine_without_threads_left_fails_the_call_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    lane = Lane("poor", 2)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Retry, match=r"No thread could be started for poor\."):
            await lane.run(lambda: 1, timeout=1)
    assert await lane.run(lambda: 2, timeout=1) == 2
    lane.close()


def _recurse() -> None:
    _recurse()


class Evil(BaseException):
    """Not an Exception on purpose."""


def _raiser(error: BaseException) -> Callable[[], None]:
    def method() -> None:
        raise error

    return method


def _async_raiser(error: BaseException) -> Callable[[], Any]:
    async def method() -> None:
        raise error

    return method


ENDS = [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(), asyncio.CancelledError(), Evil()]


@pytest.mark.parametrize("error", ENDS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("lane", ["control", "refresh"])
@pytest.mark.parametrize("make", [_raiser, _async_raiser])
async def test_what_ends_a_process_ends_a_call(make: Any, lane: Any, error: BaseException) -> None:
    invoker = Invoker("evil")
    python_turns_it = isinstance(error, StopIteration) and make is _async_raiser
    with pytest.raises(RuntimeError if python_turns_it else AgentCrash, match=type(error).__name__):
        await invoker.invoke(make(error), timeout=1, lane=lane)
    assert await invoker.invoke(lambda: "on", timeout=1, lane=lane) == "on"
    invoker.close()


@pytest.mark.parametrize("lane", ["control", "refresh"])
async def test_endless_recursion_ends_a_call(lane: Any) -> None:
    invoker = Invoker("deep")
    with pytest.raises(RecursionError):
        await invoker.invoke(_recurse, timeout=5, lane=lane)
    invoker.close()


async def test_context_variables_reach_the_thread() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("seen")
    invoker = Invoker("context")
    assert await invoker.invoke(variable.get, timeout=1) == "seen"
    invoker.close()


async def test_a_slow_control_lane_does_not_hold_up_refreshes(gate: threading.Event) -> None:
    invoker = Invoker("two", threads=1)
    create = asyncio.create_task(invoker.invoke(gate.wait, timeout=5, lane="control"))
    await asyncio.sleep(0.01)
    assert await invoker.invoke(lambda: "refreshed", timeout=1, lane="refresh") == "refreshed"
    gate.set()
    await create
    invoker.close()


async def test_a_coroutine_that_ignores_its_cancellation_is_left_behind() -> None:
    release = asyncio.Event()

    async def stubborn() -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "too late"

    invoker = Invoker("stubborn")
    with pytest.raises(TimeoutError, match=r"stubborn did not come back within 0.05 s\."):
        await invoker.invoke(stubborn, timeout=0.05, lane="control")
    release.set()
    await asyncio.sleep(0.01)
    invoker.close()


HANGS = """
import asyncio, threading
from airside.sdk.lane import Lane

async def main():
    try:
        await Lane("hung").run(threading.Event().wait, timeout=0.05)
    except TimeoutError:
        print("timed out", flush=True)

asyncio.run(main())
"""


def test_a_hung_thread_does_not_keep_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "timed out\n"), done.stderr
