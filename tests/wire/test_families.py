"""The names and messages of both families, against the IDL packages themselves."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from airside.wire.families import FAMILIES, V1, V2, Family, Verb

# Fields that one family has and the other has not, or that differ on purpose: `Inputs` and `Outputs` are v1's
# LiteralMap with extras, and a v2 map is an ordered list of the same entries.
ONLY_V1 = {
    "TaskExecutionMetadata.overrides",
    "GetTaskRequest.task_type",
    "DeleteTaskRequest.task_type",
    "GetTaskMetricsRequest.task_type",
    "GetTaskLogsRequest.task_type",
    "Resource.state",
    "Resource.agent_error",
    "Agent.supported_task_types",
    "Agent.is_sync",
}


def test_full_names() -> None:
    assert V1.services == (
        "flyteidl.service.AsyncAgentService",
        "flyteidl.service.SyncAgentService",
        "flyteidl.service.AgentMetadataService",
    )
    assert V2.services == (
        "flyteidl2.connector.AsyncConnectorService",
        "flyteidl2.connector.ConnectorMetadataService",
    )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_paths_belong_to_a_service_of_the_family(family: Family) -> None:
    assert {method.path.split("/")[1] for method in family.methods.values()} == set(family.services)
    assert all(method.path.endswith(f"/{method.name}") for method in family.methods.values())


def test_kinds() -> None:
    kinds = {(family.name, verb): method.kind for family in FAMILIES for verb, method in family.methods.items()}
    not_unary = {key: kind for key, kind in kinds.items() if kind != "unary"}
    assert not_unary == {("v1", "logs"): "server_stream", ("v2", "logs"): "server_stream", ("v1", "do"): "stream"}
    assert len(kinds) == 15


def test_the_engines_timeout_keys() -> None:
    assert {method.name for method in V1.methods.values()} >= {"CreateTask", "GetTask", "DeleteTask", "ExecuteTaskSync"}
    assert V1.methods["list"].name == "ListAgents"
    assert V2.methods["list"].name == "ListConnectors"


@pytest.mark.parametrize("verb", sorted(set(V1.methods) & set(V2.methods)))
def test_the_families_are_wire_compatible(verb: Verb) -> None:
    """An upgrade of an IDL package that breaks the sharing of bytes fails here."""
    compared: set[tuple[str, str]] = set()
    for part in ("request", "response"):
        first, second = getattr(V1.methods[verb], part).DESCRIPTOR, getattr(V2.methods[verb], part).DESCRIPTOR
        _compare(first, second, compared)
    assert compared


def test_the_comparison_notices_a_difference() -> None:
    with pytest.raises(AssertionError):
        _compare(
            V1.methods["create"].request.DESCRIPTOR,
            V2.methods["get"].request.DESCRIPTOR,
            set(),
        )


def _compare(first: Descriptor, second: Descriptor, seen: set[tuple[str, str]]) -> None:
    if (first.full_name, second.full_name) in seen or first.full_name == second.full_name:
        return
    seen.add((first.full_name, second.full_name))
    missing = {f"{first.name}.{f.name}" for f in first.fields if f.number not in second.fields_by_number}
    assert missing <= ONLY_V1, f"new in {first.full_name}: {missing - ONLY_V1}"
    for old in first.fields:
        new = second.fields_by_number.get(old.number)
        if new is not None:
            _compare_field(old, new, seen)


def _compare_field(old: FieldDescriptor, new: FieldDescriptor, seen: set[tuple[str, str]]) -> None:
    where = f"{old.full_name} / {new.full_name}"
    assert old.type == new.type, where
    assert old.is_repeated == new.is_repeated, where
    assert (old.containing_oneof is None) == (new.containing_oneof is None), where
    if old.enum_type is not None:
        numbers = {value.name: value.number for value in new.enum_type.values}
        assert all(numbers.get(value.name) == value.number for value in old.enum_type.values), where
    if old.message_type is not None:
        _compare(old.message_type, new.message_type, seen)
