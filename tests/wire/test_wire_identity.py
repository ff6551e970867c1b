"""Flyte 1 and Flyte 2 share their bytes: the fact that lets everything here be converted once.

The messages of both IDL packages are compared field by field, so that an upgrade that breaks the fact fails here.
Fields that only Flyte 2 has do no harm (Flyte 1 never sends them, and their numbers mean nothing else to it), so
new ones may appear; everything else must be as listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flyteidl.admin import agent_pb2
from flyteidl.core import errors_pb2 as errors_1
from flyteidl.core import interface_pb2 as interface_1
from flyteidl.core import literals_pb2 as literals_1
from flyteidl.core import types_pb2 as types_1
from flyteidl.service import agent_pb2 as service_1
from flyteidl2.connector import connector_pb2
from flyteidl2.connector import service_pb2 as service_2
from flyteidl2.core import execution_pb2, interface_pb2, literals_pb2, types_pb2
from flyteidl2.task import common_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

SERVICES = {"AsyncAgentService": "AsyncConnectorService", "AgentMetadataService": "ConnectorMetadataService"}

ONLY_FLYTE_1 = {
    "flyteidl.admin.Agent.supported_task_types",
    "flyteidl.admin.Agent.is_sync",
    "flyteidl.admin.GetTaskRequest.task_type",
    "flyteidl.admin.DeleteTaskRequest.task_type",
    "flyteidl.admin.GetTaskMetricsRequest.task_type",
    "flyteidl.admin.GetTaskLogsRequest.task_type",
    "flyteidl.admin.Resource.state",
    "flyteidl.admin.Resource.agent_error",
    "flyteidl.admin.TaskExecutionMetadata.overrides",
    "flyteidl.core.ContainerError.timestamp",
    "flyteidl.core.ContainerError.worker",
}
ONLY_FLYTE_2 = {
    "flyteidl2.connector.CreateTaskRequest.connection",
    "flyteidl2.connector.GetTaskRequest.connection",
    "flyteidl2.connector.DeleteTaskRequest.connection",
    "flyteidl2.task.Inputs.context",
    "flyteidl2.task.Outputs.produced_artifacts",
    "flyteidl2.core.Literal.artifact_id",
    "flyteidl2.core.TaskLog.link_type",
    "flyteidl2.core.TaskLog.ready",
    "flyteidl2.core.TaskLog.icon_uri",
    "flyteidl2.core.TaskTemplate.reuse_policy",
    "flyteidl2.core.TaskTemplate.worker_kind",
    "flyteidl2.core.TaskMetadata.log_links",
    "flyteidl2.core.RetryStrategy.backoff",
    "flyteidl2.core.GPUAccelerator.device_class",
    "flyteidl2.core.DataLoadingConfig.file_input_layout",
    "flyteidl2.logs.dataplane.LogLine.short_pod_name",
}
RENAMED = {
    ("flyteidl.admin.GetAgentResponse.agent", "connector"),
    ("flyteidl.admin.ListAgentsResponse.agents", "connectors"),
    ("flyteidl.admin.GetTaskLogsResponseBody.structured_lines", "lines"),
    ("flyteidl.core.LiteralMap.LiteralsEntry.key", "name"),  # a map of literals is a list of named ones
}


def pairs() -> Iterator[tuple[Descriptor, Descriptor]]:
    """The messages that are parsed with one generation's class though the other wrote them."""
    for old_name, new_name in SERVICES.items():
        new_methods = service_2.DESCRIPTOR.services_by_name[new_name].methods_by_name
        for old in service_1.DESCRIPTOR.services_by_name[old_name].methods:
            new = new_methods[old.name.replace("Agent", "Connector")]
            assert (old.client_streaming, old.server_streaming) == (new.client_streaming, new.server_streaming)
            yield old.input_type, new.input_type
            yield old.output_type, new.output_type
    yield agent_pb2.CreateRequestHeader.DESCRIPTOR, connector_pb2.CreateRequestHeader.DESCRIPTOR
    yield literals_1.LiteralMap.DESCRIPTOR, literals_pb2.LiteralMap.DESCRIPTOR
    yield literals_1.LiteralMap.DESCRIPTOR, common_pb2.Inputs.DESCRIPTOR
    yield literals_1.LiteralMap.DESCRIPTOR, common_pb2.Outputs.DESCRIPTOR
    yield interface_1.VariableMap.DESCRIPTOR, interface_pb2.VariableMap.DESCRIPTOR
    yield types_1.LiteralType.DESCRIPTOR, types_pb2.LiteralType.DESCRIPTOR
    yield errors_1.ErrorDocument.DESCRIPTOR, execution_pb2.ErrorDocument.DESCRIPTOR


class Comparison:
    """What differs between messages of both generations, and in everything that they hold."""

    def __init__(self, found: Iterator[tuple[Descriptor, Descriptor]]) -> None:
        self.seen: set[tuple[str, str]] = set()
        self.only_flyte_1: set[str] = set()
        self.only_flyte_2: set[str] = set()
        self.renamed: set[tuple[str, str]] = set()
        self.broken: list[str] = []
        for old, new in found:
            self.compare(old, new)

    def compare(self, old: Descriptor, new: Descriptor) -> None:
        if (old.full_name, new.full_name) in self.seen or old.full_name == new.full_name:
            return
        self.seen.add((old.full_name, new.full_name))
        for number in {field.number for field in (*old.fields, *new.fields)}:
            one, other = old.fields_by_number.get(number), new.fields_by_number.get(number)
            if other is None:
                self.only_flyte_1.add(one.full_name)
            elif one is None:
                self.only_flyte_2.add(other.full_name)
            else:
                self.compare_fields(one, other)

    def compare_fields(self, old: FieldDescriptor, new: FieldDescriptor) -> None:
        if old.name != new.name:
            self.renamed.add((old.full_name, new.name))
        if (old.type, old.is_repeated, old.has_presence, oneof(old)) != (
            new.type,
            new.is_repeated,
            new.has_presence,
            oneof(new),
        ):
            self.broken.append(f"{old.full_name} is not {new.full_name}")
        elif old.message_type is not None:
            self.compare(old.message_type, new.message_type)
        elif old.enum_type is not None and not numbers(old.enum_type) <= numbers(new.enum_type):
            self.broken.append(f"{old.enum_type.full_name} has values that {new.enum_type.full_name} lacks")


