"""A task on the wire and in Python: `CreateTaskRequest` to `Task`, `TaskTemplate` to its protobuf, and back.

Requests of both families are read with Flyte 2's classes: the two share bytes, apart from fields that only one has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from importlib.metadata import version
from types import MappingProxyType
from typing import Any, ClassVar

from flyteidl2.connector import connector_pb2
from flyteidl2.core import identifier_pb2, interface_pb2, security_pb2, tasks_pb2, types_pb2
from google.protobuf.message import DecodeError

from airside.model import (
    Connection,
    Container,
    ConversionError,
    Execution,
    Interface,
    Sql,
    Task,
    TaskTemplate,
    TaskType,
    UsageError,
    attempt_key,
)
from airside.model.redaction import hide
from airside.wire import limits, storage
from airside.wire.literal_map import LiteralValues, pack
from airside.wire.struct import StructValues, write_struct
from airside.wire.types import to_annotation, to_variable_map

_CACHED_INTERFACES = 512
_CACHED_INTERFACE_SIZE = 64 * limits.KIB

_DIALECTS = {number: name.lower() for name, number in tasks_pb2.Sql.Dialect.items()} | {0: ""}
_DIALECT_NUMBERS = {name: number for number, name in _DIALECTS.items()}
_RESOURCES = {number: name.lower() for name, number in tasks_pb2.Resources.ResourceName.items() if number}
_RESOURCE_NUMBERS = {name: number for number, name in _RESOURCES.items()}

Types = Mapping[str, types_pb2.LiteralType]


@dataclass(frozen=True, slots=True)
class Declared:
    """What a template declares: as Python types, and as literal types (None if it has no interface at all).

    `serialised` are the outputs as they are declared, the same bytes for the same outputs; empty if there are none.
    """

    interface: Interface
    inputs: Types | None
    outputs: Types | None
    serialised: bytes = b""


_VERSION = version("airside")  # read from disk, so not while a loop runs
_NOTHING = Declared(Interface(), None, None)


def read_request(
    request: connector_pb2.CreateTaskRequest,
    *,
    key: str,
    connection: Connection | None = None,
    fetch: storage.Fetch = storage.fetch,
    declared: Declared | None = None,
) -> Task:
    """The task that a create request asks for. `connection` takes the place of the request's own; `fetch` reads the
    files of offloaded inputs; `declared` is what the template declares, if that was read already.

    Inputs and config are converted when they are read. Missing parts are empty.
    """
    template = request.template
    if declared is None:
        declared = read_interface(template)
    return RequestedTask.of(
        request,
        type=TaskType(template.type, template.task_type_version),
        inputs=LiteralValues(request.inputs, declared.inputs, where="inputs", fetch=fetch),
        interface=declared.interface,
        output_prefix=request.output_prefix,
        key=key,
        connection=read_connection(request) if connection is None else connection,
        template=template,
    )


class RequestedTask(Task):
    """A task whose remaining parts are read from its create request when they are first asked for."""

    __slots__ = ("_request",)
    _LATER: ClassVar[Mapping[str, Callable[[connector_pb2.CreateTaskRequest], Any]]] = {
        "config": lambda request: StructValues(request.template.custom),
        "sql": lambda request: _read_sql(request.template),
        "container": lambda request: _read_container(request.template),
        "execution": lambda request: read_execution(request.template.id, request.task_execution_metadata),
    }

    @classmethod
    def of(cls, request: connector_pb2.CreateTaskRequest, **parts: Any) -> RequestedTask:
        """A task of a request with the parts that are known already."""
        task, put = cls.__new__(cls), object.__setattr__
        put(task, "_request", request)
        for name, value in parts.items():
            put(task, name, value)
        return task

    @property
    def request(self) -> connector_pb2.CreateTaskRequest | None:
        """The request as it came, not to be changed; None if parts of the task were replaced since."""
        return getattr(self, "_request", None)

    def __getattr__(self, name: str) -> Any:
        read = self._LATER.get(name)
        if read is None:
            raise AttributeError(name)
        value = read(self._request)
        object.__setattr__(self, name, value)
        return value


def key_of(request: connector_pb2.CreateTaskRequest) -> str:
    """The key of the attempt that a create request starts (see `attempt_key`)."""
    template, prefix = request.template, request.output_prefix
    named = template_id(template) if prefix else ()
    return attempt_key(template.type, template.task_type_version, named, prefix)


def place_of(request: connector_pb2.CreateTaskRequest) -> tuple[str, str]:
    """Project and domain of the run, or else of the template. The caller says them; nobody here can verify it."""
    run = request.task_execution_metadata.task_execution_id.node_execution_id.execution_id
    name = request.template.id
    return run.project or name.project, run.domain or name.domain


def template_id(template: tasks_pb2.TaskTemplate) -> tuple[str, ...]:
    """A template's id: resource type number, project, domain, name, version, org."""
    name = template.id
    return (str(name.resource_type), name.project, name.domain, name.name, name.version, name.org)


