"""The yardstick: Flyte's agent service written by hand on `grpc.aio`, with nothing but what the wire needs.

It parses the request, keeps its job as JSON metadata, and builds a typed answer: the same echo as the
agents beside it, without a registry, watches, idempotency, limits or metrics.
"""

from __future__ import annotations

import json
import sys
from typing import Any
from uuid import uuid4

import grpc
from flyteidl.admin.agent_pb2 import (
    CreateTaskRequest,
    CreateTaskResponse,
    GetTaskRequest,
    GetTaskResponse,
    Resource,
)
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.core.literals_pb2 import Literal, LiteralMap, Primitive, Scalar
from flyteidl.service.agent_pb2_grpc import AsyncAgentServiceServicer, add_AsyncAgentServiceServicer_to_server
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

Context = grpc.aio.ServicerContext[Any, Any]


class EchoServicer(AsyncAgentServiceServicer):
    """One task type, `bench_echo`; any other is NOT_FOUND."""

    async def CreateTask(  # noqa: N802 - the name is the RPC's
        self, request: CreateTaskRequest, context: Context
    ) -> CreateTaskResponse:
        if request.template.type != "bench_echo":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no agent for {request.template.type}")
        job = {"id": uuid4().hex, "x": request.inputs.literals["x"].scalar.primitive.integer}
        return CreateTaskResponse(resource_meta=json.dumps(job).encode())

    async def GetTask(  # noqa: N802 - the name is the RPC's
        self, request: GetTaskRequest, context: Context
    ) -> GetTaskResponse:
        if (request.task_category.name or request.task_type) != "bench_echo":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no agent for {request.task_category.name}")
        job = json.loads(request.resource_meta)
        if job["x"] == 0:
            return GetTaskResponse(resource=Resource(phase=TaskExecution.RUNNING, message="working"))
        x = Literal(scalar=Scalar(primitive=Primitive(integer=job["x"])))
        outputs = LiteralMap(literals={"x": x})
        return GetTaskResponse(resource=Resource(phase=TaskExecution.SUCCEEDED, outputs=outputs))


async def serve(port: int) -> None:
    """Serve on loopback until killed."""
    server = grpc.aio.server()
    add_AsyncAgentServiceServicer_to_server(EchoServicer(), server)
    add_HealthServicer_to_server(HealthServicer(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    run(serve(int(sys.argv[1])))
