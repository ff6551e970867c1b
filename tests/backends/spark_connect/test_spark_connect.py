"""The spark_connect agent against a real server that asks for a token."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow.parquet as pq
import pytest

from airside import Fail, Phase, StructuredDataset, Task, TaskTemplate, kwtypes
from airside.agents.spark_connect import ConnectJob, SparkConnectAgent, SparkConnectTask
from airside.agents.spark_connect_statement import session_id
from airside.model import Call
from airside.testing import harness

pytestmark = [pytest.mark.backend, pytest.mark.may_block, pytest.mark.timeout(900)]
PATIENCE = 180.0
SLOW = "SELECT sum(id % 7) AS n FROM range(1000000000000)"


class Spark(SparkConnectAgent):
    """The same, asked more often than a server of many users should be."""

    poll_interval = 0.3


def sql(text: str, **more: Any) -> SparkConnectTask:
    return SparkConnectTask(name="spark.test", query_template=text, **more)


async def opened(options: Mapping[str, Any], **more: Any) -> SparkConnectAgent:
    agent = Spark()
    await agent.open(SparkConnectAgent.Options(**{**options, **more}))
    return agent


def task_of(task: TaskTemplate, key: str, **inputs: Any) -> Task:
    return Task(
        type=task.type, sql=task.sql, config=task.config, key=key, interface=task.interface, inputs=inputs,
        output_prefix=f"s3://runs/{key}/0",
    )  # fmt: skip


async def ended(agent: SparkConnectAgent, job: ConnectJob) -> Any:
    while not (resource := await agent.get(job, Call())).phase.is_terminal:
        await asyncio.sleep(0.1)
    return resource


async def test_rows_and_values_come_back(server: Any, wire: Any) -> None:
    rows = sql(
        "SELECT id AS n, concat('Nr. ', id) AS words FROM range(:most) ORDER BY id",
        inputs=kwtypes(most=int), outputs=kwtypes(trips=list[dict[str, Any]], rows=int),
    )  # fmt: skip
    one = sql("SELECT 42 AS n, 'grün' AS words, CAST(1.50 AS DECIMAL(9,2)) AS price, true AS ok",
        outputs=kwtypes(n=int, words=str, price=float, ok=bool))  # fmt: skip
    async with harness(Spark(), options=dict(server.options), wire=wire) as h:
        job = await h.create(task=rows, inputs={"most": 3})
        done = await h.finish(job, timeout=PATIENCE)
        single = await h.finish(await h.create(task=one), timeout=PATIENCE)
    assert done.phase is Phase.SUCCEEDED, done
    assert dict(done.outputs or {}) == {
        "trips": [{"n": 0, "words": "Nr. 0"}, {"n": 1, "words": "Nr. 1"}, {"n": 2, "words": "Nr. 2"}],
        "rows": 3,
    }
    assert dict(single.outputs or {}) == {"n": 42, "words": "grün", "price": 1.5, "ok": True}
    session = session_id(job.task.key)
    assert done.links[0].uri == f"{server.ui}/connect/session/?id={session}"
    with urlopen(done.links[0].uri, timeout=30) as page:  # noqa: S310 - always http
        assert session in page.read().decode()
    assert done.info["session"] == session


async def test_parameters_of_every_type_reach_spark(server: Any) -> None:
    @dataclasses.dataclass
    class Plane:
        tail: str
        seats: int

    values: dict[str, tuple[Any, Any, str]] = {
        "whole": (int, -(2**62), "bigint"),
        "real": (float, 1.5, "double"),
        "words": (str, """it's ":whole" -- \\ ; DROP""", "string"),
        "flag": (bool, True, "boolean"),
        "raw": (bytes, b"\x00\xff", "binary"),
        "moment": (datetime, datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), "timestamp"),
        "span": (timedelta, timedelta(days=-1, microseconds=3), "interval day to second"),
        "day": (date, date(1969, 12, 31), "date"),
        "nothing": (int | None, None, "void"),
        "numbers": (list[int], [1, 2], "array<bigint>"),
        "empty": (list[str], [], "array<void>"),
        "ages": (dict[str, int], {"a": 1}, "map<string,bigint>"),
        "nested": (list[list[float]], [[1.0], [2.5]], "array<array<double>>"),
        "plane": (Plane, Plane("N1", 4), "struct<tail:string,seats:bigint>"),
        "mixed": (dict[str, Any], {"a": 1, "b": ["x"]}, "struct<a:bigint,b:array<string>>"),
    }
    told = ", ".join(f":{name} AS {name}, typeof(:{name}) AS type_{name}" for name in values)
    task = sql(
        f"SELECT {told}",
        inputs=kwtypes(**{name: annotation for name, (annotation, _, _) in values.items()}),
        outputs=kwtypes(
            **{name: annotation for name, (annotation, _, _) in values.items() if name != "plane"},
            **{f"type_{name}": str for name in values},
        ),
    )
    agent = await opened(server.options)
    inputs = {name: value for name, (_, value, _) in values.items()}
    done = await ended(agent, await agent.create(task_of(task, "a1" * 16, **inputs)))
    await agent.close()
    assert done.phase is Phase.SUCCEEDED, done
    outputs = dict(done.outputs)
    assert {name: outputs.pop(f"type_{name}") for name in values} == {
        name: told for name, (_, _, told) in values.items()
    }
    assert outputs == {name: value for name, value in inputs.items() if name != "plane"}


