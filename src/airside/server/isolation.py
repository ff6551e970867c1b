"""An agent in a process of its own: whoever drives it cannot tell, but it can die without harm to the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import Any

from airside.model import Call, LogLine, LogLink, Metric, PluginError, Resource, Retry, Task, TaskType, UsageError
from airside.observe.events import Event, Hooks, What
from airside.observe.readings import LaneLoad
from airside.observe.tracing import carrier
from airside.sdk.adapt import ASIDE
from airside.sdk.agent import Agent, AgentSettings
from airside.sdk.invoke import timeout_for
from airside.sdk.lane import THREADS
from airside.server.child import Child, Isolation, Keeper
from airside.server.link import VERSION, Link, LinkBroken
from airside.wire import isolation as wire
from airside.wire import limits

log = logging.getLogger("airside.server")

START = 60.0
"""Seconds that a process may take to import its agent."""
MARGIN = 0.5
"""Seconds beyond the agent's own timeout that a call may take: its process keeps the time, unless it is stuck."""
WAIT = 5.0
"""Seconds for which a call waits for a process that is being restarted."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
"""Seconds between a process's end and the next one; they double while it ends soon after its start."""
HEALTHY = 60.0
"""Seconds after which a process did not end soon."""
PING = 5.0
UNRESPONSIVE = 30.0
"""Seconds without a sign of life after which a process is killed and started anew."""
IN_FLIGHT = 4_000
"""Calls that may be under way at once."""
AHEAD = 64
"""Log lines that may be on their way to a reader."""
OFF_LOOP = 256 * limits.KIB


@dataclass(slots=True, eq=False)
class _Asked:
    """A call under way. A log's lines come one by one, with None for their end."""

    verb: str
    key: str
    done: asyncio.Future[Any]
    lines: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)


@dataclass(slots=True, eq=False)
class _Life:
    """One process, from its start to its end."""

    child: Child
    link: Link
    began: float
    heard: float
    asked: dict[int, _Asked] = field(default_factory=dict)


