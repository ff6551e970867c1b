"""Call an author's method: await it, or run it on the agent's own threads, under a timeout.

Whatever the method does (`sys.exit`, `KeyboardInterrupt`, `StopIteration`, endless recursion) ends that call
only: it reaches the caller as an ordinary exception.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from typing import Any, Literal

from airside.model import Call, Retry
from airside.sdk.lane import THREADS, AgentCrash, Lane, crash
from airside.sdk.limit import Limit

__all__ = ("AgentCrash", "Invoker", "LaneName", "accepts", "is_async", "may_be_left", "timeout_for")

LaneName = Literal["control", "refresh", "aside"]

CONCURRENT = 2_000
"""`async def` calls of one lane that may be under way at once."""
may_be_left: ContextVar[bool] = ContextVar("may_be_left", default=False)
"""True in a task that is kept to its time, and given up if it ignores that, by whoever began it."""
_ASIDE = 4  # threads for what is asked in passing: links, foreign handles, the start of a log


class Invoker:
    """Calls the methods of one agent. Plain `def` methods run on threads that belong to this agent alone.

    There are two lanes of `threads` each: "control" for create, delete and do, "refresh" for the refreshes, so
    that slow creates never hold up a get. A small third one, "aside", is for what takes no backend call.
    """

    def __init__(self, name: str, *, threads: int = THREADS) -> None:
        self.threads = threads
        self._name = name
        self._lanes: dict[str, Lane] = {}
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._async: dict[Callable[..., Any], bool] = {}
        self._left: set[asyncio.Task[Any]] = set()
        self._inline = 0

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """The lanes that have been used."""
        return self._lanes

    async def invoke(
        self,
        method: Callable[..., Any],
        *args: Any,
        timeout: float | None,
        lane: LaneName = "refresh",
        inline: bool = False,
        **kwargs: Any,
    ) -> Any:
        """The method's result; `TimeoutError` after `timeout` seconds, `Retry` if it could not even begin.

        With `inline`, an `async def` has no timeout and no task of its own: its caller can do without it. A thread
        cannot be stopped: after a timeout it runs on behind, and its result is dropped.
        """
        known = self._async.get(method)
        if known is None:
            known = self._async[method] = is_async(method)
        if not known:
            result = await self._lane(lane).run(functools.partial(method, *args, **kwargs), timeout=timeout)
            if inspect.isawaitable(result):  # an `async def` behind a plain wrapper
                self._async[method] = True
                return await guarded(result, self._name)
            return result
        if inline and self._inline < CONCURRENT:
            self._inline += 1
            try:
                return await guarded(method(*args, **kwargs), self._name)
            finally:
                self._inline -= 1
        if len(self._left) >= CONCURRENT:
            raise Retry(f"{len(self._left)} calls of {self._name} ignore that they were cancelled.")
        try:
            with Limit(timeout) as limit:
                async with self._turn(lane):
                    call = guarded(method(*args, **kwargs), self._name)
                    # A refresh, the most frequent call, does without a task of its own: its caller has one.
                    return await (call if lane == "refresh" else self._aloof(call))
        except TimeoutError as exc:
            if limit.expired:
                raise TimeoutError(f"{self._name} did not come back within {timeout:g} s.") from exc
            raise

    async def aside(self, function: Callable[[], Any], *, timeout: float) -> Any:
        """What a blocking `function` of the agent's returns, on a thread of the lane for calls in passing."""
        return await self._lane("aside").run(function, timeout=timeout)

    def close(self) -> None:
        """Let go of the threads without waiting for those that hang."""
        for lane in self._lanes.values():
            lane.close()
        self._lanes.clear()
        self._turns.clear()
        for task in self._left:
            task.cancel()

    async def _aloof(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """The coroutine's result. One that ignores its cancellation is left behind: its caller ends nevertheless."""
        task = asyncio.create_task(coroutine)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._left.add(task)
            task.add_done_callback(self._drop)
            task.cancel()
            raise

    def _drop(self, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # nobody else will look at it

    def _lane(self, name: LaneName) -> Lane:
        lane = self._lanes.get(name)
        if lane is None:
            size = _ASIDE if name == "aside" else self.threads
            lane = self._lanes[name] = Lane(f"{self._name}-{name}", size)
        return lane

    def _turn(self, name: LaneName) -> asyncio.Semaphore:
        turn = self._turns.get(name)
        if turn is None:
            turn = self._turns[name] = asyncio.Semaphore(CONCURRENT)
        return turn


def is_async(method: Callable[..., Any]) -> bool:
    """True if the method is `async def` (also behind a partial, or as an object's `__call__`)."""
    while isinstance(method, functools.partial):
        method = method.func
    return inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(type(method).__call__)


def accepts(method: Callable[..., Any], name: str) -> bool:
    """True if the method takes an argument of this name, or any keyword argument.

    >>> accepts(lambda job, call: None, "call"), accepts(lambda job: None, "call")
    (True, False)
    """
    parameters = inspect.signature(method).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)


def takes_argument(method: Callable[..., Any]) -> bool:
    """True if the method takes an argument by position.

    >>> takes_argument(lambda options: None), takes_argument(lambda: None)
    (True, False)
    """
    parameters = inspect.signature(method).parameters.values()
    return any(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters)


def timeout_for(call: Call, limit: float) -> float:
    """Seconds that a call may take: the agent's own limit, less if the caller's deadline comes first."""
    return limit if call.deadline is None else min(limit, max(0.0, call.deadline - time.monotonic()))


async def guarded(coroutine: Any, agent: str) -> Any:  # noqa: ARG001 - the watchdog reads `agent`, see below
    """The coroutine's result; nothing it raises ends more than this call.

    The watchdog looks for this frame on the stack of a loop that does not turn, and for `agent` in it.
    """
    try:
        return await coroutine
    except asyncio.CancelledError as exc:
        if is_cancelled():
            raise
        raise crash(exc) from exc
    except Exception:
        raise
    except BaseException as exc:
        raise crash(exc) from exc


def is_cancelled() -> bool:
    """True if the task that runs now was told to stop: a `CancelledError` in it is then not the agent's own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
