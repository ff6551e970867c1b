"""What the BigQuery agent makes of answers and settings, where no service is needed to tell."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from google.api_core import exceptions
from google.auth.exceptions import RefreshError, TransportError

from airside import ConversionError, Fail, NotFound, Phase, Retry, StructuredDataset, UsageError, kwtypes
from airside.agents.bigquery import BigQueryAgent, BigQueryConfig, BigQueryTask, Query
from airside.agents.bigquery_answers import facts, failure, phase_of, reason_of, table_uri
from airside.agents.bigquery_clients import SECRET, Clients
from airside.agents.bigquery_parameters import parse_type, to_parameters, type_of, value_of
from airside.agents.bigquery_request import Defaults, to_labels, to_request
from airside.agents.sql_outputs import to_outputs
from airside.model import Connection, Execution, Interface, Sql, Task, TaskType

TYPE = TaskType("bigquery_query_job_task")


def answer(status: int, reason: str, headers: dict[str, str] | None = None) -> Exception:
    class Response:
        def __init__(self) -> None:
            self.headers = headers or {}

    error = {"reason": reason, "message": "words of BigQuery"}
    return exceptions.from_http_status(status, "POST https://...: words", errors=[error], response=Response())


def task(sql: str = "SELECT 1", **more: Any) -> Task:
    more.setdefault("config", {"ProjectID": "flights"})
    return Task(type=TYPE, key="0a" * 16, sql=Sql(sql), **more)


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (429, "rateLimitExceeded", Retry),
        (403, "rateLimitExceeded", Retry),
        (403, "quotaExceeded", Retry),
        (400, "tableUnavailable", Retry),
        (500, "internalError", Retry),
        (503, "backendError", Retry),
        (503, "", Retry),
        (401, "authError", Retry),
        (400, "invalidQuery", Fail),
        (403, "accessDenied", Fail),
        (404, "notFound", Fail),
        (400, "somethingNew", Fail),
    ],
)
def test_an_answer_to_a_create_is_passing_or_final(status: int, reason: str, kind: type[Exception]) -> None:
    error = failure(answer(status, reason), creating=True)
    assert type(error) is kind
    assert "words of BigQuery" in str(error)
    assert "Traceback" not in str(error)


def test_a_job_that_is_there_is_never_given_up_for_an_answer() -> None:
    for status, reason in ((403, "accessDenied"), (400, "invalid"), (401, "authError")):
        assert type(failure(answer(status, reason), creating=False)) is Retry
    assert type(failure(answer(404, "notFound"), creating=False)) is NotFound


def test_what_the_service_asks_for_is_kept_and_the_network_may_pass() -> None:
    asked = failure(answer(429, "rateLimitExceeded", {"Retry-After": "17"}), creating=True)
    assert isinstance(asked, Retry)
    assert asked.after == 17.0
    for error in (TransportError("no route"), RefreshError("no token"), ConnectionResetError("reset"), ValueError("{")):
        assert type(failure(error, creating=True)) is Retry


def test_codes_name_the_reason() -> None:
    forbidden = failure(answer(403, "accessDenied"), creating=True)
    assert isinstance(forbidden, Fail)
    assert forbidden.code == "Forbidden"
    assert reason_of({"reason": "stopped"}).phase is Phase.ABORTED
    assert reason_of({"reason": "quotaExceeded"}) == ("QuotaExceeded", Phase.RETRYABLE_FAILED)
    assert reason_of({"reason": "brandNew"}) == ("BrandNew", Phase.FAILED)


def test_an_unknown_state_is_running_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert phase_of("SUSPENDED") is Phase.RUNNING
    assert "SUSPENDED" in caplog.text


def test_errors_that_did_not_end_a_job_are_warnings() -> None:
    fatal = {"reason": "invalidQuery", "message": "division by zero"}
    skipped = {"reason": "invalid", "message": "row 7 was skipped", "location": "gs://b/a.csv"}
    told = facts({"status": {"state": "DONE", "errorResult": fatal, "errors": [fatal, skipped]}}, None)
    assert told["warnings"] == ["row 7 was skipped (at gs://b/a.csv)"]


def test_cost_and_progress_are_told() -> None:
    job = {
        "jobReference": {"jobId": "j", "projectId": "p", "location": "EU"},
        "statistics": {
            "startTime": "1000",
            "endTime": "3500",
            "query": {
                "cacheHit": True,
                "totalBytesProcessed": "10",
                "totalBytesBilled": "0",
                "totalSlotMs": "7",
                "statementType": "SELECT",
                "queryPlan": [{"status": "COMPLETE"}, {"status": "RUNNING"}],
            },
        },
    }
    assert facts(job, 12) == {
        "job_id": "j",
        "project": "p",
        "location": "EU",
        "statement_type": "SELECT",
        "bytes_estimated": 12,
        "bytes_processed": 10,
        "bytes_billed": 0,
        "cache_hit": True,
        "slot_ms": 7,
        "stages": "1 of 2",
        "seconds": 2.5,
    }


def test_types_are_parsed_as_sql_writes_them() -> None:
    kind = parse_type("array<struct<name string, at TIMESTAMP, tags ARRAY<STRING>>>")
    fields = kind["arrayType"]["structTypes"]
    assert [field["name"] for field in fields] == ["name", "at", "tags"]
    assert fields[2]["type"] == {"type": "ARRAY", "arrayType": {"type": "STRING"}}
    assert parse_type("Decimal") == {"type": "NUMERIC"}
    assert parse_type("RANGE<DATE>") == {"type": "RANGE", "rangeElementType": {"type": "DATE"}}
    for wrong in ("", "TEXT", "ARRAY", "ARRAY<INT64", "STRUCT<INT64>", "INT64>", "INT64 INT64", "DATE;"):
        with pytest.raises(ValueError, match="type"):
            parse_type(wrong)


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (True, "BOOL", "true"),
        (2**63 - 1, "INT64", "9223372036854775807"),
        (3.0, "INT64", "3"),
        (1e300, "FLOAT64", "1e+300"),
        (float("-inf"), "FLOAT64", "-Infinity"),
        (1.1, "NUMERIC", "1.1"),
        (Decimal("1E+3"), "BIGNUMERIC", "1000"),
        (b"\x00\xff", "BYTES", "AP8="),
        (datetime(2024, 1, 2, 3, tzinfo=UTC), "TIMESTAMP", "2024-01-02 03:00:00.000000+00:00"),
        (datetime(2024, 1, 2, 3, tzinfo=UTC), "DATETIME", "2024-01-02T03:00:00.000000"),
        (datetime(2024, 1, 2, tzinfo=UTC), "DATE", "2024-01-02"),
        (date(2024, 1, 2), "TIMESTAMP", "2024-01-02 00:00:00.000000+00:00"),
        (timedelta(days=1, seconds=2, microseconds=3), "INTERVAL", "0-0 0 24:0:2.000003"),
        (timedelta(seconds=-1.5), "INTERVAL", "0-0 0 -0:0:1.500000"),
        ({"a": [1]}, "JSON", '{"a": [1]}'),
        ("POINT(1 2)", "GEOGRAPHY", "POINT(1 2)"),
        (None, "DATE", None),
    ],
)
def test_a_value_is_written_as_its_type(value: Any, kind: str, text: str | None) -> None:
    assert value_of(value, {"type": kind}, "inputs.x") == {"value": text}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (2**63, "INT64"),
        (1.5, "INT64"),
        (True, "INT64"),
        ("x", "INT64"),
        (1, "BOOL"),
        (1, "STRING"),
        ("x", "NUMERIC"),
        (float("nan"), "NUMERIC"),
        ("tomorrow", "DATE"),
        (datetime(2024, 1, 2, 3, tzinfo=UTC), "DATE"),
        ("x", "BYTES"),
        (3, "TIMESTAMP"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_path(value: Any, kind: str) -> None:
    with pytest.raises(ConversionError, match=rf"inputs\.x: .* is no {kind}"):
        value_of(value, {"type": kind}, "inputs.x")


def test_the_structs_of_an_array_tell_each_others_types() -> None:
    rows = [
        {"name": "a", "n": None, "x": 1, "tags": [], "at": {"day": None}},
        {"name": None, "n": 2, "x": 2.5, "tags": ["t"], "at": {"day": "mon"}, "more": True},
    ]
    [made] = to_parameters({"rows": rows}, {"rows": list[dict[str, Any]]}, {})
    fields = {one["name"]: one["type"] for one in made["parameterType"]["arrayType"]["structTypes"]}
    assert {name: kind["type"] for name, kind in fields.items()} == {
        "name": "STRING", "n": "INT64", "x": "FLOAT64", "tags": "ARRAY", "at": "STRUCT", "more": "BOOL",
    }  # fmt: skip
    values = [one["structValues"] for one in made["parameterValue"]["arrayValues"]]
    assert [(one["n"], one["x"], one["more"]) for one in values] == [
        ({"value": None}, {"value": "1.0"}, {"value": None}),
        ({"value": "2"}, {"value": "2.5"}, {"value": "true"}),
    ]
    with pytest.raises(ConversionError, match=r"inputs\.rows\[1\]\.a"):
        to_parameters({"rows": [{"a": 1}, {"a": "one"}]}, {}, {})


def test_paths_lead_into_arrays_and_structs() -> None:
    kind = parse_type("ARRAY<STRUCT<n INT64>>")
    with pytest.raises(ConversionError, match=r"inputs\.x\[1\]\.n: 'a' is no INT64"):
        value_of([{"n": 1}, {"n": "a"}], kind, "inputs.x")
    with pytest.raises(ConversionError, match=r"inputs\.x\[0\]\.m: the STRUCT has no such field \(fields: n\)"):
        value_of([{"m": 1}], kind, "inputs.x")
    with pytest.raises(ConversionError, match="array of arrays"):
        type_of(list[list[int]], [[1]], "inputs.x")


def test_a_range_is_a_parameter_too() -> None:
    [made] = to_parameters({"r": {"start": "2024-01-02", "end": None}}, {}, {"r": parse_type("RANGE<DATE>")})
    assert made["parameterValue"] == {"rangeValue": {"start": {"value": "2024-01-02"}, "end": {"value": None}}}


def test_a_templated_query_is_refused_with_what_to_write() -> None:
    with pytest.raises(Fail, match=r"write @version instead"):
        to_request(task("SELECT {{ .inputs.version }}"), Defaults())


def test_an_operators_limit_holds_whatever_a_task_says() -> None:
    def limit(asked: Any, allowed: int) -> Any:
        config = {"ProjectID": "p", **({"maximumBytesBilled": asked} if asked else {})}
        made = to_request(task(config=config), Defaults(maximum_bytes_billed=allowed))
        return made.configuration["query"].get("maximumBytesBilled")

    assert [limit("", 0), limit("9", 0), limit(9, 5), limit("3", 5), limit("", 5)] == [None, "9", "5", "3", "5"]
    with pytest.raises(Fail, match="maximumBytesBilled"):
        limit("lots", 0)


def test_labels_are_what_bigquery_takes() -> None:
    run = Execution(project="Flüge", name="x" * 80, task_name="wf.Late ones", attempt=3)
    labels = to_labels(task(execution=run, config={"Labels": {f"l{n}": "v" for n in range(80)}}))
    assert len(labels) == 64
    assert labels["flyte-project"] == "fl-ge"
    assert labels["flyte-execution"] == "x" * 63
    assert labels["flyte-task"] == "wf-late-ones"
    assert labels["flyte-attempt"] == "3"


def test_a_mistake_in_a_task_is_said_where_it_is_made() -> None:
    with pytest.raises(UsageError, match=r"ParameterTypes\['day'\]: DAY is no type of BigQuery"):
        BigQueryTask(
            name="q",
            query_template="SELECT 1",
            task_config=BigQueryConfig(ProjectID="p", ParameterTypes={"day": "DAY"}),
        )
    with pytest.raises(UsageError, match="query_template"):
        BigQueryTask(name="q", task_config=BigQueryConfig(ProjectID="p"))
    with pytest.raises(UsageError, match="task_config"):
        BigQueryTask(name="q", query_template="SELECT 1")


def test_a_date_is_sent_as_one() -> None:
    made = BigQueryTask(
        name="q",
        query_template="SELECT @day",
        inputs=kwtypes(day=date),
        task_config=BigQueryConfig(ProjectID="p"),
    )
    assert made.config == {"ProjectID": "p", "ParameterTypes": {"day": "DATE"}}


def test_a_table_is_named_as_flyte_names_it() -> None:
    assert table_uri({"projectId": "p", "datasetId": "d", "tableId": "t"}) == "bq://p:d.t"
    table = StructuredDataset("bq://p:d.t", format="bq")
    assert to_outputs({"results": "dataset"}, table, [], 0) == {"results": table}
    assert to_outputs({"n": ["optional", "int"]}, None, [], 0) == {"n": None}
    with pytest.raises(ConversionError, match="leaves no table"):
        to_outputs({"results": "dataset"}, None, [], 0)


def key(**fields: Any) -> Connection:
    return Connection(secrets={SECRET: json.dumps(fields)})


@pytest.mark.parametrize(
    ("connection", "words"),
    [
        (key(type="service_account", token_uri="https://oauth2.evil.example/token"), "oauth2.evil.example"),
        (key(type="service_account", token_uri="http://oauth2.googleapis.com/token"), "without encryption"),
        (key(type="service_account", universe_domain="evil.example"), "bigquery.evil.example"),
        (key(type="external_account", credential_source={"executable": {"command": "id"}}), "external_account"),
        (key(type="service_account", client_email="a@b"), "not a usable Google key"),
        (Connection(secrets={SECRET: "/etc/passwd"}), "not the JSON of a Google key file"),
    ],
)
def test_a_callers_key_may_name_no_other_host_and_no_program(connection: Connection, words: str) -> None:
    clients = Clients(endpoint="", allowed_hosts=(), read_secret=None)
    with pytest.raises(Fail, match=words) as caught:
        clients.get(connection)
    assert "/etc/passwd" not in str(caught.value)


def test_a_client_is_kept_until_its_credentials_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")
    clients = Clients(endpoint="", allowed_hosts=(), read_secret=None)
    first = clients.get(None)
    assert clients.get(Connection(configs={"project": "p"})) is first
    clients.drop(first)
    second = clients.get(None)
    assert second is not first
    clients.close()


def test_outputs_are_remembered_in_the_metadata() -> None:
    agent = BigQueryAgent()
    [link] = agent.links(Query("j", "p", "EU"))
    assert link.uri == "https://console.cloud.google.com/bigquery?project=p&j=bq:EU:j&page=queryresults"
    assert agent.read_handle(b'{"job_id": "j", "project": "p", "location": null}') == Query(
        "j", "p", "", {"results": "dataset"}
    )


def test_config_types_and_parameters_of_the_configuration_are_used() -> None:
    given = [
        {"name": "day", "parameterType": {"type": "DATE"}, "parameterValue": {"value": None}},
        {"name": "more", "parameterType": {"type": "INT64"}, "parameterValue": {"value": "1"}},
    ]
    config = {"ProjectID": "p", "queryParameters": given, "ParameterTypes": {"price": "NUMERIC"}}
    inputs = {"day": "2024-01-02", "price": "1.5"}
    made = to_request(
        task(config=config, inputs=inputs, interface=Interface(inputs=kwtypes(day=str, price=str))), Defaults()
    )
    parameters = {one["name"]: one for one in made.configuration["query"]["queryParameters"]}
    assert parameters["day"]["parameterType"] == {"type": "DATE"}
    assert parameters["day"]["parameterValue"] == {"value": "2024-01-02"}
    assert parameters["price"]["parameterType"] == {"type": "NUMERIC"}
    assert parameters["more"] == given[1]
    with pytest.raises(Fail, match="without a name"):
        to_request(task(config={"ProjectID": "p", "queryParameters": [{}]}, inputs=inputs), Defaults())
