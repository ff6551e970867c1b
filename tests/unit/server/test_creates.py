"""Creates, deletes and deaths in every order: one live job, nothing deleted that somebody holds, nothing forgotten.

A model of a backend and of Flyte's engine play with one or two replicas of the service, in virtual time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from flyteidl2.connector import connector_pb2
from hypothesis import HealthCheck, example, given, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st

from airside import NotFound, Resource
from airside.model import Call, Phase, Task, TaskType
from airside.sdk.agent import Agent, AgentSettings
from airside.server.handle import Kind, unseal
from airside.server.service import Service
from airside.server.settings import ServerSettings

Virtual = Callable[[Callable[[], Awaitable[None]]], None]
Way = Literal["token", "find", "neither"]
TYPE = TaskType("t")


@dataclass(eq=False)
class RemoteJob:
    """A job at the backend. `maker` is the service that asked for it."""

    name: str
    key: str
    maker: Replica
    is_live: bool = True


@dataclass
class Backend:
    """Where the jobs are. `fault` says how calls go wrong: before or after they took effect, or never ending."""

    jobs: list[RemoteJob] = field(default_factory=list)
    fault: str = ""
    latency: float = 0.5
    effects: set[asyncio.Task[Any]] = field(default_factory=set)

    async def call(self, effect: Callable[[], Any]) -> Any:
        """The effect happens even if the caller dies in the middle."""
        fault = self.fault
        if fault == "before":
            raise ConnectionError("refused")
        task = asyncio.create_task(self._later(effect))
        self.effects.add(task)
        task.add_done_callback(self.effects.discard)
        done = await asyncio.shield(task)
        if fault == "after":
            raise ConnectionError("reset before the answer")
        if fault == "hang":
            await asyncio.sleep(1e6)
        if isinstance(done, Exception):
            raise done
        return done

    async def _later(self, effect: Callable[[], Any]) -> Any:
        await asyncio.sleep(self.latency)
        return effect()

    def make(self, key: str, maker: Replica, *, once: bool) -> bytes:
        same = [job for job in self.jobs if job.key == key]
        if not (once and same):
            self.jobs.append(RemoteJob(f"job-{len(self.jobs)}", key, maker))
            same = [self.jobs[-1]]
        return same[0].name.encode()

    def find(self, key: str) -> bytes | None:
        return next((job.name.encode() for job in self.jobs if job.key == key and job.is_live), None)

    def job(self, name: bytes) -> RemoteJob | None:
        return next((job for job in self.jobs if job.name.encode() == name), None)

    def live(self) -> list[RemoteJob]:
        return [job for job in self.jobs if job.is_live]


class ModelAgent(Agent):
    """An agent of the backend, which makes sure in its own way that a create makes one job, or does not."""

    name = "model"
    task_types = (TYPE,)

    def __init__(self, backend: Backend, way: Way, replica: Replica) -> None:
        self.backend = backend
        self.replica = replica
        self.settings = AgentSettings(call_timeout=5.0, create_timeout=60.0, create_is_idempotent=way == "token")
        self.supports = frozenset({"find"} if way == "find" else ())

    async def create(self, task: Task, call: Call) -> bytes:
        once = self.settings.create_is_idempotent
        made: bytes = await self.backend.call(lambda: self.backend.make(task.key, self.replica, once=once))
        return made

    async def find(self, task: Task, key: str, call: Call) -> bytes | None:
        found: bytes | None = await self.backend.call(lambda: self.backend.find(key))
        return found

    async def get(self, meta: bytes, call: Call) -> Resource:
        resource: Resource = await self.backend.call(lambda: self._look(meta))
        return resource

    async def delete(self, meta: bytes, call: Call) -> None:
        await self.backend.call(lambda: self._end(meta))

    def _look(self, meta: bytes) -> Resource | Exception:
        job = self.backend.job(meta)
        if job is None:
            return NotFound(meta.decode())
        return Resource(Phase.RUNNING if job.is_live else Phase.ABORTED)

    def _end(self, meta: bytes) -> None:
        job = self.backend.job(meta)
        if job is not None:
            job.is_live = False


class Replica:
    """One process of the service, which can be killed: then nothing of it runs on."""

    def __init__(self, backend: Backend, way: Way) -> None:
        self.is_dead = False
        self.service = Service([ModelAgent(backend, way, self)], ServerSettings())

    async def kill(self) -> None:
        self.is_dead = True
        running = [entry.task for entry in self.service.ledger.running]
        for task in running:
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in running if task is not None), return_exceptions=True)
        await self.service.earlier.close()
        await self.service.cancellation.close()
        await self.service.watch.close()


def request_of(attempt: int) -> connector_pb2.CreateTaskRequest:
    request = connector_pb2.CreateTaskRequest(output_prefix=f"s3://bucket/run/n0/data/{attempt}")
    request.template.type = TYPE.name
    return request


@dataclass
class World:
    """The engine, its replicas, its backend. One task, whose attempts follow each other."""

    way: Way
    replicas: list[Replica]
    backend: Backend
    attempt: int = 0
    handles: dict[int, bytes] = field(default_factory=dict)
    answered: set[bytes] = field(default_factory=set)
    was_killed: bool = False
    was_lost: bool = False
    deleted: set[int] = field(default_factory=set)
    calls: set[asyncio.Task[None]] = field(default_factory=set)
    creating: set[asyncio.Task[bytes]] = field(default_factory=set)

    async def create(self, which: int, patience: float | None, vanish: float | None) -> None:
        replica, attempt = self.replicas[which], self.attempt
        loop = asyncio.get_running_loop()
        call = asyncio.create_task(
            replica.service.create(request_of(attempt), deadline=None if patience is None else loop.time() + patience)
        )
        self.creating.add(call)
        try:
            async with asyncio.timeout(vanish):
                handle = await call
        except (Exception, asyncio.CancelledError):  # the engine sees an error of whatever kind
            call.cancel()
            return
        finally:
            self.creating.discard(call)
        if not replica.is_dead:
            self.handles.setdefault(attempt, handle)
            opened = unseal(handle)
            if attempt == self.attempt:
                self.answered.add(opened.meta)

    async def get(self, which: int) -> Phase | None:
        handle = self.handles.get(self.attempt)
        if handle is None:
            return None
        job = await self.replicas[which].service.get(handle, TYPE, None, None)
        return Phase(connector_pb2.Resource.FromString(job.answer).phase)

    async def delete(self, which: int) -> bool:
        handle = self.handles.get(self.attempt)
        if handle is None:
            return True
        self.deleted.add(self.attempt)
        for call in self.creating:
            call.cancel()  # an engine does one thing at a time
        try:
            await self.replicas[which].service.delete(handle, TYPE, None, asyncio.get_running_loop().time() + 2.0)
        except Exception:
            return False
        return True

    async def next(self, which: int, patience: float | None, vanish: float | None) -> None:
        """The next attempt. An engine deletes the job that it has a handle for first, but gives up at some time."""
        attempt = self.attempt
        for _ in range(3):
            if await self.delete(which):
                break
            await asyncio.sleep(10.0)
        if self.attempt == attempt:
            self.attempt += 1
            for call in self.creating:
                call.cancel()
            await self.create(which, patience, vanish)

    async def step(self, name: str, which: int, first: float | None, second: float | None) -> None:
        which %= len(self.replicas)
        match name:
            case "create":
                if self.attempt not in self.deleted:
                    self.behind(self.create(which, first, second))
            case "get":
                self.behind(self.get(which))
            case "delete":
                self.behind(self.delete(which))
            case "next":
                self.behind(self.next(which, first, second))
            case "kill":
                self.was_killed = True
                await self.replicas[which].kill()
                self.replicas[which] = Replica(self.backend, self.way)
            case _:
                self.was_lost = self.was_lost or name in {"lose", "stick"}
                self.backend.fault = {"break": "before", "lose": "after", "stick": "hang"}.get(name, "")
        await asyncio.sleep((first or 0.2) / 2)

    def behind(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.calls.add(task)
        task.add_done_callback(self.calls.discard)

    async def settle(self, *, goes_on: bool) -> None:
        """The backend is well again, and the engine goes on until it knows how the last attempt ended."""
        self.backend.fault = ""
        await asyncio.gather(*self.calls, return_exceptions=True)
        if goes_on and self.attempt not in self.handles:
            await self.next(0, None, None)
            assert self.attempt in self.handles, "a create failed although the backend was well"
        if self.attempt in self.deleted:
            for _ in range(20):
                if await self.delete(0):
                    break
                await asyncio.sleep(10.0)
            else:
                raise AssertionError("Delete was never accepted")
        for late in range(10):
            await asyncio.sleep(30.0)
            for which in range(len(self.replicas)):
                await self.get(which)
            if late == 1 and self.attempt in self.deleted:
                break  # an engine may ask once more after its Delete
        await asyncio.sleep(1800.0)

    def check(self) -> None:
        """What must hold whatever happened."""
        live = self.backend.live()
        names = {job.key for job in live}
        if self.way == "token":
            assert max(Counter(job.key for job in self.backend.jobs).values(), default=0) <= 1, "two jobs for one token"
        # If two processes make the same attempt at once and the answer to one is lost, or it dies, then a look-up,
        # which gives one job, cannot tell that there are two.
        blind = self.way == "find" and len(self.replicas) > 1 and (self.was_killed or self.was_lost)
        if self.way != "neither" and not blind:
            assert len(names) == len(live), f"two live jobs of one attempt: {live}"
        holder = self.handles.get(self.attempt) if self.attempt not in self.deleted else None
        held = self.held(holder)
        if held is not None:
            assert held.is_live, "a job was deleted though its handle is held"
        listed = {key for replica in self.replicas for key in replica.service.uncertain._doubts}
        for job in live:
            held_too = self.way == "neither" and job.name.encode() in self.answered  # one for each process
            known = job is held or blind or held_too or job.key in listed or job.maker.is_dead or self.was_killed
            assert known, f"{job.name} runs for nobody and is not listed"

    def held(self, handle: bytes | None) -> RemoteJob | None:
        if handle is None:
            return None
        opened = unseal(handle)
        if opened.kind is Kind.JOB:
            return self.backend.job(opened.meta)
        if opened.kind is Kind.PENDING:
            return next((job for job in self.backend.jobs if job.key == opened.key and job.is_live), None)
        return None

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.kill()
        for task in [*self.backend.effects, *self.calls]:
            task.cancel()
        await asyncio.gather(*self.backend.effects, *self.calls, return_exceptions=True)


STEPS = st.tuples(
    st.sampled_from(
        ["create", "create", "create", "get", "get", "delete", "next", "kill", "break", "lose", "stick", "mend", "mend"]
    ),
    st.integers(0, 1),
    st.sampled_from([0.05, 0.6, 1.3, 5.0, None]),
    st.sampled_from([None, None, None, 0.1, 0.6, 3.0]),
)


@pytest.mark.parametrize("way", ["token", "find", "neither"])
@pytest.mark.parametrize("replicas", [1, 2])
@settings(
    max_examples=80,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Stage.explicit, Stage.generate, Stage.shrink],
)
@given(steps=st.lists(STEPS, max_size=12), goes_on=st.booleans())
@example(steps=[("create", 0, 0.05, None), ("kill", 0, None, None), ("get", 0, None, None)], goes_on=False)
@example(steps=[("create", 0, 5.0, 0.1), ("create", 1, 5.0, None)], goes_on=False)
@example(steps=[("create", 0, 5.0, None), ("create", 1, 5.0, None)], goes_on=False)
@example(steps=[("create", 0, 0.05, None), ("delete", 1, None, None), ("get", 0, None, None)], goes_on=False)
@example(steps=[("next", 0, 0.05, None), ("create", 0, 0.05, None), ("next", 0, 0.6, 0.1)], goes_on=True)
def test_whatever_happens(virtual: Virtual, way: Way, replicas: int, steps: list[Any], goes_on: bool) -> None:
    async def main() -> None:
        backend = Backend()
        world = World(way, [Replica(backend, way) for _ in range(replicas)], backend)
        try:
            for step in steps:
                await world.step(*step)
            await world.settle(goes_on=goes_on)
            world.check()
        finally:
            await world.close()

    virtual(main)
