"""Ask a service what everybody who calls it relies on: does it answer, is it well, what does it serve."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpc_health.v1 import health_pb2

from airside.engine.endpoint import Endpoint, Tls
from airside.engine.remote import FamilyName, read_listing
from airside.model import Call, Fail, TaskType, UsageError
from airside.wire.families import FAMILIES, Family, Method

PATIENCE = 5.0
"""Seconds for each call; they are made side by side."""
_CHECK = Method(
    name="Check",
    path="/grpc.health.v1.Health/Check",
    request=health_pb2.HealthCheckRequest,
    response=health_pb2.HealthCheckResponse,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a service said. `families` are the generations of Flyte that it speaks, and `types` its task types, each
    sync or not. `seconds` is how long the first listing took, the connection included.

    `health` is what it says of itself, such as SERVING; empty if it has no health service.
    """

    families: tuple[FamilyName, ...]
    types: Mapping[TaskType, bool]
    seconds: float
    health: str


async def probe(target: str, *, tls: Tls | None = None, token: str = "", service_config: str = "") -> Answer:
    """Ask a service, over a connection of its own. `target`, `tls`, `token` and `service_config` are as for `Endpoint`.

    Raises `Retry` if nothing answers there, `UsageError` if what answers is no agent service.
    """
    endpoint = Endpoint(target, tls=tls, token=token, timeouts={"default": PATIENCE}, service_config=service_config)
    try:
        health, *listings = await asyncio.gather(
            _health(endpoint), *(_listing(endpoint, family) for family in FAMILIES), return_exceptions=True
        )
    finally:
        await endpoint.close()
    heard = [one for one in listings if not isinstance(one, BaseException)]
    if not heard:
        raise _reason([one for one in listings if isinstance(one, BaseException)], endpoint.name)
    if isinstance(health, BaseException):
        raise health
    types = {
        kind: one.is_sync for _, entries, _ in heard for one in map(read_listing, entries) for kind in one.task_types
    }
    return Answer(
        families=tuple(family.name for family, _, _ in heard),
        types=types,
        seconds=min(seconds for _, _, seconds in heard),
        health=health,
    )


async def _listing(endpoint: Endpoint, family: Family) -> tuple[Family, list[Any], float]:
    began = time.monotonic()
    _, entries = await endpoint.list(family)
    return family, entries, time.monotonic() - began


async def _health(endpoint: Endpoint) -> str:
    try:
        answer = await endpoint.ask(_CHECK, b"", Call())
    except Fail as exc:
        if exc.code == "Unimplemented":
            return ""
        raise
    status: int = health_pb2.HealthCheckResponse.FromString(answer).status
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    return name


def _reason(errors: Sequence[BaseException], name: str) -> BaseException:
    """Of the errors of all families, the one that tells most."""
    for one in errors:
        if not (isinstance(one, Fail) and one.code == "Unimplemented"):
            return one
    return UsageError(f"{name} answers, but it is no agent service: it lists neither agents nor connectors.")