class IsolatedAgent(Agent):
    """The agent `plan.name` of another process. `start` it first: only then is known what it declares.

    `table` holds the agent's options; they are checked in its process.
    """

    options_type = dict

    def __init__(
        self,
        plan: Isolation,
        table: Mapping[str, Any] | None = None,
        *,
        threads: int = THREADS,
        hooks: Hooks = Hooks(),  # noqa: B008 - it has no state
    ) -> None:
        self.plan = plan
        self.name = plan.name
        self._order = {"version": VERSION, "name": plan.name, "modules": list(plan.modules), "threads": threads}
        self._order["options"] = dict(table or {})
        self._hooks = hooks
        self._keeper = Keeper(plan)
        self._numbers = count(1)
        self.lanes: tuple[LaneLoad, ...] = ()
        """The lanes of its process, as they were at its last sign of life."""
        self._life: _Life | None = None
        self._up = asyncio.Event()
        self._opened = False
        self._again_at = 0.0
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The id of its process, None while there is none."""
        return self._life.child.pid if self._life is not None else None

    async def start(self) -> None:
        """Start the process and learn what the agent declares.

        Raises `UsageError` if the interpreter, the agent or an option is not as it should be.
        """
        life, declaration = await self._begin()
        self._declare(declaration)
        self._supervisor = asyncio.create_task(self._supervise(life))

    async def open(self, options: Any) -> None:
        del options  # its process has them
        await self._ask("open", [], timeout=self.settings.create_timeout)
        self._opened = True

    async def close(self) -> None:
        self._opened = False
        if self._supervisor is not None:
            if self._up.is_set():
                with contextlib.suppress(Exception):
                    await self._ask("close", [], timeout=self.settings.call_timeout)
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        self._keeper.close()

    # -- the agent's methods ----------------------------------------------------------------------------------------

    async def create(self, task: Task, call: Call) -> bytes:
        arguments = [await _written(task), wire.write_call(call)]
        meta: bytes = await self._ask("create", arguments, timeout=self.settings.create_timeout, key=call.key)
        return meta

    async def get(self, meta: bytes, call: Call) -> Resource:
        timeout = timeout_for(call, self.settings.call_timeout)
        return wire.read_resource(await self._ask("get", [meta, wire.write_call(call)], timeout=timeout))

    async def delete(self, meta: bytes, call: Call) -> None:
        await self._ask("delete", [meta, wire.write_call(call)], timeout=self.settings.call_timeout)

    async def do(self, task: Task, call: Call) -> Resource:
        arguments = [await _written(task), wire.write_call(call)]
        return wire.read_resource(await self._ask("do", arguments, timeout=self.settings.create_timeout))

    async def get_many(self, metas: Sequence[bytes], call: Call) -> Sequence[Resource | Exception]:
        arguments = [list(metas), wire.write_call(call)]
        answers = await self._ask("get_many", arguments, timeout=self.settings.call_timeout)
        return [wire.read_error(one) if isinstance(one, dict) else wire.read_resource(one) for one in answers]

    async def find(self, task: Task, key: str, call: Call) -> bytes | None:
        arguments = [await _written(task), key, wire.write_call(call)]
        meta: bytes | None = await self._ask("find", arguments, timeout=self.settings.call_timeout)
        return meta

    async def links(self, meta: bytes) -> Sequence[LogLink]:
        return wire.read_links(await self._ask("links", [meta], timeout=ASIDE))

    async def logs(self, meta: bytes, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        life = await self._living(WAIT)
        number, asked = self._enter(life, "logs", "")
        try:
            arguments = [meta, after, limit, wire.write_call(call)]
            await life.link.deliver("call", number, "logs", arguments, carrier())
            life.link.send("more", number, AHEAD)
            read = 0
            while (line := await asked.lines.get()) is not None:
                yield wire.read_line(line)
                read += 1
                if read % (AHEAD // 2) == 0:
                    life.link.send("more", number, AHEAD // 2)
            await asked.done
        finally:
            self._leave(life, number, asked)

    async def metrics(
        self, meta: bytes, *, queries: Sequence[str], start: datetime, end: datetime, step: float, call: Call
    ) -> Sequence[Metric]:
        arguments = [meta, list(queries), start, end, step, wire.write_call(call)]
        timeout = timeout_for(call, self.settings.call_timeout)
        return [wire.read_metric(one) for one in await self._ask("metrics", arguments, timeout=timeout)]

    async def read_handle(self, data: bytes) -> bytes | None:
        if "read_handle" not in self.supports:
            return None
        meta: bytes | None = await self._ask("read_handle", [data], timeout=ASIDE)
        return meta

    # -- asking -----------------------------------------------------------------------------------------------------

    async def _ask(self, verb: str, arguments: list[Any], *, timeout: float, key: str = "") -> Any:
        """The answer of the agent's process, in which the timeout is kept; here only if the process itself hangs."""
        began = time.monotonic()
        life = await self._living(min(WAIT, timeout))
        number, asked = self._enter(life, verb, key)
        left = max(0.0, began + timeout - time.monotonic())
        try:
            async with asyncio.timeout(left + MARGIN) as limit:
                await life.link.deliver("call", number, verb, arguments, carrier())
                return await asked.done
        except TimeoutError as exc:
            if limit.expired():
                raise TimeoutError(f"The process of {self.name} did not answer within {timeout:g} s.") from exc
            raise
        finally:
            self._leave(life, number, asked)

    async def _living(self, patience: float) -> _Life:
        if self._life is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._up.wait()
        if self._life is None:
            after = max(0.0, self._again_at - time.monotonic())
            raise Retry(f"The process of {self.name} ended and is being restarted.", after=after)
        return self._life

    def _enter(self, life: _Life, verb: str, key: str) -> tuple[int, _Asked]:
        if len(life.asked) >= IN_FLIGHT:
            raise Retry(f"{len(life.asked)} calls of {self.name} are under way already.")
        number = next(self._numbers)
        asked = life.asked[number] = _Asked(verb, key, asyncio.get_running_loop().create_future())
        return number, asked

    def _leave(self, life: _Life, number: int, asked: _Asked) -> None:
        if life.asked.pop(number, None) is not None and not asked.done.done():
            life.link.send("cancel", number)
        if asked.done.done() and not asked.done.cancelled():
            asked.done.exception()  # looked at, also if its caller went away meanwhile

    # -- one process after the other --------------------------------------------------------------------------------

    async def _begin(self) -> tuple[_Life, dict[str, Any]]:
        """A process whose agent is ready, and what the agent declares."""
        try:
            child = await self._keeper.start()
        except OSError as exc:
            raise UsageError(f"isolate.{self.name}: {self.plan.command[0]} cannot be run: {exc.strerror}.") from exc
        link = await Link.over(child.socket)
        try:
            async with asyncio.timeout(START):
                link.send("order", self._order)
                answer = await link.receive()
                if answer is None:
                    await child.ended.wait()
        except (TimeoutError, LinkBroken) as exc:
            await _end(child, link)
            problem = f"was not ready within {START:g} s" if isinstance(exc, TimeoutError) else f"answered with {exc}"
            raise PluginError(f"isolate.{self.name}: {self.plan.command[0]} {problem}.") from exc
        except BaseException:
            await _end(child, link)
            raise
        if answer is None:
            await _end(child, link)
            raise PluginError(f"isolate.{self.name}: {self._unready(child)}")
        if answer[0] != "ready":
            await _end(child, link)
            raise wire.read_error(answer[1])
        now = time.monotonic()
        return _Life(child, link, now, now), answer[1]

    def _unready(self, child: Child) -> str:
        words = child.last_words[-1] if child.last_words else "it said nothing"
        hint = ""
        if "No module named" in words and "airside" in words:
            hint = " Install Airside into that environment."
        return f"{self.plan.command[0]} ended with {child.end} before its agent was ready: {words}.{hint}"

    def _declare(self, declaration: Mapping[str, Any]) -> None:
        self.name = declaration["name"]
        self.task_types = tuple(TaskType(*one) for one in declaration["task_types"])
        self.is_sync = declaration["is_sync"]
        self.settings = AgentSettings(**declaration["settings"])
        self.supports = frozenset(declaration["supports"])
        self._declaration = declaration

    async def _supervise(self, life: _Life) -> None:
        """Live with one process after the other until cancelled."""
        pause = FIRST_PAUSE
        while True:
            await self._live(life)
            if time.monotonic() - life.began >= HEALTHY:
                pause = FIRST_PAUSE
            while True:
                self._again_at = time.monotonic() + pause
                log.error("restarting the process in %.1f s", pause, extra={"agent": self.name})
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                try:
                    life, declaration = await self._begin()
                except Exception as exc:  # noqa: BLE001 - whatever is wrong, it may pass
                    log.error("the process cannot be restarted: %s", exc, extra={"agent": self.name})
                    continue
                if declaration != self._declaration:
                    log.warning("the agent declares other things now; restart the service", extra={"agent": self.name})
                self._tell(What.AGENT_RESTARTED, message=f"process {life.child.pid}")
                break

    async def _live(self, life: _Life) -> None:
        """Until the process ends, or is found dead."""
        pinging = asyncio.create_task(self._ping(life))
        reopening = asyncio.create_task(self._admit(life))
        problem = ""
        try:
            while (message := await life.link.receive()) is not None:
                life.heard = time.monotonic()
                self._take(life, message)
        except (LinkBroken, LookupError, TypeError, ValueError) as exc:
            problem = f"; it sent {exc}"
        finally:
            self._life, self.lanes = None, ()
            self._up.clear()
            pinging.cancel()
            reopening.cancel()
            await _end(life.child, life.link)
            self._bury(life, f"{life.child.end}{problem}")

    async def _admit(self, life: _Life) -> None:
        """Let calls through, after the agent was opened again if it was open before."""
        if self._opened:
            number, asked = self._enter(life, "open", "")
            life.link.send("call", number, "open", [], {})
            try:
                await asked.done
            except Exception as exc:  # noqa: BLE001 - the next process may do better
                log.error("the agent cannot be opened again: %s", exc, extra={"agent": self.name})
                life.child.kill()
                return
            finally:
                life.asked.pop(number, None)
        self._life = life
        self._up.set()

    async def _ping(self, life: _Life) -> None:
        while True:
            life.link.send("ping")
            await asyncio.sleep(PING)
            silent = time.monotonic() - life.heard
            if silent > UNRESPONSIVE:
                log.error("no sign of life for %.0f s: killing the process", silent, extra={"agent": self.name})
                life.child.kill()
                return

    def _take(self, life: _Life, message: list[Any]) -> None:
        kind, *rest = message
        if kind == "pong":
            self.lanes = tuple(LaneLoad(*lane) for lane in rest[0])
            return
        number, content = rest
        asked = life.asked.get(number)
        if asked is None or asked.done.done():  # nobody waits any more
            return
        if kind == "item":
            asked.lines.put_nowait(content)
            return
        if kind == "done":
            asked.done.set_result(content)
        else:
            asked.done.set_exception(wire.read_error(content))
        asked.lines.put_nowait(None)

    def _bury(self, life: _Life, how: str) -> None:
        """Tell everybody who waits that the process is over."""
        if self._supervisor is not None and not self._supervisor.cancelling():
            extra = {"agent": self.name, "pid": life.child.pid}
            log.error("the process of the agent ended with %s; %d calls fail", how, len(life.asked), extra=extra)
        for asked in life.asked.values():
            if asked.done.done():
                continue
            text = f"The process of {self.name} ended with {how} during the call"
            asked.done.set_exception(Retry(f"{text}; it is being restarted.", after=FIRST_PAUSE))
            asked.lines.put_nowait(None)
            resumable = self.settings.create_is_idempotent or "find" in self.supports
            if asked.verb == "create" and not resumable:
                self._tell(What.UNCERTAIN, key=asked.key, message=f"{text} that was to create a job")

    def _tell(self, what: What, *, key: str = "", message: str = "") -> None:
        kind = self.task_types[0].name if self.task_types else ""
        self._hooks.tell(Event(what=what, agent=self.name, task_type=kind, key=key, message=message))


async def _written(task: Task) -> list[Any]:
    if wire.is_large(task, OFF_LOOP):
        return await asyncio.to_thread(wire.write_task, task)
    return wire.write_task(task)


async def _end(child: Child, link: Link) -> None:
    """Hang up, upon which the process ends, and see to it that it does."""
    await link.close()
    try:
        async with asyncio.timeout(2.0):
            await child.ended.wait()
    except TimeoutError:
        child.kill()
        await child.ended.wait()
