"""The engine drives jobs of agents in this process: to their ends, within limits, and on after a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from math import floor, inf
from pathlib import Path
from typing import Any

import pytest
from flyteidl2.core import literals_pb2

from airside import (
    ConversionError,
    Engine,
    Fail,
    LogLink,
    Phase,
    Resource,
    Retry,
    SyncAgent,
    Task,
    TaskTemplate,
    UsageError,
    kwtypes,
)
from airside.engine.database import Database, Record, StoreError
from airside.engine.driver import Driver
from airside.engine.drivers import rules_for
from airside.engine.engine import LISTEN_EVERY, prepare
from airside.engine.job import Job, Stage
from airside.engine.lane import Gate, Lane, Limits, Rate
from airside.sdk.agent import AgentSettings
from airside.testing.scripted import ScriptedAgent, hang

TASK = TaskTemplate(name="work", task_type="scripted")
ADD = TaskTemplate(name="add", task_type="scripted", inputs=kwtypes(a=int), outputs=kwtypes(o0=int))
RUNNING = Resource(Phase.RUNNING, message="3 of 7", links=(LogLink("https://example.org/1", "console"),))
DONE = Resource(Phase.SUCCEEDED, outputs={"o0": 7})
LOST = Resource(Phase.RETRYABLE_FAILED, message="node lost", code="NodeLost")
FAST = AgentSettings(poll_interval=0.02, call_timeout=5.0)


def scripted(**scripts: Any) -> ScriptedAgent:
    return ScriptedAgent(settings=scripts.pop("settings", FAST), **scripts)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "engine.db"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRSIDE_STATE", str(tmp_path))


def verbs(agent: ScriptedAgent) -> list[str]:
    return [one.verb for one in agent.received]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_job_runs_to_its_end_and_its_history_is_kept(store: Path) -> None:
    agent = scripted(create=b"job-7", get=[RUNNING, RUNNING, DONE])
    heard: list[tuple[Stage, str]] = []

    def hear(record: Record, note: str) -> None:
        heard.append((record.job.stage, note))

    async with Engine(store, agents=[agent], on_change=hear) as engine:
        job = await engine.submit(ADD, {"a": 3})
        outcome = await engine.wait(job)
        assert (outcome.phase, outcome.outputs, outcome.attempts) == (Phase.SUCCEEDED, {"o0": 7}, 1)
        assert outcome.links == RUNNING.links
        assert verbs(agent) == ["create", "get", "get", "get"]
        (created,) = agent.calls("create")
        assert created.task is not None
        assert dict(created.task.inputs) == {"a": 3}
        root = Path(created.task.output_prefix)
        assert root.name == "0"
        assert (root.parent / "inputs.pb").exists()
        assert (root / "outputs.pb").exists()
        events = await engine.events(job)
        stages = [Stage.WAITING, Stage.CREATING, Stage.WATCHING, Stage.WATCHING, Stage.OVER]
        assert [event.stage for event in events] == stages
        assert [event.at for event in events] == sorted(event.at for event in events)
        assert [stage for stage, _ in heard] == stages[1:]
        assert engine.unfinished == 0


async def test_inputs_that_do_not_fit_are_no_job(store: Path) -> None:
    async with Engine(store, agents=[scripted()]) as engine:
        with pytest.raises(ConversionError, match=r"inputs\.a: expected int"):
            await engine.submit(ADD, {"a": "x"})
        assert await engine.jobs() == []


async def test_an_offloaded_input_is_fetched_before_the_agent_reads_it(store: Path) -> None:  # E39
    kept = literals_pb2.Literal()
    kept.scalar.primitive.integer = 41
    file = store.parent / "a.pb"
    inputs = literals_pb2.LiteralMap()
    inputs.literals["a"].offloaded_metadata.uri = str(file)
    made = replace(prepare(ADD, {"a": 3}), inputs=inputs.SerializeToString())

    def hand_in() -> None:
        file.write_bytes(kept.SerializeToString())
        with Database(store) as database, database.transaction():
            database.add(made.record, made.template, made.inputs)

    await asyncio.to_thread(hand_in)
    read: list[int] = []  # on the loop, which no read of a file may block
    agent = scripted(create=lambda task: read.append(task.inputs["a"]) or b"job-7", get=DONE)
    async with Engine(store, agents=[agent]) as engine:
        assert (await engine.wait(made.record.job.id)).phase is Phase.SUCCEEDED
    assert read == [41]


async def test_attempts_follow_each_other_under_prefixes_of_their_own(store: Path) -> None:
    agent = scripted(create=[b"job-0", b"job-1"], get=[LOST, DONE])
    async with Engine(store, agents=[agent]) as engine:
        outcome = await engine.wait(await engine.submit(ADD, {"a": 3}, retries=1))
    assert (outcome.phase, outcome.attempts) == (Phase.SUCCEEDED, 2)
    assert verbs(agent) == ["create", "get", "create", "get"]  # an agent is asked to delete unfinished jobs only
    prefixes = [one.task.output_prefix for one in agent.calls("create") if one.task]
    assert [Path(prefix).name for prefix in prefixes] == ["0", "1"]


@pytest.mark.parametrize(
    ("scripts", "code", "creates"),
    [
        ({"create": Fail("no such table", code="TableNotFound")}, "TableNotFound", 1),
        ({"create": Retry("busy", after=0.0)}, "RetriesExhausted|Retryable", 3),
        ({"get": Resource(Phase.FAILED, code="Broken")}, "Broken", 1),
        ({"get": Resource(Phase.SUCCEEDED, outputs={"o0": "x"})}, "OutputConversionError", 1),
        ({"get": Resource(Phase.SUCCEEDED)}, "RetriesExhausted|OutputsNotFound", 3),
    ],
)
async def test_failures(store: Path, scripts: dict[str, Any], code: str, creates: int) -> None:
    agent = scripted(**scripts)
    async with Engine(store, agents=[agent]) as engine:
        outcome = await engine.wait(await engine.submit(ADD, {"a": 3}, retries=2))
    assert (outcome.phase, outcome.code) == (Phase.FAILED, code)
    assert len(agent.calls("create")) == creates
    assert not outcome.job_may_live


async def test_cancel(store: Path) -> None:
    agent = scripted(get=[RUNNING] * 6 + [Resource(Phase.ABORTED)])
    async with Engine(store, agents=[agent]) as engine:
        job = await engine.submit(TASK)
        await until(lambda: len(agent.calls("get")) == 2)
        await engine.cancel(job[:8])
        await engine.cancel(job)
        outcome = await engine.wait(job)
        assert outcome.phase is Phase.ABORTED
        assert not outcome.job_may_live
        await engine.cancel(job)
    assert len(agent.calls("delete")) == 1


async def test_a_cancel_is_on_the_disk_before_it_is_sent(store: Path) -> None:
    agent = scripted(get=lambda _: Resource(Phase.ABORTED) if agent.calls("delete") else RUNNING)
    async with Engine(store, agents=[agent]) as engine:
        save, disk = engine._store.save, asyncio.Event()
        writes: list[asyncio.Task[None]] = []

        async def slow(job: Job, *more: Any) -> None:
            if job.stage is Stage.CANCELLING:
                await disk.wait()
            await save(job, *more)

        def slowly(job: Job, *more: Any) -> asyncio.Task[None]:
            writes.append(asyncio.create_task(slow(job, *more)))
            return writes[-1]

        engine._store.save = slowly  # type: ignore[method-assign]  # held up for the test
        job = await engine.submit(TASK)
        await until(lambda: len(agent.calls("get")) >= 2)
        await engine.cancel(job)
        async with asyncio.timeout(10):
            while (now := engine._loop.job(job)) is None or (now.stage, now.due) != (Stage.CANCELLING, inf):
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert not agent.calls("delete")
        disk.set()
        assert (await engine.wait(job)).phase is Phase.ABORTED
    assert len(agent.calls("delete")) == 1


async def test_a_cancel_for_a_job_whose_agent_is_being_opened_is_not_lost(store: Path) -> None:
    opened = asyncio.Event()
    agent = scripted(get=lambda _: Resource(Phase.ABORTED) if agent.calls("delete") else RUNNING)

    async def choose(record: Record) -> tuple[Any, Any]:
        await opened.wait()
        return agent, None

    def ask() -> None:
        with Database(store) as database, database.transaction():
            database.ask(database.latest()[0].job.id, "cancel", 1.0)

    def asked() -> int:
        with Database(store) as database:
            return len(database.requests())

    async with Engine(store, choose=choose) as engine:
        handed_in = asyncio.create_task(engine.submit(TASK))
        await until(lambda: bool(engine._loop.intake._coming))
        while not await engine.jobs():
            await asyncio.sleep(0.005)
        await asyncio.to_thread(ask)
        await asyncio.sleep(2 * LISTEN_EVERY)
        assert await asyncio.to_thread(asked) == 1
        opened.set()
        assert (await engine.wait(await handed_in)).phase is Phase.ABORTED
    assert not agent.calls("create") or agent.calls("delete")


async def test_a_job_that_runs_too_long_is_cancelled_and_tried_again(store: Path) -> None:
    deleted: list[bytes] = []
    agent = scripted(
        create=[b"slow", b"quick"],
        delete=deleted.append,
        get=lambda meta: Resource(Phase.ABORTED) if meta in deleted else RUNNING if meta == b"slow" else DONE,
    )
    async with Engine(store, agents=[agent]) as engine:
        outcome = await engine.wait(await engine.submit(ADD, {"a": 1}, retries=1, timeout=0.2))
        assert (outcome.phase, outcome.attempts) == (Phase.SUCCEEDED, 2)
    assert deleted == [b"slow"]


async def test_a_timeout_that_comes_on_a_tick_of_the_clock_is_noticed(store: Path) -> None:
    deleted: list[bytes] = []
    seldom = replace(RUNNING, poll_after=30.0)  # so it is due at its deadline next
    agent = scripted(delete=deleted.append, get=lambda _: Resource(Phase.ABORTED) if deleted else seldom)
    async with Engine(store, agents=[agent]) as engine:
        engine._loop._clock = lambda: floor(time.time() * 8) / 8  # what is due at a time is looked at exactly then
        outcome = await asyncio.wait_for(engine.wait(await engine.submit(TASK, timeout=0.25)), 20)
        assert outcome.code == "RetriesExhausted|TimeoutExpired"


async def test_a_sync_call_may_be_cancelled_and_may_take_too_long(store: Path) -> None:
    class Slow(SyncAgent):
        task_type = "slow"

        async def do(self, task: Task) -> Resource:
            await asyncio.sleep(60)
            raise AssertionError("unreachable")

    task = TaskTemplate(name="slow", task_type="slow")
    async with Engine(store, agents=[Slow()]) as engine:
        job = await engine.submit(task)
        await asyncio.sleep(0.05)
        await engine.cancel(job)
        assert (await engine.wait(job)).phase is Phase.ABORTED
        outcome = await engine.wait(await engine.submit(task, timeout=0.1))
        assert outcome.code == "RetriesExhausted|TimeoutExpired"


async def test_an_agent_that_is_missing_fails_its_task_with_a_sentence(store: Path) -> None:
    async with Engine(store, agents=[scripted()]) as engine:
        outcome = await engine.wait(await engine.submit(TaskTemplate(name="x", task_type="nobody")))
        assert (outcome.phase, outcome.code) == (Phase.FAILED, "NoAgent")
        assert "None of the given agents runs task type nobody" in outcome.message


async def test_an_agent_that_is_away_costs_one_attempt_at_a_time(store: Path) -> None:  # E14
    looks: list[str] = []

    async def choose(record: Record) -> tuple[ScriptedAgent, Any]:
        looks.append(record.job.id)
        if len(looks) <= 2:
            raise Retry("No agent service answers at h:1.")
        return scripted(get=DONE), None

    async with asyncio.timeout(30), Engine(store, choose=choose) as engine:
        outcome = await engine.wait(await engine.submit(replace(ADD, retries=2), {"a": 3}))
        assert (outcome.phase, outcome.attempts) == (Phase.SUCCEEDED, 3)
        looks.clear()
        outcome = await engine.wait(await engine.submit(TaskTemplate(name="x", task_type="other")))
    assert outcome.code == "RetriesExhausted|Retryable"
    assert outcome.message == "No agent service answers at h:1."


async def test_a_stop_loses_nothing(store: Path) -> None:
    before = scripted(create=b"job-7", get=RUNNING)
    async with Engine(store, agents=[before]) as engine:
        job = await engine.submit(ADD, {"a": 3})
        await until(lambda: len(before.calls("get")) == 2)
    after = scripted(get=DONE)
    async with Engine(store, agents=[after]) as engine:  # E16
        outcome = await engine.wait(job)
    assert (outcome.phase, outcome.outputs) == (Phase.SUCCEEDED, {"o0": 7})
    assert verbs(after) == ["get"]
    (asked,) = after.calls("get")
    assert (asked.meta, asked.call and asked.call.output_prefix) == (b"job-7", str(store.parent / "runs" / job / "0"))
    async with Engine(store, agents=[after]) as engine:
        assert (await engine.wait(job)).outputs == {"o0": 7}
    assert verbs(after) == ["get"]


@pytest.mark.parametrize(
    ("settings", "scripts", "expected", "code"),
    [
        ({"create_is_idempotent": True}, {}, ["create", "get"], ""),
        ({}, {"find": b"job-7"}, ["find", "get"], ""),
        ({}, {"find": None}, ["find", "create", "get"], ""),
        ({}, {}, [], "CreateUnknown"),
        ({"create_is_idempotent": True}, {"create": [Retry("away"), b"job-7"]}, ["create", "create", "get"], ""),
    ],
)
async def test_a_create_whose_answer_was_lost(
    store: Path, settings: dict[str, Any], scripts: dict[str, Any], expected: list[str], code: str
) -> None:
    before = scripted(create=hang)
    engine = Engine(store, agents=[before])
    await engine.__aenter__()
    job = await engine.submit(ADD, {"a": 3})
    await until(lambda: len(before.calls("create")) == 1)
    engine._loop._stopping = True
    await abandon(engine)
    after = scripted(get=DONE, settings=AgentSettings(poll_interval=0.02, **settings), **scripts)
    async with Engine(store, agents=[after]) as again:
        outcome = await again.wait(job)
    assert verbs(after) == expected
    assert (outcome.code, outcome.job_may_live) == (code, bool(code))
    first = before.calls("create")[0].task
    for call in after.calls("create"):
        assert call.task is not None
        assert first is not None
        assert (call.task.key, call.task.output_prefix) == (first.key, first.output_prefix)


async def abandon(engine: Engine) -> None:
    """End an engine as a crash would: nothing under way is waited for."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0.01)
    await engine._store.close()
    engine._ownership.release()