def oneof(field: FieldDescriptor) -> frozenset[int]:
    return frozenset(other.number for other in field.containing_oneof.fields) if field.containing_oneof else frozenset()


def numbers(enum: EnumDescriptor) -> set[tuple[int, str]]:
    return {(value.number, value.name) for value in enum.values}


def test_no_field_means_something_else_to_the_other_generation() -> None:
    comparison = Comparison(pairs())
    assert not comparison.broken
    assert comparison.only_flyte_1 == ONLY_FLYTE_1
    assert comparison.renamed == RENAMED
    assert comparison.only_flyte_2 >= ONLY_FLYTE_2
    assert len(comparison.seen) > 100


def test_the_comparison_sees_what_it_should() -> None:
    different = [
        (agent_pb2.CreateTaskRequest.DESCRIPTOR, connector_pb2.GetTaskRequest.DESCRIPTOR),
        (literals_1.Primitive.DESCRIPTOR, literals_pb2.Scalar.DESCRIPTOR),
        (types_1.LiteralType.DESCRIPTOR, types_pb2.BlobType.DESCRIPTOR),
    ]
    for pair in different:
        assert Comparison(iter([pair])).broken


def fill(message: Message, choice: int, depth: int = 6) -> None:
    """Set every field, and of each oneof the member that `choice` picks."""
    for field in message.DESCRIPTOR.fields:
        members = field.containing_oneof.fields if field.containing_oneof else [field]
        if members[choice % len(members)] is not field or (field.message_type is not None and depth == 0):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            fill_map(getattr(message, field.name), field, choice, depth)
        elif field.message_type is not None:
            child = getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name)
            child.SetInParent()
            fill(child, choice, depth - 1)
        elif field.is_repeated:
            getattr(message, field.name).append(scalar(field, choice))
        else:
            setattr(message, field.name, scalar(field, choice))


def fill_map(into: Any, field: FieldDescriptor, choice: int, depth: int) -> None:
    value = field.message_type.fields_by_name["value"]
    for key in ("k", "ä", ""):
        if value.message_type is None:
            into[key] = scalar(value, choice)
        else:
            fill(into[key], choice, depth - 1)


def scalar(field: FieldDescriptor, choice: int) -> Any:
    if field.enum_type is not None:
        return field.enum_type.values[choice % len(field.enum_type.values)].number
    return {
        FieldDescriptor.CPPTYPE_STRING: b"\x00\xff" if field.type == FieldDescriptor.TYPE_BYTES else "text",
        FieldDescriptor.CPPTYPE_BOOL: True,
    }.get(field.cpp_type, choice + 1)


@pytest.mark.parametrize("choice", range(12))
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (agent_pb2.CreateTaskRequest, connector_pb2.CreateTaskRequest),
        (agent_pb2.GetTaskRequest, connector_pb2.GetTaskRequest),
        (agent_pb2.GetTaskResponse, connector_pb2.GetTaskResponse),
        (agent_pb2.ListAgentsResponse, connector_pb2.ListConnectorsResponse),
        (literals_1.LiteralMap, literals_pb2.LiteralMap),
        (literals_1.LiteralMap, common_pb2.Inputs),
    ],
    ids=lambda cls: cls.DESCRIPTOR.full_name,
)
def test_a_message_survives_the_other_generation_with_the_fields_it_does_not_know(
    old: Any, new: Any, choice: int
) -> None:
    for first, second in ((old, new), (new, old)):
        message = first()
        fill(message, choice)
        through = second.FromString(message.SerializeToString())
        assert first.FromString(through.SerializeToString()) == message


def test_a_map_of_literals_and_a_list_of_named_literals_are_the_same_bytes() -> None:
    as_map, as_list = literals_1.LiteralMap(), common_pb2.Outputs()
    for name in ("b", "a", "ä"):
        as_map.literals[name].scalar.primitive.integer = ord(name)
    for name in ("a", "b", "ä"):
        as_list.literals.add(name=name).value.scalar.primitive.integer = ord(name)
    assert as_map.SerializeToString(deterministic=True) == as_list.SerializeToString()
    assert literals_1.LiteralMap.FromString(as_list.SerializeToString()) == as_map
    assert sorted(entry.name for entry in common_pb2.Inputs.FromString(as_map.SerializeToString()).literals) == [
        "a",
        "b",
        "ä",
    ]


def test_the_variables_of_an_interface_are_the_same_bytes() -> None:
    as_list = interface_pb2.VariableMap()
    for name in ("a", "b"):
        as_list.variables.add(key=name).value.type.simple = types_pb2.STRING
    as_map = interface_1.VariableMap.FromString(as_list.SerializeToString())
    assert sorted(as_map.variables) == ["a", "b"]
    assert as_map.SerializeToString(deterministic=True) == as_list.SerializeToString()
