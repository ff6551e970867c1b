"""What the service says of its agents: built once, answered from ready bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flyteidl.admin import agent_pb2
from flyteidl2.connector import connector_pb2

from airside.sdk.agent import Agent


@dataclass(frozen=True, slots=True)
class Directory:
    """The serialised answers of one family: the list of all agents, and each by its name."""

    everyone: bytes
    by_name: Mapping[str, bytes]


def flyte1_directory(agents: Sequence[Agent]) -> Directory:
    """Answers of `AgentMetadataService`. The deprecated `supported_task_types` is filled too: engines read it."""
    entries = [
        agent_pb2.Agent(
            name=agent.name,
            is_sync=agent.is_sync,
            supported_task_types=list(dict.fromkeys(t.name for t in agent.task_types)),
            supported_task_categories=[
                agent_pb2.TaskCategory(name=t.name, version=t.version) for t in agent.task_types
            ],
        )
        for agent in agents
    ]
    return Directory(
        agent_pb2.ListAgentsResponse(agents=entries).SerializeToString(),
        {entry.name: agent_pb2.GetAgentResponse(agent=entry).SerializeToString() for entry in reversed(entries)},
    )


def flyte2_directory(agents: Sequence[Agent]) -> Directory:
    """Answers of `ConnectorMetadataService`. Flyte 2 has no sync service, so nothing is said of it."""
    entries = [
        connector_pb2.Connector(
            name=agent.name,
            supported_task_categories=[
                connector_pb2.TaskCategory(name=t.name, version=t.version) for t in agent.task_types
            ],
        )
        for agent in agents
    ]
    return Directory(
        connector_pb2.ListConnectorsResponse(connectors=entries).SerializeToString(),
        {
            entry.name: connector_pb2.GetConnectorResponse(connector=entry).SerializeToString()
            for entry in reversed(entries)
        },
    )
