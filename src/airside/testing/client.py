"""A raw client of one wire family: the generated messages and stubs, nothing converted.

The conformance cases speak through it, so that they judge a service by its bytes and not by Airside's own wire code.
Both families share bytes, so a request is built once, in Flyte 2's classes, and sent in the family's own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import grpc
import grpc.aio
from flyteidl.admin import agent_pb2
from flyteidl.service import agent_pb2_grpc
from flyteidl2.connector import connector_pb2, service_pb2_grpc
from flyteidl2.core import identifier_pb2, interface_pb2, literals_pb2, security_pb2, tasks_pb2, types_pb2
from flyteidl2.task import common_pb2

from airside.model import Connection

Wire = Literal["v1", "v2"]
WIRES: tuple[Wire, ...] = ("v1", "v2")


@dataclass(frozen=True, slots=True)
class Family:
    """The names and generated classes of one wire family."""

    wire: Wire
    service: str
    metadata_service: str
    messages: ModuleType
    list_method: str
    find_method: str
    stub: Any
    metadata_stub: Any

    def message(self, name: str) -> Any:
        """The generated class of this name, such as `CreateTaskRequest`."""
        return getattr(self.messages, name)


FAMILIES: Mapping[Wire, Family] = {
    "v1": Family(
        wire="v1",
        service="flyteidl.service.AsyncAgentService",
        metadata_service="flyteidl.service.AgentMetadataService",
        messages=agent_pb2,
        list_method="ListAgents",
        find_method="GetAgent",
        stub=agent_pb2_grpc.AsyncAgentServiceStub,
        metadata_stub=agent_pb2_grpc.AgentMetadataServiceStub,
    ),
    "v2": Family(
        wire="v2",
        service="flyteidl2.connector.AsyncConnectorService",
        metadata_service="flyteidl2.connector.ConnectorMetadataService",
        messages=connector_pb2,
        list_method="ListConnectors",
        find_method="GetConnector",
        stub=service_pb2_grpc.AsyncConnectorServiceStub,
        metadata_stub=service_pb2_grpc.ConnectorMetadataServiceStub,
    ),
}
SYNC_SERVICE = "flyteidl.service.SyncAgentService"


class RawClient:
    """Calls one family of a service over a channel. Failed calls raise `grpc.aio.AioRpcError`.

    `timeout` is the deadline of every call, in seconds.
    """

    def __init__(self, channel: grpc.aio.Channel, wire: Wire = "v2", *, timeout: float = 10.0) -> None:
        self.channel = channel
        self.wire = wire
        self.family = FAMILIES[wire]
        self.timeout = timeout
        self._stub = self.family.stub(channel)
        self._metadata_stub = self.family.metadata_stub(channel)

    async def call(self, method: str, request: Any, *, timeout: float | None = None) -> Any:
        """The response of a unary method of the async or of the metadata service."""
        stub = self._metadata_stub if hasattr(self._metadata_stub, method) else self._stub
        return await getattr(stub, method)(request, timeout=timeout or self.timeout)

    async def list(self) -> Sequence[Any]:
        """The agents (connectors) that the service announces."""
        request = self.family.message(f"{self.family.list_method}Request")()
        response = await self.call(self.family.list_method, request)
        return tuple(response.agents if self.wire == "v1" else response.connectors)

    async def find(self, name: str) -> Any:
        """The announced agent (connector) of this name."""
        request = self.family.message(f"{self.family.find_method}Request")(name=name)
        response = await self.call(self.family.find_method, request)
        return response.agent if self.wire == "v1" else response.connector

    async def create(self, task_type: str = "scripted", version: int = 0, **request: Any) -> bytes:
        """The handle that CreateTask answers; arguments as in `create_request`."""
        response = await self.call("CreateTask", self.create_request(task_type, version, **request))
        return bytes(response.resource_meta)

    async def get(self, meta: bytes, task_type: str = "scripted", version: int = 0, **fields: Any) -> Any:
        """The `Resource` message that GetTask answers."""
        request = self.job_request("GetTaskRequest", meta, task_type, version, **fields)
        return (await self.call("GetTask", request)).resource

    async def delete(self, meta: bytes, task_type: str = "scripted", version: int = 0, **fields: Any) -> None:
        """Ask for the job to be cancelled."""
        await self.call("DeleteTask", self.job_request("DeleteTaskRequest", meta, task_type, version, **fields))

    async def metrics(self, meta: bytes, task_type: str = "scripted", version: int = 0, **fields: Any) -> Sequence[Any]:
        """The metric results of a job."""
        request = self.job_request("GetTaskMetricsRequest", meta, task_type, version, **fields)
        return tuple((await self.call("GetTaskMetrics", request)).results)

    def logs(self, meta: bytes, task_type: str = "scripted", version: int = 0, **fields: Any) -> AsyncIterator[Any]:
        """The messages of the log stream, as they come."""
        return self.stream_logs(self.job_request("GetTaskLogsRequest", meta, task_type, version, **fields))

    async def stream_logs(self, request: Any) -> AsyncIterator[Any]:
        """The messages that GetTaskLogs streams for this request."""
        async for message in self._stub.GetTaskLogs(request, timeout=self.timeout):
            yield message

    async def do(self, *requests: Any) -> Sequence[Any]:
        """Send these messages to ExecuteTaskSync, half-close, and return everything that comes back."""
        return [message async for message in self.sync_call(requests)]

    def sync_call(self, requests: Iterable[Any]) -> Any:
        """The stream-stream call of ExecuteTaskSync with these requests, for whoever reads it by hand."""
        return agent_pb2_grpc.SyncAgentServiceStub(self.channel).ExecuteTaskSync(iter(requests), timeout=self.timeout)

    def create_request(
        self,
        task_type: str = "scripted",
        version: int = 0,
        *,
        inputs: Mapping[str, Any] | bytes | None = None,
        outputs: Mapping[str, Any] | None = None,
        template: Any = None,
        prefix: str = "",
        attempt: int = 0,
        connection: Connection | None = None,
    ) -> Any:
        """A CreateTaskRequest as an engine fills it.

        `inputs` are plain values or a serialised literal map (None: the field is absent), `outputs` declares names
        and Python types, `template` replaces the whole template (a message or its bytes).
        """
        request = connector_pb2.CreateTaskRequest(output_prefix=prefix)
        if isinstance(inputs, bytes):
            request.inputs.MergeFromString(inputs)
            request.inputs.SetInParent()
        elif inputs is not None:
            request.inputs.CopyFrom(literal_map(inputs))
        plain = task_template(task_type, version, inputs=inputs, outputs=outputs) if template is None else template
        data = plain if isinstance(plain, bytes) else plain.SerializeToString()
        request.template.MergeFromString(data)
        request.task_execution_metadata.CopyFrom(execution_metadata(attempt))
        if connection is not None:
            request.connection.CopyFrom(connection_message(connection))
        return self.family.message("CreateTaskRequest").FromString(request.SerializeToString())

    def job_request(
        self,
        name: str,
        meta: bytes,
        task_type: str,
        version: int = 0,
        *,
        connection: Connection | None = None,
        **fields: Any,
    ) -> Any:
        """A request about a job, such as `GetTaskRequest`, with both ways of naming the task type filled in."""
        message = self.family.message(name)
        request = message(resource_meta=meta, **fields)
        request.task_category.name, request.task_category.version = task_type, version
        if self.wire == "v1":
            request.task_type = task_type
        if connection is not None:
            request.connection.CopyFrom(connection_message(connection))
        return request

    def sync_header(self, task_type: str = "scripted", version: int = 0, **request: Any) -> Any:
        """The first message of ExecuteTaskSync; arguments as in `create_request`."""
        full = self.create_request(task_type, version, **request)
        header = agent_pb2.CreateRequestHeader(
            template=full.template,
            output_prefix=full.output_prefix,
            task_execution_metadata=full.task_execution_metadata,
        )
        return agent_pb2.ExecuteTaskSyncRequest(header=header)

    def sync_inputs(self, inputs: Mapping[str, Any] | bytes) -> Any:
        """The second message of ExecuteTaskSync."""
        data = inputs if isinstance(inputs, bytes) else literal_map(inputs).SerializeToString()
        request = agent_pb2.ExecuteTaskSyncRequest()
        request.inputs.MergeFromString(data)
        request.inputs.SetInParent()
        return request


def task_template(
    task_type: str,
    version: int = 0,
    *,
    inputs: Mapping[str, Any] | bytes | None = None,
    outputs: Mapping[str, Any] | None = None,
    name: str = "conformance.task",
) -> tasks_pb2.TaskTemplate:
    """A template with the declared interface: the inputs' types are those of their values."""
    values = inputs if isinstance(inputs, Mapping) else {}
    interface = interface_pb2.TypedInterface(
        inputs=_variables({key: literal_type(type(value)) for key, value in values.items()}),
        outputs=_variables({key: literal_type(kind) for key, kind in (outputs or {}).items()}),
    )
    identifier = identifier_pb2.Identifier(
        resource_type=identifier_pb2.TASK, project="conformance", domain="development", name=name, version="1"
    )
    return tasks_pb2.TaskTemplate(
        id=identifier,
        type=task_type,
        task_type_version=version,
        metadata=tasks_pb2.TaskMetadata(discoverable=False),
        interface=interface,
    )


