"""What travels: requests into tasks, resources into bytes, and the files that are too large for either."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from flyteidl2.connector import connector_pb2

from airside.model import Connection, Fail, Resource, Task, TaskType
from airside.sdk.agent import Agent
from airside.server.connections import Connections
from airside.server.declared import unpack_declared
from airside.server.handle import Handle
from airside.server.offload import Offload
from airside.server.order import Order, Request, task_type_of
from airside.server.settings import ServerSettings
from airside.wire import limits, storage
from airside.wire.literal_map import LiteralValues
from airside.wire.resource import OUTPUTS_FILE, OutputsTooLarge, needs_io, resolve, write_resource
from airside.wire.storage import EVERYWHERE, Storage
from airside.wire.template import place_of, read_interface, read_request

MAX_RESULT = 16 * limits.KIB
"""The result of a sync task travels in its handle up to this size; the outputs of a larger one go to a file."""


class Transfer:
    """Reads requests and writes answers; files are read and written on the threads of `offload`."""

    def __init__(
        self,
        agents: Mapping[TaskType, Agent],
        settings: ServerSettings,
        connections: Connections,
        offload: Offload,
    ) -> None:
        self._agents = agents
        self._connections = connections
        self._offload = offload
        self._storage = storage_of(settings)

    def connection_of(self, request: Request) -> str:
        """The name of the connection that the settings give to this task, or empty: then it has the caller's own."""
        if not self._connections or request.connection.secrets:
            return ""
        return self._connections.name_for(task_type_of(request), *place_of(request))

    async def read(self, order: Order) -> Task:
        """The task of an order, with its offloaded inputs fetched: reading them must not block the loop."""
        request, own = order.request, self._connections.get(order.connection)
        owner = order.task_type.name
        if order.is_large:
            whole: Task = await self._offload.run(owner, self._read_whole, request, order.key, own)
            return whole
        order.declared = read_interface(request.template)
        fetch = self._storage.fetch
        task = read_request(request, key=order.key, connection=own, fetch=fetch, declared=order.declared)
        if isinstance(task.inputs, LiteralValues) and task.inputs.has_offloaded:
            await self._offload.run(owner, task.inputs.prefetch)
        return task

    async def write(
        self, resource: Resource, handle: Handle, *, deleted: bool = False, shows_code: bool = False
    ) -> tuple[Resource, bytes]:
        """The resource as bytes; its outputs are read from their file, or written to one, on a thread."""
        declared = unpack_declared(handle.declared)
        write = partial(write_resource, declared=declared, deleted=deleted, job=handle.key, shows_code=shows_code)
        with contextlib.suppress(OutputsTooLarge):
            if not needs_io(resource):
                return resource, write(resource)
        agent = self._agents.get(handle.task_type)
        # An agent with access to this host chooses its own folders here; what callers name is still checked.
        trusted = EVERYWHERE if agent is not None and agent.settings.host_access else self._storage
        settled = await self._offload.run(
            handle.task_type.name,
            resolve,
            resource,
            declared,
            handle.output_prefix,
            job=handle.key,
            source=trusted,
            target=self._storage,
        )
        return settled, write(settled)

    async def result(self, resource: Resource, handle: Handle) -> bytes:
        """The result of a sync task, small enough for its handle."""
        _, result = await self.write(resource, handle)
        if len(result) > MAX_RESULT:
            result = await self._offload.run(handle.task_type.name, self._spill, result, handle.output_prefix)
        return result

    def _read_whole(self, request: Request, key: str, connection: Connection | None) -> Task:
        task = read_request(request, key=key, connection=connection, fetch=self._storage.fetch)
        if isinstance(task.inputs, LiteralValues):
            task.inputs.prefetch()
        return task

    def _spill(self, result: bytes, output_prefix: str) -> bytes:
        """The result without its outputs, which are written to where Flyte looks for them. Blocks."""
        if not output_prefix:
            raise Fail(
                "The outputs do not fit into the job handle, and no output prefix was given.", code="OutputsTooLarge"
            )
        message = connector_pb2.Resource.FromString(result)
        outputs = message.outputs.SerializeToString(deterministic=True)
        self._storage.write(storage.join(output_prefix, OUTPUTS_FILE), outputs)
        message.ClearField("outputs")
        return bytes(message.SerializeToString())


def storage_of(settings: ServerSettings) -> Storage:
    """Where callers may name local paths: in the folders that the settings list, else everywhere on loopback only."""
    if settings.local_storage is not None:
        return Storage(tuple(Path(folder) for folder in settings.local_storage))
    return Storage(()) if settings.is_public else EVERYWHERE
