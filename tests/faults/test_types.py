"""A hundred thousand task types that callers make up: neither a metric series nor memory is left of them."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc.aio
import pytest

from airside.model import Phase, TaskType
from airside.server.handle import Handle, seal
from airside.testing.client import RawClient

from .fuzzed import KEYS
from .test_fuzz import resident, served

AT_ONCE = 40
GROWTH = 5 << 20


def series(port: int) -> int:
    """How many series the page /metrics shows."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        return sum(not line.startswith(b"#") for line in page.read().splitlines())


async def flood(client: RawClient, numbers: range) -> None:
    """A create and a check for each name, and a check of a job that another service might have made."""
    left = iter(numbers)

    async def worker() -> None:
        for number in left:
            name = f"made_up_{number}"
            for ask in (client.create(name), client.get(b"foreign", name)):
                with pytest.raises(grpc.aio.AioRpcError):
                    await ask
            handle = seal(Handle(task_type=TaskType(name), meta=b"x" * 200), KEYS)
            assert Phase((await client.get(handle, name)).phase) is Phase.RUNNING

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def made_up(folder: Path, types: int, figures: Callable[..., None]) -> tuple[int, int]:
    with served(folder) as (port, metrics_port, process, _):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
            client = RawClient(channel, "v2")
            half = types // 2
            await flood(client, range(half))  # tables and buffers are full afterwards
            before = await asyncio.to_thread(series, metrics_port), resident(process.pid)
            await flood(client, range(half, types))
            after = await asyncio.to_thread(series, metrics_port), resident(process.pid)
    more_series, more_bytes = after[0] - before[0], after[1] - before[1]
    figures(
        f"8. {types:,} made-up task types",
        metric_series=f"{before[0]} after half of them and {after[0]} after all",
        memory=f"{more_bytes / (1 << 20):+.1f} MiB in the second half",
    )
    return more_series, more_bytes


async def test_made_up_task_types_leave_nothing_behind(tmp_path: Path, figures: Callable[..., None]) -> None:
    more_series, more_bytes = await made_up(tmp_path, 2_000, figures)
    assert more_series == 0
    assert more_bytes < 4 * GROWTH


@pytest.mark.faults
async def test_a_hundred_thousand_made_up_task_types_leave_nothing_behind(
    tmp_path: Path, figures: Callable[..., None]
) -> None:
    more_series, more_bytes = await made_up(tmp_path, 100_000, figures)
    assert more_series == 0
    assert more_bytes < GROWTH
