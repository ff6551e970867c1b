"""The calls that the load repeats: their bytes, and proof by a real client that they succeed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from flyteidl.admin import agent_pb2 as admin
from flyteidl.core import identifier_pb2, interface_pb2, literals_pb2, tasks_pb2, types_pb2
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.service.agent_pb2_grpc import AsyncAgentServiceStub
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from bench.errors import BenchError

DONE, RUNNING = 3, 0  # the echo agents' input: a job of 0 never ends
ATTEMPT = "s3://bucket/metadata/proj-dev-run1/n0/data/0"
_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC to repeat, and the bytes of message that a successful answer brings."""

    method: str
    request: bytes
    answer_size: int


def create_call(port: int, task_type: str, output_prefix: str = "") -> Call:
    """CreateTask as FlytePropeller sends it. Without a prefix no two calls are one attempt, so each runs the agent."""
    request = _create(task_type, DONE, output_prefix)
    with _client(port) as stub:
        answer = stub.CreateTask(request, timeout=_LIMIT)
        _expect(stub.GetTask(_get(task_type, answer.resource_meta), timeout=_LIMIT), DONE)
    return _call("CreateTask", request, answer)


def get_call(port: int, task_type: str, x: int) -> Call:
    """GetTask as FlytePropeller sends it, for a job of the input `x`."""
    with _client(port) as stub:
        created = stub.CreateTask(_create(task_type, x, ""), timeout=_LIMIT)
        request = _get(task_type, created.resource_meta)
        for _ in range(2):
            answer = stub.GetTask(request, timeout=_LIMIT)
            _expect(answer, x)
    return _call("GetTask", request, answer)


@contextmanager
def _client(port: int) -> Iterator[AsyncAgentServiceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield AsyncAgentServiceStub(channel)


def _call(method: str, request: Message, answer: Message) -> Call:
    return Call(method, request.SerializeToString(), answer.ByteSize())


def _expect(answer: admin.GetTaskResponse, x: int) -> None:
    resource = answer.resource
    outputs = {name: literal.scalar.primitive.integer for name, literal in resource.outputs.literals.items()}
    expected = (TaskExecution.RUNNING, {}) if x == RUNNING else (TaskExecution.SUCCEEDED, {"x": x})
    if (resource.phase, outputs) != expected:
        raise BenchError(f"a wrong answer to GetTask:\n{resource}")


def _get(task_type: str, meta: bytes) -> admin.GetTaskRequest:
    category = admin.TaskCategory(name=task_type)
    return admin.GetTaskRequest(task_type=task_type, task_category=category, resource_meta=meta, output_prefix=ATTEMPT)


def _create(task_type: str, x: int, output_prefix: str) -> admin.CreateTaskRequest:
    task = identifier_pb2.Identifier(
        resource_type=identifier_pb2.TASK, project="proj", domain="development", name="flows.daily.echo", version="v17"
    )
    run = identifier_pb2.WorkflowExecutionIdentifier(project="proj", domain="development", name="a6c2f6c1d5f4f4b3a")
    node = identifier_pb2.NodeExecutionIdentifier(node_id="n0", execution_id=run)
    variable = interface_pb2.Variable(type=types_pb2.LiteralType(simple=types_pb2.INTEGER))
    variables = interface_pb2.VariableMap(variables={"x": variable})
    value = literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(integer=x)))
    template = tasks_pb2.TaskTemplate(
        id=task,
        type=task_type,
        metadata=tasks_pb2.TaskMetadata(
            runtime=tasks_pb2.RuntimeMetadata(
                type=tasks_pb2.RuntimeMetadata.FLYTE_SDK, version="1.16.8", flavor="python"
            ),
            retries=literals_pb2.RetryStrategy(retries=2),
        ),
        interface=interface_pb2.TypedInterface(inputs=variables, outputs=variables),
    )
    ParseDict({"warehouse": "small", "timeout_seconds": 60, "labels": {"team": "data"}}, template.custom)
    return admin.CreateTaskRequest(
        inputs=literals_pb2.LiteralMap(literals={"x": value}),
        template=template,
        output_prefix=output_prefix,
        task_execution_metadata=admin.TaskExecutionMetadata(
            task_execution_id=identifier_pb2.TaskExecutionIdentifier(task_id=task, node_execution_id=node),
            namespace="proj-development",
            labels={"domain": "development", "execution-id": run.name, "node-id": "n0", "project": "proj"},
            annotations={"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
            k8s_service_account="default",
            environment_variables={"FLYTE_INTERNAL_EXECUTION_PROJECT": "proj"},
        ),
    )
