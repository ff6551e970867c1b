"""One attempt, one query at Athena, although its answers are lost and the service is killed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from airside import kwtypes
from airside.agents.athena import AthenaConfig, AthenaTask
from airside.model import Phase
from airside.testing.client import FAMILIES, Wire

pytestmark = pytest.mark.may_block


def request(number: int, wire: Wire, run: str) -> Any:
    """A CreateTask of a query that nobody else asks."""
    from airside.wire.template import write_template

    task = AthenaTask(
        name=f"number-{number}",
        query_template=f"SELECT {number} AS n, '{run}' AS run",
        outputs=kwtypes(n=int),
        task_config=AthenaConfig(database="default", output_location="s3://flights/results"),
    )
    message = FAMILIES[wire].message("CreateTaskRequest")()
    message.template.MergeFromString(write_template(task).SerializeToString())
    message.output_prefix = f"s3://runs/{run}/{number}/0"
    return message


@pytest.mark.parametrize("wire", ["v1", "v2"])
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_query(
    wire: Wire, athena: Any, athena_door: Any, fault_proxy: Callable[..., Any], killed_service: Callable[..., Any]
) -> None:
    run = f"{wire}-{time.time_ns()}"
    proxy = fault_proxy(
        athena_door.port,
        seed=7,
        share=0.3,
        kinds=["reset_before", "reset_after", "429", "503", "503_after", "malformed"],
        latency=[0.05, 0.3],
        match="^POST /",
    )
    service = killed_service("athena", env={"AWS_ENDPOINT_URL_ATHENA": proxy.url}, seed=7)
    handles = await service.create([request(number, wire, run) for number in range(24)], kills=4, wire=wire)
    proxy.set(share=0.0, latency=[0, 0])
    resources = await service.finish(handles, "athena", wire)
    assert [Phase(one.phase) for one in resources] == [Phase.SUCCEEDED] * 24
    queries = []
    ids = athena.list_query_executions()["QueryExecutionIds"]
    for at in range(0, len(ids), 50):
        page = athena.batch_get_query_execution(QueryExecutionIds=ids[at : at + 50])
        queries += [one["Query"] for one in page["QueryExecutions"]]
    assert sorted(Counter(query for query in queries if run in query).values()) == [1] * 24
    asked = athena_door.calls("StartQueryExecution")
    assert len({one["ClientRequestToken"] for one in asked}) == 24
    assert len({repr(one) for one in asked}) == 24  # a repeated create is the same to the letter
    assert service.kills >= 1
    assert sum(proxy.counts()["faults"].values()) >= 5
