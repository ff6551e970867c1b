"""The ledger: one key, one create, one answer."""

from __future__ import annotations

import asyncio
import time

import pytest

from airside.observe.events import Event, Hooks, What
from airside.server.ledger import Entry, Ledger


class Backend:
    """Counts its creates; each waits for `go`."""

    def __init__(self) -> None:
        self.calls = 0
        self.go = asyncio.Event()

    async def create(self, entry: Entry) -> bytes:
        self.calls += 1
        await self.go.wait()
        return f"job-{self.calls}".encode()


def ledger_of(capacity: int, seen: list[Event] | None = None) -> Ledger:
    return Ledger(capacity, Hooks([seen.append] if seen is not None else []))


async def create(ledger: Ledger, key: str, inputs: bytes, backend: Backend) -> bytes:
    return await ledger.answer(ledger.enter(ledger.key_for(key, inputs), inputs, backend.create))


async def test_concurrent_and_later_creates_share_one_call() -> None:
    seen: list[Event] = []
    ledger, backend = ledger_of(10, seen), Backend()
    waiting = [asyncio.create_task(create(ledger, "k", b"1", backend)) for _ in range(5)]
    await asyncio.sleep(0)
    backend.go.set()
    assert await asyncio.gather(*waiting) == [b"job-1"] * 5
    assert await create(ledger, "k", b"1", backend) == b"job-1"
    assert backend.calls == 1
    assert [event.what for event in seen] == [What.JOINED] * 5


async def test_a_caller_that_goes_away_does_not_stop_the_create() -> None:
    ledger, backend = ledger_of(10), Backend()
    impatient = asyncio.create_task(create(ledger, "k", b"1", backend))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait({impatient})
    (entry,) = ledger.running
    assert not entry.is_wanted
    backend.go.set()
    assert await create(ledger, "k", b"1", backend) == b"job-1"
    assert backend.calls == 1


async def test_a_create_that_raises_is_forgotten() -> None:
    ledger, backend = ledger_of(10), Backend()
    backend.go.set()

    async def refuse(entry: Entry) -> bytes:
        raise ConnectionError("no")

    with pytest.raises(ConnectionError):
        await ledger.answer(ledger.enter("k", b"1", refuse))
    assert await create(ledger, "k", b"1", backend) == b"job-1"


async def test_the_same_key_with_other_inputs_is_not_joined(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Event] = []
    ledger, backend = ledger_of(10, seen), Backend()
    backend.go.set()
    assert await create(ledger, "k", b"1", backend) == b"job-1"
    assert await create(ledger, "k", b"2", backend) == b"job-2"
    assert await create(ledger, "k", b"2", backend) == b"job-2"
    assert "other inputs" in caplog.text
    assert What.OTHER_INPUTS in [event.what for event in seen]


async def test_the_oldest_answers_are_forgotten_first() -> None:
    ledger, backend = ledger_of(2), Backend()
    backend.go.set()
    for key in "abc":
        await create(ledger, key, b"1", backend)
    assert await create(ledger, "c", b"1", backend) == b"job-3"
    assert await create(ledger, "a", b"1", backend) == b"job-4"


async def test_a_create_that_outlasts_its_time_is_cancelled() -> None:
    ledger, cancelled = ledger_of(10), asyncio.Event()

    async def hang(entry: Entry) -> bytes:
        entry.until = time.monotonic()
        try:
            await asyncio.sleep(60.0)
        except asyncio.CancelledError:
            assert entry.overdue
            cancelled.set()
            raise
        return b""

    with pytest.raises(TimeoutError):
        await ledger.answer(ledger.enter("k", b"1", hang))
    assert cancelled.is_set()
    assert len(ledger) == 0
    assert ledger.running == ()


async def test_a_create_that_ignores_its_end_is_left_behind_and_stopped(caplog: pytest.LogCaptureFixture) -> None:
    ledger, release = ledger_of(10), asyncio.Event()
    told: list[bool] = []

    async def stubborn(entry: Entry) -> bytes:
        entry.until = time.monotonic()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        told.append(entry.stopped)
        return b"too late"

    with pytest.raises(TimeoutError, match="ignores that it was cancelled"):
        await ledger.answer(ledger.enter("k", b"1", stubborn))
    assert "ignores that its create was cancelled" in caplog.text
    backend = Backend()
    backend.go.set()
    assert await create(ledger, "k", b"1", backend) == b"job-1"  # the key is free again
    release.set()
    await asyncio.sleep(0.01)
    assert told == [True]  # its job is not to be
    assert await create(ledger, "k", b"1", backend) == b"job-1"


async def test_answers_are_bounded_by_their_bytes_and_nothing_pending_is_forgotten() -> None:
    ledger, backend = Ledger(1_000, Hooks([]), max_bytes=10_000), Backend()
    calls = 0

    async def large(entry: Entry) -> bytes:
        nonlocal calls
        calls += 1
        entry.made = b"m" * 500  # the answer has it: it is not kept twice
        return b"x" * 1_000

    under_way = ledger.enter("under way", b"", backend.create)
    stopped = ledger.stop("stopped")
    for number in range(50):
        await ledger.answer(ledger.enter(f"k{number}", b"", large))
        assert ledger._bytes <= 10_000
    assert [f"k{number}" for number in range(50) if ledger.get(f"k{number}")] == [f"k{n}" for n in range(40, 50)]
    assert (ledger.get("under way"), ledger.get("stopped")) == (under_way, stopped)
    await ledger.answer(ledger.enter("k49", b"", large))
    assert calls == 50
    await ledger.answer(ledger.enter("k0", b"", large))
    assert calls == 51
    backend.go.set()
    assert await ledger.answer(under_way) == b"job-1"


async def test_one_answer_too_large_for_the_bound_is_kept_alone() -> None:
    ledger = Ledger(10, Hooks([]), max_bytes=100)

    async def large(entry: Entry) -> bytes:
        return b"x" * 500

    for key in ("a", "b"):
        await ledger.answer(ledger.enter(key, b"", large))
    assert (ledger.get("a"), ledger._bytes) == (None, 500)
    assert ledger.get("b") is not None


async def test_bytes_of_what_is_forgotten_are_given_back() -> None:
    ledger = Ledger(2, Hooks([]))

    async def answer(entry: Entry) -> bytes:
        return b"x" * 100

    for number in range(10):
        entry = ledger.enter(f"k{number}", b"", answer)
        await ledger.answer(entry)
    assert ledger._bytes == 200
    entry.undone = True
    await ledger.answer(ledger.enter("k9", b"", answer))
    await ledger.answer(ledger.enter("once", b"", answer, repeatable=False))
    assert ledger._bytes <= 200