def execution_metadata(attempt: int = 0) -> connector_pb2.TaskExecutionMetadata:
    """What an engine says about the run: ids, namespace, labels, identity."""
    node = identifier_pb2.NodeExecutionIdentifier(
        node_id="n0",
        execution_id=identifier_pb2.WorkflowExecutionIdentifier(
            project="conformance", domain="development", name="run"
        ),
    )
    task_execution = identifier_pb2.TaskExecutionIdentifier(node_execution_id=node, retry_attempt=attempt)
    return connector_pb2.TaskExecutionMetadata(
        task_execution_id=task_execution, namespace="conformance-development", labels={"purpose": "conformance"}
    )


def connection_message(connection: Connection) -> security_pb2.Connection:
    """The message of a connection, secrets in clear, as Flyte 2 sends it."""
    return security_pb2.Connection(
        task_type=connection.name, secrets=dict(connection.secrets), configs=dict(connection.configs)
    )


_SIMPLE = {
    int: types_pb2.INTEGER,
    float: types_pb2.FLOAT,
    str: types_pb2.STRING,
    bool: types_pb2.BOOLEAN,
    bytes: types_pb2.BINARY,
    type(None): types_pb2.NONE,
}
_PRIMITIVE = {bool: "boolean", int: "integer", float: "float_value", str: "string_value"}


