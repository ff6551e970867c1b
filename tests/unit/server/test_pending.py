"""Jobs whose create was answered before they were there, and deletes of jobs unknown here, in virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from hashlib import sha256

import pytest
from flyteidl2.connector import connector_pb2

from airside import LogLine, NotFound, Resource, Retry
from airside.model import Call, LogLink, Phase, Task, TaskType
from airside.observe.events import Event, Hooks, What
from airside.sdk.agent import Agent, AgentSettings
from airside.server.handle import Kind, unseal
from airside.server.pending import unpack_request
from airside.server.service import Service
from airside.server.settings import ServerSettings

Virtual = Callable[[Callable[[], Awaitable[None]]], None]
TYPE = TaskType("t")


class Slow(Agent):
    """Each create takes `create_seconds`, each get `get_seconds`; it can find, answer for many, and tell logs."""

    name = "slow"
    task_types = (TYPE,)
    supports = frozenset({"find", "get_many", "links", "logs"})

    def __init__(self, *, create_seconds: float = 1.0, get_seconds: float = 0.1) -> None:
        self.create_seconds = create_seconds
        self.get_seconds = get_seconds
        self.settings = AgentSettings(poll_interval=10.0, call_timeout=30.0, create_timeout=120.0)
        self.jobs: dict[str, bytes] = {}
        self.phase = Phase.RUNNING
        self.error: Exception | None = None
        self.made = self.asked = self.deleted = 0
        self.batches: list[int] = []

    async def create(self, task: Task, call: Call) -> bytes:
        await asyncio.sleep(self.create_seconds)
        self.made += 1
        self.jobs.setdefault(task.key, f"job-{len(self.jobs)}".encode())
        return self.jobs[task.key]

    async def find(self, task: Task, key: str, call: Call) -> bytes | None:
        return self.jobs.get(key)

    async def get(self, meta: bytes, call: Call) -> Resource:
        await asyncio.sleep(self.get_seconds)
        self.asked += 1
        if self.error is not None:
            raise self.error
        if meta not in self.jobs.values():
            raise NotFound(meta.decode())
        return Resource(self.phase)

    async def get_many(self, metas: Sequence[bytes], call: Call) -> Sequence[Resource | Exception]:
        self.batches.append(len(metas))
        return [Resource(self.phase) for _ in metas]

    async def delete(self, meta: bytes, call: Call) -> None:
        self.deleted += 1
        self.phase = Phase.ABORTED
        self.error = None

    async def links(self, meta: bytes) -> Sequence[LogLink]:
        return (LogLink(f"https://example.org/{meta.decode()}"),)

    async def logs(self, meta: bytes, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        yield LogLine(f"log of {meta.decode()}")


class Alone(Slow):
    """The same, but asks for each job by itself."""

    supports = frozenset({"find"})


def request(number: int = 0, inputs: bytes = b"") -> connector_pb2.CreateTaskRequest:
    made = connector_pb2.CreateTaskRequest(output_prefix=f"s3://bucket/run/n{number}/0")
    made.template.type = "t"
    if inputs:
        value = made.inputs.literals.add(name="x").value
        value.scalar.primitive.string_value = inputs.hex()
    return made


async def pending(service: Service, one: connector_pb2.CreateTaskRequest) -> bytes:
    """The handle that goes out at a deadline of 50 ms, as in Flyte's documentation."""
    sealed = await service.create(one, deadline=time.monotonic() + 0.05)
    assert unseal(sealed).kind is Kind.PENDING
    return sealed


async def phase_of(service: Service, handle: bytes) -> Phase:
    job = await service.get(handle, TYPE, None, time.monotonic() + 10.0)
    return job.resource.phase


def test_jobs_that_began_pending_are_asked_for_together_and_leave_nothing_behind(virtual: Virtual) -> None:
    async def main() -> None:
        agent = Slow()
        service = Service([agent], ServerSettings())
        handles = await asyncio.gather(*(pending(service, request(number)) for number in range(50)))
        for _ in range(30):
            phases = await asyncio.gather(*(phase_of(service, handle) for handle in handles))
            await asyncio.sleep(10.0)
        assert set(phases) == {Phase.RUNNING}
        assert agent.asked <= 50
        assert sum(agent.batches) >= 25 * 50
        assert len(agent.batches) <= 0.1 * 30 * 50
        assert len(service.watch._refresher._latency) <= 1
        job = await service.get(handles[3], TYPE, None, None)
        assert [link.uri for link in job.resource.links] == [f"https://example.org/{job.handle.meta.decode()}"]
        agent.phase = Phase.SUCCEEDED
        await asyncio.sleep(20.0)
        assert {await phase_of(service, handle) for handle in handles} == {Phase.SUCCEEDED}
        await service.watch.close()

    virtual(main)


