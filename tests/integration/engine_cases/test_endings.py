"""How a job ends that is given up: its next attempt, aborts, timeouts, deletes (E25 to E29)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
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
from airside.engine.flyteconfig import Rate
from airside.engine.lane import Limits


async def test_e25_the_old_job_is_deleted_before_the_next_attempt(start: Start) -> None:
    service = await start(script={"create": [b"job-0", b"job-1"], "get": [R(phase=8), DONE]})
    assert (await finish(config(service), retries=1)).attempts == 2
    assert service.verbs == ["create", "get", "delete", "create", "get"]
    (deleted,) = service.calls("delete")
    assert (deleted.resource_meta, deleted.task_category.name, deleted.task_type) == (b"job-0", "spark", "spark")


@pytest.mark.parametrize(
    ("resource", "code"), [(R(phase=8), "RetriesExhausted|TaskFailedWithError"), (R(phase=5), "TaskFailedWithError")]
)
async def test_e26_a_last_failure_is_not_deleted(start: Start, resource: Any, code: str) -> None:
    service = await start(script={"get": [resource]})
    assert (await finish(config(service))).code == code
    assert service.verbs == ["create", "get"]


async def test_e27_abort_while_running_twice(start: Start) -> None:
    service = await start(script={"get": [RUNNING] * 3 + [R(phase=4)]})
    async with engine(config(service)) as running:
        job = await running.submit(TASK)
        await until(lambda: len(service.calls("get")) >= 2)
        await running.cancel(job)
        await running.cancel(job)
        assert (await running.wait(job)).phase is Phase.ABORTED
    assert service.verbs.count("delete") == 1


async def test_e27_abort_before_create(start: Start) -> None:
    service = await start()
    read = config(service)
    api = replace(read.sections[0].web_api, limits=Limits(write=Rate(1, 1)))  # the second create waits for a second
    async with engine(replace(read, sections=(replace(read.sections[0], web_api=api),))) as running:
        first, second = await running.submit(TASK), await running.submit(TASK)
        await running.cancel(second)
        assert (await running.wait(second)).phase is Phase.ABORTED
        assert (await running.wait(first)).phase is Phase.SUCCEEDED
    assert service.verbs == ["create", "get"]


async def test_e28_a_timeout_deletes_and_tries_again_then_fails(start: Start) -> None:
    service = await start(
        script={
            "create": [lambda request: request.output_prefix[-1].encode()],
            "get": [
                lambda r: (
                    R(phase=4) if r.resource_meta in [d.resource_meta for d in service.calls("delete")] else RUNNING
                )
            ],
        }
    )
    outcome = await finish(config(service), retries=1, timeout=0.3)
    assert (outcome.phase, outcome.attempts) == (Phase.FAILED, 2)
    assert outcome.code.endswith("TimeoutExpired")
    assert deleted(service) == [b"0", b"1"]
    assert [verb for verb in service.verbs if verb != "get"] == ["create", "delete", "create", "delete"]


def deleted(service: Service) -> list[bytes]:
    """The jobs that the service was asked to delete."""
    return [one.resource_meta for one in service.calls("delete")]


async def test_e29_a_delete_that_keeps_failing_ends_deviation(start: Start) -> None:
    service = await start(script={"get": [RUNNING], "delete": [grpc.StatusCode.UNAVAILABLE]})
    async with engine(config(service)) as running:
        let_rules(running, delete_tries=3)
        job = await running.submit(TASK)
        await until(lambda: service.calls("get"))
        await running.cancel(job)
        outcome = await running.wait(job)
        assert (outcome.phase, outcome.job_may_live) == (Phase.ABORTED, True)
        notes = [event.note for event in await running.events(job)]
        assert notes.count("the cancel failed (UNAVAILABLE as told); trying again") == 2
    assert service.verbs.count("delete") == 3
