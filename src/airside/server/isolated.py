"""The far side of an isolated agent: in its own process, does what the service asks over the link."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from airside.model import AirsideError, Resource
from airside.observe.events import Hooks
from airside.observe.tracing import continued
from airside.sdk.agent import Agent
from airside.server.link import Link
from airside.server.readings import lanes_of
from airside.server.watchdog import Watchdog
from airside.wire import isolation as wire

log = logging.getLogger("airside.isolated")


def declaration_of(agent: Agent) -> dict[str, Any]:
    """What the service must know of the agent before it calls it."""
    return {
        "name": agent.name,
        "task_types": [list(one) for one in agent.task_types],
        "is_sync": agent.is_sync,
        "settings": asdict(agent.settings),
        "supports": sorted(agent.supports),
    }


class Isolated:
    """Answers the calls of one link with one agent. `options` is what the agent is opened with."""

    def __init__(self, link: Link, agent: Agent, options: Any) -> None:
        self._link = link
        self._agent = agent
        self._options = options
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._room: dict[int, asyncio.Semaphore] = {}
        self._verbs: Mapping[str, Callable[..., Awaitable[Any]]] = {
            name: getattr(self, f"_{name}")
            for name in (
                *("open", "close", "create", "get", "delete", "do", "get_many"),
                *("find", "links", "logs", "metrics", "read_handle"),
            )
        }

    async def serve(self) -> None:
        """Until the service hangs up."""
        watchdog = Watchdog([self._agent], Hooks())
        watchdog.start()
        self._link.send("ready", declaration_of(self._agent))
        while (message := await self._link.receive()) is not None:
            match message:
                case ["call", int() as number, str() as verb, list() as arguments, dict() as trace]:
                    task = asyncio.create_task(self._answer(number, verb, arguments, trace))
                    self._calls[number] = task
                case ["cancel", int() as number]:
                    if number in self._calls:
                        self._calls[number].cancel()
                case ["more", int() as number, int() as lines]:
                    for _ in range(lines):
                        self._room_of(number).release()
                case ["ping"]:
                    self._link.send("pong", [list(lane) for lane in lanes_of(self._agent)])
        watchdog.stop()

    async def _answer(self, number: int, verb: str, arguments: list[Any], trace: Mapping[str, str]) -> None:
        try:
            given = [number, *arguments] if verb == "logs" else arguments
            with continued(trace):
                answer = await self._verbs[verb](*given)
            await self._link.deliver("done", number, answer)
        except asyncio.CancelledError:
            if asyncio.current_task().cancelling() == 0:  # type: ignore[union-attr]  # this is a task
                self._link.send("failed", number, wire.write_error(AirsideError("The call was cancelled.")))
            raise
        except Exception as exc:  # noqa: BLE001 - it is the service's to judge
            self._link.send("failed", number, wire.write_error(exc))
        finally:
            self._calls.pop(number, None)
            self._room.pop(number, None)

    def _room_of(self, number: int) -> asyncio.Semaphore:
        return self._room.setdefault(number, asyncio.Semaphore(0))

    # -- the agent's methods ----------------------------------------------------------------------------------------

    async def _open(self) -> None:
        await self._agent.open(self._options)

    async def _close(self) -> None:
        await self._agent.close()

    async def _create(self, task: Any, call: Any) -> bytes:
        return await self._agent.create(wire.read_task(task), wire.read_call(call))

    async def _get(self, meta: bytes, call: Any) -> Any:
        return wire.write_resource(_checked(await self._agent.get(meta, wire.read_call(call)), "get"))

    async def _delete(self, meta: bytes, call: Any) -> None:
        await self._agent.delete(meta, wire.read_call(call))

    async def _do(self, task: Any, call: Any) -> Any:
        return wire.write_resource(_checked(await self._agent.do(wire.read_task(task), wire.read_call(call)), "do"))

    async def _get_many(self, metas: list[bytes], call: Any) -> list[Any]:
        answers = await self._agent.get_many(metas, wire.read_call(call))
        return [
            wire.write_error(one) if isinstance(one, Exception) else wire.write_resource(_checked(one, "get_many"))
            for one in answers
        ]

    async def _find(self, task: Any, key: str, call: Any) -> bytes | None:
        return await self._agent.find(wire.read_task(task), key, wire.read_call(call))

    async def _links(self, meta: bytes) -> list[Any]:
        return wire.write_links(await self._agent.links(meta))

    async def _logs(self, number: int, meta: bytes, after: str, limit: int, call: Any) -> None:
        room = self._room_of(number)
        lines = self._agent.logs(meta, after=after, limit=limit, call=wire.read_call(call))
        async with aclosing(lines) as open_lines:  # type: ignore[type-var]  # the agents' are generators
            async for line in open_lines:
                await room.acquire()
                await self._link.deliver("item", number, wire.write_line(line))

    async def _metrics(self, meta: bytes, queries: Any, start: Any, end: Any, step: float, call: Any) -> list[Any]:
        call = wire.read_call(call)
        found = await self._agent.metrics(meta, queries=queries, start=start, end=end, step=step, call=call)
        return [wire.write_metric(one) for one in found]

    async def _read_handle(self, data: bytes) -> bytes | None:
        return await self._agent.read_handle(data)


def _checked(resource: object, method: str) -> Resource:
    if not isinstance(resource, Resource):
        raise TypeError(f"{method} returned {type(resource).__name__}, not a Resource")
    return resource
