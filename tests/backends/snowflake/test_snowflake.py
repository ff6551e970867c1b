"""The Snowflake agent behind the real service, against the emulator."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from snowflake.connector import SnowflakeConnection
from tests.backends.door import Asked, Door, opened

from airside import kwtypes
from airside.agents.snowflake import Account, Query, SnowflakeAgent, SnowflakeConfig, SnowflakeTask
from airside.model import Call, Fail, NotFound, Phase, Retry, Sql, StructuredDataset, Task, TaskType
from airside.testing import check_agent, harness
from airside.testing.client import Wire

pytestmark = pytest.mark.may_block

CONFIG = {"account": "org-fake", "user": "etl"}
PLACE = SnowflakeConfig(user="etl", account="org-fake", database="DB1", schema="S1", warehouse="WH")


def query(sql: str, **more: Any) -> SnowflakeTask:
    return SnowflakeTask(name="asked", query_template=sql, task_config=more.pop("task_config", PLACE), **more)


async def test_a_query_ends_with_the_address_of_its_result(door: Any, outside: SnowflakeConnection, wire: Wire) -> None:
    task = query(
        "SELECT * FROM trips WHERE delay > %(least)s ORDER BY id",
        inputs=kwtypes(least=int),
        output_schema_type=StructuredDataset,
    )
    async with harness(SnowflakeAgent(), wire=wire, options=door) as h:
        job = await h.create(task=task, inputs={"least": 10})
        resource = await h.finish(job)
    assert resource.phase is Phase.SUCCEEDED, resource.message
    uri = dict(resource.outputs)["results"].uri
    prefix, _, query_id = uri.rpartition("/")
    assert prefix == "snowflake://etl:org-fake/WH/DB1/S1"
    assert resource.info["query_id"] == query_id
    assert resource.links[0].uri.endswith(f"/org/fake/#/compute/history/queries/{query_id}/detail")


async def test_a_small_result_is_outputs_by_value(door: Any, wire: Wire) -> None:
    one = query(
        'SELECT COUNT(*) AS n, MAX(delay) AS worst, MIN(tail) AS "First Tail" FROM trips',
        outputs=kwtypes(n=int, worst=float),
    )
    several = query("SELECT id, tail FROM trips ORDER BY id", outputs=kwtypes(trips=list[dict], rows=int))
    column = query("SELECT id FROM trips ORDER BY id DESC", outputs=kwtypes(ids=list[int]))
    async with harness(SnowflakeAgent(), wire=wire, options=door) as h:
        cells = await h.finish(await h.create(task=one))
        rows = await h.finish(await h.create(task=several))
        ids = await h.finish(await h.create(task=column))
    assert dict(cells.outputs) == {"n": 3, "worst": 30.0}, cells.message
    assert dict(rows.outputs)["trips"][0] == {"id": 1, "tail": "D-AIRS"}
    assert dict(rows.outputs)["rows"] == 3
    assert dict(ids.outputs) == {"ids": [3, 2, 1]}


async def test_parameters_of_every_type_arrive_as_what_they_are(door: Any, wire: Wire) -> None:
    task = query(
        "SELECT %(n)s = 9007199254740993 AS n, %(x)s = 0.5 AS x, %(s)s = 'it''s 100%%' AS s, %(b)s AS b, "
        "%(moment)s::TIMESTAMP_NTZ = '2024-01-02 03:04:05'::TIMESTAMP_NTZ AS moment, 2 IN (%(ids)s) AS ids, "
        "%(missing)s IS NULL AS missing, PARSE_JSON(%(plane)s):tail::VARCHAR = 'D-AIRS' AS plane",
        inputs=kwtypes(n=int, x=float, s=str, b=bool, moment=datetime, ids=list[int], missing=int | None, plane=dict),
        outputs=dict.fromkeys(("n", "x", "s", "b", "moment", "ids", "missing", "plane"), bool),
    )
    inputs = {
        "n": 2**53 + 1, "x": 0.5, "s": "it's 100%", "b": True, "moment": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        "ids": [1, 2], "missing": None, "plane": {"tail": "D-AIRS"},
    }  # fmt: skip
    async with harness(SnowflakeAgent(), wire=wire, options=door) as h:
        resource = await h.finish(await h.create(task=task, inputs=inputs))
    assert resource.phase is Phase.SUCCEEDED, resource.message
    assert {name: value for name, value in dict(resource.outputs).items() if value is not True} == {}


async def test_an_input_is_never_run_as_sql(door: Any, outside: SnowflakeConnection) -> None:
    task = query("SELECT %(s)s AS s", inputs=kwtypes(s=str), outputs=kwtypes(s=str))
    nasty = "'; DROP TABLE trips; --"
    async with harness(SnowflakeAgent(), options=door) as h:
        resource = await h.finish(await h.create(task=task, inputs={"s": nasty}))
    assert dict(resource.outputs) == {"s": nasty}
    assert outside.cursor().execute("SELECT COUNT(*) FROM trips").fetchall() == [(3,)]


async def test_a_batch_writes_one_row_for_each_element(door: Any, outside: SnowflakeConnection, wire: Wire) -> None:
    outside.cursor().execute(f"CREATE OR REPLACE TABLE batch_{wire} (id INT, tail VARCHAR)")
    task = query(
        f"INSERT INTO batch_{wire} (id, tail) VALUES (%(id)s, %(tail)s)",  # noqa: S608
        inputs=kwtypes(id=list[int], tail=list[str]),
        batch=True,
    )
    async with harness(SnowflakeAgent(), wire=wire, options=door) as h:
        resource = await h.finish(await h.create(task=task, inputs={"id": [1, 2], "tail": ["a", "b"]}))
    assert resource.phase is Phase.SUCCEEDED, resource.message
    written = outside.cursor().execute(f"SELECT * FROM batch_{wire} ORDER BY id").fetchall()  # noqa: S608
    assert written == [(1, "a"), (2, "b")]


def test_every_create_of_an_attempt_is_the_same_request(door: Any, fault_proxy: Callable[..., Any]) -> None:
    proxy = fault_proxy(door["port"], record=True, match="^POST /queries/v1/query-request")
    agent = SnowflakeAgent()
    agent.open(agent.Options(**{**door, "port": int(proxy.url.rpartition(":")[2])}))
    task = query("SELECT 7 AS n")
    keys = [uuid.uuid4().hex, uuid.uuid4().hex]
    made = [
        agent.create(Task(type=task.type, sql=task.sql, config=task.config, key=key))
        for key in (keys[0], keys[0], keys[1])
    ]
    agent.close()
    asked = [request_of(call) for call in proxy.recorded()]
    first, again, other = (request_id for request_id, body in asked if body["sqlText"] == "SELECT 7 AS n")
    assert first == again == str(uuid.UUID(keys[0], version=4))
    assert other != first
    assert made[0] == made[1] != made[2]
    bodies = [body for _, body in asked if body["sqlText"] == "SELECT 7 AS n"]
    assert all(body["asyncExec"] is True for body in bodies)
    assert json.loads(bodies[0]["parameters"]["QUERY_TAG"])["airside_key"] == keys[0]


def request_of(call: dict[str, str]) -> tuple[str, dict[str, Any]]:
    return parse_qs(urlsplit(call["target"]).query)["requestId"][0], json.loads(call["body"])


def test_a_cancel_names_the_query(door: Any, fault_proxy: Callable[..., Any]) -> None:
    proxy = fault_proxy(door["port"], record=True, match="^POST /queries/v1/query-request")
    agent = SnowflakeAgent()
    agent.open(agent.Options(**{**door, "port": int(proxy.url.rpartition(":")[2])}))
    query_id = "01a00000-0000-0000-0000-000000000000"
    with pytest.raises(Retry):  # the emulator knows no such function
        agent.delete(Query(query_id, Account("org-fake", "etl", "DB1", "S1", "WH")), Call())
    agent.close()
    _, body = request_of(proxy.recorded()[-1])
    assert body["sqlText"] == f"SELECT SYSTEM$CANCEL_QUERY('{query_id}')"


async def test_failures_are_told_apart(door: Any, wire: Wire) -> None:
    cases = {
        "SELECT * FROM nowhere": ("NotFound", "NOWHERE"),
        "SELEC 1": ("InvalidQuery", "SELEC"),
    }
    async with harness(SnowflakeAgent(), wire=wire, options=door) as h:
        for sql, (code, words) in cases.items():
            resource = await h.finish(await h.create(task=query(sql)))
            assert (resource.phase, resource.code) == (Phase.FAILED, code), resource.message
            assert words in resource.message.upper()
            assert "Traceback" not in resource.message


async def test_outputs_that_the_result_does_not_have_fail_with_the_reason(door: Any) -> None:
    cases = {
        "the result has 3 rows, and a column's value needs exactly one": ("SELECT id AS n FROM trips", int),
        "the result has no such column (columns: m)": ("SELECT 1 AS m", int),
        "the result has 3 rows, over the 2 that may be outputs": ("SELECT id FROM trips", list[int]),
    }
    async with harness(SnowflakeAgent(), options={**door, "max_rows": 2}) as h:
        for words, (sql, kind) in cases.items():
            resource = await h.finish(await h.create(task=query(sql, outputs={"n": kind})))
            assert (resource.phase, resource.code) == (Phase.FAILED, "OutputConversionError"), words
            assert words in resource.message


async def test_a_job_is_found_again_by_another_service(door: Any, wire: Wire) -> None:
    async with harness(SnowflakeAgent, wire=wire, options=door) as h:
        job = await h.create(task=query("SELECT 7 AS n", outputs=kwtypes(n=int)))
        await h.restart()
        assert dict((await h.finish(job)).outputs) == {"n": 7}


def test_a_query_that_snowflake_does_not_know_is_not_found_after_a_while(door: Any) -> None:
    agent = SnowflakeAgent()
    agent.open(agent.Options(**door))
    account = Account("org-fake", "etl", "DB1", "S1", "WH")
    unknown = "01a00000-0000-0000-0000-000000000000"
    with pytest.raises(NotFound, match=unknown):
        agent.get(Query(unknown, account), Call())
    agent.close()


@pytest.fixture(scope="session")
def key() -> Callable[[str], str]:
    """A private key in PEM form, with a passphrase or without."""

    def make(passphrase: str) -> str:
        lock = (
            serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
        )
        made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        form = serialization.PrivateFormat.PKCS8
        return made.private_bytes(serialization.Encoding.PEM, form, lock).decode()

    return make


@pytest.mark.parametrize("passphrase", ["", "open sesame"])
async def test_a_key_pair_logs_in(
    passphrase: str, door: Any, key: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("_FSEC_SNOWFLAKE_PASSWORD")
    monkeypatch.setenv("_FSEC_SNOWFLAKE_PRIVATE_KEY", key(passphrase))
    if passphrase:
        monkeypatch.setenv("_FSEC_SNOWFLAKE_PRIVATE_KEY_PASSPHRASE", passphrase)
    async with harness(SnowflakeAgent(), options=door) as h:
        resource = await h.finish(await h.create(task=query("SELECT 7 AS n", outputs=kwtypes(n=int))))
    assert dict(resource.outputs) == {"n": 7}, resource.message


async def test_an_oauth_token_logs_in(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("_FSEC_SNOWFLAKE_PASSWORD")
    monkeypatch.setenv("_FSEC_SNOWFLAKE_OAUTH_TOKEN", "token-of-etl")
    async with harness(SnowflakeAgent(), options=door) as h:
        resource = await h.finish(await h.create(task=query("SELECT 7 AS n", outputs=kwtypes(n=int))))
    assert dict(resource.outputs) == {"n": 7}, resource.message


async def test_without_credentials_it_says_what_to_set(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("_FSEC_SNOWFLAKE_PASSWORD")
    async with harness(SnowflakeAgent(), options=door) as h:
        resource = await h.get(await h.create(task=query("SELECT 1")))
    assert (resource.phase, resource.code) == (Phase.FAILED, "NoCredentials")
    assert "set the secret snowflake_private_key" in resource.message


async def test_a_session_is_made_once_for_many_polls(door: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import snowflake.connector

    made: list[str] = []
    real = snowflake.connector.connect
    monkeypatch.setattr(snowflake.connector, "connect", lambda **k: (made.append(k["user"]), real(**k))[1])
    agent = SnowflakeAgent()
    agent.open(agent.Options(**door))
    account = Account("org-fake", "etl", "DB1", "S1", "WH")
    query_id = agent._ask(account, Call(), lambda session: session.cursor().execute("SELECT 1").sfqid)
    for _ in range(5):
        assert agent.get(Query(query_id, account), Call()).phase is Phase.SUCCEEDED
    agent.close()
    assert made == ["etl"]


@pytest.mark.parametrize("data", [None, {}])
def test_a_session_that_is_gone_is_made_anew(door: Any, data: Any) -> None:
    agent = SnowflakeAgent()
    account = Account("org-fake", "etl", "DB1", "S1", "WH")
    with opened(Door(door["port"])) as before:
        agent.open(agent.Options(**{**door, "port": before.port}))
        query_id = agent._ask(account, Call(), lambda session: session.cursor().execute("SELECT 1").sfqid)
        gone = {"success": False, "code": "390111", "message": "Session no longer exists.", "data": data}
        for _ in range(2):  # the connector asks twice for an answer that it takes for a failure
            before.answer(f"/monitoring/queries/{query_id}", gone)
        with pytest.raises(Retry, match="did not say how the query stands"):
            agent.get(Query(query_id, account), Call())
        before.answers.clear()
        assert agent.get(Query(query_id, account), Call()).phase is Phase.SUCCEEDED
        agent.close()
        assert len(before.calls("/session/v1/login-request")) == 2


@pytest.mark.parametrize(
    ("status", "error", "phase", "code", "says"),
    [
        ("QUEUED", (), Phase.QUEUED, "", ""),
        ("RESUMING_WAREHOUSE", (), Phase.WAITING_FOR_RESOURCES, "", "warehouse"),
        ("RUNNING", (), Phase.RUNNING, "", ""),
        ("BLOCKED", (), Phase.RUNNING, "", "lock"),
        ("ABORTING", (), Phase.RUNNING, "", "is being cancelled"),
        ("DREAMING", (), Phase.RUNNING, "", ""),
        ("FAILED_WITH_ERROR", ("002003", "no table T"), Phase.FAILED, "NotFound", "no table T"),
        ("FAILED_WITH_ERROR", ("000604", "SQL execution canceled"), Phase.ABORTED, "Cancelled",
         "SQL execution canceled"),
        ("FAILED_WITH_ERROR", ("000630", "reached its timeout"), Phase.FAILED, "Timeout", ""),
        ("FAILED_WITH_ERROR", ("090073", "quota"), Phase.RETRYABLE_FAILED, "QuotaExceeded", ""),
        ("FAILED_WITH_ERROR", (None, ""), Phase.FAILED, "QueryFailed", "does not say why"),
        ("FAILED_WITH_INCIDENT", ("300005", "incident 7"), Phase.RETRYABLE_FAILED,
         "SystemError", "incident 7"),
        ("ABORTED", ("", ""), Phase.ABORTED, "Cancelled", "cancelled"),
    ],
)  # fmt: skip
def test_what_a_query_says_of_itself(
    door: Any, status: str, error: tuple[Any, ...], phase: Phase, code: str, says: str
) -> None:
    agent, query_id = SnowflakeAgent(), "01a00000-0000-0000-0000-000000000000"
    why = dict(zip(("errorCode", "errorMessage"), error, strict=False))
    with opened(Door(door["port"])) as before:
        agent.open(agent.Options(**{**door, "port": before.port}))
        for _ in range(2):  # the connector asks again for the reason of an error
            told = {"queries": [{"id": query_id, "status": status, **why}]}
            before.answer(f"/monitoring/queries/{query_id}", {"success": True, "code": None, "data": told})
        resource = agent.get(Query(query_id, Account("org-fake", "etl", "DB1", "S1", "WH")), Call())
        agent.close()
    assert (resource.phase, resource.code) == (phase, code)
    assert says in resource.message


async def test_a_query_that_runs_is_cancelled(door: Any, wire: Wire) -> None:
    """The emulator has no query that runs: the door says so until it is asked to cancel it."""
    with opened(Running(door["port"])) as before:
        options = {**door, "port": before.port}
        async with harness(SnowflakeAgent(), wire=wire, options=options) as h:
            job = await h.create(task=query("SELECT 7 AS n", outputs=kwtypes(n=int)))
            first = await h.get(job)
            assert first.phase is Phase.RUNNING
            assert first.links
            await h.delete(job)
            done = await h.finish(job, timeout=60)
            assert "pass-of-etl" not in h.log
    assert done.phase in (Phase.ABORTED, Phase.FAILED)
    [cancel] = before.cancels
    assert cancel == f"SELECT SYSTEM$CANCEL_QUERY('{first.info['query_id']}')"
    assert b"pass-of-etl" not in job.handle


class Running(Door):
    """Every query runs until its cancel."""

    def __init__(self, upstream: int) -> None:
        super().__init__(upstream)
        self.cancels: list[str] = []

    def prepared(self, asked: Asked) -> tuple[int, Any, dict[str, str]] | None:
        query_id = asked.path.rpartition("/")[2]
        if asked.path.startswith("/monitoring/queries/"):
            status = {"status": "RUNNING"}
            if self.cancels:
                status = {
                    "status": "FAILED_WITH_ERROR",
                    "errorCode": "000604",
                    "errorMessage": "SQL execution canceled",
                }
            return 200, {"success": True, "code": None, "data": {"queries": [{"id": query_id, **status}]}}, {}
        text = asked.body.get("sqlText", "") if isinstance(asked.body, dict) else ""
        if "SYSTEM$CANCEL_QUERY" not in text:
            return super().prepared(asked)
        self.cancels.append(text)
        column = {"name": "CANCELLED", "type": "text", "length": 99, "byteLength": 99, "nullable": True,
                  "precision": None, "scale": None}  # fmt: skip
        data = {
            "parameters": [], "rowtype": [column], "rowset": [["query terminated."]], "total": 1, "returned": 1,
            "queryId": "01a00000-0000-0000-0000-00000000feed", "queryResultFormat": "json", "statementTypeId": 4096,
            "version": 1, "sqlState": "00000",
        }  # fmt: skip
        return 200, {"data": data, "code": None, "message": None, "success": True}, {}


def test_an_account_that_there_is_not_fails_for_good(door: Any) -> None:
    agent = SnowflakeAgent()
    with opened(Door(door["port"])) as before:
        agent.open(agent.Options(**{**door, "port": before.port}))
        before.answer("/session/v1/login-request", "", 404)
        with pytest.raises(Fail, match="is the account the right one") as raised:
            agent.create(Task(type=TaskType("snowflake"), key="0a" * 16, sql=Sql("SELECT 1"), config=CONFIG))
        agent.close()
    assert raised.value.code == "NotFound"


@pytest.mark.backend
@pytest.mark.parametrize("wire", ["v1", "v2"])
def test_the_conformance_suite_holds(door: Any, wire: Wire) -> None:
    task = query("SELECT %(n)s AS n", inputs=kwtypes(n=int), outputs=kwtypes(n=int))
    report = check_agent(SnowflakeAgent, task=task, inputs={"n": 1}, options=door, wires=(wire,))
    assert report.ok, str(report)
