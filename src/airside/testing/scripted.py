"""An agent that does what a script says and remembers what it was asked."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from airside.model import Call, LogLine, LogLink, Metric, Phase, Resource, Task, TaskType
from airside.sdk.agent import Agent, AgentSettings

_VERBS = ("create", "get", "delete", "do", "get_many", "find", "logs", "metrics", "read_handle", "links")


@dataclass(frozen=True, slots=True)
class Received:
    """One call that a `ScriptedAgent` received: the verb and its arguments."""

    verb: str
    task: Task | None = None
    meta: bytes | None = None
    call: Call | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


class ScriptedAgent(Agent):
    """The raw agent for tests: each verb follows a script, every call is kept in `received`.

    A script is one step or a list of steps, one for each call; the last step repeats. A step is

    - an exception: it is raised;
    - a callable: it is called with the verb's first argument (the task, or the job's bytes) and may be `async`;
      what it returns or raises is the answer;
    - anything else: it is the answer. Create answers bytes, get and do a `Resource`, logs a list of `LogLine`s.

    A verb that is optional in the protocol (`find`, `get_many`, `logs`, `metrics`, `links`, `read_handle`) is
    supported only if its script is given. `settings` are the fields of `AgentSettings`.

    >>> from airside import Phase, Resource, Retry
    >>> agent = ScriptedAgent(get=[Resource(Phase.RUNNING), Retry("busy"), Resource(Phase.SUCCEEDED)])
    >>> import asyncio
    >>> asyncio.run(agent.get(b"job-1", Call())).phase.name
    'RUNNING'
    >>> [call.meta for call in agent.calls("get")]
    [b'job-1']
    """

    def __init__(
        self,
        name: str = "scripted",
        task_types: Sequence[str | tuple[str, int]] = ("scripted",),
        *,
        is_sync: bool = False,
        settings: AgentSettings | None = None,
        **scripts: Any,
    ) -> None:
        unknown = set(scripts) - set(_VERBS)
        if unknown:
            raise TypeError(f"no such verb: {', '.join(sorted(unknown))} (verbs: {', '.join(_VERBS)})")
        self.name = name
        self.task_types = tuple(TaskType(one) if isinstance(one, str) else TaskType(*one) for one in task_types)
        self.is_sync = is_sync
        self.settings = settings or AgentSettings()
        self.received: list[Received] = []
        self.opened = self.closed = 0
        self.options: Any = None
        self._scripts = {"create": b"job-1", "delete": None, **_RESULTS, **scripts}
        self._asked = dict.fromkeys(_VERBS, 0)
        self.supports = frozenset(scripts) - {"create", "get", "delete", "do"}

    def calls(self, verb: str) -> list[Received]:
        """The calls of one verb, in the order they came."""
        return [call for call in self.received if call.verb == verb]

    async def open(self, options: Any) -> None:
        self.options = options
        self.opened += 1

    async def close(self) -> None:
        self.closed += 1

    async def create(self, task: Task, call: Call) -> bytes:
        self.received.append(Received("create", task=task, call=call))
        return bytes(await self._answer("create", task))

    async def get(self, meta: bytes, call: Call) -> Resource:
        self.received.append(Received("get", meta=meta, call=call))
        resource: Resource = await self._answer("get", meta)
        return resource

    async def delete(self, meta: bytes, call: Call) -> None:
        self.received.append(Received("delete", meta=meta, call=call))
        await self._answer("delete", meta)

    async def do(self, task: Task, call: Call) -> Resource:
        self.received.append(Received("do", task=task, call=call))
        resource: Resource = await self._answer("do", task)
        return resource

    async def get_many(self, metas: Sequence[bytes], call: Call) -> Sequence[Resource | Exception]:
        self.received.append(Received("get_many", call=call, arguments={"metas": list(metas)}))
        answers: Sequence[Resource | Exception] = await self._answer("get_many", metas)
        return answers

    async def find(self, task: Task, key: str, call: Call) -> bytes | None:
        self.received.append(Received("find", task=task, call=call, arguments={"key": key}))
        meta: bytes | None = await self._answer("find", task)
        return meta

    async def links(self, meta: bytes) -> Sequence[LogLink]:
        if "links" not in self.supports:
            return ()
        links: Sequence[LogLink] = self._step("links", meta)
        return links

    async def logs(self, meta: bytes, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        self.received.append(Received("logs", meta=meta, call=call, arguments={"after": after, "limit": limit}))
        lines = await self._answer("logs", meta)
        if hasattr(lines, "__aiter__"):
            async for line in lines:
                yield line
            return
        begin = int(after or 0)
        for line in lines[begin : begin + limit]:
            yield line

    async def metrics(self, meta: bytes, *, call: Call, **arguments: Any) -> Sequence[Metric]:
        self.received.append(Received("metrics", meta=meta, call=call, arguments=arguments))
        series: Sequence[Metric] = await self._answer("metrics", meta)
        return series

    async def read_handle(self, data: bytes) -> bytes | None:
        self.received.append(Received("read_handle", meta=data))
        meta: bytes | None = self._step("read_handle", data) if "read_handle" in self.supports else None
        return meta

    async def _answer(self, verb: str, argument: Any) -> Any:
        answer = self._step(verb, argument)
        return await answer if inspect.isawaitable(answer) else answer

    def _step(self, verb: str, argument: Any) -> Any:
        script = self._scripts[verb]
        steps = script if isinstance(script, list) and verb not in _ANSWER_IS_A_LIST else [script]
        step = steps[min(self._asked[verb], len(steps) - 1)]
        self._asked[verb] += 1
        if isinstance(step, BaseException):
            raise step
        return step(argument) if callable(step) else step


_RESULTS = {"get": Resource(Phase.SUCCEEDED), "do": Resource(Phase.SUCCEEDED)}
_ANSWER_IS_A_LIST = frozenset({"logs", "metrics", "links", "get_many"})


async def hang(_: object = None) -> Any:
    """A step that never answers.

    >>> ScriptedAgent(get=hang).name
    'scripted'
    """
    await asyncio.Event().wait()
