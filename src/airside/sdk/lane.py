"""A lane: the threads on which one agent's blocking methods of one kind run, apart from everybody else's.

A thread cannot be stopped. One whose caller gave up is left alone and another takes its place, until as many are
stuck as the lane has threads twice over; from then on calls fail at once instead of queueing for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from airside.model import AirsideError, Retry

THREADS = 16
"""Threads of a lane, unless the service is told otherwise. They start when they are needed."""
QUEUE = 10_000
"""Calls that may wait for a thread."""
IDLE = 60.0
"""Seconds after which a thread without work ends."""

_QUEUED, _RUNNING, _LEFT, _BACK = range(4)


class AgentCrash(AirsideError):
    """An agent's method tried to end the process or the loop; only its call ended."""


class _Call:
    """One call on its way through a lane. `future` belongs to the loop of its caller."""

    __slots__ = ("arrival", "context", "future", "run", "state")

    def __init__(self, run: Callable[[], Any], future: asyncio.Future[Any], arrival: _Arrival) -> None:
        self.run = run
        self.context = contextvars.copy_context()
        self.future = future
        self.arrival = arrival
        self.state = _QUEUED


class _Arrival:
    """Brings results to a loop, all that are there at one waking of it."""

    __slots__ = ("_landed", "_waking", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._landed: deque[tuple[asyncio.Future[Any], Any, Exception | None]] = deque()
        self._waking = False

    def land(self, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
        """Hand over a result, from any thread."""
        self._landed.append((future, result, error))
        if not self._waking:
            self._waking = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self.loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        self._waking = False  # before looking: whoever lands from now on wakes the loop again
        while self._landed:
            future, result, error = self._landed.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


class Lane:
    """At most `size` calls at once, each on a thread of this lane.

    >>> async def main():
    ...     lane = Lane("warehouse-refresh", 4)
    ...     return await lane.run(lambda: 6 * 7, timeout=1.0)
    >>> asyncio.run(main())
    42
    """

    def __init__(self, name: str, size: int = THREADS) -> None:
        self.name = name
        self.size = size
        self._queue: SimpleQueue[_Call | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0  # threads without a call, less calls without a thread
        self._alive = 0
        self._stuck = 0
        self._started = 0
        self._closed = False
        self._arrival: _Arrival | None = None

    @property
    def stuck(self) -> int:
        """Threads whose caller gave up and that have not come back."""
        return self._stuck

    @property
    def busy(self) -> int:
        """Calls that run or wait for a thread."""
        return max(0, self._alive - self._free)

    async def run(self, function: Callable[[], Any], *, timeout: float | None) -> Any:
        """What `function` returns or raises. A context variable set by the caller is seen by it.

        After `timeout` seconds `TimeoutError`, or `Retry` if no thread was free in all that time. `Retry` at once
        if every thread is stuck.
        """
        loop = asyncio.get_running_loop()
        call = _Call(function, loop.create_future(), self._arrival_at(loop))
        self._enqueue(call)
        timer = None if timeout is None else loop.call_later(timeout, self._expire, call, timeout)
        try:
            return await call.future
        except asyncio.CancelledError:
            self._leave(call)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        """Take no more calls, and let go of the threads without waiting for those that are stuck."""
        with self._lock:
            self._closed = True
            for _ in range(self._alive):
                self._queue.put(None)

    # -- on the caller's side ---------------------------------------------------------------------------------------

    def _arrival_at(self, loop: asyncio.AbstractEventLoop) -> _Arrival:
        if self._arrival is None or self._arrival.loop is not loop:
            self._arrival = _Arrival(loop)
        return self._arrival

    def _enqueue(self, call: _Call) -> None:
        with self._lock:
            if self._closed:
                raise Retry(f"{self.name} is closed.")
            if self._stuck >= 2 * self.size:
                raise Retry(
                    f"All threads of {self.name} are stuck: {self._stuck} calls have not come back. "
                    "Restarting the service frees them."
                )
            if self._free <= -QUEUE:
                raise Retry(f"{-self._free} calls wait for the {self.size} threads of {self.name} already.")
            self._free -= 1
            self._queue.put(call)
            if not self._start_if_needed():
                call.state = _LEFT
                raise Retry(f"No thread could be started for {self.name}.")

    def _expire(self, call: _Call, timeout: float) -> None:
        if call.future.done():
            return
        if self._leave(call):
            text = f"{self.name} did not come back within {timeout:g} s."
            call.future.set_exception(TimeoutError(text))
        else:
            text = f"No thread of {self.name} was free within {timeout:g} s; all {self.size} are busy."
            call.future.set_exception(Retry(text))

    def _leave(self, call: _Call) -> bool:
        """Give up a call; True if it had a thread, which is replaced if anybody waits for one."""
        with self._lock:
            before = call.state
            if before == _RUNNING:
                self._stuck += 1
                self._start_if_needed()
            if before != _BACK:
                call.state = _LEFT
            return before != _QUEUED

    def _start_if_needed(self) -> bool:
        """Start a thread if a call waits for one and there may be one more; False if none works on and none starts."""
        if self._free >= 0 or self._alive - self._stuck >= self.size or self._alive >= 2 * self.size:
            return True
        self._started += 1
        thread = threading.Thread(target=self._work, name=f"{self.name}-{self._started}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the machine gives no more threads; those that are there go on
            return self._alive > self._stuck
        self._alive += 1
        self._free += 1
        return True

    # -- on a thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            try:
                call = self._queue.get(timeout=IDLE)
            except Empty:
                if self._may_end():
                    return
                continue
            if call is None:
                return
            began = self._begin(call)
            if began:
                call.arrival.land(call.future, *_outcome(call.context, call.run))
            goes_on = self._end(call, began=began)
            del call  # and with it whatever the agent returned
            if not goes_on:
                return

    def _begin(self, call: _Call) -> bool:
        with self._lock:
            if call.state == _LEFT:
                return False
            call.state = _RUNNING
            return True

    def _end(self, call: _Call, *, began: bool) -> bool:
        """Note that a thread is free again; False if another has taken its place meanwhile."""
        with self._lock:
            if began and call.state == _LEFT:
                self._stuck -= 1
                if self._alive - self._stuck > self.size:
                    self._alive -= 1
                    return False
            elif began:
                call.state = _BACK
            self._free += 1
            return True

    def _may_end(self) -> bool:
        with self._lock:
            if self._free <= 0:
                return False
            self._free -= 1
            self._alive -= 1
            return True


def _outcome(context: contextvars.Context, run: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return context.run(run), None
    except StopIteration as exc:
        return None, crash(exc)
    except Exception as exc:  # noqa: BLE001 - it is the caller's
        return None, exc
    except BaseException as exc:  # noqa: BLE001 - whatever it is meant to end, it ends this call only
        return None, crash(exc)


def crash(exc: BaseException) -> AgentCrash:
    """What the caller sees of an exception that must not reach the loop or the process."""
    error = AgentCrash(f"{type(exc).__name__} raised in the agent")
    error.__cause__ = exc
    return error