async def test_inputs_of_flyte_arrive_as_they_are(server: Any, wire: Any) -> None:
    task = sql(
        "SELECT :at AS at, :span AS span, :ids AS ids, :none IS NULL AS gone",
        inputs=kwtypes(at=datetime, span=timedelta, ids=list[int], none=str | None),
        outputs=kwtypes(at=datetime, span=timedelta, ids=list[int], gone=bool),
    )
    inputs = {"at": datetime(2013, 1, 1, 5, tzinfo=UTC), "span": timedelta(hours=2), "ids": [3, 4], "none": None}
    async with harness(Spark(), options=dict(server.options), wire=wire) as h:
        done = await h.finish(await h.create(task=task, inputs=inputs), timeout=PATIENCE)
    assert done.phase is Phase.SUCCEEDED, done
    assert dict(done.outputs or {}) == {**{name: inputs[name] for name in ("at", "span", "ids")}, "gone": True}


async def test_a_table_is_written_by_the_server(server: Any, wire: Any) -> None:
    task = sql(
        "SELECT id, id * 2 AS twice FROM range(:most)",
        inputs=kwtypes(most=int), outputs=kwtypes(table=StructuredDataset, rows=int),
    )  # fmt: skip
    async with harness(Spark(), options=dict(server.options), wire=wire) as h:
        job = await h.create(task=task, inputs={"most": 100})
        done = await h.finish(job, timeout=PATIENCE)
    assert done.phase is Phase.SUCCEEDED, done
    outputs = dict(done.outputs or {})
    assert (outputs["table"].uri, outputs["rows"]) == (f"{server.options['results']}/{job.task.key}", 100)
    table = pq.read_table(Path(outputs["table"].uri.removeprefix("file://")))
    assert sorted(table["twice"].to_pylist()) == list(range(0, 200, 2))


async def test_statements_that_are_no_queries_run_once(server: Any) -> None:
    agent = await opened(server.options)
    statements = [
        "CREATE TABLE flights (n INT) USING parquet",
        "INSERT INTO flights VALUES (1)",
        "-- two more\nINSERT INTO flights SELECT id FROM range(2)",
    ]
    for number, text in enumerate(statements):
        done = await ended(agent, await agent.create(task_of(sql(text), f"{number:032x}")))
        assert done.phase is Phase.SUCCEEDED, done
    script = "BEGIN DECLARE most INT DEFAULT 3; SELECT count(*) + most AS n FROM flights; END"
    for text, n in (("SELECT count(*) AS n FROM flights", 3), (script, 6)):
        task = sql(text, outputs=kwtypes(n=int))
        done = await ended(agent, await agent.create(task_of(task, f"{n + 90:032x}")))
        assert dict(done.outputs or {}) == {"n": n}, done
    await agent.close()


async def test_properties_of_the_session_hold_for_its_task_only(server: Any) -> None:
    text = "SELECT current_timezone() AS zone"
    task = sql(text, outputs=kwtypes(zone=str), spark_conf={"spark.sql.session.timeZone": "Asia/Tokyo"})
    agent = await opened(server.options)
    own = await ended(agent, await agent.create(task_of(task, "b1" * 16)))
    other = await ended(agent, await agent.create(task_of(sql(text, outputs=kwtypes(zone=str)), "b2" * 16)))
    assert dict(own.outputs or {}) == {"zone": "Asia/Tokyo"}
    assert dict(other.outputs or {})["zone"] != "Asia/Tokyo"
    memory = sql(text, spark_conf={"spark.executor.memory": "2g"})
    with pytest.raises(Fail, match="Cannot modify the value of the Spark config") as caught:
        await agent.create(task_of(memory, "b3" * 16))
    assert caught.value.code == "CannotModifyConfig"
    await agent.close()


async def test_what_spark_refuses_is_told_in_its_words(server: Any) -> None:
    errors = {
        "ParseSyntaxError": ("SELEC 1", "Syntax error at or near 'SELEC'"),
        "TableOrViewNotFound": ("SELECT * FROM nowhere", "The table or view `nowhere` cannot be found"),
        "UnresolvedColumn": ("SELECT nothing FROM range(3)", "nothing"),
        "UnboundSqlParameter": ("SELECT :least", "least"),
        "DivideByZero": ("SELECT 1 / 0", "Division by zero"),
        "UserRaisedException": ("SELECT raise_error('no such plane') FROM range(3)", "no such plane"),
    }
    async with harness(Spark(), options=dict(server.options)) as h:
        for code, (text, words) in errors.items():
            done = await h.finish(await h.create(task=sql(text)), timeout=PATIENCE)
            assert (done.phase, done.code) == (Phase.FAILED, code), done
            assert words in done.message
            assert "\tat " not in done.message
        for results, code in {"nowhere://x/y": "UnsupportedFileSystem", "s3a://x/y": "ClassNotFound"}.items():
            task = sql("SELECT 1 AS n", outputs=kwtypes(t=StructuredDataset), results=results)
            done = await h.finish(await h.create(task=task), timeout=PATIENCE)
            assert (done.phase, done.code) == (Phase.FAILED, code), done