def read_interface(template: tasks_pb2.TaskTemplate) -> Declared:
    """What a template declares. Types that were read lately are not read again."""
    if not template.HasField("interface"):
        return _NOTHING
    data = template.interface.SerializeToString()
    return _interface(data) if len(data) <= _CACHED_INTERFACE_SIZE else _interface.__wrapped__(data)


@lru_cache(maxsize=_CACHED_INTERFACES)
def _interface(data: bytes) -> Declared:
    message = interface_pb2.TypedInterface.FromString(data)
    inputs = {entry.key: entry.value.type for entry in message.inputs.variables}
    outputs = {entry.key: entry.value.type for entry in message.outputs.variables}
    interface = Interface(
        MappingProxyType({name: to_annotation(kind, f"interface.inputs.{name}") for name, kind in inputs.items()}),
        MappingProxyType({name: to_annotation(kind, f"interface.outputs.{name}") for name, kind in outputs.items()}),
    )
    serialised = message.outputs.SerializeToString(deterministic=True) if message.HasField("outputs") else b""
    # Shared: nobody may change them.
    return Declared(interface, MappingProxyType(inputs), MappingProxyType(outputs), serialised)


def read_execution(template: identifier_pb2.Identifier, metadata: connector_pb2.TaskExecutionMetadata) -> Execution:
    """Which run this is. Project, domain and org are the execution's, or else the template's."""
    task = metadata.task_execution_id
    node = task.node_execution_id
    run = node.execution_id
    return Execution(
        project=run.project or template.project,
        domain=run.domain or template.domain,
        org=run.org or template.org,
        name=run.name,
        node_id=node.node_id,
        attempt=task.retry_attempt,
        task_name=template.name,
        task_version=template.version,
        namespace=metadata.namespace,
        service_account=metadata.k8s_service_account,
        labels=dict(metadata.labels),
        annotations=dict(metadata.annotations),
        env=dict(metadata.environment_variables),
        identity=_read_identity(metadata.identity) if metadata.HasField("identity") else {},
    )


def read_connection(request: Any) -> Connection | None:
    """The connection of a create, get or delete request, or None. Its secrets are hidden in all texts from now on."""
    if not request.HasField("connection"):
        return None
    found = request.connection
    for value in found.secrets.values():
        hide(value, passing=True)
    return Connection(secrets=dict(found.secrets), configs=dict(found.configs))


