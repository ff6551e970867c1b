"""The watch: what the engine is told, when, and how often the backend is asked for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from flyteidl2.connector import connector_pb2

from airside import LogLink, NotFound, Resource, Retry
from airside.model import Call, Phase, TaskType
from airside.observe.events import Event, Hooks, What
from airside.sdk.agent import Agent, AgentSettings
from airside.server.handle import Handle
from airside.server.job import Job
from airside.server.settings import ServerSettings
from airside.server.watch import Watch
from airside.wire.resource import write_resource

RUNNING = Resource(Phase.RUNNING)
Answer = Callable[[float], Resource | Exception]


class Backend(Agent):
    """Answers `get` by `answer(time)` after `latency` seconds, and remembers when it was asked."""

    name = "backend"
    task_types = (TaskType("t"),)

    def __init__(self, answer: Answer = lambda _: RUNNING, *, latency: float = 0.1, **settings: Any) -> None:
        self.answer = answer
        self.latency = latency
        self.settings = AgentSettings(**{"max_age": 5.0, **settings})
        self.asked: list[float] = []

    async def get(self, meta: bytes, call: Call) -> Resource:
        self.asked.append(time.monotonic())
        await asyncio.sleep(self.latency)
        answer = self.answer(time.monotonic())
        if isinstance(answer, Exception):
            raise answer
        return answer


class BatchBackend(Backend):
    """Answers many at once; `batches` are their sizes."""

    supports = frozenset({"get_many"})

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.batches: list[int] = []

    async def get_many(self, metas: Sequence[bytes], call: Call) -> Sequence[Resource | Exception]:
        self.batches.append(len(metas))
        self.asked.append(time.monotonic())
        await asyncio.sleep(self.latency)
        return [RUNNING] * len(metas)


class Bench:
    """A watch with one agent, and an engine that asks."""

    def __init__(self, agent: Agent, **settings: Any) -> None:
        self.agent = agent
        self.events: list[Event] = []
        self.given_up: list[Job] = []
        self.dropped: list[Job] = []
        self.watch = Watch(
            self.serialise,
            ServerSettings(**settings),
            Hooks([self.events.append]),
            self.given_up.append,
            self.dropped.append,
        )
        self.jobs = 0

    async def serialise(self, job: Job, resource: Resource) -> tuple[Resource, bytes]:
        return resource, write_resource(resource, None, deleted=job.deleted)

    def new_job(self, age: float = 0.0, links: tuple[LogLink, ...] = ()) -> Job:
        self.jobs += 1
        handle = Handle(task_type=TaskType("t"), key=f"k{self.jobs}", meta=b"m", created_at=time.time() - age)
        return self.watch.job(b"job %d" % self.jobs, handle, self.agent, Call(), links)

    async def ask(self, job: Job, timeout: float | None = None) -> connector_pb2.Resource:
        call = Call(deadline=None if timeout is None else time.monotonic() + timeout)
        return connector_pb2.Resource.FromString(await self.watch.ask(job, call))

    async def poll(self, job: Job, asks: int, period: float = 30.0) -> list[Phase]:
        phases = []
        begin = time.monotonic()
        for number in range(asks):
            await asyncio.sleep(begin + number * period - time.monotonic())
            phases.append(Phase((await self.ask(job)).phase))
        return phases


def ends_at(end: float) -> Answer:
    return lambda now: Resource(Phase.SUCCEEDED) if now > end else RUNNING


def pauses(asked: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(asked)]


def times(bench: Bench, what: What) -> int:
    return sum(event.what is what for event in bench.events)


Virtual = Callable[[Callable[[], Awaitable[None]]], None]


def test_a_refresh_comes_ahead_of_the_ask_by_the_p95_and_half_a_second(virtual: Virtual) -> None:
    async def main() -> None:
        backend = Backend(latency=0.5)
        bench = Bench(backend)
        job = bench.new_job()
        begin = time.monotonic()
        await bench.poll(job, 10)
        leads = [30.0 * number - (asked - begin) for number, asked in enumerate(backend.asked)]
        assert leads[:2] == pytest.approx([0.0, 0.0])  # the period is learnt from the second ask on
        assert leads[2:10] == pytest.approx([1.0] * 8)
        await bench.watch.close()

    virtual(main)


def test_an_ask_does_not_wait_in_vain_and_the_next_one_finds_a_refresh_ahead_of_it(virtual: Virtual) -> None:
    async def main() -> None:
        backend = Backend(latency=0.5)
        bench = Bench(backend)
        job = bench.new_job(age=1_000.0)
        await bench.poll(job, 25)
        await asyncio.sleep(50.0)  # later than the refresh ahead of it holds
        asked = time.monotonic()
        await bench.ask(job, 0.2)
        assert time.monotonic() == asked
        calls = len(backend.asked)
        await asyncio.sleep(job.period)
        asked = time.monotonic()
        await bench.ask(job, 0.2)
        assert (time.monotonic(), len(backend.asked)) == (asked, calls + 1)
        assert job.age is not None
        assert job.age <= 1.0
        await bench.watch.close()

    virtual(main)


@pytest.mark.parametrize("period", [1.0, 4.9, 5.0, 5.1, 7.0, 30.0, 600.0])
def test_calls_never_exceed_asks_and_never_come_twice_within_max_age(virtual: Virtual, period: float) -> None:
    async def main() -> None:
        backend = Backend(ends_at(time.monotonic() + 40 * period))
        bench = Bench(backend)
        job, asks, phase = bench.new_job(), 0, 0
        while phase != Phase.SUCCEEDED:
            await asyncio.sleep(period)
            phase = (await bench.ask(job)).phase
            asks += 1
        assert len(backend.asked) <= asks
        gaps = pauses(backend.asked)
        assert min(gaps, default=5.0) >= 5.0
        await bench.watch.close()

    virtual(main)


def test_an_irregular_asker_costs_at_most_one_call_more_than_it_asks(virtual: Virtual) -> None:
    async def main() -> None:
        backend = Backend()
        bench = Bench(backend)
        job = bench.new_job()
        for asks, pause in enumerate([10.0, 60.0, 7.0, 200.0, 31.0] * 20, start=1):
            await bench.ask(job)
            assert len(backend.asked) <= asks + 1
            await asyncio.sleep(pause)
        await bench.watch.close()

    virtual(main)


def test_an_ask_is_answered_from_memory_within_max_age(virtual: Virtual) -> None:
    async def main() -> None:
        backend = Backend(latency=1.0)
        bench = Bench(backend)
        job = bench.new_job()
        await asyncio.gather(*(bench.ask(job) for _ in range(50)))  # one refresh, joined
        began = time.monotonic()
        for _ in range(50):
            await bench.ask(job)
        assert time.monotonic() == began
        assert len(backend.asked) == 1
        await bench.watch.close()

    virtual(main)


@pytest.mark.parametrize(("deadline", "waits"), [(None, 2.0), (10.0, 2.0), (1.0, 0.8), (0.05, 0.04), (0.02, 0.01)])
def test_an_ask_waits_two_seconds_at_most_and_never_until_its_deadline(
    virtual: Virtual, deadline: float | None, waits: float
) -> None:
    async def main() -> None:
        bench = Bench(Backend(latency=20.0))
        job = bench.new_job(age=100.0)
        began = time.monotonic()
        resource = await bench.ask(job, deadline)
        assert time.monotonic() - began == pytest.approx(waits)
        assert resource.phase == Phase.RUNNING
        await bench.watch.close()

    virtual(main)


def test_a_slow_backend_is_asked_ahead_too(virtual: Virtual) -> None:
    """Each ask would otherwise be told what was true at the ask before it."""

    async def main() -> None:
        backend = Backend(latency=8.0)
        bench = Bench(backend)
        job = bench.new_job()
        begin = time.monotonic()
        await bench.poll(job, 8)
        leads = [30.0 * number - (asked - begin) for number, asked in enumerate(backend.asked)]
        assert leads[3:8] == pytest.approx([8.5] * 5)
        await bench.watch.close()

    virtual(main)


@pytest.mark.parametrize(("age", "phase"), [(0.0, Phase.QUEUED), (59.0, Phase.QUEUED), (61.0, Phase.RUNNING)])
def test_of_an_unknown_job_it_says_queued_then_running(virtual: Virtual, age: float, phase: Phase) -> None:
    async def main() -> None:
        link = LogLink("https://logs.example.org/1", "logs")
        bench = Bench(Backend(lambda _: ConnectionError("reset"), latency=0.0))
        resource = await bench.ask(bench.new_job(age, (link,)), 0.05)
        assert resource.phase == phase
        assert "ConnectionError: reset" in resource.message
        assert [(one.uri, one.ShowWhilePending) for one in resource.log_links] == [(link.uri, True)]
        await bench.watch.close()

    virtual(main)


def test_what_the_backend_says_first_holds_against_a_guess_that_nobody_was_told(virtual: Virtual) -> None:
    async def main() -> None:
        bench = Bench(Backend(lambda _: Resource(Phase.QUEUED)))
        assert (await bench.ask(bench.new_job(age=100.0))).phase == Phase.QUEUED
        await bench.watch.close()

    virtual(main)


def test_phases_do_not_go_backwards(virtual: Virtual) -> None:
    async def main() -> None:
        said = iter([Phase.INITIALIZING, Phase.RUNNING, Phase.QUEUED, Phase.INITIALIZING, Phase.SUCCEEDED])
        bench = Bench(Backend(lambda _: Resource(next(said))))
        phases = await bench.poll(bench.new_job(), 6)
        assert phases == [Phase.INITIALIZING, *[Phase.RUNNING] * 3, *[Phase.SUCCEEDED] * 2]
        await bench.watch.close()

    virtual(main)


def test_the_end_of_a_job_is_told_by_the_first_ask_that_comes_long_enough_after_it(virtual: Virtual) -> None:
    async def main() -> None:
        late = []
        for end in (29.0, 58.4, 58.6, 61.0, 89.5, 100.0, 118.3):
            backend = Backend(ends_at(time.monotonic() + end), latency=0.5)
            bench = Bench(backend)
            job, begin = bench.new_job(), time.monotonic()
            while not job.is_over:
                await bench.ask(job)
                told = time.monotonic() - begin
                await asyncio.sleep(30.0 - (time.monotonic() - begin) % 30.0)
            late.append(told - end)
            await bench.watch.close()
        assert max(late) <= 30.0 + 0.5 + 1.0  # the next ask, unless it came within p95 + 1 s of the end

    virtual(main)


@pytest.mark.parametrize("lateness", [0.0, 0.4, 0.7, 3.0])
def test_an_ask_that_comes_late_is_told_no_older_truth(virtual: Virtual, lateness: float) -> None:
    """Its own refresh was made for the time at which it was expected."""

    async def main() -> None:
        for end in (89.2, 89.4, 89.6, 90.0):
            backend = Backend(latency=0.2, max_age=0.1)
            bench = Bench(backend)
            job, begin = bench.new_job(), time.monotonic()
            backend.answer = ends_at(begin + end)
            await bench.poll(job, 3)
            await asyncio.sleep(90.0 + lateness - (time.monotonic() - begin))
            resource = await bench.ask(job)
            assert (resource.phase == Phase.SUCCEEDED) or 90.0 + lateness - end < 0.2 + 1.0
            await bench.watch.close()

    virtual(main)


def test_what_failed_ahead_of_an_ask_is_repeated_until_the_ask_is_over(virtual: Virtual) -> None:
    async def main() -> None:
        fails: Sequence[int] = range(3, 8)
        backend = Backend(latency=0.1, max_age=1.0)
        backend.answer = lambda _: ConnectionError("reset") if len(backend.asked) - 1 in fails else RUNNING
        bench = Bench(backend)
        job, begin = bench.new_job(), time.monotonic()
        await bench.poll(job, 4)
        answered = time.monotonic() - begin
        assert job.resource.message == ""
        assert answered < 90.0 + 2.0
        assert max(pauses(backend.asked[3:9])) <= 0.1 + 1.2 * 0.5
        await bench.watch.close()

    virtual(main)


def test_a_repeat_that_backs_off_comes_before_the_next_ask(virtual: Virtual) -> None:
    async def main() -> None:
        backend = Backend(latency=0.1, max_age=1.0)
        begin = time.monotonic()
        backend.answer = lambda now: ConnectionError("reset") if begin + 59.0 < now < begin + 89.0 else RUNNING
        bench = Bench(backend)
        job = bench.new_job()
        await bench.poll(job, 4)
        last = [asked - begin for asked in backend.asked if asked < begin + 90.0][-1]
        assert last == pytest.approx(90.0 - 0.1 - 0.5, abs=0.02)
        assert job.resource.message == ""
        await bench.watch.close()

    virtual(main)


def test_a_fault_of_any_kind_keeps_the_last_phase_and_the_retries_back_off(virtual: Virtual) -> None:
    async def main() -> None:
        broken = False
        backend = Backend(lambda _: ConnectionError("reset by peer") if broken else RUNNING)
        bench = Bench(backend)
        job = bench.new_job()
        await bench.ask(job)
        broken = True
        before = len(backend.asked)
        assert set(await bench.poll(job, 100)) == {Phase.RUNNING}
        gaps = pauses(backend.asked[before:])
        assert max(gaps) < 31.0  # an ask is worth a call ...
        assert len(gaps) < 1.2 * 100 + 10  # ... and few more are made
        broken = False
        await asyncio.sleep(80.0)
        resource = await bench.ask(job)
        assert (resource.phase, resource.message) == (Phase.RUNNING, "")
        await bench.watch.close()

    virtual(main)


def test_retry_after_is_kept(virtual: Virtual) -> None:
    async def main() -> None:
        backend = Backend(lambda _: Retry("slow down", after=100.0), latency=0.0)
        bench = Bench(backend)
        await bench.poll(bench.new_job(), 40, period=10.0)
        gaps = pauses(backend.asked)
        assert min(gaps) >= 100.0
        assert max(gaps) <= 121.0
        await bench.watch.close()

    virtual(main)


def test_a_job_is_given_up_after_the_tolerance_and_twenty_failures(virtual: Virtual) -> None:
    async def main() -> None:
        backend = Backend(lambda _: Retry("503"), fault_tolerance=7200.0)
        bench = Bench(backend)
        job, began = bench.new_job(), time.monotonic()
        while not job.is_over:
            resource = await bench.ask(job)
            await asyncio.sleep(30.0)
        assert 7200.0 <= time.monotonic() - began < 7400.0
        assert len(backend.asked) >= 20
        assert resource.phase in {Phase.QUEUED, Phase.RUNNING, Phase.RETRYABLE_FAILED}
        resource = await bench.ask(job)
        assert resource.phase == Phase.RETRYABLE_FAILED
        assert "could not be checked" in resource.message
        assert bench.given_up == [job]
        assert times(bench, What.GIVEN_UP) == 1
        await bench.watch.close()

    virtual(main)


@pytest.mark.parametrize("kind", ["success now and then", "garbage"])
def test_twenty_failures_count_only_in_a_row(virtual: Virtual, kind: str) -> None:
    async def main() -> None:
        count = 0

        def answer(_: float) -> Any:
            nonlocal count
            count += 1
            if kind == "garbage":
                return Resource("odd")  # type: ignore[arg-type]  # what an author may return
            return RUNNING if count % 19 == 0 else Retry("503")

        bench = Bench(Backend(answer, fault_tolerance=60.0))
        job = bench.new_job()
        phases = await bench.poll(job, 120)
        assert (Phase.RETRYABLE_FAILED in phases) is (kind == "garbage")
        await bench.watch.close()

    virtual(main)


def test_a_hanging_call_is_a_fault_like_any_other(virtual: Virtual) -> None:
    async def main() -> None:
        bench = Bench(Backend(latency=1e9, call_timeout=10.0, fault_tolerance=600.0))
        job = bench.new_job()
        phases = await bench.poll(job, 60)
        assert phases[-1] is Phase.RETRYABLE_FAILED
        assert job.given_up
        await bench.watch.close()

    virtual(main)


@pytest.mark.parametrize(("age", "at_least"), [(0.0, 60.0), (3600.0, 60.0)])
def test_not_found_counts_after_three_misses_over_a_minute(virtual: Virtual, age: float, at_least: float) -> None:
    async def main() -> None:
        backend = Backend(lambda _: NotFound("no such job"), latency=0.0)
        bench = Bench(backend)
        job, began = bench.new_job(age), time.monotonic()
        while not job.is_over:
            await bench.ask(job)
            await asyncio.sleep(1.0)
        assert at_least <= time.monotonic() - began < at_least + 40.0
        assert len(backend.asked) >= 3
        assert job.resource.phase is Phase.RETRYABLE_FAILED
        assert not job.given_up  # it is known to be gone
        await bench.watch.close()

    virtual(main)


def test_two_misses_a_minute_apart_are_not_enough(virtual: Virtual) -> None:
    async def main() -> None:
        misses = 0

        def answer(now: float) -> Exception:
            nonlocal misses
            if misses == 1 and now < began + 100.0:
                return Retry("503")  # in between nobody can tell
            misses += 1
            return NotFound("no such job")

        bench = Bench(Backend(answer, latency=0.0))
        job, began = bench.new_job(3600.0), time.monotonic()
        while not job.is_over:
            await bench.ask(job)
            await asyncio.sleep(1.0)
        assert misses == 3
        await bench.watch.close()

    virtual(main)


def test_jobs_that_fail_together_are_not_asked_for_together_again(virtual: Virtual) -> None:
    async def main() -> None:
        backend = Backend(lambda _: ConnectionError("reset by peer"), latency=0.0)
        bench = Bench(backend)
        await asyncio.gather(*(bench.ask(bench.new_job(), timeout=0.1) for _ in range(20)))
        await asyncio.sleep(0.01)
        begun = len(backend.asked)
        assert max(backend.asked) - min(backend.asked) < 0.01
        await asyncio.sleep(1.0)
        repeats = backend.asked[begun : begun + 20]
        assert max(repeats) - min(repeats) > 0.05
        assert len({round(one, 3) for one in repeats}) > 10
        await bench.watch.close()

    virtual(main)


def test_a_job_listed_late_is_believed(virtual: Virtual) -> None:
    async def main() -> None:
        listed = time.monotonic() + 45.0
        bench = Bench(Backend(lambda now: NotFound("not yet") if now < listed else RUNNING, latency=0.0))
        phases = await bench.poll(bench.new_job(), 10)
        assert phases == [Phase.QUEUED, Phase.QUEUED, *[Phase.RUNNING] * 8]
        await bench.watch.close()

    virtual(main)


def test_a_watch_is_dropped_when_three_asks_stay_away_and_never_before_15_minutes(virtual: Virtual) -> None:
    async def main() -> None:
        backend = Backend(lambda _: Retry("503"))  # a failing job is refreshed by itself
        bench = Bench(backend)
        often, seldom = bench.new_job(), bench.new_job()
        await asyncio.gather(bench.poll(often, 5, 30.0), bench.poll(seldom, 3, 600.0))
        left = time.monotonic()
        known = {}
        for minutes in (1, 16, 29, 32):
            await asyncio.sleep(left + 60.0 * minutes - time.monotonic())
            known[minutes] = (bench.watch.known(often.identity), bench.watch.known(seldom.identity))
        assert known == {1: (None, seldom), 16: (None, seldom), 29: (None, seldom), 32: (None, None)}
        assert bench.dropped == [often, seldom]
        asked = len(backend.asked)
        await asyncio.sleep(3600.0)
        assert len(backend.asked) == asked
        await bench.watch.close()

    virtual(main)


def test_a_watch_is_kept_for_15_minutes_however_often_it_was_asked_for(virtual: Virtual) -> None:
    async def main() -> None:
        bench = Bench(Backend())
        job = bench.new_job()
        await bench.poll(job, 5, 1.0)
        await asyncio.sleep(899.0)
        assert bench.watch.known(job.identity) is job
        await asyncio.sleep(60.0)
        assert bench.watch.known(job.identity) is None
        await bench.watch.close()

    virtual(main)


def test_memory_is_bounded_by_jobs(virtual: Virtual) -> None:
    async def main() -> None:
        bench = Bench(Backend(), max_jobs=10)
        jobs = [bench.new_job() for _ in range(25)]
        await asyncio.gather(*(bench.ask(job) for job in jobs))
        assert len(bench.watch) == 10
        assert bench.watch.of_key(jobs[0].handle.key) is None
        assert bench.watch.of_key(jobs[-1].handle.key) is jobs[-1]
        await bench.watch.close()

    virtual(main)


def test_many_asks_leave_one_place_in_the_schedule(virtual: Virtual) -> None:
    async def main() -> None:
        bench = Bench(Backend())
        job = bench.new_job()
        for _ in range(2_000):
            await bench.ask(job)
            await asyncio.sleep(0.01)
        assert len(bench.watch._refresher._ahead) <= 3
        await bench.watch.close()

    virtual(main)


def test_with_get_many_jobs_are_asked_for_together_on_the_interval(virtual: Virtual) -> None:
    async def main() -> None:
        backend = BatchBackend(poll_interval=4.0)
        bench = Bench(backend)
        jobs = [bench.new_job() for _ in range(1_000)]
        asks = 0
        for _ in range(60):
            await asyncio.gather(*(bench.ask(job) for job in jobs))
            asks += len(jobs)
            await asyncio.sleep(5.0)
        assert sum(backend.batches) / len(backend.batches) > 99.0
        assert len(backend.batches) / asks <= 0.015
        await bench.watch.close()

    virtual(main)


def test_a_batch_of_the_wrong_length_or_with_garbage_freezes_nobody(virtual: Virtual) -> None:
    class Odd(BatchBackend):
        async def get_many(self, metas: Sequence[bytes], call: Call) -> Sequence[Resource | Exception]:
            await super().get_many(metas, call)
            match len(self.batches) % 3:
                case 0:
                    return [RUNNING]
                case 1:
                    return ["odd"] * len(metas)  # type: ignore[list-item]  # what an author may return
            return [Resource(Phase.SUCCEEDED)] * len(metas)

    async def main() -> None:
        bench = Bench(Odd(poll_interval=4.0))
        jobs = [bench.new_job() for _ in range(3)]
        for _ in range(10):
            await asyncio.gather(*(bench.ask(job) for job in jobs))
            await asyncio.sleep(10.0)
        assert all(job.is_over for job in jobs)
        assert not job_groups(bench)
        await bench.watch.close()

    virtual(main)


def job_groups(bench: Bench) -> Any:
    return bench.watch._refresher._groups


def test_jobs_of_one_connection_go_together_and_a_rotated_secret_moves_them(virtual: Virtual) -> None:
    from airside.model import Connection

    async def main() -> None:
        backend = BatchBackend(poll_interval=4.0)
        bench = Bench(backend)
        jobs = [bench.new_job() for _ in range(4)]
        for secret in ("a", "b"):
            call = Call(connection=Connection(secrets={"token": secret}))
            await asyncio.gather(*(bench.watch.ask(job, call) for job in jobs))
            assert len(job_groups(bench)) == 1
            await asyncio.sleep(6.0 if secret == "a" else 0.0)
        assert set(backend.batches) == {4}
        await bench.watch.close()

    virtual(main)