async def test_outputs_that_the_result_does_not_have_fail_the_task(server: Any) -> None:
    cases = {
        "has more than the 5 rows": sql("SELECT id FROM range(9)", outputs=kwtypes(ids=list[int])),
        "no such column": sql("SELECT 1 AS n", outputs=kwtypes(m=int)),
        "needs exactly one": sql("SELECT id AS n FROM range(2)", outputs=kwtypes(n=int)),
        "Only a query has a table": sql("SHOW TABLES", outputs=kwtypes(all=StructuredDataset)),
    }
    async with harness(Spark(), options={**server.options, "max_rows": 5}) as h:
        for words, task in cases.items():
            done = await h.finish(await h.create(task=task), timeout=PATIENCE)
            assert done.phase is Phase.FAILED, words
            assert words in done.message, done.message
        five = sql("SELECT id FROM range(5)", outputs=kwtypes(ids=list[int]))
        done = await h.finish(await h.create(task=five), timeout=PATIENCE)
        assert dict(done.outputs or {}) == {"ids": [0, 1, 2, 3, 4]}


async def test_what_is_wrong_with_a_task_fails_it(server: Any) -> None:
    wrong: dict[str, Mapping[str, Any]] = {
        "a spark_connect task knows no such key": {"serverr": "x"},
        "config.server must be a text": {"server": 3},
        "config.spark_conf must map": {"spark_conf": "x"},
        "an address begins with sc://": {"server": "http://127.0.0.1:15002"},
        "the parameter 'x' is not known": {"server": "sc://127.0.0.1/;x=y"},
        "a token is a secret and no part": {"server": "sc://127.0.0.1/;token=abcdefghijk"},
        "Credentials are not sent to evil.example.org": {"server": "sc://evil.example.org"},
    }
    async with harness(Spark(), options=dict(server.options)) as h:
        for words, config in wrong.items():
            task = TaskTemplate(name="t", task_type="spark_connect", sql=sql("SELECT 1").sql, config=config)
            done = await h.finish(await h.create(task=task), timeout=PATIENCE)
            assert done.phase is Phase.FAILED, words
            assert words in done.message, done.message
            assert "abcdefghijk" not in done.message
        templated = sql("SELECT {{.inputs.n}}", inputs=kwtypes(n=int))
        done = await h.finish(await h.create(task=templated, inputs={"n": 1}), timeout=PATIENCE)
        assert "write :n instead" in done.message
    bare = await opened({**server.options, "results": ""})
    with pytest.raises(Fail, match="needs a folder that Spark can write to"):
        await bare.create(task_of(sql("SELECT 1", outputs=kwtypes(t=StructuredDataset)), "c1" * 16))
    await bare.close()


async def test_a_statement_is_interrupted_and_its_progress_told(server: Any) -> None:
    async with harness(Spark(), options=dict(server.options)) as h:
        job = await h.create(task=sql(SLOW, outputs=kwtypes(n=int)))
        while not (running := await h.get(job)).info.get("tasks_running"):
            assert not running.phase.is_terminal, running
            await asyncio.sleep(0.2)
        assert running.phase is Phase.RUNNING
        assert running.message == "0 of 2 of Spark's tasks are done."
        await h.delete(job)
        end = await h.finish(job, timeout=PATIENCE)
        assert end.phase in (Phase.ABORTED, Phase.FAILED)
        agent = await opened(server.options)
        there = ConnectJob(key=job.task.key, server=f"{server.options['server']}/;user_id=airside")
        told = await ended(agent, there)
        assert (told.phase, told.code) == (Phase.ABORTED, "Canceled")
        await agent.delete(there, Call())  # once more
        finished = await agent.create(task_of(sql("SELECT 1 AS n", outputs=kwtypes(n=int)), "d1" * 16))
        await ended(agent, finished)
        await agent.delete(finished, Call())
        assert (await ended(agent, finished)).phase is Phase.SUCCEEDED  # its result is not destroyed
        await agent.close()


async def test_the_service_is_restarted_while_a_statement_runs(server: Any) -> None:
    async with harness(Spark(), options=dict(server.options)) as h:
        job = await h.create(task=sql("SELECT sum(id % 7) AS n FROM range(3000000000)", outputs=kwtypes(n=int)))
        assert (await h.get(job)).phase in (Phase.QUEUED, Phase.RUNNING)
        await h.restart()
        done = await h.finish(job, timeout=PATIENCE)
    assert done.phase is Phase.SUCCEEDED, done
    assert dict(done.outputs or {}) == {"n": sum(n * (3_000_000_000 // 7) for n in range(7)) + 6}
