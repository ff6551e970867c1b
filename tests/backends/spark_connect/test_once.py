"""One attempt, one run, although the service is killed in the middle of creates and the line to the server breaks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.backends.spark_connect.conftest import TOKEN, line_to
from tests.backends.spark_connect.test_spark_connect import ended, opened, sql, task_of

from airside import Phase, kwtypes
from airside.testing.client import Wire

pytestmark = [pytest.mark.backend, pytest.mark.may_block, pytest.mark.timeout(900)]
COUNT = 8


async def test_the_service_is_killed_during_creates_and_each_attempt_runs_once(
    server: Any, killed_service: Callable[..., Any]
) -> None:
    wire: Wire = "v2"
    run, agent = f"r{time.time_ns()}", await opened(server.options)

    async def ask(text: str, number: int, **outputs: Any) -> Any:
        done = await ended(agent, await agent.create(task_of(sql(text, outputs=outputs), f"{time.time_ns():032x}")))
        assert done.phase is Phase.SUCCEEDED, (number, done)
        return dict(done.outputs or {})

    for number in range(COUNT):
        await ask(f"CREATE TABLE {run}_{number} (n BIGINT) USING parquet", number)
    # half a second of work, so that creates are under way when the service dies
    text = "INSERT INTO {}_{} SELECT sum(id % 7) FROM range(200000000)"
    tasks = [sql(text.format(run, number)) for number in range(COUNT)]
    async with line_to(server.port, cuts=(0.2, 2.0)) as line:
        service = killed_service(
            "spark_connect",
            env={"_FSEC_SPARK_CONNECT_TOKEN": TOKEN},
            options=f'server = "sc://127.0.0.1:{line.port}"',
            seed=7,
        )
        handles = await service.create(tasks, run=run, kills=3, wire=wire)
        await service.finish(handles, "spark_connect", wire)
        assert line.cut >= 1
    assert service.kills >= 1
    counts = "SELECT count(*) AS runs FROM {}_{}"
    runs = [await ask(counts.format(run, number), number, **kwtypes(runs=int)) for number in range(COUNT)]
    assert runs == [{"runs": 1}] * COUNT
    await agent.close()
