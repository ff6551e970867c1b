"""What becomes visible of the agents: each of their calls, and how busy they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from datetime import datetime
from typing import Any, TypeVar

from airside.model import Call, ConversionError, Fail, LogLine, Metric, NotFound, Resource, Retry, Task
from airside.observe.events import Event, Hooks, What
from airside.observe.tracing import Tracing
from airside.sdk.agent import Agent

T = TypeVar("T")

_BACKEND = What.BACKEND  # looking a member up takes longer than the rest of the event


class ObservedAgent(Agent):
    """An agent, each of whose calls of its backend is told to the hooks, and is a span if calls are traced."""

    def __init__(self, agent: Agent, hooks: Hooks, tracing: Tracing | None = None) -> None:
        self.inner = agent
        self.calls = 0
        self.name = agent.name
        self.task_types = agent.task_types
        self.settings = agent.settings
        self.is_sync = agent.is_sync
        self.supports = agent.supports
        self.joins_creates = agent.joins_creates
        self._hooks = hooks
        self._tracing = tracing
        self._type = agent.task_types[0].name if agent.task_types else ""
        self.links = agent.links  # type: ignore[method-assign]  # it asks no backend
        self.read_handle = agent.read_handle  # type: ignore[method-assign]  # nor does this

    def create(self, task: Task, call: Call) -> Coroutine[Any, Any, bytes]:
        return self._watch("create", self.inner.create(task, call), call)

    def get(self, meta: bytes, call: Call) -> Coroutine[Any, Any, Resource]:
        return self._watch("get", self.inner.get(meta, call), call)

    def delete(self, meta: bytes, call: Call) -> Coroutine[Any, Any, None]:
        return self._watch("delete", self.inner.delete(meta, call), call)

    def do(self, task: Task, call: Call) -> Coroutine[Any, Any, Resource]:
        return self._watch("do", self.inner.do(task, call), call)

    def get_many(self, metas: Sequence[bytes], call: Call) -> Coroutine[Any, Any, Sequence[Resource | Exception]]:
        return self._watch("get_many", self.inner.get_many(metas, call), call, len(metas))

    def find(self, task: Task, key: str, call: Call) -> Coroutine[Any, Any, bytes | None]:
        return self._watch("find", self.inner.find(task, key, call), call)

    def metrics(
        self, meta: bytes, *, queries: Sequence[str], start: datetime, end: datetime, step: float, call: Call
    ) -> Coroutine[Any, Any, Sequence[Metric]]:
        asked = self.inner.metrics(meta, queries=queries, start=start, end=end, step=step, call=call)
        return self._watch("metrics", asked, call)

    def logs(self, meta: bytes, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        return self.inner.logs(meta, after=after, limit=limit, call=call)

    def _watch(self, operation: str, work: Coroutine[Any, Any, T], call: Call, size: int = 1) -> Coroutine[Any, Any, T]:
        told = self._tell(operation, work, call, size)  # not `async def`: each level costs a call that is often made
        return told if self._tracing is None else self._trace(self._tracing, operation, told, call, size)

    async def _trace(self, tracing: Tracing, operation: str, told: Coroutine[Any, Any, T], call: Call, size: int) -> T:
        task_type = call.task_type.name if call.task_type else self._type
        with tracing.backend(operation, agent=self.name, task_type=task_type, key=call.key, jobs=size):
            return await told

    async def _tell(self, operation: str, work: Coroutine[Any, Any, T], call: Call, size: int) -> T:
        began, code = time.perf_counter(), ""
        self.calls += 1
        try:
            return await work
        except BaseException as exc:
            code = _name_of(exc)
            raise
        finally:
            self.calls -= 1
            task_type, seconds = call.task_type.name if call.task_type else self._type, time.perf_counter() - began
            self._hooks.tell(Event(_BACKEND, task_type, "", operation, code, seconds, size, call.key))


def observed(agents: Sequence[Agent], hooks: Hooks, tracing: Tracing | None) -> Sequence[Agent]:
    """The agents, observed if there is anybody to tell."""
    if not hooks and tracing is None:
        return agents
    return [ObservedAgent(agent, hooks, tracing) for agent in agents]


def _name_of(exc: BaseException) -> str:
    """How a call failed, in one of few words: an author's own exceptions are not told apart."""
    for kind in type(exc).__mro__:
        if kind in _KINDS:
            return _KINDS[kind]
    return "unexpected"


_KINDS: dict[type, str] = {
    Retry: "retry",
    Fail: "fail",
    NotFound: "not_found",
    ConversionError: "conversion",
    TimeoutError: "timeout",
    OSError: "connection",
    asyncio.CancelledError: "cancelled",
}
