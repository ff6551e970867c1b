"""What a server is asked for a task, and what its answers mean, without one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from airside import ConversionError, Fail, Phase, Retry, StructuredDataset, Task, UsageError, kwtypes
from airside.agents.spark_connect import SparkConnectAgent, SparkConnectTask
from airside.agents.spark_connect_server import to_server
from airside.agents.spark_connect_session import protocol
from airside.agents.spark_connect_statement import mark_of, operation_id, place_of, plan_of, properties_of, to_argument
from airside.agents.spark_connect_states import RESPONSES, Told, error_of, failure_of

KEY = "0a" * 16


def task_of(text: str, *, config: Mapping[str, Any] | None = None, **inputs: Any) -> Task:
    task = SparkConnectTask(
        name="t", query_template=text, inputs=kwtypes(**{name: type(inputs[name]) for name in inputs})
    )
    return Task(
        type=task.type, sql=task.sql, config={**task.config, **(config or {})}, key=KEY, inputs=inputs,
        interface=task.interface, output_prefix="s3://runs/0",
    )  # fmt: skip


def test_a_query_is_limited_and_a_statement_is_not() -> None:
    for text in ("SELECT 1", "-- all\n/* of it */ (SELECT 1)", "with a AS (SELECT 1) SELECT * FROM a", "FROM t"):
        plan = plan_of(task_of(text), "", 11)
        assert (plan.root.limit.limit, plan.root.limit.input.sql.query) == (11, text)
    for text in ("INSERT INTO t VALUES (1)", "BEGIN SELECT 1; END", "SHOW TABLES", "selection"):
        assert plan_of(task_of(text), "", 11).root.sql.query == text


def test_a_table_is_written_to_the_place_of_the_attempt() -> None:
    task = task_of("SELECT :year", year=2013)
    place = place_of("{{.outputPrefix}}/{{.inputs.year}}/", task)
    assert place == f"s3://runs/0/2013/{KEY}"
    write = plan_of(task, place, 11).command.write_operation
    assert (write.source, write.path, write.input.sql.query) == ("parquet", place, "SELECT :year")
    assert write.input.sql.named_arguments["year"].literal.long == 2013
    assert mark_of(place).endswith("/_SUCCESS")
    with pytest.raises(Fail, match="Only a query has a table"):
        plan_of(task_of("SHOW TABLES"), place, 11)


def test_inputs_are_never_part_of_the_statement() -> None:
    with pytest.raises(Fail, match="write :name instead"):
        plan_of(task_of("SELECT '{{.inputs.name}}'", name="x"), "", 11)
    assert properties_of(task_of("SELECT 1", config={"spark_conf": {"a": "{{.inputs.n}}", "b": True}}, n=3)) == {
        "a": "3",
        "b": "true",
    }


def test_values_that_spark_has_no_form_for_are_named() -> None:
    wrong = {
        "more than 64 bits": 2**63,
        "no finite number": Decimal("NaN"),
        "more than 38 digits": Decimal("1" * 39),
        "an empty dictionary": {},
        "no literal for a object": object(),
    }
    for words, value in wrong.items():
        with pytest.raises(ConversionError, match=words) as caught:
            to_argument([value], None, "inputs.x")
        assert caught.value.path == "inputs.x[0]"
    told = to_argument(Decimal("-0.05"), None, "x").literal.decimal
    assert (told.value, told.precision, told.scale) == ("-0.05", 2, 2)
    assert to_argument({}, dict[str, int], "x").unresolved_function.function_name == "map"


def test_addresses_are_read_and_never_shown_with_a_token() -> None:
    assert str(to_server("sc://h:1/;use_ssl=TRUE;user_id=etl")) == "sc://h:1/;use_ssl=true;user_id=etl"
    assert to_server(str(to_server("sc://[::1]:7"))).url == "http://[::1]:7"
    for text in ("sc://", "http://h", "sc://h:x", "sc://h/?a", "sc://h/;use_ssl=maybe", "sc://u:pw12345678@h"):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - what they say differs
            to_server(text)
        assert "pw12345678" not in str(caught.value)
    with pytest.raises(ValueError, match="set the secret spark_connect_token"):
        SparkConnectAgent.Options(server="sc://h/;token=abcdefgh")


def test_a_task_is_told_what_it_lacks() -> None:
    with pytest.raises(UsageError, match="needs a query_template"):
        SparkConnectTask(name="t")
    with pytest.raises(Fail, match="needs a statement"):
        plan_of(task_of("-- nothing"), "", 11)
    task = SparkConnectTask(name="t", query_template="SELECT 1", results="/x", outputs=kwtypes(t=StructuredDataset))
    assert dict(task.config) == {"results": "/x"}
    assert operation_id(KEY) != operation_id("0b" * 16)


def test_errors_without_spark_are_told_apart() -> None:
    told: Mapping[str, type[Exception]] = {
        "PERMISSION_DENIED": Fail, "UNIMPLEMENTED": Fail, "INVALID_ARGUMENT": Fail,
        "UNAUTHENTICATED": Retry, "UNAVAILABLE": Retry, "RESOURCE_EXHAUSTED": Retry, "INTERNAL": Retry,
    }  # fmt: skip
    assert {status: type(error_of(Told(status, "words"))) for status in told} == told
    assert {type(error_of(Told(status, "words"), polling=True)) for status in told} == {Retry}
    assert error_of(Told("PERMISSION_DENIED", "no")).code == "Forbidden"
    busy = error_of(Told("RESOURCE_EXHAUSTED", "busy", after=7.0))
    assert isinstance(busy, Retry)
    assert busy.after == 7.0
    system = failure_of(Told("INTERNAL", "lost executor", "INTERNAL_ERROR_NETWORK", "XX000", (), is_sparks=True))
    assert (system.phase, system.code) == (Phase.RETRYABLE_FAILED, "InternalErrorNetwork")
    denied = failure_of(Told("INTERNAL", "no", "INSUFFICIENT_PERMISSIONS", "42501", (), is_sparks=True))
    assert (denied.phase, denied.code) == (Phase.FAILED, "Forbidden")
    python = ("org.apache.spark.api.python.PythonException", "java.lang.RuntimeException")
    assert failure_of(Told("INTERNAL", "ValueError: x", classes=python, is_sparks=True)).code == "PythonException"


def test_the_table_knows_every_response_of_the_client() -> None:
    response = protocol().ExecutePlanResponse.DESCRIPTOR.oneofs_by_name["response_type"]
    assert {one.name for one in response.fields} == set(RESPONSES)


def test_the_client_is_loaded_in_a_program_without_a_file() -> None:
    program = (
        "from airside.agents.spark_connect_session import protocol\n"
        "assert protocol().Plan.DESCRIPTOR.full_name == 'spark.connect.Plan'\n"
        "assert '__file__' not in globals()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
