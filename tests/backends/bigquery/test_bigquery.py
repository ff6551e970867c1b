"""The BigQuery agent behind the real service, against the emulator."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal

import pytest
from google.cloud.bigquery import Client, QueryJobConfig

from airside import kwtypes
from airside.agents.bigquery import BigQueryAgent, BigQueryConfig, BigQueryTask, Query
from airside.model import Call, Execution, Interface, NotFound, Phase, Sql, StructuredDataset, Task, TaskType
from airside.testing import check_agent, harness

Wire = Literal["v1", "v2"]
SLOW = (
    "SELECT COUNT(*) AS n FROM UNNEST(GENERATE_ARRAY(1, 20000)) a "
    "CROSS JOIN UNNEST(GENERATE_ARRAY(1, 60000)) b WHERE MOD(a*b, 7) = 3"
)
PARAMETERS = (
    *("n", "x", "s", "b", "raw", "moment", "since", "day", "at", "price", "prices", "big", "names", "none"),
    *("plane", "missing", "spot"),
)

pytestmark = pytest.mark.may_block  # the client of the tests does


def query(sql: str, **more: Any) -> BigQueryTask:
    config = more.pop("task_config", BigQueryConfig(ProjectID="flights", Location="US"))
    return BigQueryTask(name="asked", query_template=sql, task_config=config, **more)


doge = query(
    "SELECT * FROM `bigquery-public-data.crypto_dogecoin.transactions` WHERE version = @version LIMIT 10",
    inputs=kwtypes(version=int),
    output_structured_dataset_type=StructuredDataset,
)


async def test_a_query_ends_with_the_table_of_its_result(bigquery: Client, wire: Wire) -> None:
    async with harness(BigQueryAgent(), wire=wire) as h:
        job = await h.create(task=doge, inputs={"version": 10})
        first = await h.get(job)
        resource = await h.finish(job)
    assert resource.phase is Phase.SUCCEEDED, resource.message
    table = dict(resource.outputs)["results"].uri
    assert table.startswith("bq://flights:")
    rows = list(bigquery.list_rows(table.removeprefix("bq://").replace(":", ".")))
    assert len(rows) == 10
    assert {row["version"] for row in rows} == {10}
    assert first.links[0].name == "BigQuery Console"
    assert f"j=bq:US:airside_{job.task.key}&" in first.links[0].uri
    assert resource.info["job_id"] == f"airside_{job.task.key}"
    assert resource.info["cache_hit"] is False
    assert resource.info["bytes_billed"] == 0


async def test_parameters_of_every_type_arrive_as_what_they_are(bigquery: Client, wire: Wire) -> None:
    @dataclass
    class Plane:
        tail: str
        seats: int
        fare: float | None = None

    types = {
        "day": "DATE",
        "at": "TIME",
        "since": "TIMESTAMP",
        "price": "NUMERIC",
        "prices": "ARRAY<NUMERIC>",
        "big": "BIGNUMERIC",
        "spot": "STRUCT<name STRING, seen DATE>",
    }
    task = query(
        "SELECT @n = 9007199254740993 AS n, @x = 0.1 AS x, @s = \"it's\" AS s, @b AS b, @raw = b'\\x00\\xff' AS raw, "
        "@moment = DATETIME '2024-01-02 03:04:05.678901' AS moment, @since = TIMESTAMP '2024-01-02 03:04:05.678901+00' "
        "AS since, @day = DATE '2024-02-29' AS day, @at = TIME '12:30:00' AS at, "
        "@price = NUMERIC '1234567.89' AS price, "
        "@prices[OFFSET(1)] = NUMERIC '2.5' AS prices, @big = BIGNUMERIC '1.25' AS big, "
        "ARRAY_LENGTH(@names) = 2 AND @names[OFFSET(0)] = 'a' AS names, ARRAY_LENGTH(@none) = 0 AS none, "
        "@plane.tail = 'D-AIRS' AND @plane.seats = 180 AND @plane.fare IS NULL AS plane, @missing IS NULL AS missing, "
        "@spot.name = 'Kiel' AND @spot.seen = DATE '2024-01-02' AS spot",
        inputs=kwtypes(
            n=int, x=float, s=str, b=bool, raw=bytes, moment=datetime, since=datetime, day=date, at=str, price=str,
            prices=list[float], big=float, names=list[str], none=list[int], plane=Plane, missing=int | None, spot=dict,
        ),
        outputs=dict.fromkeys(PARAMETERS, bool),
        task_config=BigQueryConfig(ProjectID="flights", Location="US", ParameterTypes=types),
    )  # fmt: skip
    moment = datetime(2024, 1, 2, 5, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2)))
    inputs = {
        "n": 2**53 + 1, "x": 0.1, "s": "it's", "b": True, "raw": b"\x00\xff", "moment": moment, "since": moment,
        "day": date(2024, 2, 29), "at": "12:30:00", "price": "1234567.89", "prices": [1.5, 2.5], "big": 1.25,
        "names": ["a", "b"], "none": [], "plane": Plane("D-AIRS", 180), "missing": None,
        "spot": {"name": "Kiel", "seen": "2024-01-02"},
    }  # fmt: skip
    async with harness(BigQueryAgent(), wire=wire) as h:
        resource = await h.finish(await h.create(task=task, inputs=inputs))
    assert resource.phase is Phase.SUCCEEDED, resource.message
    assert {name: value for name, value in dict(resource.outputs).items() if value is not True} == {}


async def test_an_input_that_is_no_parameter_fails_for_good_with_its_path(bigquery: Client) -> None:
    config = BigQueryConfig(ProjectID="flights", ParameterTypes={"day": "DATE"})
    task = query("SELECT @day", inputs=kwtypes(day=str), task_config=config)
    async with harness(BigQueryAgent()) as h:
        job = await h.create(task=task, inputs={"day": "tomorrow"})
        resource = await h.get(job)
    assert (resource.phase, resource.code) == (Phase.FAILED, "InputConversionError")
    assert "inputs.day: 'tomorrow' is no DATE" in resource.message
    assert all(one.job_id != f"airside_{job.task.key}" for one in bigquery.list_jobs())


async def test_a_small_result_is_outputs_by_value(bigquery: Client, wire: Wire) -> None:
    several = query(
        "SELECT n, CAST(n AS NUMERIC) / 4 AS price, DATE '2024-01-02' AS day FROM UNNEST([1, 2, 3]) AS n ORDER BY n",
        outputs=kwtypes(flights=list[dict], rows=int, results=StructuredDataset),
    )
    one = query(
        "SELECT 7 AS n, NUMERIC '1.5' AS price, TIMESTAMP '2024-01-02 03:04:05+00' AS seen, ['a', 'b'] AS names, "
        "STRUCT('x' AS tail) AS plane, b'\\x01' AS raw, CAST(NULL AS STRING) AS gone, DATE '2024-01-02' AS day",
        outputs=kwtypes(
            n=int, price=float, seen=datetime, names=list[str], plane=dict, raw=bytes, gone=str | None, day=date
        ),
    )
    column = query("SELECT n FROM UNNEST([3, 1, 2]) AS n ORDER BY n", outputs=kwtypes(numbers=list[int], row_count=int))
    async with harness(BigQueryAgent(), wire=wire) as h:
        rows = dict((await h.finish(await h.create(task=several))).outputs)
        cells = dict((await h.finish(await h.create(task=one))).outputs)
        numbers = dict((await h.finish(await h.create(task=column))).outputs)
    assert [row["n"] for row in rows["flights"]] == [1, 2, 3]
    assert Decimal(rows["flights"][1]["price"]) == Decimal("0.5")
    assert rows["flights"][0]["day"] == "2024-01-02"
    assert rows["rows"] == 3
    assert rows["results"].uri.startswith("bq://flights:")
    assert (cells["n"], cells["price"], cells["names"], cells["raw"], cells["gone"]) == (
        7,
        1.5,
        ["a", "b"],
        b"\x01",
        None,
    )
    assert cells["seen"] == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert cells["plane"] == {"tail": "x"}
    assert cells["day"] == datetime(2024, 1, 2, tzinfo=UTC)
    assert numbers == {"numbers": [1, 2, 3], "row_count": 3}


async def test_outputs_that_the_result_does_not_have_fail_with_the_reason(bigquery: Client) -> None:
    cases = {
        "the result has 3 rows, and a column's value needs exactly one": ("SELECT * FROM UNNEST([1, 2, 3]) AS n", int),
        "the result has no such column (columns: m)": ("SELECT 1 AS m", int),
        "the result has 3 rows, over the 2 that may be outputs": ("SELECT * FROM UNNEST([1, 2, 3]) AS m", list[int]),
        "the statement leaves no table": ("DROP TABLE IF EXISTS trips.nothing", StructuredDataset),
    }
    async with harness(BigQueryAgent(), options={"max_rows": 2}) as h:
        for words, (sql, kind) in cases.items():
            resource = await h.finish(await h.create(task=query(sql, outputs={"n": kind})))
            assert (resource.phase, resource.code) == (Phase.FAILED, "OutputConversionError"), words
            assert words in resource.message


async def test_a_result_goes_to_the_table_that_the_task_names(bigquery: Client, wire: Wire) -> None:
    table = {"projectId": "flights", "datasetId": "trips", "tableId": f"late_{wire}"}
    config = {"destinationTable": table, "writeDisposition": "WRITE_TRUNCATE", "createDisposition": "CREATE_IF_NEEDED"}
    task = query(
        "SELECT @n AS n",
        inputs=kwtypes(n=int),
        outputs=kwtypes(results=StructuredDataset),
        task_config=BigQueryConfig(ProjectID="flights", QueryJobConfig=config),
    )
    defined = query(f"CREATE OR REPLACE TABLE trips.made_{wire} AS SELECT 1 AS n", outputs=kwtypes(t=StructuredDataset))
    async with harness(BigQueryAgent(), wire=wire) as h:
        resource = await h.finish(await h.create(task=task, inputs={"n": 4}))
        made = await h.finish(await h.create(task=defined))
    assert dict(resource.outputs)["results"].uri == f"bq://flights:trips.late_{wire}", resource.message
    assert [row["n"] for row in bigquery.list_rows(f"flights.trips.late_{wire}")] == [4]
    assert dict(made.outputs)["t"].uri == f"bq://flights:trips.made_{wire}"


async def test_a_script_gives_the_result_of_its_last_statement(bigquery: Client) -> None:
    script = "DECLARE x INT64 DEFAULT 3; SELECT 1 AS n; SELECT x * 2 AS n;"
    async with harness(BigQueryAgent()) as h:
        job = await h.create(task=query(script, outputs=kwtypes(n=int, results=StructuredDataset)))
        resource = await h.finish(job)
    assert resource.phase is Phase.SUCCEEDED, resource.message
    assert dict(resource.outputs)["n"] == 6
    assert resource.info["child_jobs"] == 2


async def test_failures_are_told_apart(bigquery: Client, wire: Wire) -> None:
    cases = {
        "SELECT * FROM trips.nowhere": ("NotFound", "nowhere"),
        "SELEC 1": ("InvalidQuery", "Syntax error"),
        "SELECT nothing FROM UNNEST([1])": ("InvalidQuery", "nothing"),
    }
    async with harness(BigQueryAgent(), wire=wire) as h:
        for sql, (code, words) in cases.items():
            resource = await h.finish(await h.create(task=query(sql)))
            assert (resource.phase, resource.code) == (Phase.FAILED, code), sql
            assert words in resource.message
            assert "Traceback" not in resource.message


async def test_a_cancelled_query_is_stopped(bigquery: Client, wire: Wire) -> None:
    async with harness(BigQueryAgent(), wire=wire) as h:
        job = await h.create(task=query(SLOW))
        running = await h.get(job)
        await h.delete(job)
        resource = await h.finish(job)
        await h.delete(job)  # of a job that is over: nothing happens
    assert running.phase is Phase.RUNNING
    assert resource.phase.is_failure or resource.phase is Phase.ABORTED
    theirs = bigquery.get_job(f"airside_{job.task.key}")
    assert theirs.error_result["reason"] == "stopped"


async def test_somebody_else_cancelling_a_query_is_told(bigquery: Client) -> None:
    async with harness(BigQueryAgent()) as h:
        job = await h.create(task=query(SLOW))
        bigquery.cancel_job(f"airside_{job.task.key}")
        resource = await h.finish(job)
    assert resource.phase is Phase.FAILED
    assert "cancelled" in resource.message


async def test_a_repeated_create_finds_the_job_that_is_there(bigquery: Client, wire: Wire) -> None:
    async with harness(BigQueryAgent(), wire=wire) as h:
        job = await h.create(task=query("SELECT 1 AS n", outputs=kwtypes(n=int)))
        await h.restart()
        again = await h.create(
            task=query("SELECT 1 AS n", outputs=kwtypes(n=int)), output_prefix=job.task.output_prefix
        )
        assert dict((await h.finish(again)).outputs) == {"n": 1}
    mine = [one.job_id for one in bigquery.list_jobs() if one.job_id == f"airside_{job.task.key}"]
    assert len(mine) == 1


def test_a_job_tells_whose_it_is(bigquery: Client) -> None:
    config = QueryJobConfig(labels={"team": "ops"}, use_query_cache=False, maximum_bytes_billed=5_000)
    run = Execution(project="Flights", domain="production", name="f3a1", node_id="n0", task_name="late.ones", attempt=2)
    template = query("SELECT 1", task_config=BigQueryConfig(ProjectID="flights", QueryJobConfig=config))
    key = "1abe1" + "0" * 27
    agent = BigQueryAgent()
    agent.open(agent.Options(maximum_bytes_billed=3_000))
    agent.create(Task(type=template.type, key=key, sql=template.sql, config=template.config, execution=run))
    agent.close()
    theirs = bigquery.get_job(f"airside_{key}")
    assert (
        theirs.labels.items()
        >= {
            "team": "ops",
            "flyte-project": "flights",
            "flyte-domain": "production",
            "flyte-execution": "f3a1",
            "flyte-node": "n0",
            "flyte-task": "late-ones",
            "airside-key": key,
        }.items()
    )
    assert theirs.use_query_cache is False
    assert theirs.maximum_bytes_billed == 3_000


async def test_a_dry_run_refuses_a_wrong_query_before_there_is_a_job(bigquery: Client) -> None:
    async with harness(BigQueryAgent(), options={"dry_run": True}) as h:
        wrong = await h.create(task=query("SELECT nothing FROM UNNEST([1])"))
        resource = await h.get(wrong)
        good = await h.finish(await h.create(task=query("SELECT 1 AS n", outputs=kwtypes(n=int))))
    assert (resource.phase, resource.code) == (Phase.FAILED, "InvalidQuery")
    assert all(job.job_id != f"airside_{wrong.task.key}" for job in bigquery.list_jobs())
    assert good.phase is Phase.SUCCEEDED
    assert good.info["bytes_estimated"] == 0


def test_a_job_that_bigquery_does_not_know_is_not_found(bigquery: Client) -> None:
    agent = BigQueryAgent()
    agent.open(agent.Options())
    with pytest.raises(NotFound, match="404"):
        agent.get(Query("no-such-job", "flights", "US"), Call())
    with pytest.raises(NotFound):
        agent.delete(Query("no-such-job", "flights", "US"), Call())
    agent.close()


def test_many_jobs_are_asked_for_in_one_call(bigquery: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = BigQueryAgent()
    agent.open(agent.Options())
    tasks = [
        Task(
            type=TaskType("bigquery_query_job_task"),
            key=f"{number:032x}",
            sql=Sql(f"SELECT {number} AS n"),
            config={"ProjectID": "flights", "Location": "US"},
            interface=Interface(outputs={"results": StructuredDataset, "n": int}),
        )
        for number in range(0xB0, 0xB0 + 10)
    ]
    jobs = [agent.create(task) for task in tasks]
    wait_until_done(bigquery, jobs)
    calls: list[str] = []
    fetch, listed = Client.get_job, Client.list_jobs
    monkeypatch.setattr(Client, "get_job", lambda *a, **k: (calls.append("get"), fetch(*a, **k))[1])
    monkeypatch.setattr(Client, "list_jobs", lambda *a, **k: (calls.append("list"), listed(*a, **k))[1])
    lost = Query("no-such-job", "flights", "US", created=jobs[0].created)
    *found, missing = agent.get_many([*jobs, lost], Call())
    agent.close()
    assert calls == ["list", "get"]  # the one that the list does not show is asked for by itself
    assert isinstance(missing, NotFound)
    assert [one.phase for one in found] == [Phase.SUCCEEDED] * 10
    assert [one.info["job_id"] for one in found] == [job.job_id for job in jobs]
    assert [one.outputs["n"] for one in found] == list(range(0xB0, 0xB0 + 10))


def wait_until_done(bigquery: Client, jobs: list[Query]) -> None:
    for job in jobs:
        bigquery.get_job(job.job_id).result()


def test_jobs_of_flytes_own_connectors_are_taken_over(bigquery: Client) -> None:
    bigquery.query("SELECT 5 AS n", job_id="theirs", job_retry=None).result()
    agent = BigQueryAgent()
    agent.open(agent.Options())
    query = agent.read_handle(b'{"job_id": "theirs", "project": "flights", "location": "US", "user_agent": "x"}')
    assert query is not None
    resource = agent.get(query, Call())
    agent.close()
    assert resource.phase is Phase.SUCCEEDED
    assert resource.outputs["results"].uri.startswith("bq://flights:")
    assert agent.read_handle(b"\x80\x04pickle") is None


@pytest.mark.parametrize("wire", [pytest.param("v1", marks=pytest.mark.backend), "v2"])
def test_the_conformance_suite_holds(bigquery: Client, wire: Wire) -> None:
    task = query("SELECT @n AS n", inputs=kwtypes(n=int), outputs=kwtypes(n=int))
    report = check_agent(BigQueryAgent, task=task, inputs={"n": 1}, wires=(wire,))
    assert report.ok, str(report)
