"""Turn an author's agent into the raw protocol: metadata to bytes, `def` to threads, results checked."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from datetime import datetime
from typing import Any

from airside.model import Call, Fail, LogLine, LogLink, Metric, PluginError, Resource, Retry, Task
from airside.sdk.agent import Agent, AsyncAgent, SyncAgent
from airside.sdk.declare import check, metadata_codec, missing_extra, name_of, settings_of, task_types_of
from airside.sdk.discovery import explain
from airside.sdk.invoke import Invoker, LaneName, accepts, may_be_left, takes_argument, timeout_for
from airside.sdk.lane import THREADS
from airside.sdk.options import types_of
from airside.sdk.registry import Registration, Registry
from airside.sdk.stream import Streams

Adapter = Callable[[object], Agent | None]

ASIDE = 1.0
"""Seconds that links and foreign handles may take: they ask no backend."""

_OPTIONAL = ("get_many", "find", "links", "logs", "metrics", "read_handle")


def adapt(agent: object, adapters: Sequence[Adapter] = ()) -> Agent:
    """The raw protocol of any agent. `adapters` know further kinds of agent (hosted ones).

    Raises `PluginError` if the object is no agent or lacks a method.
    """
    check(agent)
    return _face(agent, adapters)


def _face(agent: object, adapters: Sequence[Adapter]) -> Agent:
    if isinstance(agent, Agent):
        return agent
    if isinstance(agent, AsyncAgent):
        return AsyncFace(agent)
    if isinstance(agent, SyncAgent):
        return SyncFace(agent)
    for adapter in adapters:
        adapted = adapter(agent)
        if adapted is not None:
            return adapted
    raise PluginError(f"Nothing here knows how to run {type(agent).__name__}.")


def adapt_all(
    registry: Registry, entries: Iterable[Registration], adapters: Sequence[Adapter] = (), *, threads: int = THREADS
) -> list[Agent]:
    """The raw protocol of each registered agent, for the task types that it has in the registry.

    Each gets so many threads in each of its lanes.

    One that cannot be adapted is kept in `registry.broken`.
    """
    adapted = []
    for entry in entries:
        try:
            agent = _face(entry.agent, adapters)  # which the registry has checked
        except Exception as exc:  # noqa: BLE001 - one bad plugin must not end the service
            registry.add_broken(entry.source, explain(exc))
        else:
            agent.task_types = entry.task_types  # fewer than it declares, if another agent took some over
            if isinstance(agent, Face):
                agent.invoker.threads = threads
            adapted.append(agent)
    return adapted


class Face(Agent):
    """What the faces share: the declaration, options, open and close."""

    def __init__(self, author: Any) -> None:
        self.author = author
        self.name = name_of(author)
        self.task_types = task_types_of(author)
        self.settings = settings_of(author)
        self.options_type = getattr(author, "Options", None)
        if dataclasses.is_dataclass(self.options_type):
            self._check_options(self.options_type)
        self.invoker = Invoker(self.name)
        self._takes_call: dict[str, bool] = {}

    def _check_options(self, cls: type[Any]) -> None:
        try:
            types_of(cls)
        except PluginError as exc:
            raise PluginError(f"Agent {self.name}: {exc}") from None

    async def open(self, options: Any) -> None:
        missing = missing_extra(self.author)
        if missing is not None:
            raise missing
        method = getattr(self.author, "open", None)
        if method is not None:
            arguments = (options,) if takes_argument(method) else ()
            await self.invoker.invoke(method, *arguments, timeout=self.settings.create_timeout, lane="control")

    async def close(self) -> None:
        method = getattr(self.author, "close", None)
        try:
            if method is not None:
                await self.invoker.invoke(method, timeout=self.settings.call_timeout, lane="control")
        finally:
            self.invoker.close()

    def invoke(
        self, name: str, *args: Any, call: Call, timeout: float, lane: LaneName = "refresh", **kwargs: Any
    ) -> Coroutine[Any, Any, Any]:
        """Call the author's method `name`, with `call` if it takes it."""
        method = getattr(self.author, name)
        if self._wants_call(name, method):
            kwargs["call"] = call
        return self.invoker.invoke(method, *args, timeout=timeout, lane=lane, **kwargs)

    def _wants_call(self, name: str, method: Callable[..., Any]) -> bool:
        known = self._takes_call.get(name)
        if known is None:
            known = self._takes_call[name] = accepts(method, "call")
        return known


