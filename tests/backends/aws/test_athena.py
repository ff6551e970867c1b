"""The Athena agent behind the real service, against the emulator."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from airside import kwtypes
from airside.agents.athena import AthenaAgent, AthenaConfig, AthenaTask, Query
from airside.model import (
    Call,
    Connection,
    Fail,
    Interface,
    NotFound,
    Phase,
    Resource,
    Retry,
    Sql,
    StructuredDataset,
    Task,
    TaskType,
)
from airside.testing import harness
from airside.testing.client import Wire

pytestmark = pytest.mark.may_block

PLACE = AthenaConfig(database="default", output_location="s3://flights/results")
SLOW = "SELECT COUNT(*) AS n FROM range(40000) a, range(40000) b WHERE (a.range * b.range) % 7 = 3"


def query(sql: str, **more: Any) -> AthenaTask:
    return AthenaTask(name="asked", query_template=sql, task_config=more.pop("task_config", PLACE), **more)


async def test_a_query_ends_with_the_file_of_its_result(athena: Any, athena_door: Any, wire: Wire) -> None:
    task = query("SELECT 1 AS n, 'it''s' AS s", output_schema_type=StructuredDataset)
    async with harness(AthenaAgent(), wire=wire) as h:
        job = await h.create(task=task)
        first = await h.get(job)
        resource = await h.finish(job)
    assert resource.phase is Phase.SUCCEEDED, resource.message
    (request,) = athena_door.calls("StartQueryExecution")
    assert request["ClientRequestToken"] == job.task.key
    query_id = resource.info["query_execution_id"]
    assert dict(resource.outputs)["results"].uri == f"s3://flights/results/{query_id}.csv"
    assert first.links[0].uri.endswith(f"region=eu-west-1#/query-editor/history/{query_id}")
    assert resource.info["bytes_scanned"] > 0
    assert resource.info["workgroup"] == "primary"


async def test_a_small_result_is_outputs_by_value(athena: Any, wire: Wire) -> None:
    one = query(
        "SELECT 7 AS n, 1.5::DOUBLE AS x, NULL AS gone, true AS yes, DATE '2024-01-02' AS day, "
        "TIMESTAMP '2024-01-02 03:04:05' AS seen, 'a' AS s",
        outputs=kwtypes(n=int, x=float, gone=str | None, yes=bool, day=date, seen=datetime, s=str),
    )
    several = query("SELECT range AS n FROM range(3)", outputs=kwtypes(flights=list[dict], rows=int))
    column = query("SELECT range AS n FROM range(2500) ORDER BY n", outputs=kwtypes(numbers=list[int]))
    async with harness(AthenaAgent(), wire=wire) as h:
        cells = await h.finish(await h.create(task=one))
        rows = await h.finish(await h.create(task=several))
        numbers = await h.finish(await h.create(task=column))
    assert cells.phase is Phase.SUCCEEDED, cells.message
    values = dict(cells.outputs)
    assert (values["n"], values["x"], values["gone"], values["yes"], values["s"]) == (7, 1.5, None, True, "a")
    assert values["seen"] == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert dict(rows.outputs) == {"flights": [{"n": 0}, {"n": 1}, {"n": 2}], "rows": 3}
    assert dict(numbers.outputs)["numbers"] == list(range(2500))


async def test_inputs_are_values_whatever_they_say(athena: Any, wire: Wire) -> None:
    evil = "x' OR 1=1 --"
    task = query(
        "SELECT {{ .Inputs.n }} = 9007199254740993 AS n, '{{ .Inputs.s }}' = {{.inputs.s}} AS s, "
        "{{ .inputs.x }} = 0.5 AS x, {{ .inputs.missing }} IS NULL AS missing, {{ .inputs.b }} AS b, "
        "DATE '2024-01-02' = {{ .inputs.day }} AS day, length('{{ .inputs.s }}') = 12 AS length",
        inputs=kwtypes(n=int, s=str, x=float, missing=int | None, b=bool, day=date),
        outputs=dict.fromkeys(("n", "s", "x", "missing", "b", "day", "length"), bool),
    )
    inputs = {"n": 2**53 + 1, "s": evil, "x": 0.5, "missing": None, "b": True, "day": date(2024, 1, 2)}
    async with harness(AthenaAgent(), wire=wire) as h:
        resource = await h.finish(await h.create(task=task, inputs=inputs))
    assert resource.phase is Phase.SUCCEEDED, resource.message
    assert [name for name, value in dict(resource.outputs).items() if value is not True] == []


async def test_a_query_that_is_wrong_fails_with_athenas_words(athena: Any) -> None:
    async with harness(AthenaAgent()) as h:
        resource = await h.finish(await h.create(task=query("SELECT * FROM nothing.here")))
    assert (resource.phase, resource.code) == (Phase.FAILED, "QueryFailed")
    assert "here" in resource.message


async def test_a_query_without_a_place_for_its_result_fails_for_good(athena: Any) -> None:
    async with harness(AthenaAgent()) as h:
        resource = await h.get(await h.create(task=query("SELECT 1", task_config=AthenaConfig())))
    assert (resource.phase, resource.code) == (Phase.FAILED, "InvalidRequest")
    assert "No output location provided" in resource.message


async def test_a_query_is_stopped(athena: Any, athena_door: Any) -> None:
    async with harness(AthenaAgent()) as h:
        job = await h.create(task=query(SLOW))
        query_id = athena.list_query_executions()["QueryExecutionIds"][-1]
        await h.delete(job)
    assert athena_door.calls("StopQueryExecution") == [{"QueryExecutionId": query_id}]


def test_a_query_that_was_stopped_is_told_so(agent: AthenaAgent, athena_door: Any) -> None:
    job = start(agent)
    status = {"State": "CANCELLED", "StateChangeReason": "Query was cancelled by user"}
    athena_door.answer("GetQueryExecution", 200, {"QueryExecution": {"QueryExecutionId": job.id, "Status": status}})
    resource = agent.get(job, Call())
    assert (resource.phase, resource.code, resource.message) == (
        Phase.ABORTED,
        "Cancelled",
        status["StateChangeReason"],
    )


@pytest.mark.parametrize(
    ("error", "phase", "code"),
    [
        ({"ErrorCategory": 1, "ErrorType": 233, "Retryable": False}, Phase.RETRYABLE_FAILED, "SystemError"),
        ({"ErrorCategory": 2, "ErrorType": 1006, "Retryable": False}, Phase.FAILED, "InvalidQuery"),
        ({"ErrorCategory": 3, "ErrorType": 401, "Retryable": True}, Phase.RETRYABLE_FAILED, "QueryFailed"),
    ],
)
def test_a_failure_is_repeated_if_athena_says_so(
    agent: AthenaAgent, athena_door: Any, error: dict[str, Any], phase: Phase, code: str
) -> None:
    job = start(agent)
    status = {"State": "FAILED", "StateChangeReason": "said so", "AthenaError": error}
    athena_door.answer("GetQueryExecution", 200, {"QueryExecution": {"QueryExecutionId": job.id, "Status": status}})
    resource = agent.get(job, Call())
    assert (resource.phase, resource.code, resource.message) == (phase, code, "said so")


@pytest.fixture
def agent(athena: Any) -> Any:
    made = AthenaAgent()
    made.open(made.Options(output_location="s3://flights/results"))
    yield made
    made.close()


def start(agent: AthenaAgent, sql: str = "SELECT 1 AS n", key: str = "", **outputs: Any) -> Query:
    return agent.create(task_of(sql, key, **outputs))


def task_of(sql: str = "SELECT 1 AS n", key: str = "", **outputs: Any) -> Task:
    return Task(
        type=TaskType("athena"), sql=Sql(sql), key=key or f"{time.time_ns():032x}", interface=Interface(outputs=outputs)
    )


def test_sixty_queries_are_two_calls(agent: AthenaAgent, athena_door: Any) -> None:
    jobs = [start(agent) for _ in range(60)]
    gone = Query("00000000-0000-4000-8000-000000000000", "eu-west-1")
    athena_door.answer(
        "GetQueryExecution", 400,
        {"__type": "InvalidRequestException", "Message": f"QueryExecution {gone.id} was not found"},
    )  # fmt: skip
    resources = agent.get_many([*jobs, gone], Call())
    assert len(athena_door.calls("BatchGetQueryExecution")) == 2
    assert len(athena_door.calls("GetQueryExecution")) == 1
    assert isinstance(resources[-1], NotFound)
    assert all(isinstance(one.phase, Phase) for one in resources[:-1])  # type: ignore[union-attr]  # none is an error


def test_when_rows_take_long_the_next_call_fetches_the_others(agent: AthenaAgent, athena_door: Any) -> None:
    jobs = [start(agent, n=int), start(agent)]
    while not all(agent.get(job, Call()).phase is Phase.SUCCEEDED for job in jobs):
        time.sleep(0.02)
    athena_door.asked.clear()
    late, other = agent.get_many(jobs, Call(deadline=time.monotonic() + 1))
    assert isinstance(late, Resource)
    assert (late.phase, late.message) == (Phase.RUNNING, "over; its rows are fetched next")
    assert isinstance(other, Resource)
    assert other.phase is Phase.SUCCEEDED
    assert athena_door.calls("GetQueryResults") == []


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"workgroup": "mine"}, "config.workgroup: an athena task knows no such key .*routingGroup"),
        ({"reuseMinutes": "long"}, "config.reuseMinutes must be a number of minutes, not 'long'"),
        ({"schema": 3}, "config.schema must be a text"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(
    agent: AthenaAgent, athena_door: Any, config: dict[str, Any], says: str
) -> None:
    with pytest.raises(Fail, match=says):
        agent.create(replace(task_of(), config=config))
    assert athena_door.asked == []


def test_a_repeated_create_is_the_same_query(agent: AthenaAgent, athena_door: Any, athena: Any) -> None:
    before = len(athena.list_query_executions()["QueryExecutionIds"])
    task = task_of()
    assert agent.create(task) == agent.create(task)
    assert athena_door.repeats == 1
    assert len(athena.list_query_executions()["QueryExecutionIds"]) == before + 1


def test_the_same_attempt_with_another_query_is_refused(agent: AthenaAgent) -> None:
    first = task_of()
    agent.create(first)
    with pytest.raises(Fail, match="Idempotent parameters do not match"):
        agent.create(task_of("SELECT 2", key=first.key))


@pytest.mark.parametrize("kind", ["AccessDeniedException", "InvalidRequestException", "ThrottlingException"])
def test_a_query_that_is_there_is_asked_for_again_whatever_the_answer(
    agent: AthenaAgent, athena_door: Any, kind: str
) -> None:
    job = start(agent)
    athena_door.answer("GetQueryExecution", 400, {"__type": kind, "Message": "no"})
    with pytest.raises(Retry):
        agent.get(job, Call())


def test_refused_keys_are_read_anew(agent: AthenaAgent, athena_door: Any) -> None:
    job = start(agent)
    client = agent._aws.client(None, "athena", "eu-west-1")
    athena_door.answer("GetQueryExecution", 400, {"__type": "ExpiredTokenException", "Message": "expired"})
    with pytest.raises(Retry):
        agent.get(job, Call())
    assert agent._aws.client(None, "athena", "eu-west-1") is not client


def test_a_result_that_is_gone_fails_with_a_reason(agent: AthenaAgent, athena_door: Any) -> None:
    job = start(agent, n=int)
    while agent.get(job, Call()).phase is not Phase.SUCCEEDED:
        time.sleep(0.02)
    athena_door.answer(
        "GetQueryResults", 400, {"__type": "InvalidRequestException", "Message": "Could not find results"}
    )
    resource = agent.get(job, Call())
    assert (resource.phase, resource.code) == (Phase.FAILED, "ResultGone")


def test_a_result_over_the_limit_fails_with_its_size(athena: Any, athena_door: Any) -> None:
    agent = AthenaAgent()
    agent.open(agent.Options(output_location="s3://flights/results", max_rows=1500))
    job = start(agent, "SELECT range AS n FROM range(3000)", numbers=list[int])
    athena_door.answer("GetQueryRuntimeStatistics", 200, {"QueryRuntimeStatistics": {"Rows": {"OutputRows": 3000}}})
    while (resource := agent.get(job, Call())).phase in (Phase.QUEUED, Phase.RUNNING):
        time.sleep(0.02)
    agent.close()
    assert (resource.phase, resource.code) == (Phase.FAILED, "OutputConversionError")
    assert "the result has 3000 rows, over the 1500 that may be outputs" in resource.message


def test_a_connections_keys_are_used_and_its_host_must_be_listed(agent: AthenaAgent, athena_door: Any) -> None:
    keys = {"aws_access_key_id": "AKIDOTHER", "aws_secret_access_key": "another-secret"}
    mine = Connection(name="mine", secrets=keys, configs={"region": "us-west-2"})
    task = task_of()
    job = agent.create(Task(type=task.type, sql=task.sql, key=task.key, connection=mine))
    assert job.region == "us-west-2"
    elsewhere = Connection(secrets=keys, configs={"endpoint_url": "https://athena.example.org"})
    half = Connection(secrets={"aws_access_key_id": "AKIDOTHER"})
    for words, connection in {"not sent to athena.example.org": elsewhere, "set both": half}.items():
        again = Task(type=task.type, sql=task.sql, key=task.key, connection=connection)
        with pytest.raises(Fail, match=words):
            agent.create(again)
        with pytest.raises(Retry, match=words):  # a query that runs is not given up for that
            agent.get(job, Call(connection=connection))
    with pytest.raises(Fail, match="no region of AWS"):
        agent._aws.client(Connection(secrets=keys, configs={"region": "a.example.org#"}), "athena", "")