def write_template(template: TaskTemplate) -> tasks_pb2.TaskTemplate:
    """The protobuf of a task that an author wrote.

    Raises `ConversionError` with a path for a type or a config value that Flyte does not know, `UsageError` for
    settings that make no sense.
    """
    if template.sql is not None and template.container is not None:
        raise UsageError(f"Task {template.name!r} has sql and a container; it can have one of them.")
    if template.retries < 0 or (template.timeout is not None and template.timeout <= 0):
        raise UsageError(f"Task {template.name!r}: retries must be 0 or more, and timeout more than 0 seconds.")
    message = _write_parts(template.type, template.interface, template.config, template.sql, template.container)
    message.id.resource_type = identifier_pb2.TASK
    message.id.name, message.id.version = template.name, template.version
    metadata = message.metadata
    metadata.discoverable = template.cache
    metadata.discovery_version = template.cache_version
    metadata.retries.retries = template.retries
    if template.timeout is not None:
        metadata.timeout.FromTimedelta(timedelta(seconds=template.timeout))
    return message


def create_request(
    template: tasks_pb2.TaskTemplate,
    inputs: bytes,
    output_prefix: str,
    execution: Execution,
    connection: Connection | None = None,
) -> connector_pb2.CreateTaskRequest:
    """What an engine sends to start one attempt. `inputs` is a serialised literal map; `template` is copied."""
    request = connector_pb2.CreateTaskRequest(
        template=template,
        output_prefix=output_prefix,
        task_execution_metadata=_write_execution(execution),
    )
    try:
        request.inputs.MergeFromString(inputs)
    except DecodeError as exc:
        raise ConversionError("inputs", "not a serialised literal map") from exc
    request.inputs.SetInParent()
    name = request.template.id
    name.resource_type = name.resource_type or identifier_pb2.TASK
    name.project = name.project or execution.project
    name.domain = name.domain or execution.domain
    name.org = name.org or execution.org
    request.task_execution_metadata.task_execution_id.task_id.CopyFrom(name)
    if connection is not None:
        request.connection.CopyFrom(write_connection(connection))
    return request


def write_request(task: Task) -> connector_pb2.CreateTaskRequest:
    """The create request of a task: the one it came with, with its own connection; or made of its parts."""
    if isinstance(task, RequestedTask) and task.request is not None:
        request = connector_pb2.CreateTaskRequest()
        request.CopyFrom(task.request)
        request.ClearField("connection")
        if task.connection is not None:
            request.connection.CopyFrom(write_connection(task.connection))
        return request
    template = task.template
    if template is None:
        template = _write_parts(task.type, task.interface, task.config, task.sql, task.container)
        template.id.name, template.id.version = task.execution.task_name, task.execution.task_version
    if isinstance(task.inputs, LiteralValues):
        inputs = task.inputs.to_bytes()
    else:
        inputs = pack(task.inputs, read_interface(template).inputs or None, where="inputs").data
    return create_request(template, inputs, task.output_prefix, task.execution, task.connection)


def write_connection(connection: Connection) -> security_pb2.Connection:
    """A connection with its secrets in clear, as Flyte 2 sends it."""
    return security_pb2.Connection(secrets=dict(connection.secrets), configs=dict(connection.configs))


def join_header(header: connector_pb2.CreateRequestHeader, inputs: bytes) -> connector_pb2.CreateTaskRequest:
    """The two first messages of Flyte 1's sync stream as one create request. `inputs` is a serialised literal map."""
    request = connector_pb2.CreateTaskRequest(output_prefix=header.output_prefix)
    for name in ("template", "task_execution_metadata", "connection"):
        if header.HasField(name):
            getattr(request, name).CopyFrom(getattr(header, name))
    request.inputs.MergeFromString(inputs)
    return request


def split_header(request: connector_pb2.CreateTaskRequest) -> tuple[connector_pb2.CreateRequestHeader, bytes]:
    """A create request as the two first messages of Flyte 1's sync stream."""
    header = connector_pb2.CreateRequestHeader(output_prefix=request.output_prefix)
    for name in ("template", "task_execution_metadata", "connection"):
        if request.HasField(name):
            getattr(header, name).CopyFrom(getattr(request, name))
    return header, request.inputs.SerializeToString()


