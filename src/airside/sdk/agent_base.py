"""The low-level face of Flyte's own documentation: protobuf in, protobuf out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airside.sdk.agent import AgentDeclaration


class AgentBase(AgentDeclaration):
    """An agent written against Flyte's messages, as Flyte's documentation shows it. Prefer `AsyncAgent`.

    - `create(context, output_prefix, task_template, inputs=None) -> CreateTaskResponse`
    - `get(context, resource_meta: bytes) -> GetTaskResponse`
    - `delete(context, resource_meta: bytes) -> DeleteTaskResponse`

    The messages are those of `flyteidl`. `context` looks like a `grpc.ServicerContext`: `set_code`,
    `set_details` and `abort` say that a call failed. Methods are `def` or `async def`.

    >>> from flyteidl.admin import agent_pb2
    >>> class CustomAgent(AgentBase):
    ...     def create(self, context, output_prefix, task_template, inputs=None):
    ...         return agent_pb2.CreateTaskResponse(resource_meta=b"job-1")
    ...     def get(self, context, resource_meta):
    ...         return agent_pb2.GetTaskResponse(resource=agent_pb2.Resource(state=agent_pb2.SUCCEEDED))
    ...     def delete(self, context, resource_meta):
    ...         return agent_pb2.DeleteTaskResponse()
    >>> CustomAgent(task_type="custom").task_type
    'custom'
    """

    _task_type: str = ""

    def __init__(self, task_type: str = "", **_: Any) -> None:
        self._task_type = task_type

    @property
    def task_type(self) -> str:  # type: ignore[override]  # Flyte's subclasses set `_task_type` in __init__
        """The one task type this agent serves."""
        return self._task_type or type(self).__dict__.get("task_type", "")

    if TYPE_CHECKING:
        create: Callable[..., Any]
        get: Callable[..., Any]
        delete: Callable[..., Any]