async def test_a_second_engine_is_told_of_the_first(store: Path) -> None:
    async with Engine(store, agents=[scripted()]):
        with pytest.raises(StoreError, match="Another engine drives the jobs of this store: process "):
            async with Engine(store, agents=[scripted()]):
                pass
    async with Engine(store, agents=[scripted()]):
        pass


async def test_an_engine_without_a_file_keeps_no_file(tmp_path: Path) -> None:
    async with Engine(":memory:", agents=[scripted(get=DONE)]) as engine:
        assert (await engine.wait(await engine.submit(ADD, {"a": 1}))).outputs == {"o0": 7}
    assert not list(tmp_path.glob("*.db"))


async def test_unknown_jobs(store: Path) -> None:
    async with Engine(store, agents=[scripted()]) as engine:
        with pytest.raises(UsageError, match="There is no job 'abc'"):
            await engine.wait("abc")
        with pytest.raises(UsageError, match="There is no job 'abc'"):
            await engine.cancel("abc")


async def test_a_thousand_jobs_need_no_thousand_tasks(store: Path) -> None:
    agent = scripted(get=RUNNING, settings=AgentSettings(poll_interval=30.0))
    async with Engine(store, agents=[agent]) as engine:
        await asyncio.gather(*(engine.submit(TASK) for _ in range(1000)))
        await until(lambda: len(agent.calls("get")) >= 1000)
        assert engine.unfinished == 1000
        await until(lambda: len(asyncio.all_tasks()) < 100)


