"""Nothing that a caller sends makes the service grow: calls, handles, task types, metric series, pings."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import struct
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from airside import Phase, Resource
from airside.model import TaskType
from airside.observe.events import Event, What
from airside.observe.prometheus import Metrics
from airside.server import watch
from airside.server.handle import Handle, SigningKeys, seal
from airside.testing.client import RawClient, Wire
from airside.testing.scripted import ScriptedAgent

from .conftest import SETTINGS

MADE_UP = int(os.environ.get("MADE_UP_TYPES", "1200"))
"""100,000 in the full length."""


async def test_one_call_too_many_is_refused_and_counted(start: Any, connect: Any, wire: Wire) -> None:
    release = asyncio.Event()

    async def create(task: Any) -> bytes:
        await release.wait()
        return b"job"

    server = await start(ScriptedAgent(create=create), settings=replace(SETTINGS, max_calls=4))
    channel = connect(server.address, tls=False)
    client = RawClient(channel, wire)
    waiting = [asyncio.create_task(client.create(prefix=f"p{number}")) for number in range(4)]
    async with asyncio.timeout(5):
        while server.server.service.calls_in_flight < 4:
            await asyncio.sleep(0.01)
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.get(b"")
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.value.details() == (
            "The service carries out 4 calls already, as many as it may at once; "
            "call again, or raise [serve] max_calls."
        )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        _ = [message async for message in client.logs(b"")]
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await server.until(What.CALL, times=4, code="RESOURCE_EXHAUSTED")
    assert len(server.told(What.CALL, code="RESOURCE_EXHAUSTED")) == 4
    assert [agent.name for agent in await client.list()] == ["scripted"]
    check = channel.unary_unary("/grpc.health.v1.Health/Check", None, health_pb2.HealthCheckResponse.FromString)
    assert (await check(b"", timeout=5)).status == health_pb2.HealthCheckResponse.SERVING
    release.set()
    assert len(set(await asyncio.gather(*waiting))) == 4
    assert await client.create(prefix="again")
    assert server.server.service.calls_in_flight == 0


async def test_made_up_task_types_leave_nothing_behind(
    start: Any, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither metric series nor memory grows with the names that callers make up."""
    caplog.set_level(logging.CRITICAL, "airside")  # pytest keeps every record
    metrics = Metrics()
    settings = replace(SETTINGS, max_jobs=200)
    server = await start(ScriptedAgent(), settings=settings)
    server.events.clear()
    client = RawClient(connect(server.address, tls=False), "v2")

    async def flood(first: int, count: int) -> None:
        numbers = iter(range(first, first + count))

        async def worker() -> None:
            for number in numbers:
                name = f"made_up_{number}"
                for ask in (client.create(name), client.get(b"foreign", name), client.metrics(b"foreign", name)):
                    with pytest.raises(grpc.aio.AioRpcError):
                        await ask
                handle = seal(Handle(task_type=TaskType(name), meta=b"x" * 200))
                assert Phase((await client.get(handle, name)).phase) is Phase.RUNNING
                if len(server.events) > 1000:
                    drain(server.events, metrics)

        await asyncio.gather(*(worker() for _ in range(20)))
        drain(server.events, metrics)

    third = MADE_UP // 3
    await flood(0, third)
    await flood(third, third)
    series = await asyncio.to_thread(count_series, metrics)
    objects, size = memory()
    await flood(2 * third, third)
    more_objects, more_size = memory()
    assert await asyncio.to_thread(count_series, metrics) == series
    assert len(server.server.service.watch) <= settings.max_jobs
    print(f"{third:,} more task types: {more_objects - objects:+,} objects, {more_size - size:+,} bytes")
    assert more_objects - objects < third
    assert more_size - size < 8 << 20


def memory() -> tuple[int, int]:
    """The objects that Python holds, and the bytes that the process has."""
    gc.collect()
    with open("/proc/self/statm") as file:  # noqa: PTH123 - a path would be an object more
        pages = int(file.read().split()[1])
    return len(gc.get_objects()), pages * os.sysconf("SC_PAGE_SIZE")


def drain(events: list[Event], metrics: Metrics) -> None:
    for event in events:
        metrics(event)
    events.clear()


def count_series(metrics: Metrics) -> int:
    return len(metrics.render().splitlines())


async def test_large_handles_of_nobody_s_are_forgotten(
    start: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "MAX_BYTES", 1_000_000)
    server = await start(ScriptedAgent(get=Resource(Phase.RUNNING)))
    client = RawClient(connect(server.address, tls=False), "v2")
    kept = seal(Handle(task_type=TaskType("scripted"), meta=b"kept"))
    for number in range(50):
        await client.get(seal(Handle(task_type=TaskType("gone"), meta=b"%d" % number + b"x" * 60_000)), "gone")
        assert Phase((await client.get(kept)).phase) is Phase.RUNNING
    assert len(server.server.service.watch) < 10
    assert server.server.service.watch._bytes < 1_000_000


# --- pings -----------------------------------------------------------------------------------------------------------

PING, GOAWAY, SETTINGS_FRAME = 6, 7, 4
ACK = 1
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """An HTTP/2 frame of the connection itself."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + bytes(4) + payload


async def test_no_number_of_pings_ends_a_connection(start: Any) -> None:
    """Engines ping every 30 s, some proxies every second, with calls under way or none: gRPC's own servers hang up."""
    server = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.port)
    writer.write(PREFACE + frame(SETTINGS_FRAME))
    answered = 0
    for number in range(200):
        writer.write(frame(PING, struct.pack(">Q", number)))
        await writer.drain()
        while True:
            async with asyncio.timeout(5):
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            assert head[3] != GOAWAY, payload
            if head[3] == PING and head[4] == ACK:
                assert payload == struct.pack(">Q", number)
                answered += 1
                break
    assert answered == 200
    writer.close()
    await writer.wait_closed()


async def test_made_up_names_of_keys_are_forgotten_with_their_handles(start: Any, connect: Any) -> None:
    server = await start(ScriptedAgent(get=Resource(Phase.RUNNING)), settings=replace(SETTINGS, max_jobs=10))
    client = RawClient(connect(server.address, tls=False), "v2")
    for number in range(50):
        keys = SigningKeys(current=f"k{number}", known={f"k{number}": b"x" * 32})
        await client.get(seal(Handle(task_type=TaskType("scripted"), meta=b"%d" % number), keys))
    assert len(server.server.service.watch.signed_by) == 10