def _read_sql(template: tasks_pb2.TaskTemplate) -> Sql | None:
    if template.WhichOneof("target") != "sql":
        return None
    return Sql(template.sql.statement, _DIALECTS.get(template.sql.dialect, ""))


def _read_container(template: tasks_pb2.TaskTemplate) -> Container | None:
    if template.WhichOneof("target") != "container":
        return None
    found = template.container
    return Container(
        image=found.image,
        command=tuple(found.command),
        args=tuple(found.args),
        env={pair.key: pair.value for pair in found.env},
        requests=_read_resources(found.resources.requests),
        limits=_read_resources(found.resources.limits),
    )


def _read_resources(entries: Any) -> dict[str, str]:
    return {_RESOURCES[entry.name]: entry.value for entry in entries if entry.name in _RESOURCES}


def _read_identity(identity: security_pb2.Identity) -> dict[str, str]:
    values = {
        "iam_role": identity.iam_role,
        "k8s_service_account": identity.k8s_service_account,
        "oauth2_client": identity.oauth2_client.client_id,
        "execution_identity": identity.execution_identity,
    }
    return {name: value for name, value in values.items() if value}


def _write_parts(
    task_type: TaskType, interface: Interface, config: Mapping[str, Any], sql: Sql | None, container: Container | None
) -> tasks_pb2.TaskTemplate:
    message = tasks_pb2.TaskTemplate(type=task_type.name, task_type_version=task_type.version)
    runtime = message.metadata.runtime
    runtime.type = tasks_pb2.RuntimeMetadata.FLYTE_SDK
    runtime.version, runtime.flavor = _VERSION, "airside"
    message.interface.inputs.CopyFrom(to_variable_map(interface.inputs, "inputs"))
    message.interface.outputs.CopyFrom(to_variable_map(interface.outputs, "outputs"))
    message.custom.CopyFrom(write_struct(config, "config"))
    if sql is not None:
        message.sql.statement = sql.statement
        message.sql.dialect = _number(sql.dialect.lower(), _DIALECT_NUMBERS, "SQL dialect")
    if container is not None:
        message.container.CopyFrom(_write_container(container))
    return message


def _write_container(container: Container) -> tasks_pb2.Container:
    message = tasks_pb2.Container(image=container.image, command=container.command, args=container.args)
    for key, value in container.env.items():
        message.env.add(key=key, value=value)
    for name, value in container.requests.items():
        message.resources.requests.add(name=_number(name, _RESOURCE_NUMBERS, "resource"), value=value)
    for name, value in container.limits.items():
        message.resources.limits.add(name=_number(name, _RESOURCE_NUMBERS, "resource"), value=value)
    return message


def _number(name: str, numbers: Mapping[str, int], what: str) -> int:
    try:
        return numbers[name]
    except KeyError:
        known = ", ".join(repr(one) for one in numbers if one)
        raise UsageError(f"{name!r} is no {what} that Flyte knows (known: {known}).") from None


def _write_execution(execution: Execution) -> connector_pb2.TaskExecutionMetadata:
    message = connector_pb2.TaskExecutionMetadata(
        namespace=execution.namespace,
        k8s_service_account=execution.service_account,
        labels=dict(execution.labels),
        annotations=dict(execution.annotations),
        environment_variables=dict(execution.env),
    )
    task = message.task_execution_id
    task.retry_attempt = execution.attempt
    task.node_execution_id.node_id = execution.node_id
    run = task.node_execution_id.execution_id
    run.project, run.domain, run.name, run.org = execution.project, execution.domain, execution.name, execution.org
    who = execution.identity
    if who:
        message.identity.iam_role = who.get("iam_role", "")
        message.identity.k8s_service_account = who.get("k8s_service_account", "")
        message.identity.execution_identity = who.get("execution_identity", "")
        message.identity.oauth2_client.client_id = who.get("oauth2_client", "")
    return message