# -- limits ----------------------------------------------------------------------------------------------------------


class Limited:
    """Drivers with limits, as a configuration would give them."""

    def __init__(self, agent: ScriptedAgent, limits: Limits) -> None:
        self.driver = Driver(agent, rules_for(agent), Lane(limits))

    def key(self, record: Record) -> Any:
        return None

    async def find(self, record: Record) -> Driver:
        return self.driver

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return


def limited(store: Path, agent: ScriptedAgent, limits: Limits) -> Engine:
    return Engine(store, drivers=Limited(agent, limits))


async def test_a_quota_lets_others_wait_and_say_so(store: Path) -> None:
    done: set[bytes] = set()
    agent = scripted(create=lambda task: task.key.encode(), get=lambda meta: DONE if meta in done else RUNNING)
    async with limited(store, agent, Limits(quota=2)) as engine:
        jobs = [await engine.submit(ADD, {"a": 1}) for _ in range(5)]
        await until(lambda: len(agent.calls("get")) >= 2)
        assert len(agent.calls("create")) == 2
        async with asyncio.timeout(10):
            while len(waiting := await engine.jobs(phase=Phase.WAITING_FOR_RESOURCES)) < 3:
                await asyncio.sleep(0.005)
        assert [one.job.id for one in reversed(waiting)] == jobs[2:]
        assert {one.job.message for one in waiting} == {"The quota of 2 jobs at once is used up."}
        await engine.cancel(jobs[3])
        assert (await engine.wait(jobs[3])).phase is Phase.ABORTED
        done.update(call.task.key.encode() for call in agent.calls("create") if call.task)
        await until(lambda: len(agent.calls("create")) == 4)
        done.update(call.task.key.encode() for call in agent.calls("create") if call.task)
        outcomes = [await engine.wait(job) for job in jobs]
    assert [one.phase for one in outcomes].count(Phase.SUCCEEDED) == 4


async def test_a_rate_is_kept() -> None:  # E38
    loop = asyncio.get_running_loop()
    began, started = loop.time(), list[float]()

    async def work() -> None:
        started.append(loop.time() - began)

    gate = Gate(workers=100, rate=Rate(qps=50.0, burst=5))
    for _ in range(10):
        gate.put(work)
    await until(lambda: len(started) == 10)
    assert started[4] < 0.05
    assert [one >= 0.02 * number for number, one in enumerate(started[5:], 1)] == [True] * 5
    gate.close()


async def test_workers_are_bounded() -> None:  # E38
    running = most = 0
    over = asyncio.Event()

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await over.wait()
        running -= 1

    gate = Gate(workers=3, rate=None)
    for _ in range(10):
        gate.put(work)
    await asyncio.sleep(0)
    assert len(gate.running) == 3
    over.set()
    await until(lambda: not gate.running)
    assert most == 3
