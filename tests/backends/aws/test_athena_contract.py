"""The agent's requests and tables against botocore's own description of Athena."""

from __future__ import annotations

import time
from typing import Any

import pytest
from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker
from botocore.session import get_session
from tests.backends.aws.contract import departures, enum_of

from airside.agents.athena import AthenaAgent, AthenaConfig, AthenaTask
from airside.agents.athena_answers import STATES
from airside.agents.aws import PASSING
from airside.model import Call, Interface, Phase, Task, TaskType

MODEL = get_session().get_service_model("athena")


def test_the_table_of_states_is_complete() -> None:
    assert set(enum_of(MODEL, "QueryExecutionState")) == set(STATES)


def test_what_botocore_would_repeat_is_repeated() -> None:
    again = {*ThrottledRetryableChecker._THROTTLED_ERROR_CODES, *TransientRetryableChecker._TRANSIENT_ERROR_CODES}
    assert again <= PASSING


@pytest.mark.parametrize("operation", ["StartQueryExecution", "GetQueryExecution", "BatchGetQueryExecution"])
def test_every_error_of_the_service_is_known(operation: str) -> None:
    known = {"InternalServerException", "InvalidRequestException", "TooManyRequestsException"}
    assert {shape.name for shape in MODEL.operation_model(operation).error_shapes} <= known


def test_every_request_is_one_that_the_api_describes(athena: Any, athena_door: Any) -> None:
    agent = AthenaAgent()
    agent.open(agent.Options())
    place = AthenaConfig(
        database="default", catalog="AwsDataCatalog", workgroup="primary", reuse_minutes=5,
        output_location="s3://flights/results",
    )  # fmt: skip
    asked = AthenaTask(name="asked", query_template="SELECT 1 AS n", task_config=place)
    task = Task(
        type=TaskType("athena"),
        config=asked.config,
        sql=asked.sql,
        key=f"{time.time_ns():032x}",
        interface=Interface(outputs={"n": int}),
    )
    job = agent.create(task)
    while not agent.get(job, Call()).phase.is_terminal:
        time.sleep(0.02)
    (resource,) = agent.get_many([job], Call())
    assert getattr(resource, "phase", None) is Phase.SUCCEEDED
    agent.delete(job, Call())
    agent.close()
    assert {name for name, _ in athena_door.asked} == {
        *("StartQueryExecution", "GetQueryExecution", "BatchGetQueryExecution"),
        *("GetQueryResults", "StopQueryExecution"),
    }
    assert [problem for name, body in athena_door.asked for problem in departures(MODEL, name, body)] == []
    (start,) = athena_door.calls("StartQueryExecution")
    assert set(start) == {
        *("QueryString", "ClientRequestToken", "QueryExecutionContext", "WorkGroup", "ResultConfiguration"),
        "ResultReuseConfiguration",
    }


def test_a_departure_is_found() -> None:
    assert departures(MODEL, "GetQueryExecution", {"QueryId": "a"}) == [
        "GetQueryExecution.QueryId: no such field",
        "GetQueryExecution.QueryExecutionId: missing",
    ]
