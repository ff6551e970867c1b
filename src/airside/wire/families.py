"""The two families of services that Flyte's engines call: names and message classes, no logic.

`V1` is Flyte 1 (`flyteidl.service`), `V2` is Flyte 2 (`flyteidl2.connector`). A method is known here by a verb
that both share: create, get, delete, metrics, logs, do, list, describe.

The classes named here are each family's own. The two are wire-compatible except for fields that only one of them
has, so a v1 create is best parsed with the v2 class, and answers are made once, in v2 classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from flyteidl.admin import agent_pb2
from flyteidl.service import agent_pb2 as agent_service_pb2
from flyteidl2.connector import connector_pb2, service_pb2

Verb = Literal["create", "get", "delete", "metrics", "logs", "do", "list", "describe"]
Kind = Literal["unary", "server_stream", "stream"]


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC: its name (which is also the key of its timeout in Flyte's configuration), path and messages."""

    name: str
    path: str
    request: Any
    response: Any
    kind: Kind = "unary"


@dataclass(frozen=True, slots=True)
class Family:
    """One generation of Flyte: the full names of its services, and its methods by verb."""

    name: Literal["v1", "v2"]
    services: tuple[str, ...]
    methods: Mapping[Verb, Method] = field(repr=False)


def _methods(service: Any, messages: Any, names: Mapping[Verb, str]) -> dict[Verb, Method]:
    methods: dict[Verb, Method] = {}
    for verb, name in names.items():
        rpc = service.methods_by_name[name]
        kind: Kind = "stream" if rpc.client_streaming else "server_stream" if rpc.server_streaming else "unary"
        methods[verb] = Method(
            name=name,
            path=f"/{service.full_name}/{name}",
            request=getattr(messages, rpc.input_type.name),
            response=getattr(messages, rpc.output_type.name),
            kind=kind,
        )
    return methods


_TASK_METHODS: dict[Verb, str] = {
    "create": "CreateTask",
    "get": "GetTask",
    "delete": "DeleteTask",
    "metrics": "GetTaskMetrics",
    "logs": "GetTaskLogs",
}
_V1 = agent_service_pb2.DESCRIPTOR.services_by_name
_V2 = service_pb2.DESCRIPTOR.services_by_name

V1 = Family(
    name="v1",
    services=tuple(_V1[name].full_name for name in ("AsyncAgentService", "SyncAgentService", "AgentMetadataService")),
    methods=MappingProxyType(
        {
            **_methods(_V1["AsyncAgentService"], agent_pb2, _TASK_METHODS),
            **_methods(_V1["SyncAgentService"], agent_pb2, {"do": "ExecuteTaskSync"}),
            **_methods(_V1["AgentMetadataService"], agent_pb2, {"list": "ListAgents", "describe": "GetAgent"}),
        }
    ),
)

V2 = Family(
    name="v2",
    services=tuple(_V2[name].full_name for name in ("AsyncConnectorService", "ConnectorMetadataService")),
    methods=MappingProxyType(
        {
            **_methods(_V2["AsyncConnectorService"], connector_pb2, _TASK_METHODS),
            **_methods(
                _V2["ConnectorMetadataService"],
                connector_pb2,
                {"list": "ListConnectors", "describe": "GetConnector"},
            ),
        }
    ),
)

FAMILIES: tuple[Family, ...] = (V1, V2)
