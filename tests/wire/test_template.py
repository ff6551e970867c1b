"""Create requests to tasks, templates to protobuf, and back, for both families."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from flyteidl.admin import agent_pb2
from flyteidl.core import interface_pb2 as interface_v1_pb2
from flyteidl.core import literals_pb2 as literals_v1_pb2
from flyteidl.core import tasks_pb2 as tasks_v1_pb2
from flyteidl.core import types_pb2 as types_v1_pb2
from flyteidl2.connector import connector_pb2
from flyteidl2.core import tasks_pb2

from airside import (
    Connection,
    Container,
    ConversionError,
    Execution,
    Sql,
    StructuredDataset,
    Task,
    TaskTemplate,
    TaskType,
    UsageError,
    kwtypes,
)
from airside.model.redaction import redact
from airside.wire import template as wire
from airside.wire.literal_map import pack

EXECUTION = Execution(
    project="flights",
    domain="development",
    org="acme",
    name="run-1",
    node_id="n0",
    attempt=2,
    task_name="delays",
    task_version="v7",
    namespace="flights-development",
    service_account="robot",
    labels={"team": "data"},
    annotations={"note": "x"},
    env={"MODE": "test"},
    identity={"iam_role": "arn:role", "oauth2_client": "console"},
)
TEMPLATE = TaskTemplate(
    name="delays",
    task_type="warehouse",
    task_type_version=3,
    version="v7",
    inputs=kwtypes(x=int, since=datetime, names=list[str], table=StructuredDataset),
    outputs=kwtypes(rows=float),
    config={"warehouse": "big", "rows": 3, "nested": {"a": [1, None]}},
    sql=Sql("SELECT 1", "ansi"),
    retries=2,
    timeout=90.5,
    cache=True,
    cache_version="1",
)
TINY = TaskTemplate(name="t", task_type="echo", inputs=kwtypes(x=int))


def request_for(template: TaskTemplate, **values: Any) -> connector_pb2.CreateTaskRequest:
    message = wire.write_template(template)
    inputs = pack(values, wire.read_interface(message).inputs, where="inputs").data
    return wire.create_request(message, inputs, "s3://b/run-1/n0/data/2", EXECUTION)


def test_a_task_survives_the_wire() -> None:
    values = {
        "x": 5,
        "since": datetime.fromisoformat("2024-01-02T03:04:05+00:00"),
        "names": ["a", "b"],
        "table": StructuredDataset("s3://b/t.parquet"),
    }
    request = connector_pb2.CreateTaskRequest.FromString(request_for(TEMPLATE, **values).SerializeToString())
    task = wire.read_request(request, key="k" * 32)
    assert task.type == TaskType("warehouse", 3)
    assert dict(task.inputs) == values
    assert dict(task.config) == {"warehouse": "big", "rows": 3, "nested": {"a": [1, None]}}
    assert task.sql == Sql("SELECT 1", "ansi")
    assert task.container is None
    assert task.interface.inputs["names"] == list[str]
    assert task.interface.outputs == {"rows": float}
    assert task.output_prefix == "s3://b/run-1/n0/data/2"
    assert task.key == "k" * 32
    assert task.execution == EXECUTION
    assert task.connection is None
    assert task.template == request.template


def test_what_a_template_says_to_an_engine() -> None:
    message = wire.write_template(TEMPLATE)
    assert message.metadata.retries.retries == 2
    assert message.metadata.timeout.ToTimedelta() == timedelta(seconds=90.5)
    assert (message.metadata.discoverable, message.metadata.discovery_version) == (True, "1")
    assert message.metadata.runtime.type == tasks_pb2.RuntimeMetadata.FLYTE_SDK
    assert (message.id.name, message.id.version, message.id.resource_type) == ("delays", "v7", 1)
    plain = wire.write_template(TaskTemplate(name="t", task_type="echo"))
    assert not plain.metadata.HasField("timeout")
    assert not plain.metadata.discoverable
    assert plain.HasField("custom")  # Flyte 2 fails a task without it before it calls anybody


def test_a_container_survives_the_wire() -> None:
    container = Container(
        image="python:3.11",
        command=("python", "-c"),
        args=("print(1)",),
        env={"A": "1"},
        requests={"cpu": "500m", "memory": "1Gi"},
        limits={"gpu": "1", "ephemeral_storage": "2Gi"},
    )
    task = wire.read_request(request_for(TaskTemplate(name="t", task_type="c", container=container)), key="")
    assert task.container == container
    assert task.sql is None


def test_a_request_of_flyte_1_reads_the_same() -> None:
    request = agent_pb2.CreateTaskRequest(output_prefix="s3://b/0")
    request.template.CopyFrom(
        tasks_v1_pb2.TaskTemplate(
            type="warehouse",
            interface=interface_v1_pb2.TypedInterface(
                inputs=interface_v1_pb2.VariableMap(
                    variables={
                        name: interface_v1_pb2.Variable(type=types_v1_pb2.LiteralType(simple=simple))
                        for name, simple in (("x", types_v1_pb2.INTEGER), ("y", types_v1_pb2.FLOAT))
                    }
                )
            ),
        )
    )
    request.template.custom.update({"a": 1})
    five = literals_v1_pb2.Literal(scalar=literals_v1_pb2.Scalar(primitive=literals_v1_pb2.Primitive(integer=5)))
    request.inputs.CopyFrom(literals_v1_pb2.LiteralMap(literals={"x": five, "y": five}))
    metadata = request.task_execution_metadata
    metadata.task_execution_id.retry_attempt = 1
    metadata.task_execution_id.node_execution_id.execution_id.project = "p"
    metadata.labels["a"] = "b"
    task = wire.read_request(connector_pb2.CreateTaskRequest.FromString(request.SerializeToString()), key="")
    assert dict(task.inputs) == {"x": 5, "y": 5.0}
    assert type(task.inputs["y"]) is float
    assert dict(task.config) == {"a": 1}
    assert (task.execution.project, task.execution.attempt, task.execution.labels) == ("p", 1, {"a": "b"})


def test_an_empty_request_is_a_task() -> None:
    """S11, S12: nothing but the type."""
    request = connector_pb2.CreateTaskRequest()
    request.template.type = "echo"
    task = wire.read_request(request, key="")
    assert task.type == TaskType("echo")
    assert dict(task.inputs) == {}
    assert dict(task.config) == {}
    assert task.execution == Execution()
    assert (task.sql, task.container, task.connection) == (None, None, None)
    assert wire.read_interface(request.template).outputs is None


def test_an_interface_without_outputs_is_not_no_interface() -> None:
    message = wire.write_template(TaskTemplate(name="t", task_type="echo"))
    assert wire.read_interface(message).outputs == {}


def test_undeclared_inputs_are_read_by_value() -> None:
    message = wire.write_template(TaskTemplate(name="t", task_type="echo", inputs=kwtypes(x=float)))
    request = wire.create_request(message, pack({"x": 1, "extra": "e"}).data, "", EXECUTION)
    assert dict(wire.read_request(request, key="").inputs) == {"x": 1.0, "extra": "e"}


def test_unknown_fields_and_enums_of_newer_engines_are_ignored() -> None:
    """S16."""
    request = request_for(TEMPLATE, x=1, since=datetime.now().astimezone(), names=[], table=StructuredDataset("s3://t"))
    newer = request.SerializeToString() + b"\xa2\x06\x03abc"  # field 100, three bytes
    request = connector_pb2.CreateTaskRequest.FromString(newer)
    request.template.sql.dialect = 99
    assert wire.read_request(request, key="").sql == Sql("SELECT 1", "")
    request.template.container.resources.requests.add(name=99, value="1")
    container = wire.read_request(request, key="").container
    assert container is not None
    assert container.requests == {}


def test_the_template_s_project_stands_in_for_a_missing_execution() -> None:
    request = connector_pb2.CreateTaskRequest()
    request.template.id.project, request.template.id.domain, request.template.id.org = "p", "d", "o"
    execution = wire.read_request(request, key="").execution
    assert (execution.project, execution.domain, execution.org) == ("p", "d", "o")


def test_a_connection_reaches_the_task_and_its_secrets_are_hidden() -> None:
    request = connector_pb2.CreateTaskRequest()
    request.connection.secrets["token"] = "c0nnection-s3cret"
    request.connection.configs["host"] = "example.org"
    task = wire.read_request(request, key="")
    assert task.connection == Connection(secrets={"token": "c0nnection-s3cret"}, configs={"host": "example.org"})
    assert redact("sent c0nnection-s3cret") == "sent ***"
    named = Connection("prod", {"token": "another-token-4711"})
    assert wire.read_request(request, key="", connection=named).connection is named


def test_a_connection_is_sent() -> None:
    request = wire.create_request(
        tasks_pb2.TaskTemplate(), b"", "", Execution(), Connection(secrets={"a": "b"}, configs={"c": "d"})
    )
    assert dict(request.connection.secrets) == {"a": "b"}
    assert not wire.create_request(tasks_pb2.TaskTemplate(), b"", "", Execution()).HasField("connection")


def test_a_create_request_leaves_the_template_alone() -> None:
    message = wire.write_template(TEMPLATE)
    before = message.SerializeToString(deterministic=True)
    request = wire.create_request(message, b"", "/tmp/0", EXECUTION)
    assert (request.template.id.project, request.template.id.domain) == ("flights", "development")
    assert request.task_execution_metadata.task_execution_id.task_id == request.template.id
    assert message.SerializeToString(deterministic=True) == before


def test_a_task_made_by_hand_becomes_a_request() -> None:
    task = Task(
        type=TaskType("echo", 1),
        inputs={"x": 3, "y": "z"},
        config={"a": 1},
        output_prefix="/tmp/0",
        execution=Execution(task_name="t", attempt=1),
    )
    again = wire.read_request(wire.write_request(task), key="")
    assert (again.type, dict(again.inputs), dict(again.config)) == (task.type, {"x": 3, "y": "z"}, {"a": 1})
    assert (again.execution.task_name, again.execution.attempt) == ("t", 1)


def test_a_proxied_task_keeps_its_template_and_inputs() -> None:
    request = request_for(TEMPLATE, x=1, since=datetime.now().astimezone(), names=[], table=StructuredDataset("s3://t"))
    proxied = wire.write_request(wire.read_request(request, key=""))
    assert proxied.template == request.template
    assert dict(wire.read_request(proxied, key="").inputs) == dict(wire.read_request(request, key="").inputs)
    assert proxied.task_execution_metadata == request.task_execution_metadata


def test_a_proxied_task_keeps_what_nobody_here_knows() -> None:
    request = connector_pb2.CreateTaskRequest.FromString(
        request_for(TINY, x=1).SerializeToString() + b"\xfa\x3e\x05later"  # field 1007
    )
    request.connection.secrets["token"] = "from the caller"
    own = Connection(secrets={"token": "our own"})
    proxied = wire.write_request(wire.read_request(request, key="", connection=own))
    assert proxied.SerializeToString().count(b"\xfa\x3e\x05later") == 1
    assert dict(proxied.connection.secrets) == {"token": "our own"}
    assert dict(request.connection.secrets) == {"token": "from the caller"}


def test_a_task_with_other_inputs_is_written_with_them() -> None:
    task = replace(wire.read_request(request_for(TINY, x=1), key=""), inputs={"x": 2})
    again = wire.read_request(wire.write_request(task), key="")
    assert (again.inputs["x"], again.type) == (2, task.type)


def test_the_sync_stream_carries_the_same_task() -> None:
    request = request_for(TaskTemplate(name="t", task_type="echo", inputs=kwtypes(x=int)), x=7)
    request.connection.configs["a"] = "b"
    header, inputs = wire.split_header(request)
    seen = agent_pb2.CreateRequestHeader.FromString(header.SerializeToString())
    assert (seen.template.type, seen.output_prefix) == ("echo", request.output_prefix)
    assert wire.join_header(header, inputs) == request


def test_the_key_is_that_of_the_attempt() -> None:
    first = request_for(TaskTemplate(name="t", task_type="echo"))
    again = request_for(TaskTemplate(name="t", task_type="echo"))
    assert wire.key_of(first) == wire.key_of(again)
    again.output_prefix = "s3://b/run-1/n0/data/3"
    assert wire.key_of(first) != wire.key_of(again)
    again.output_prefix = first.output_prefix
    again.template.id.resource_type = 2
    assert wire.key_of(first) != wire.key_of(again)


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        (
            TaskTemplate(name="t", task_type="e", config={"a": {"b": object}}),
            ConversionError,
            r"^config\.a\.b: type is",
        ),
        (TaskTemplate(name="t", task_type="e", inputs=kwtypes(x=set)), ConversionError, r"^inputs\.x: "),
        (
            TaskTemplate(name="t", task_type="e", sql=Sql("s"), container=Container()),
            UsageError,
            r"^Task 't' has sql and a container; it can have one of them\.$",
        ),
        (
            TaskTemplate(name="t", task_type="e", sql=Sql("s", "mysql")),
            UsageError,
            r"^'mysql' is no SQL dialect that Flyte knows \(known: 'ansi', 'hive', 'other'\)\.$",
        ),
        (
            TaskTemplate(name="t", task_type="e", container=Container(requests={"ram": "1"})),
            UsageError,
            r"^'ram' is no resource that Flyte knows \(known: 'cpu', 'gpu', 'memory',",
        ),
        (TaskTemplate(name="t", task_type="e", retries=-1), UsageError, r"retries must be 0 or more"),
        (TaskTemplate(name="t", task_type="e", timeout=0), UsageError, r"timeout more than 0 seconds"),
    ],
)
def test_what_cannot_be_written(template: TaskTemplate, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wire.write_template(template)


def test_inputs_that_are_no_literal_map_are_refused() -> None:
    with pytest.raises(ConversionError, match=r"^inputs: not a serialised literal map$"):
        wire.create_request(tasks_pb2.TaskTemplate(), b"\xff\xff", "", Execution())


def test_a_task_shows_no_input_in_its_repr(caplog: pytest.LogCaptureFixture) -> None:
    task = wire.read_request(
        request_for(TaskTemplate(name="t", task_type="e", inputs=kwtypes(x=str)), x="private"), key=""
    )
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("%r", task)
    assert "private" not in caplog.text
    assert "name='delays'" not in caplog.text
