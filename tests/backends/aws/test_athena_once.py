"""One attempt, one query at Athena, although its answers are lost and the service is killed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from tests.backends.aws.killing import end_all, end_untold

from airside import kwtypes
from airside.agents.athena import AthenaConfig, AthenaTask
from airside.testing.client import Wire

pytestmark = pytest.mark.may_block


def task(number: int, run: str) -> AthenaTask:
    """A query that nobody else asks."""
    return AthenaTask(
        name=f"number-{number}",
        query_template=f"SELECT {number} AS n, '{run}' AS run",
        outputs=kwtypes(n=int),
        task_config=AthenaConfig(database="default", output_location="s3://flights/results"),
    )


async def test_a_service_killed_before_it_is_told_leaves_one_query(
    athena: Any, athena_door: Any, killed_service: Callable[..., Any]
) -> None:
    run = f"untold-{time.time_ns()}"
    await end_untold(
        "athena",
        [task(number, run) for number in range(3)],
        door=athena_door,
        operation="StartQueryExecution",
        run=run,
        endpoint="AWS_ENDPOINT_URL_ATHENA",
        killed_service=killed_service,
    )
    assert athena_door.repeats == 3
    assert queries_of(athena, run) == [1] * 3


def queries_of(athena: Any, run: str) -> list[int]:
    """How often each query of a run was started."""
    queries = []
    ids = athena.list_query_executions()["QueryExecutionIds"]
    for at in range(0, len(ids), 50):
        page = athena.batch_get_query_execution(QueryExecutionIds=ids[at : at + 50])
        queries += [one["Query"] for one in page["QueryExecutions"]]
    return sorted(Counter(query for query in queries if run in query).values())


@pytest.mark.backend
@pytest.mark.parametrize("wire", ["v1", "v2"])
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_query(
    wire: Wire, athena: Any, athena_door: Any, fault_proxy: Callable[..., Any], killed_service: Callable[..., Any]
) -> None:
    run = f"{wire}-{time.time_ns()}"
    await end_all(
        "athena",
        [task(number, run) for number in range(24)],
        run=run,
        upstream=athena_door.port,
        endpoint="AWS_ENDPOINT_URL_ATHENA",
        fault_proxy=fault_proxy,
        killed_service=killed_service,
        wire=wire,
        kills=4,
    )
    assert queries_of(athena, run) == [1] * 24
    asked = athena_door.calls("StartQueryExecution")
    assert len({one["ClientRequestToken"] for one in asked}) == 24
    assert len({repr(one) for one in asked}) == 24  # a repeated create is the same to the letter
