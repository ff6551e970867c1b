"""`AgentBase`, the low-level face of Flyte's documentation, as the raw protocol."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from flyteidl.admin import agent_pb2

from airside.hosting.context import Aborted, RecordingContext
from airside.model import Call, Resource, Task
from airside.sdk.adapt import ASIDE, Face
from airside.sdk.agent_base import AgentBase
from airside.sdk.invoke import LaneName, timeout_for
from airside.wire.resource import read_resource
from airside.wire.template import write_request

_OFF_LOOP = 256 * 1024  # bytes of template and inputs above which they are converted on a thread


class BaseFace(Face):
    """Calls an `AgentBase` with Flyte 1's messages and a context that records what it sets."""

    def __init__(self, author: AgentBase) -> None:
        super().__init__(author)
        self.supports = frozenset({"read_handle"} if callable(getattr(author, "read_handle", None)) else ())

    async def create(self, task: Task, call: Call) -> bytes:
        request = await _convert(task)
        arguments = {
            "output_prefix": request.output_prefix,
            "task_template": request.template,
            "inputs": request.inputs,
        }
        response = await self._ask("create", arguments, call, timeout=self.settings.create_timeout, lane="control")
        meta = getattr(response, "resource_meta", None)
        if not isinstance(meta, bytes):
            raise TypeError(f"{self.name}.create returned {_name(response)}, not a CreateTaskResponse")
        return meta

    async def get(self, meta: bytes, call: Call) -> Resource:
        limit = timeout_for(call, self.settings.call_timeout)
        response = await self._ask("get", {"resource_meta": meta}, call, timeout=limit, lane="refresh")
        resource = getattr(response, "resource", None)
        if resource is None:
            raise TypeError(f"{self.name}.get returned {_name(response)}, not a GetTaskResponse")
        if not response.HasField("resource"):
            raise TypeError(f"{self.name}.get returned a GetTaskResponse without a resource")
        return read_resource(resource, None)

    async def delete(self, meta: bytes, call: Call) -> None:
        arguments = {"resource_meta": meta}
        await self._ask("delete", arguments, call, timeout=self.settings.call_timeout, lane="control")

    async def read_handle(self, data: bytes) -> bytes | None:
        if "read_handle" not in self.supports:
            return None
        meta: bytes | None = await self.invoker.invoke(self.author.read_handle, data, timeout=ASIDE, lane="aside")
        return meta

    async def _ask(self, name: str, arguments: dict[str, Any], call: Call, *, timeout: float, lane: LaneName) -> Any:
        """The author's answer; raises the error that the author set on the context, if any."""
        context = RecordingContext(f"{self.name}.{name}", call)
        args, kwargs = _bind(getattr(self.author, name), {"context": context, **arguments})
        try:
            response = await self.invoke(name, *args, call=call, timeout=timeout, lane=lane, **kwargs)
        except Aborted as exc:
            raise context.error or exc from exc
        if context.error is not None:
            raise context.error
        return response


def _bind(method: Callable[..., Any], arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """By name where the author kept the documented names, else in the documented order."""
    parameters = inspect.signature(method).parameters
    if arguments.keys() <= parameters.keys() or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return (), arguments
    return tuple(arguments.values()), {}


async def _convert(task: Task) -> agent_pb2.CreateTaskRequest:
    data = write_request(task).SerializeToString()
    if len(data) > _OFF_LOOP:
        return await asyncio.to_thread(agent_pb2.CreateTaskRequest.FromString, data)
    return agent_pb2.CreateTaskRequest.FromString(data)


def _name(response: object) -> str:
    return "None" if response is None else type(response).__name__