def test_a_job_that_began_pending_tells_its_logs(virtual: Virtual) -> None:
    async def main() -> None:
        agent = Slow()
        service = Service([agent], ServerSettings())
        handle = await pending(service, request())

        async def lines(there: Service) -> list[str]:
            return [line.message async for line in there.logs(handle, TYPE, after="", limit=9, connection=None)]

        assert await lines(service) == []
        await asyncio.sleep(5.0)
        assert await lines(service) == ["log of job-0"]
        another = Service([agent], ServerSettings())
        assert await lines(another) == ["log of job-0"]
        await service.watch.close()
        await another.watch.close()

    virtual(main)


def test_a_repeated_create_joins_what_was_resumed_without_its_inputs(virtual: Virtual) -> None:
    async def main() -> None:
        agent = Alone()
        large = request(inputs=b"".join(sha256(b"%d" % one).digest() for one in range(2_000)))
        killed = Service([agent], ServerSettings())
        handle = await pending(killed, large)
        await asyncio.sleep(5.0)
        service = Service([agent], ServerSettings())
        assert await phase_of(service, handle) is Phase.RUNNING
        again = unseal(await service.create(large))
        assert (again.meta, agent.made, len(agent.jobs)) == (b"job-0", 1, 1)
        for one in (killed, service):
            await one.watch.close()

    virtual(main)


@pytest.mark.parametrize("seconds", [0.1, 5.0, 29.0])
def test_the_backend_hears_of_no_delete_of_a_finished_job_however_slow_it_is(virtual: Virtual, seconds: float) -> None:
    async def main() -> None:
        agent = Alone(create_seconds=0.0, get_seconds=seconds)
        maker = Service([agent], ServerSettings())
        handle = await maker.create(request())
        agent.phase = Phase.SUCCEEDED
        service = Service([agent], ServerSettings())
        accepted = False
        for _ in range(10):  # the engine repeats a refused delete
            try:
                await service.delete(handle, TYPE, None, time.monotonic() + 10.0)
            except Retry:
                await asyncio.sleep(1.0)
            else:
                accepted = True
                break
        await asyncio.sleep(100.0)
        assert (accepted, agent.deleted) == (True, 0)
        for one in (maker, service):
            await one.watch.close()

    virtual(main)


def test_a_job_whose_phase_cannot_be_learnt_is_cancelled_all_the_same(virtual: Virtual) -> None:
    async def main() -> None:
        agent = Alone(create_seconds=0.0)
        maker = Service([agent], ServerSettings())
        handle = await maker.create(request())
        agent.error = ConnectionError("reset")
        service = Service([agent], ServerSettings())
        began = time.monotonic()
        await service.delete(handle, TYPE, None, None)
        assert agent.deleted == 1
        assert time.monotonic() - began < 5.0
        assert agent.asked >= 3
        for one in (maker, service):
            await one.watch.close()

    virtual(main)


def test_a_stop_lists_the_cancels_that_no_backend_has_accepted(virtual: Virtual) -> None:
    class Deaf(Alone):
        async def delete(self, meta: bytes, call: Call) -> None:
            raise ConnectionError("reset")

    async def main() -> None:
        agent = Deaf(create_seconds=0.0)
        service = Service([agent], ServerSettings())
        handle = await service.create(request())
        with pytest.raises(Retry):
            await service.delete(handle, TYPE, None, time.monotonic() + 5.0)
        assert unseal(handle).key not in service.uncertain
        await service.cancellation.close()
        assert unseal(handle).key in service.uncertain
        await service.watch.close()

    virtual(main)


class Mute(Alone):
    """Never says how a job is, and takes or refuses each cancel as `refusal` says."""

    def __init__(self, refusal: Exception | None) -> None:
        super().__init__(create_seconds=0.0)
        self.settings = replace(self.settings, fault_tolerance=600.0)
        self.refusal = refusal
        self.cancels: list[float] = []

    async def get(self, meta: bytes, call: Call) -> Resource:
        raise ConnectionError("reset")

    async def delete(self, meta: bytes, call: Call) -> None:
        self.cancels.append(time.monotonic())
        if self.refusal is not None:
            raise self.refusal


