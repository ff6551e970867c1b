"""One attempt, one job at BigQuery, although its answers are lost and the service is killed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from google.cloud.bigquery import Client

from airside import kwtypes
from airside.agents.bigquery import BigQueryConfig, BigQueryTask
from airside.testing.client import Wire

TYPE = "bigquery_query_job_task"

pytestmark = pytest.mark.may_block


def task(number: int, run: str) -> BigQueryTask:
    """A query that nobody else asks."""
    return BigQueryTask(
        name=f"number-{number}",
        query_template=f"SELECT {number} AS n, '{run}' AS run",
        outputs=kwtypes(n=int),
        task_config=BigQueryConfig(ProjectID="flights", Location="US"),
    )


@pytest.mark.parametrize(
    ("wire", "tasks", "kills"),
    [
        ("v1", 8, 2),
        pytest.param("v2", 16, 3, marks=pytest.mark.backend),
        pytest.param("v2", 60, 8, marks=pytest.mark.faults),
    ],
)
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_job(
    wire: Wire,
    tasks: int,
    kills: int,
    bigquery: Client,
    fault_proxy: Callable[..., Any],
    killed_service: Callable[..., Any],
) -> None:
    run = f"{wire}-{tasks}-{time.time_ns()}"
    proxy = fault_proxy(
        urlsplit(bigquery._connection.API_BASE_URL).port,
        seed=7,
        share=0.3,
        kinds=["reset_before", "reset_after", "401", "429", "503", "503_after", "malformed"],
        latency=[0.05, 0.3],
        match="^(POST|GET) .*/jobs",
    )
    service = killed_service("bigquery", env={"BIGQUERY_EMULATOR_HOST": proxy.url}, seed=7)
    handles = await service.create([task(number, run) for number in range(tasks)], run=run, kills=kills, wire=wire)
    proxy.set(latency=[0, 0.05])
    await service.finish(handles, TYPE, wire)  # its calls go on failing, and no GetTask does
    asked = Counter(job.query for job in bigquery.list_jobs() if run in getattr(job, "query", ""))
    assert sorted(asked.values()) == [1] * tasks
    assert service.kills >= 1
    assert sum(proxy.counts()["faults"].values()) >= 5
