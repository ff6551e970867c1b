"""One attempt, one query of Snowflake, although its answers are lost and the service is killed."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.request import Request, urlopen

import pytest
from tests.backends.snowflake.conftest import connect, queries

from airside.agents.snowflake import SnowflakeAgent, SnowflakeConfig, SnowflakeTask
from airside.agents.snowflake_statement import request_id
from airside.model import Phase, Task, TaskType
from airside.testing import harness
from airside.testing.client import Wire

PLACE = SnowflakeConfig(user="etl", account="org-fake", database="DB1", schema="S1", warehouse="WH")

pytestmark = [pytest.mark.may_block, pytest.mark.timeout(300)]


def keys(port: int, text: str) -> Counter[str]:
    """How many queries there are for each attempt, of those with this text."""
    return Counter(json.loads(one["tag"])["airside_key"] for one in queries(port) if text in one["sql"])


def test_a_request_id_holds_within_its_session(emulator: int) -> None:
    """What is known of the real service, shown by the door: why the request id alone is not enough."""
    parameters = {"requestId": request_id("0c" * 16), "QUERY_TAG": f"tag {time.time_ns()}"}
    seen = []
    with connect(emulator) as first, connect(emulator) as second:
        for session in (first, first, second):
            with session.cursor() as cursor:
                cursor.execute_async("SELECT 3", _statement_params=dict(parameters))
                seen.append(cursor.sfqid)
    assert seen[0] == seen[1] != seen[2]
    told = [one["id"] for one in queries(emulator) if one["tag"] == parameters["QUERY_TAG"]]
    assert told == [seen[0], seen[2]]


async def test_another_service_finds_the_query(door: Any, emulator: int, wire: Wire) -> None:
    text = f"SELECT {time.time_ns()} AS n"
    async with harness(SnowflakeAgent, wire=wire, options=door) as h:
        job = await h.create(task=SnowflakeTask(name="t", query_template=text, task_config=PLACE))
        await h.restart()  # a session of its own
        again = await h.create(
            task=SnowflakeTask(name="t", query_template=text, task_config=PLACE), output_prefix=job.task.output_prefix
        )
        ends = [await h.finish(one) for one in (job, again)]
    assert [one.phase for one in ends] == [Phase.SUCCEEDED] * 2
    assert ends[0].info == ends[1].info
    assert keys(emulator, text) == {job.task.key: 1}


def test_without_a_history_queries_are_made_nevertheless(
    door: Any, emulator: int, caplog: pytest.LogCaptureFixture
) -> None:
    agent = SnowflakeAgent()
    agent.open(agent.Options(**door))
    task = SnowflakeTask(name="t", query_template="SELECT 1", task_config=PLACE)
    told = Task(type=TaskType("snowflake"), sql=task.sql, config=task.config, key="0d" * 16)
    try:
        rule(emulator, history=False)
        with caplog.at_level(logging.WARNING):
            assert agent.find(told, told.key) is None
        assert "a query may be made twice" in caplog.text
    finally:
        rule(emulator, history=True)
    assert agent.find(told, told.key) is None
    made = agent.create(told)
    assert agent.find(told, told.key) == made
    agent.close()


def rule(port: int, **rules: bool) -> None:
    body = json.dumps(rules).encode()
    with urlopen(Request(f"http://127.0.0.1:{port}/-/rules", data=body, method="PUT"), timeout=30):
        pass


@pytest.mark.parametrize("wire", [pytest.param("v1", marks=pytest.mark.backend), "v2"])
async def test_a_service_that_dies_in_a_create_leaves_one_query(door: Any, emulator: int, wire: Wire) -> None:
    text = f"SELECT {time.time_ns()} AS n"
    task = SnowflakeTask(name="t", query_template=text, task_config=PLACE)
    async with harness(SnowflakeAgent, wire=wire, process=True, options=door) as h:
        prefix = f"s3://runs/{time.time_ns()}/0"
        rule(emulator, hold=True)
        try:
            creating = asyncio.create_task(h.create(task=task, output_prefix=prefix))
            async with asyncio.timeout(120):
                while not keys(emulator, text):  # Snowflake has the query, and nobody knows of it
                    await asyncio.sleep(0.05)
            await h.kill()
            creating.cancel()  # its caller would wait for the service to come back
            await asyncio.gather(creating, return_exceptions=True)
        finally:
            rule(emulator, hold=False)
        await h.restart()
        job = await h.create(task=task, output_prefix=prefix)
        assert (await h.finish(job)).phase is Phase.SUCCEEDED
    assert keys(emulator, text) == {job.task.key: 1}


@pytest.mark.parametrize(
    ("wire", "tasks", "kills"),
    [pytest.param("v1", 8, 1, marks=pytest.mark.backend), pytest.param("v2", 40, 6, marks=pytest.mark.faults)],
)
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_query(
    wire: Wire,
    tasks: int,
    kills: int,
    emulator: int,
    fault_proxy: Callable[..., Any],
    killed_service: Callable[..., Any],
) -> None:
    run = f"{wire}-{time.time_ns()}"
    proxy = fault_proxy(
        emulator,
        seed=7,
        share=0.3,
        kinds=["reset_before", "reset_after", "429", "503", "503_after", "malformed"],
        latency=[0.05, 0.3],
        match="^POST /queries/v1/query-request",
    )
    options = f'host = "localhost"\nport = {proxy.url.rpartition(":")[2]}\nprotocol = "http"'
    env = {"_FSEC_SNOWFLAKE_PASSWORD": "pass-of-etl"}
    service = killed_service("snowflake", env=env, options=options, seed=7)
    task = SnowflakeTask(name="one", query_template=f"SELECT '{run}' AS run", task_config=PLACE)
    handles = await service.create([task] * tasks, run=run, kills=kills, wire=wire)
    proxy.set(share=0.0, latency=[0, 0])
    await service.finish(handles, "snowflake", wire)
    made = await asyncio.to_thread(keys, emulator, run)
    assert sorted(made.values()) == [1] * tasks
    assert service.kills >= 1
    assert sum(proxy.counts()["faults"].values()) >= 1
