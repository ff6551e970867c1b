"""Call an author's method: await it, or run it on the agent's own threads, under a timeout.

Whatever the method does (`sys.exit`, `KeyboardInterrupt`, `StopIteration`, endless recursion) ends that call
only: it reaches the caller as an ordinary exception.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airside.model import AirsideError, Call


class AgentCrash(AirsideError):
    """An agent's method tried to end the process or the loop; only its call ended."""


class Invoker:
    """Calls the methods of one agent. Plain `def` methods run on threads that belong to this agent alone.

    `threads` bounds how many run at once in each of two lanes: one for create, delete and do, one for
    the refreshes, so that slow creates never hold up a get.
    """

    def __init__(self, name: str, *, threads: int = 16) -> None:
        self._name = name
        self._threads = threads
        self._lanes: dict[str, ThreadPoolExecutor] = {}
        self._async: dict[Callable[..., Any], bool] = {}

    async def invoke(
        self,
        method: Callable[..., Any],
        *args: Any,
        timeout: float | None,
        lane: str = "refresh",
        **kwargs: Any,
    ) -> Any:
        """The method's result; `TimeoutError` after `timeout` seconds.

        A thread cannot be stopped: after a timeout it runs on behind, and its result is dropped.
        """
        if timeout is None:
            return await self._run(method, args, kwargs, lane)
        async with asyncio.timeout(timeout):
            return await self._run(method, args, kwargs, lane)

    def close(self) -> None:
        """Let go of the threads without waiting for those that hang."""
        for pool in self._lanes.values():
            pool.shutdown(wait=False, cancel_futures=True)
        self._lanes.clear()

    async def _run(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], lane: str) -> Any:
        known = self._async.get(method)
        if known is None:
            known = self._async[method] = is_async(method)
        if known:
            return await _guarded(method(*args, **kwargs))
        context = contextvars.copy_context()
        work = functools.partial(context.run, _call_safely, method, args, kwargs)
        result = await asyncio.get_running_loop().run_in_executor(self._lane(lane), work)
        if inspect.isawaitable(result):  # an `async def` behind a plain wrapper
            self._async[method] = True
            return await _guarded(result)
        return result

    def _lane(self, lane: str) -> ThreadPoolExecutor:
        pool = self._lanes.get(lane)
        if pool is None:
            pool = ThreadPoolExecutor(self._threads, thread_name_prefix=f"{self._name}-{lane}")
            self._lanes[lane] = pool
        return pool


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


async def _guarded(coroutine: Any) -> Any:
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as exc:
        raise AgentCrash(f"{type(exc).__name__} raised in the agent") from exc
    except asyncio.CancelledError as exc:
        if is_cancelled():
            raise
        raise AgentCrash("CancelledError raised in the agent") from exc


def is_cancelled() -> bool:
    """True if the task that runs now was told to stop: a `CancelledError` in it is then not the agent's own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _call_safely(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        return method(*args, **kwargs)
    except (SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, asyncio.CancelledError) as exc:
        raise AgentCrash(f"{type(exc).__name__} raised in the agent") from exc
