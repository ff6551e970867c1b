"""Lets `pyflyte run` send tasks to an Airside service: set `AIRSIDE_ENDPOINT=localhost:8000` and change no line.

flytekit loads this module at its start, since it is an entry point of `flytekit.plugins`. Without the variable it does
nothing. With it, tasks whose type the service serves go there, others to flytekit's own connectors, as before. The
service's certificate is checked if the address begins with `https://`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airside.model import UsageError

if TYPE_CHECKING:
    import grpc

VARIABLE = "AIRSIDE_ENDPOINT"
_CREATE, _ASK = 60.0, 30.0  # seconds that one call may take
_SYNC_POLL = 0.1


class ServiceConnector:
    """A connector of flytekit whose jobs are those of a service."""

    def __init__(self, stub: Any, task_type: str, version: int) -> None:
        self._stub = stub
        self._task_type = task_type
        self._version = version

    def create(self, task_template: Any, output_prefix: str, inputs: Any = None, **_: Any) -> bytes:
        """The handle of a new job."""
        from flyteidl.admin import agent_pb2

        request = agent_pb2.CreateTaskRequest(template=task_template.to_flyte_idl(), output_prefix=output_prefix)
        if inputs is not None:
            request.inputs.CopyFrom(inputs.to_flyte_idl())
        return bytes(self._stub.CreateTask(request, timeout=_CREATE).resource_meta)

    def get(self, resource_meta: bytes, **_: Any) -> Any:
        """flytekit's `Resource` for a job. After a retryable failure flytekit would ask for ever: here it is one."""
        from flyteidl.admin import agent_pb2
        from flyteidl.core.execution_pb2 import TaskExecution
        from flytekit.extend.backend.base_connector import Resource
        from flytekit.models.literals import LiteralMap

        found = self._stub.GetTask(self._fill(agent_pb2.GetTaskRequest(), resource_meta), timeout=_ASK).resource
        failed = found.phase in (TaskExecution.RETRYABLE_FAILED, TaskExecution.ABORTED)
        return Resource(
            phase=TaskExecution.FAILED if failed else found.phase,
            message=found.message,
            log_links=list(found.log_links),
            outputs=LiteralMap.from_flyte_idl(found.outputs) if found.HasField("outputs") else None,
        )

    def delete(self, resource_meta: bytes, **_: Any) -> None:
        """Have the job cancelled."""
        from flyteidl.admin import agent_pb2

        self._stub.DeleteTask(self._fill(agent_pb2.DeleteTaskRequest(), resource_meta), timeout=_ASK)

    def do(self, task_template: Any, output_prefix: str, inputs: Any = None, **_: Any) -> Any:
        """The end of a task that flytekit takes to be one call; the service arranges it."""
        from flyteidl.core.execution_pb2 import TaskExecution

        handle = self.create(task_template, output_prefix, inputs)
        while True:
            found = self.get(handle)
            if found.phase in (TaskExecution.SUCCEEDED, TaskExecution.FAILED):
                return found
            time.sleep(_SYNC_POLL)

    def _fill(self, request: Any, handle: bytes) -> Any:
        request.resource_meta = handle
        request.task_type = self._task_type
        request.task_category.name, request.task_category.version = self._task_type, self._version
        return request


def use(endpoint: str) -> None:
    """Send every task that the service at `endpoint` serves there. Needs flytekit in this process."""
    from flytekit.extend.backend.base_connector import ConnectorRegistry

    own = ConnectorRegistry.get_connector
    ConnectorRegistry.get_connector = staticmethod(_chooser(endpoint, own))


def _connect(endpoint: str) -> grpc.Channel:
    import grpc

    address = endpoint.removeprefix("https://").removeprefix("http://")
    if endpoint.startswith("https://"):
        return grpc.secure_channel(address, grpc.ssl_channel_credentials())
    return grpc.insecure_channel(address)


def _chooser(endpoint: str, own: Callable[..., Any]) -> Callable[..., Any]:
    channel = _connect(endpoint)
    served: set[tuple[str, int]] = set()

    def get_connector(task_type_name: str, task_type_version: int = 0) -> Any:
        from flyteidl.service import agent_pb2_grpc

        if not served:
            served.update(_served_by(channel, endpoint))
        if (task_type_name, task_type_version) not in served:
            return own(task_type_name, task_type_version)
        stub = agent_pb2_grpc.AsyncAgentServiceStub(channel)
        return ServiceConnector(stub, task_type_name, task_type_version)

    return get_connector


def _served_by(channel: grpc.Channel, endpoint: str) -> set[tuple[str, int]]:
    import grpc
    from flyteidl.admin import agent_pb2
    from flyteidl.service import agent_pb2_grpc

    stub = agent_pb2_grpc.AgentMetadataServiceStub(channel)
    try:
        agents = stub.ListAgents(agent_pb2.ListAgentsRequest(), timeout=_ASK).agents
    except grpc.RpcError as exc:
        raise UsageError(f"{VARIABLE}={endpoint}: no agent service answers there ({exc.details()}).") from exc
    return {(one.name, one.version) for agent in agents for one in agent.supported_task_categories}


if os.environ.get(VARIABLE):
    use(os.environ[VARIABLE])