@pytest.mark.parametrize("refusal", [None, ConnectionError("reset")], ids=["accepted", "refused"])
def test_a_job_given_up_goes_on_being_cancelled_for_a_day_and_is_listed_then(
    virtual: Virtual, refusal: Exception | None
) -> None:
    async def main() -> None:
        agent, events = Mute(refusal), list[Event]()
        service = Service([agent], ServerSettings(), hooks=Hooks([events.append]))
        handle = await service.create(request())
        while await phase_of(service, handle) is not Phase.RETRYABLE_FAILED:
            await asyncio.sleep(30.0)
        assert [one.what for one in events].count(What.GIVEN_UP) == 1
        began = time.monotonic()
        await asyncio.sleep(23.9 * 3600.0)
        assert len(service.cancellation) == 1
        if refusal is not None:
            assert agent.cancels[-1] > time.monotonic() - 600.0
        assert unseal(handle).key not in service.uncertain
        await asyncio.sleep(0.2 * 3600.0)
        assert len(service.cancellation) == 0
        assert unseal(handle).key in service.uncertain
        assert [one.key for one in events if one.what is What.UNCERTAIN] == [unseal(handle).key]
        assert agent.cancels[0] < began + 60.0
        cancels = len(agent.cancels)
        await asyncio.sleep(3600.0)
        assert len(agent.cancels) == cancels
        await service.watch.close()

    virtual(main)


def test_a_delete_goes_on_when_its_caller_has_gone(virtual: Virtual) -> None:
    async def main() -> None:
        agent = Alone(create_seconds=0.0, get_seconds=3.0)
        service = Service([agent], ServerSettings())
        handle = await service.create(request())
        with pytest.raises(Retry, match="has not accepted the cancel yet"):
            await service.delete(handle, TYPE, None, time.monotonic() + 1.0)
        assert agent.deleted == 0
        await asyncio.sleep(10.0)
        assert agent.deleted == 1
        await service.delete(handle, TYPE, None, time.monotonic() + 1.0)  # the retry: accepted by now
        assert agent.deleted == 1
        await service.watch.close()
        await service.cancellation.close()

    virtual(main)


def test_a_pending_create_that_comes_to_nothing_may_be_retried(virtual: Virtual) -> None:
    class Broken(Alone):
        async def create(self, task: Task, call: Call) -> bytes:
            await asyncio.sleep(1.0)
            raise ConnectionError("refused")

    async def main() -> None:
        agent = Broken()
        service = Service([agent], ServerSettings())
        began = time.monotonic()
        handle = await pending(service, request())
        told = {}
        while time.monotonic() < began + 200.0:
            job = await service.get(handle, TYPE, None, time.monotonic() + 10.0)
            told[job.resource.phase] = time.monotonic() - began
            await asyncio.sleep(5.0)
        assert list(told) == [Phase.QUEUED, Phase.RETRYABLE_FAILED]
        assert 100.0 < told[Phase.QUEUED] < 130.0  # `create_timeout` is 120 s
        assert job.resource.code == "CreateTimeout"
        assert job.resource.message.startswith("The job could not be created within 120 s: ")
        await service.watch.close()

    virtual(main)


def test_a_pending_handle_holds_no_secret_of_its_connection(virtual: Virtual) -> None:
    async def main() -> None:
        service = Service([Alone()], ServerSettings())
        one = request()
        one.connection.secrets["password"] = "tell-nobody"
        one.connection.configs["region"] = "eu"
        handle = unseal(await pending(service, one))
        kept = unpack_request(handle.request).request
        assert kept.output_prefix == one.output_prefix
        assert not kept.HasField("connection")
        await service.watch.close()

    virtual(main)


def test_the_next_attempt_waits_until_the_one_before_is_known_to_be_over(virtual: Virtual) -> None:
    class Lingering(Alone):
        over_at = float("inf")
        made_at: tuple[float, ...] = ()

        async def create(self, task: Task, call: Call) -> bytes:
            self.made_at = (*self.made_at, time.monotonic())
            return await super().create(task, call)

        async def get(self, meta: bytes, call: Call) -> Resource:
            is_over = meta == b"job-0" and time.monotonic() >= self.over_at
            return Resource(Phase.ABORTED if is_over else Phase.RUNNING)

        async def delete(self, meta: bytes, call: Call) -> None:
            self.over_at = min(self.over_at, time.monotonic() + 30.0)

    async def main() -> None:
        agent = Lingering(create_seconds=0.0)
        await Service([agent], ServerSettings()).create(request())
        another = request()
        another.output_prefix = "s3://bucket/run/n0/1"
        await Service([agent], ServerSettings()).create(another)  # a process that knows nothing of the first
        assert len(agent.made_at) == 2
        assert agent.made_at[1] >= agent.over_at

    virtual(main)
