"""Requests over 256 KiB are parsed, told apart and converted on a thread: on the loop they would hold up everybody."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc.aio
import pytest
from flyteidl2.connector import connector_pb2

from airside import Phase, Resource
from airside.server import creation, rpc, service, transfer
from airside.server.app import Server
from airside.server.settings import ServerSettings
from airside.testing import ScriptedAgent
from airside.testing.client import RawClient, Wire

STEPS = {"parse", "tell apart", "convert"}


class Parsing:
    """Stands for the module of messages: the one that is parsed by the create tells where."""

    def __init__(self, noting: Callable[[str, Any], Any]) -> None:
        self.CreateTaskRequest = type("Noted", (), {})()
        self.CreateTaskRequest.FromString = noting("parse", connector_pb2.CreateTaskRequest.FromString)

    def __getattr__(self, name: str) -> Any:
        return getattr(connector_pb2, name)


@pytest.fixture
def off_loop(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The steps that were taken on another thread than the loop's."""
    seen: set[str] = set()
    loop = threading.get_ident()

    def noting(step: str, function: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != loop:
                seen.add(step)
            return function(*args, **kwargs)

        return noted

    monkeypatch.setattr(rpc, "connector_pb2", Parsing(noting))
    for module in (creation, service):
        monkeypatch.setattr(module, "fingerprint", noting("tell apart", creation.fingerprint))
    monkeypatch.setattr(rpc, "_joined", noting("join", rpc._joined))
    monkeypatch.setattr(transfer, "read_request", noting("convert", transfer.read_request))
    return seen


@pytest.mark.parametrize(("kib", "expected"), [(240, set()), (270, STEPS)])
async def test_a_large_request_is_not_looked_at_on_the_loop(
    off_loop: set[str], wire: Wire, kib: int, expected: set[str]
) -> None:
    agent = ScriptedAgent(get=Resource(Phase.RUNNING))
    async with (
        Server([agent], ServerSettings(port=0)) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        await RawClient(channel, wire).create(inputs={"x": "x" * kib * 1024}, prefix="s3://b/r/0")
    [task] = [call.task for call in agent.calls("create") if call.task]
    assert len(task.inputs["x"]) == kib * 1024
    assert off_loop == expected


@pytest.mark.parametrize(("kib", "expected"), [(240, set()), (270, {"join", "tell apart", "convert"})])
async def test_nor_is_that_of_a_sync_task(off_loop: set[str], kib: int, expected: set[str]) -> None:
    agent = ScriptedAgent(is_sync=True, do=Resource(Phase.SUCCEEDED))
    async with (
        Server([agent], ServerSettings(port=0)) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        client = RawClient(channel, "v1")
        [told] = await client.do(client.sync_header(prefix="/run/0"), client.sync_inputs({"x": "x" * kib * 1024}))
    assert told.header.resource.phase == Phase.SUCCEEDED
    assert off_loop == expected
