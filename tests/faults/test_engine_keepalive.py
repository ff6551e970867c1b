"""A service whose machine is gone without a word: nothing comes back, not even that the connection is closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from airside import Call, Retry, Task, TaskType
from airside.engine.remote import RemoteAgent
from airside.testing.scripted import ScriptedAgent, hang

NOTICED_WITHIN = 90.0
"""Seconds: a ping is sent after 30 s without a word, and its answer awaited for 10 s."""


@asynccontextmanager
async def wire_to(address: str, cut: asyncio.Event) -> AsyncIterator[str]:
    """The address of a wire to a service; once it is cut nothing passes, and nobody is told."""
    host, _, port = address.rpartition(":")

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if not cut.is_set():
                    writer.write(data)

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        joined.append(asyncio.current_task())
        try:
            await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))
        finally:
            for one in (writer, there_writer):
                one.close()

    joined: list[Any] = []
    server = await asyncio.start_server(join, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for one in joined:
            one.cancel()
        await asyncio.gather(*joined, return_exceptions=True)


@pytest.mark.faults
async def test_a_call_without_a_deadline_ends_when_the_service_is_gone(
    start_service: Callable[..., Awaitable[Any]],
) -> None:
    service = await start_service(ScriptedAgent(is_sync=True, do=hang))
    cut = asyncio.Event()
    async with wire_to(service.address, cut) as address:
        agent = RemoteAgent(address, task_type="scripted")
        await agent.open()
        try:
            task = Task(type=TaskType("scripted"), output_prefix="/tmp/keepalive/0")
            call = asyncio.create_task(agent.do(task, Call()))
            await asyncio.sleep(1.0)
            assert not call.done()
            cut.set()
            began = time.monotonic()
            await asyncio.wait({call}, timeout=NOTICED_WITHIN)
            assert call.done()
            with pytest.raises(Retry) as gone:
                await call
            print(f"noticed after {time.monotonic() - began:.0f} s: {gone.value}")
        finally:
            await agent.close()
