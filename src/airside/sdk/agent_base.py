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
