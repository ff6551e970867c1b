"""How a job is asked for, and what its phases mean (E17 to E24, E38)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import Any

import grpc
import grpc.aio
import pytest
from flyteidl.admin import agent_pb2
from tests.integration.engine_cases.service import (
    DONE,
    RUNNING,
    TASK,
    R,
    Service,
    Start,
    config,
    engine,
    finish,
    let_rules,
    until,
)

from airside import Phase
from airside.engine.flyteconfig import FlyteConfig, read_config
from airside.wire.families import V2


async def test_e17_polled_at_once_and_then_each_interval(start: Start) -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    service = await start(
        script={"get": [lambda _: times.append(loop.time()) or (DONE if len(times) > 2 else RUNNING)]}
    )
    await finish(config(service, interval=0.2))
    assert [later - earlier >= 0.19 for earlier, later in pairwise(times)] == [True, True]
    seldom = await start(script={"get": [DONE]})
    await finish(config(seldom, interval=3600.0))  # the first poll does not wait for the interval
    assert seldom.verbs == ["create", "get"]


@pytest.mark.parametrize(
    ("resource", "phase", "code", "message"),
    [
        (R(phase=3), Phase.SUCCEEDED, "", ""),
        (R(phase=4, message="m"), Phase.FAILED, "Aborted", "m"),
        (R(phase=5, message="m"), Phase.FAILED, "TaskFailedWithError", "m"),
        (R(phase=8, message="m"), Phase.FAILED, "RetriesExhausted|TaskFailedWithError", "m"),
    ],
)
async def test_e18_terminal_phases(start: Start, resource: Any, phase: Phase, code: str, message: str) -> None:
    service = await start(script={"get": [resource]})
    outcome = await finish(config(service))
    assert (outcome.phase, outcome.code, outcome.message) == (phase, code, message)


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.WAITING_FOR_RESOURCES, Phase.INITIALIZING, Phase.RUNNING])
async def test_e18_phases_on_the_way(start: Start, phase: Phase) -> None:
    service = await start(script={"get": [R(phase=phase.value, message="m"), DONE]})
    async with engine(config(service)) as running:
        job = await running.submit(TASK)
        await running.wait(job)
        assert (phase, "m") in [(event.phase, event.message) for event in await running.events(job)]


async def test_e19_no_phase_and_no_state_is_a_retryable_failure(start: Start) -> None:
    service = await start(script={"get": [b"", DONE]})
    outcome = await finish(config(service), retries=1)
    assert (outcome.phase, outcome.attempts) == (Phase.SUCCEEDED, 2)


async def test_e19_no_phase_in_flyte_2_is_a_system_error(start: Start) -> None:
    service = await start(family=V2, script={"get": [b""] * 6 + [R(phase=4)]})
    outcome = await finish(config(service), retries=1)
    assert (outcome.phase, outcome.code, outcome.attempts) == (Phase.FAILED, "MaxSystemFailuresExceeded", 1)


@pytest.mark.parametrize(
    ("state", "seen", "code"),
    [
        (agent_pb2.RUNNING, Phase.RUNNING, None),
        (agent_pb2.PENDING, Phase.INITIALIZING, None),
        (agent_pb2.SUCCEEDED, Phase.SUCCEEDED, ""),
        (agent_pb2.PERMANENT_FAILURE, Phase.FAILED, "TaskFailedWithError"),
    ],
)
async def test_e20_an_old_agent_says_how_it_stands_by_state(
    start: Start, state: Any, seen: Phase, code: str | None
) -> None:
    old = agent_pb2.Resource(state=state).SerializeToString()
    service = await start(script={"get": [old, agent_pb2.Resource(state=agent_pb2.SUCCEEDED).SerializeToString()]})
    async with engine(config(service)) as running:
        job = await running.submit(TASK, retries=1)
        outcome = await running.wait(job)
        assert (outcome.code, outcome.attempts) == (code or "", 1)
        assert seen in [event.phase for event in await running.events(job)]
    assert len(service.calls("get")) == (2 if code is None else 1)


async def test_e21_a_phase_that_nobody_knows_fails_in_the_end(start: Start) -> None:
    service = await start(script={"get": [R(phase=99)] * 6 + [R(phase=4)]})
    outcome = await finish(config(service))
    assert (outcome.phase, outcome.code) == (Phase.FAILED, "MaxSystemFailuresExceeded")
    assert "phase 99" in outcome.message
    assert service.verbs == ["create", *["get"] * 6, "delete", "get"]


async def test_e22_never_fetched_and_failed_too_often(start: Start) -> None:
    service = await start(script={"get": [grpc.StatusCode.UNAVAILABLE] * 6 + [R(phase=4)]})
    outcome = await finish(config(service), retries=3)
    assert (outcome.phase, outcome.code) == (Phase.FAILED, "AutoRefreshCacheFailed")
    assert outcome.message == "UNAVAILABLE as told"
    assert service.verbs == ["create", *["get"] * 6, "delete", "get"]


async def test_e23_fetched_once_and_then_away_ends_in_bounded_time_deviation(start: Start) -> None:
    service = await start(script={"get": [RUNNING, *[grpc.StatusCode.UNAVAILABLE] * 9, R(phase=4)]})
    async with engine(config(service)) as running:
        let_rules(running, fault_tolerance=0.2)
        outcome = await running.wait(await running.submit(TASK))
    assert (outcome.phase, outcome.code) == (Phase.FAILED, "RetriesExhausted|AgentUnreachable")


async def test_e24_errors_between_answers_do_no_harm_deviation(start: Start) -> None:
    """However long it goes on: faults are counted, and timed, in a row."""
    steps: list[Any] = [RUNNING, *[grpc.StatusCode.UNAVAILABLE] * 4] * 4
    service = await start(script={"get": [*steps, DONE]})
    async with asyncio.timeout(20), engine(config(service)) as running:
        let_rules(running, fault_tolerance=0.0, unfetched_tolerance=0.0)
        assert (await running.wait(await running.submit(TASK))).phase is Phase.SUCCEEDED
    assert service.verbs == ["create", *["get"] * 21]


def limited(service: Service, **api: Any) -> FlyteConfig:
    """A configuration with limits, as its file says them; polled more often than it may say."""
    read = config(service, webApi=api)
    web_api = read_config({"plugins": {"agent-service": {"webApi": api}}}, "flyte.yaml").sections[0].web_api
    sections = [replace(one, web_api=replace(web_api, resync_interval=0.03)) for one in read.sections]
    return replace(read, sections=tuple(sections))


async def test_e38_the_rate_of_reads_is_respected(start: Start) -> None:
    service = await start()
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with engine(limited(service, readRateLimiter={"qps": 20, "burst": 5})) as running:
        for job in [await running.submit(TASK) for _ in range(10)]:
            await running.wait(job)
    assert loop.time() - began >= 0.25 - 0.02


async def test_e38_so_many_workers_ask_at_once(start: Start) -> None:
    asking = most = 0
    go_on = asyncio.Event()

    async def ask(_: Any) -> Any:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await go_on.wait()
        asking -= 1
        return DONE

    service = await start(script={"get": [ask]})
    async with engine(limited(service, caching={"workers": 3})) as running:
        jobs = [await running.submit(TASK) for _ in range(8)]
        await until(lambda: asking == 3)
        await until(lambda: len(service.calls("create")) == 8)
        go_on.set()
        for job in jobs:
            assert (await running.wait(job)).phase is Phase.SUCCEEDED
    assert most == 3