def literal_type(kind: type[Any]) -> types_pb2.LiteralType:
    """The literal type of a plain Python type."""
    return types_pb2.LiteralType(simple=_SIMPLE[kind])


def literal(value: Any) -> literals_pb2.Literal:
    """The literal of a plain value: int, float, str, bool, bytes or None."""
    if value is None:
        return literals_pb2.Literal(scalar=literals_pb2.Scalar(none_type=literals_pb2.Void()))
    if isinstance(value, bytes):
        return literals_pb2.Literal(scalar=literals_pb2.Scalar(binary=literals_pb2.Binary(value=value)))
    primitive = literals_pb2.Primitive(**{_PRIMITIVE[type(value)]: value})
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=primitive))


def literal_map(values: Mapping[str, Any]) -> common_pb2.Inputs:
    """Plain values by name, in this order."""
    named = [common_pb2.NamedLiteral(name=name, value=literal(value)) for name, value in values.items()]
    return common_pb2.Inputs(literals=named)


def _variables(types: Mapping[str, types_pb2.LiteralType]) -> interface_pb2.VariableMap:
    entries = [
        interface_pb2.VariableEntry(key=key, value=interface_pb2.Variable(type=kind)) for key, kind in types.items()
    ]
    return interface_pb2.VariableMap(variables=entries)


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """The error that a call ends with; `AssertionError` if it succeeds."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as exc:
        return exc
    raise AssertionError(f"the call succeeded: {answer!r}")
