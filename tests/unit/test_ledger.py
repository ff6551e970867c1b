"""The ledger: one key, one create, one answer."""

from __future__ import annotations

import asyncio

import pytest

from airside.server.ledger import Ledger


class Backend:
    """Counts its creates; each waits for `go`."""

    def __init__(self) -> None:
        self.calls = 0
        self.go = asyncio.Event()

    async def create(self) -> bytes:
        self.calls += 1
        await self.go.wait()
        return f"job-{self.calls}".encode()


async def test_concurrent_and_later_creates_share_one_call() -> None:
    ledger, backend = Ledger(10), Backend()
    waiting = [asyncio.create_task(ledger.create("k", 1, backend.create)) for _ in range(5)]
    await asyncio.sleep(0)
    backend.go.set()
    assert await asyncio.gather(*waiting) == [b"job-1"] * 5
    assert await ledger.create("k", 1, backend.create) == b"job-1"
    assert backend.calls == 1


async def test_a_caller_that_goes_away_does_not_stop_the_create() -> None:
    ledger, backend = Ledger(10), Backend()
    impatient = asyncio.create_task(ledger.create("k", 1, backend.create))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait({impatient})
    assert ledger.running == 1
    backend.go.set()
    assert await ledger.create("k", 1, backend.create) == b"job-1"
    assert backend.calls == 1


async def test_a_create_that_raises_is_forgotten() -> None:
    ledger, backend = Ledger(10), Backend()
    backend.go.set()

    async def refuse() -> bytes:
        raise ConnectionError("no")

    with pytest.raises(ConnectionError):
        await ledger.create("k", 1, refuse)
    assert await ledger.create("k", 1, backend.create) == b"job-1"


async def test_the_same_key_with_other_inputs_is_not_joined(caplog: pytest.LogCaptureFixture) -> None:
    ledger, backend = Ledger(10), Backend()
    backend.go.set()
    assert await ledger.create("k", 1, backend.create) == b"job-1"
    assert await ledger.create("k", 2, backend.create) == b"job-2"
    assert "other inputs" in caplog.text


async def test_the_oldest_answers_are_forgotten_first() -> None:
    ledger, backend = Ledger(2), Backend()
    backend.go.set()
    for key in "abc":
        await ledger.create(key, 1, backend.create)
    assert await ledger.create("c", 1, backend.create) == b"job-3"
    assert await ledger.create("a", 1, backend.create) == b"job-4"