class AsyncFace(Face):
    """`AsyncAgent[M]` as the raw protocol."""

    def __init__(self, author: AsyncAgent[Any]) -> None:
        super().__init__(author)
        self.supports = frozenset(name for name in _OPTIONAL if callable(getattr(author, name, None)))
        self.codec = metadata_codec(author)
        self._streams = Streams(self.name, self.invoker)

    async def create(self, task: Task, call: Call) -> bytes:
        limit = self.settings.create_timeout
        job = await self.invoke("create", task, call=call, timeout=limit, lane="control", inline=may_be_left.get())
        return self._encode(job, "create")

    async def get(self, meta: bytes, call: Call) -> Resource:
        limit = timeout_for(call, self.settings.call_timeout)
        return self._checked(await self.invoke("get", self._decode(meta), call=call, timeout=limit), "get")

    async def delete(self, meta: bytes, call: Call) -> None:
        limit = self.settings.call_timeout
        await self.invoke("delete", self._decode(meta), call=call, timeout=limit, lane="control")

    async def get_many(self, metas: Sequence[bytes], call: Call) -> Sequence[Resource | Exception]:
        unreadable: dict[int, Exception] = {}  # they must not cost the others their answers
        jobs = []
        for place, meta in enumerate(metas):
            try:
                jobs.append(self._decode(meta))
            except Retry as exc:
                unreadable[place] = exc
        limit = self.settings.call_timeout
        if call.deadline is None:  # so that an agent that asks for one job after the other can stop in time
            call = dataclasses.replace(call, deadline=time.monotonic() + limit)
        answers = await self.invoke("get_many", jobs, call=call, timeout=limit) if jobs else ()
        if len(answers) != len(jobs):
            raise TypeError(f"{self.name}.get_many returned {len(answers)} answers for {len(jobs)} jobs")
        rest = iter(answers)
        return [unreadable.get(place) or self._resource_or_error(next(rest)) for place in range(len(metas))]

    async def find(self, task: Task, key: str, call: Call) -> bytes | None:
        job = await self.invoke("find", task, key, call=call, timeout=self.settings.call_timeout, lane="control")
        return None if job is None else self._encode(job, "find")

    async def links(self, meta: bytes) -> Sequence[LogLink]:
        if "links" not in self.supports:
            return ()
        return tuple(await self.invoker.invoke(self.author.links, self._decode(meta), timeout=ASIDE, lane="aside"))

    def logs(self, meta: bytes, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        kwargs: dict[str, Any] = {"after": after, "limit": limit}
        if self._wants_call("logs", self.author.logs):
            kwargs["call"] = call
        return self._streams.iterate(lambda: self.author.logs(self._decode(meta), **kwargs))

    async def metrics(
        self, meta: bytes, *, queries: Sequence[str], start: datetime, end: datetime, step: float, call: Call
    ) -> Sequence[Metric]:
        limit = timeout_for(call, self.settings.call_timeout)
        job = self._decode(meta)
        series = await self.invoke(
            "metrics", job, queries=queries, start=start, end=end, step=step, call=call, timeout=limit
        )
        return list(series)

    async def read_handle(self, data: bytes) -> bytes | None:
        if "read_handle" not in self.supports:
            return None
        job = await self.invoker.invoke(self.author.read_handle, data, timeout=ASIDE, lane="aside")
        return None if job is None else self._encode(job, "read_handle")

    def _decode(self, meta: bytes) -> Any:
        try:
            return self.codec.decode(meta)
        except Exception as exc:
            text = f"{self.name} cannot read the job's metadata, which another version of it may have written"
            raise Retry(f"{text}: {type(exc).__name__}: {exc}") from exc

    def _encode(self, job: Any, method: str) -> bytes:
        try:
            return self.codec.encode(job)
        except (TypeError, ValueError, AttributeError) as exc:
            raise TypeError(
                f"{self.name}.{method} returned {type(job).__name__}, which is not its job metadata: {exc}"
            ) from exc

    def _resource_or_error(self, answer: Any) -> Resource | Exception:
        if isinstance(answer, Resource | Exception):
            return answer
        return TypeError(f"{self.name}.get_many returned {type(answer).__name__}, not a Resource")

    def _checked(self, resource: Any, method: str) -> Resource:
        if not isinstance(resource, Resource):
            raise TypeError(f"{self.name}.{method} returned {type(resource).__name__}, not a Resource")
        return resource


class SyncFace(Face):
    """`SyncAgent` as the raw protocol."""

    is_sync = True

    async def do(self, task: Task, call: Call) -> Resource:
        resource = await self.invoke("do", task, call=call, timeout=self.settings.create_timeout, lane="control")
        if not isinstance(resource, Resource):
            raise TypeError(f"{self.name}.do returned {type(resource).__name__}, not a Resource")
        if not resource.phase.is_terminal:
            raise Fail(
                f"{self.name}.do returned the phase {resource.phase.name}, which is not terminal.",
                code="AgentError",
            )
        return resource
