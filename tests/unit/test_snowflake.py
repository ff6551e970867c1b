"""What the Snowflake agent makes of answers and settings, where no service is needed to tell."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from snowflake.connector import errors
from snowflake.connector.constants import QueryStatus

from airside import ConversionError, Fail, File, NotFound, Phase, Retry, UsageError
from airside.agents.snowflake import Query, SnowflakeAgent, SnowflakeConfig, SnowflakeTask
from airside.agents.snowflake_answers import STATES, failure, reason_of, state_of
from airside.agents.snowflake_sessions import PASSWORD, Account, Place, Sessions, credentials
from airside.agents.snowflake_statement import expand, request_id, to_parameter, to_statement
from airside.model import Connection, Execution, Sql, Task, TaskType

CONFIG = {"account": "org-a", "user": "etl", "database": "DB", "schema": "S", "warehouse": "WH"}


def task(sql: str = "SELECT 1", **more: Any) -> Task:
    more.setdefault("config", CONFIG)
    return Task(type=TaskType("snowflake"), key="0a" * 16, sql=Sql(sql), **more)


def test_the_table_of_states_is_complete() -> None:
    assert {status.name for status in QueryStatus} == set(STATES)


def test_an_unknown_status_is_running_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert state_of("DREAMING").phase is Phase.RUNNING
    assert "DREAMING" in caplog.text


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (errors.ProgrammingError(msg="no table", errno=2003), Fail, "NotFound"),
        (errors.ProgrammingError(msg="syntax", errno=1003), Fail, "InvalidQuery"),
        (errors.ProgrammingError(msg="not yours", errno=3001), Fail, "Forbidden"),
        (errors.ProgrammingError(msg="no warehouse", errno=606), Fail, "NoWarehouse"),
        (errors.ProgrammingError(msg="quota", errno=90073), Retry, ""),
        (errors.ProgrammingError(msg="log in again", errno=390114), Retry, ""),
        (errors.DatabaseError(msg="Incorrect username or password", errno=250001), Fail, "Forbidden"),
        (errors.OperationalError(msg="no route", errno=250003), Retry, ""),
        (errors.ServiceUnavailableError(), Retry, ""),
        (errors.TooManyRequests(), Retry, ""),
        (ConnectionResetError("reset"), Retry, ""),
        (TypeError("'NoneType' object is not subscriptable"), Retry, ""),
    ],
)
def test_an_answer_to_a_create_is_passing_or_final(error: Exception, kind: type[Exception], code: str) -> None:
    made = failure(error, creating=True)
    assert type(made) is kind
    assert getattr(made, "code", "") == code or not code
    assert type(failure(error, creating=False)) is Retry


def test_a_cancelled_query_is_one() -> None:
    assert reason_of(604).phase is Phase.ABORTED
    assert reason_of(630).code == "Timeout"


def test_the_request_id_is_the_key_in_the_form_that_snowflake_wants() -> None:
    made = uuid.UUID(request_id("f" * 32))
    assert made.version == 4
    assert request_id("0" * 31 + "1") != request_id("0" * 32)


def test_the_place_of_a_task_comes_from_itself_its_connection_and_the_operator() -> None:
    connection = Connection(configs={"account": "org-b", "warehouse": "BIG"})
    defaults = {"role": "LOADER", "database": "D0"}
    account = to_statement(task(config={"user": "etl", "account": "org-a"}, connection=connection), defaults).account
    assert account == Account("org-a", "etl", "D0", "", "BIG", "LOADER")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"user": "etl"}, "name the account"),
        ({"account": "a"}, "name the user"),
        ({**CONFIG, "wharehouse": "x"}, "config.wharehouse: a snowflake task knows no such key"),
        ({**CONFIG, "connection_kwargs": {"password": "p"}}, "a task holds no secret"),
        ({**CONFIG, "connection_kwargs": {"insecure_mode": True}}, "insecure_mode: may not be set by a task"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(Fail, match=words):
        to_statement(task(config=config), {})


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT %(m)s", r"asks for %\(m\)s, and the task has no such input \(inputs: n\)"),
        ("SELECT %(n)s WHERE a LIKE 'x%'", "is written %%"),
        ("SELECT {{ .inputs.n }}", r"write %\(n\)s instead"),
        (" ", "needs a query"),
    ],
)
def test_a_query_that_cannot_be_filled_in_is_refused(sql: str, words: str) -> None:
    with pytest.raises(Fail, match=words):
        to_statement(task(sql, inputs={"n": 1}), {})


def test_a_percent_sign_needs_no_care_without_inputs() -> None:
    assert to_statement(task("SELECT 'x%'"), {}).parameters is None
    assert to_statement(task("SELECT %(n)s, '100%%'", inputs={"n": 1}), {}).parameters == {"n": 1}


def test_values_become_parameters() -> None:
    assert to_parameter(File("s3://b/a"), "inputs.f") == "s3://b/a"
    assert to_parameter({"a": [1]}, "inputs.d") == '{"a": [1]}'
    assert to_parameter([1, 2], "inputs.l") == [1, 2]
    with pytest.raises(ConversionError, match=r"inputs\.l: an empty list"):
        to_parameter([], "inputs.l")


def test_a_batch_must_fit_together() -> None:
    sql, values = expand("INSERT INTO t (a) VALUES (f(%(a)s), 1)", {"a": [1, 2]})
    assert sql == "INSERT INTO t (a) VALUES (f(%(a_0)s), 1), (f(%(a_1)s), 1)"
    assert values == {"a_0": 1, "a_1": 2}
    with pytest.raises(Fail, match="lists of one length"):
        expand("INSERT INTO t VALUES (%(a)s, %(b)s)", {"a": [1], "b": [1, 2]})
    with pytest.raises(Fail, match="one VALUES"):
        expand("SELECT 1", {"a": [1]})


@pytest.mark.parametrize("account", ["evil.example/x?", "a b", "", "a@evil.example", "a#"])
def test_an_account_cannot_lead_elsewhere(account: str) -> None:
    with pytest.raises(Fail, match="no account of Snowflake"):
        Sessions(Place()).get(Account(account, "etl"), None)


def test_hosts_and_accounts_are_checked_before_there_is_a_login() -> None:
    sessions = Sessions(Place(accounts=("org-a",), allowed_hosts=("snow.internal.example",)))
    with pytest.raises(Fail, match="org-b may not be used") as account:
        sessions.get(Account("org-b", "etl"), None)
    with pytest.raises(Fail, match=r"not sent to evil\.example") as host:
        sessions.get(Account("org-a", "etl", host="evil.example"), None)
    assert isinstance(account.value, Fail)
    assert isinstance(host.value, Fail)
    assert (account.value.code, host.value.code) == ("AccountNotAllowed", "HostNotAllowed")


def test_a_connections_secrets_win_and_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FSEC_SNOWFLAKE_PRIVATE_KEY", "own-private-key")
    assert credentials(Connection(secrets={PASSWORD: "theirs"})) == {PASSWORD: "theirs"}
    assert credentials(Connection(secrets={"other": "x"})) == {"snowflake_private_key": "own-private-key"}


def test_a_key_that_is_none_is_told_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FSEC_SNOWFLAKE_PRIVATE_KEY", "no-pem-at-all")
    with pytest.raises(Fail, match="not a private key in PEM form") as caught:
        Sessions(Place()).get(Account("org-a", "etl"), None)
    assert "no-pem-at-all" not in str(caught.value)


def test_what_flytes_own_connectors_started_is_understood() -> None:
    agent = SnowflakeAgent()
    told = (
        b'{"user": "etl", "account": "org-a", "database": "DB", "schema": "S", "warehouse": "WH", '
        b'"query_id": "01a0", "has_output": true}'
    )
    assert agent.read_handle(told) == Query("01a0", Account("org-a", "etl", "DB", "S", "WH"), {"results": "dataset"})
    assert agent.read_handle(b"[1]") is None
    [link] = agent.links(Query("01a0", Account("org-a", "etl")))
    assert link.uri == "https://app.snowflake.com/org/a/#/compute/history/queries/01a0/detail"


def test_the_tag_tells_whose_query_it_is() -> None:
    run = Execution(project="flights", domain="production", name="f1", task_name="late")
    tag = to_statement(task(execution=run), {}).tag
    assert '"airside_key": "0a0a' in tag
    assert '"execution": "f1"' in tag


def test_a_mistake_in_a_task_is_said_where_it_is_made() -> None:
    with pytest.raises(UsageError, match="query_template"):
        SnowflakeTask(name="q", task_config=SnowflakeConfig(**CONFIG))
    with pytest.raises(UsageError, match="task_config"):
        SnowflakeTask(name="q", query_template="SELECT 1")


def test_a_query_that_is_gone_is_not_found() -> None:
    assert type(failure(NotFound("gone"), creating=False)) is NotFound
