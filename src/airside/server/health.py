"""Health: what Kubernetes and load balancers ask before they send anything."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer


class Health:
    """gRPC health of every service name and of the server as a whole (the empty name)."""

    def __init__(self, services: Iterable[str]) -> None:
        self._names = ("", *services)
        self._servicer = HealthServicer()
        self.serving = False

    def add_to(self, server: grpc.aio.Server) -> None:
        """Answer `grpc.health.v1.Health` on this server."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set_serving(self, serving: bool) -> None:
        """Say SERVING or NOT_SERVING for every name."""
        self.serving = serving
        status = health_pb2.HealthCheckResponse
        value = status.SERVING if serving else status.NOT_SERVING
        for name in self._names:
            await self._servicer.set(name, value)
