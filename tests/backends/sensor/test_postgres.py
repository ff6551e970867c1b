"""A sensor that waits for rows in a real PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest

from airside import Connection, kwtypes
from airside.agents.sensor import SensorAgent, SqlSensor
from airside.model import Phase
from airside.testing import harness

Wire = Literal["v1", "v2"]
CLOSED = SqlSensor(
    name="closed",
    database="warehouse",
    query="SELECT total::float8, day FROM days WHERE day = CAST(:day AS date) AND closed",
    inputs=kwtypes(day=str),
    outputs=kwtypes(total=float, rows=int),
    poke_interval=0.1,
)

pytestmark = pytest.mark.may_block


@pytest.fixture
def options(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("_FSEC_WAREHOUSE_PASSWORD", "pass-of-etl")
    postgres.run("DROP TABLE IF EXISTS days")
    postgres.run("CREATE TABLE days (day date, total numeric, closed boolean)")
    postgres.run("INSERT INTO days VALUES ('2026-01-02', 12.5, false)")
    database = {"url": postgres.url, "password": "warehouse/password"}
    return {"databases": {"warehouse": database}, "least_poke_interval": 0.05}


async def test_rows_are_waited_for(wire: Wire, postgres: Any, options: dict[str, Any]) -> None:
    async with harness(SensorAgent, wire=wire, options=options) as h:
        job = await h.create(task=CLOSED, inputs={"day": "2026-01-02"})
        resource = await h.get(job)
        assert (resource.phase, resource.message[:26]) == (Phase.RUNNING, "the query has no rows yet;")
        await h.restart()
        postgres.run("UPDATE days SET closed = true")
        done = await h.finish(job)
        assert (done.phase, dict(done.outputs or {})) == (Phase.SUCCEEDED, {"total": 12.5, "rows": 1})
        assert "pass-of-etl" not in h.log


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("DELETE FROM days RETURNING day", 'syntax error at or near "DELETE"'),
        ("SELECT * FROM nowhere", 'relation "nowhere" does not exist'),
        ("WITH gone AS (DELETE FROM days RETURNING day) SELECT * FROM gone", "data-modifying statements in WITH"),
        ("SELECT set_config('transaction_read_only', 'off', false)", "read-write mode"),
        ("SELECT 1; DELETE FROM days", "multiple commands"),
    ],
)
async def test_a_query_that_does_more_than_read_fails_for_good(
    postgres: Any, options: dict[str, Any], query: str, words: str
) -> None:
    async with harness(SensorAgent, options=options) as h:
        resource = await h.finish(await h.create(task=SqlSensor(name="t", database="warehouse", query=query)))
    assert (resource.phase, resource.code) == (Phase.FAILED, "InvalidQuery")
    assert words in resource.message
    assert postgres.run("SELECT count(*) FROM days") == [(1,)]


async def test_a_server_that_is_away_is_waited_for(
    postgres: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_FSEC_WAREHOUSE_PASSWORD", "an-old-one")
    async with harness(SensorAgent, options=options) as h:
        job = await h.create(task=CLOSED, inputs={"day": "2026-01-02"})
        resource = await h.get(job)
        assert not resource.phase.is_terminal
        assert "The last check failed: " in resource.message
        postgres.run("UPDATE days SET closed = true")
        monkeypatch.setenv("_FSEC_WAREHOUSE_PASSWORD", "pass-of-etl")
        assert (await h.finish(job, timeout=60)).phase is Phase.SUCCEEDED


async def test_a_right_that_is_missing_for_a_while_ends_no_sensor(
    postgres: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_FSEC_READER_PASSWORD", "pass-of-reader")
    postgres.run("DROP ROLE IF EXISTS reader")
    postgres.run("CREATE ROLE reader LOGIN PASSWORD 'pass-of-reader'")
    reader = {"url": postgres.url.replace("etl@", "reader@"), "password": "reader/password"}
    task = SqlSensor(name="t", database="reader", query="SELECT day FROM days", poke_interval=0.1)
    async with harness(SensorAgent, options={**options, "databases": {"reader": reader}}) as h:
        job = await h.create(task=task)
        async with asyncio.timeout(60):
            while "permission denied for table days" not in (resource := await h.get(job)).message:
                await asyncio.sleep(0.05)
        assert not resource.phase.is_terminal
        postgres.run("GRANT SELECT ON days TO reader")
        assert (await h.finish(job, timeout=60)).phase is Phase.SUCCEEDED
    postgres.run("DROP OWNED BY reader")


async def test_a_query_that_takes_too_long_is_ended_and_asked_again(
    postgres: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airside.agents.sensor._PATIENCE", 0.5)
    async with harness(SensorAgent, options=options) as h:
        job = await h.create(task=SqlSensor(name="t", database="warehouse", query="SELECT pg_sleep(60)"))
        async with asyncio.timeout(60):
            while "statement timeout" not in (resource := await h.get(job)).message:
                await asyncio.sleep(0.1)
        assert not resource.phase.is_terminal
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
        assert postgres.run(running)[0][0] <= 1


async def test_a_connection_brings_url_and_password(postgres: Any, options: dict[str, Any]) -> None:
    task = SqlSensor(name="t", query="SELECT 7 AS n", outputs=kwtypes(n=int))
    mine = Connection("mine", {"password": "pass-of-etl"}, {"url": postgres.url})
    async with harness(SensorAgent, options={"allowed_hosts": ["127.0.0.1"]}) as h:
        resource = await h.finish(await h.create(task=task, connection=mine))
        assert (resource.phase, dict(resource.outputs or {})) == (Phase.SUCCEEDED, {"n": 7})
    async with harness(SensorAgent) as h:
        refused = await h.finish(await h.create(task=task, connection=mine))
        assert (refused.phase, refused.code) == (Phase.FAILED, "HostNotAllowed")
