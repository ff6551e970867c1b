"""flytekit's own service, in its own environment, beside ours: only where `make faults` has installed it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio

ROOT = Path(__file__).parents[2]
PYFLYTE = ROOT / ".venv-flytekit" / "bin" / "pyflyte"
START = 120.0


@asynccontextmanager
async def serving(backend: str) -> AsyncIterator[str]:
    """The address of a service of flytekit's with the connector of the faulty backend at this URL."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        port, metrics = one.getsockname()[1], two.getsockname()[1]
    command = ("serve", "agent", "--port", port, "--prometheus_port", metrics, "--modules", "faulty_flytekit")
    quiet = asyncio.subprocess.DEVNULL
    environment = {**os.environ, "FAULTY_BACKEND": backend}
    process = await asyncio.create_subprocess_exec(
        PYFLYTE, *map(str, command), cwd=ROOT / "bench", env=environment, stdout=quiet, stderr=quiet
    )
    try:
        address = f"127.0.0.1:{port}"
        async with asyncio.timeout(START), grpc.aio.insecure_channel(address) as channel:
            await channel.channel_ready()
        yield address
    finally:
        process.kill()
        await process.wait()
