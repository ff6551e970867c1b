"""One attempt, one run at Databricks, although its answers are lost and the service is killed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from airside.agents.databricks import DatabricksTask
from airside.testing.client import Wire

pytestmark = [pytest.mark.may_block, pytest.mark.timeout(300)]


def task(number: int, place: str, run: str) -> DatabricksTask:
    """A run that nobody else starts."""
    return DatabricksTask(
        name=f"number-{number}",
        databricks_conf={
            "run_name": f"{run} {number}",
            "spark_python_task": {"python_file": place},
            "existing_cluster_id": "0923-x",
        },
    )


@pytest.mark.parametrize(
    ("wire", "tasks", "kills"),
    [
        pytest.param("v1", 8, 1, marks=pytest.mark.backend),  # test_runs.py has a shorter one
        pytest.param("v2", 40, 6, marks=pytest.mark.faults),
    ],
)
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_run(
    wire: Wire, tasks: int, kills: int, door: Any, fault_proxy: Callable[..., Any], killed_service: Callable[..., Any]
) -> None:
    run = f"{wire}-{time.time_ns()}"
    place = door.upload("/Shared/quick.py", "print(1)")
    proxy = fault_proxy(
        door.upstream,
        seed=7,
        share=0.3,
        kinds=["reset_before", "reset_after", "429", "401", "503", "503_after", "malformed"],
        latency=[0.05, 0.3],
        match="^(POST|GET) .*/jobs",
    )
    token = {"_FSEC_FLYTE_DATABRICKS_ACCESS_TOKEN": "dapi-0123456789abcdef"}
    service = killed_service("databricks", env=token, options=f'host = "{proxy.url}"', seed=7)
    made = [task(number, place, run) for number in range(tasks)]
    handles = await service.create(made, run=run, kills=kills, wire=wire)
    proxy.set(latency=[0, 0.05])
    await service.finish(handles, "databricks", wire)  # its calls go on failing, and no GetTask does
    runs = Counter(one["run_name"] for one in door.runs() if one["run_name"].startswith(run))
    assert sorted(runs.values()) == [1] * tasks
    assert service.kills >= 1
    assert sum(proxy.counts()["faults"].values()) >= 1
