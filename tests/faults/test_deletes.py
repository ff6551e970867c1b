"""Flyte 2's garbage collector, and a delete whose backend takes its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from airside.model import Phase
from airside.testing.client import Wire
from airside.testing.engine_model import EngineModel, Outcome
from airside.testing.faulty import FaultyBackend
from airside.testing.replicas import Replica

StartReplicas = Callable[..., Awaitable[list[Replica]]]
Figures = Callable[..., None]
PATIENT = f"{Path(__file__).with_name('agents.py')}:PatientFind"


async def test_the_backend_hears_nothing_of_the_garbage_collector(replicas: StartReplicas, figures: Figures) -> None:
    """Flyte 2 sends Delete for every finished task an hour after it, twice; by then the service has been restarted."""
    async with FaultyBackend() as backend:
        (replica,) = await replicas(backend.url, seconds=0.3)
        async with EngineModel(replica.address, wire="v2", resync=0.5) as engine:
            outcomes = await asyncio.gather(*(engine.run("faulty_token", f"task{number}") for number in range(2)))
            assert {one.phase for one in outcomes} == {Phase.SUCCEEDED}
            await replica.kill()
            await replica.start()
            for one in [*outcomes, *outcomes]:
                assert await engine.delete("faulty_token", one.handles[-1], one)
        figures("garbage collector", deletes=4, refused=sum(one.failed_deletes for one in outcomes))
        assert backend.calls["DELETE"] == 0
        assert [job.state for job in backend.jobs.values()] == ["SUCCEEDED"] * 2


@pytest.mark.parametrize(
    ("wire", "seconds", "restarted"),
    [
        ("v1", 1.0, False),
        ("v2", 1.0, True),
        pytest.param("v1", 60.0, True, marks=pytest.mark.faults),
        pytest.param("v2", 60.0, False, marks=pytest.mark.faults),
    ],
)
async def test_the_next_attempt_waits_for_a_slow_delete(
    replicas: StartReplicas, figures: Figures, wire: Wire, seconds: float, *, restarted: bool
) -> None:
    async with FaultyBackend(cancel_seconds=seconds) as backend:
        (replica,) = await replicas(backend.url, agents=[PATIENT], seconds=100_000.0)
        async with EngineModel(replica.address, wire=wire, resync=0.2) as engine:
            outcome = Outcome("s3://bucket/run/n0/data")
            first = await engine.create("faulty_find", outcome)
            assert first is not None
            began = time.monotonic()
            assert await engine.delete("faulty_find", first, outcome)
            accepted = time.monotonic() - began
            if restarted:
                await replica.kill()
                await replica.start()
            else:
                resource = await engine.ask("faulty_find", first, outcome)
                assert resource.phase == Phase.ABORTED
            second = await engine.create("faulty_find", outcome)
            assert second is not None
            while len(backend.jobs) < 2:
                await asyncio.sleep(0.02)
        one, two = backend.jobs.values()
        waited = two.made_at - began
        figures(
            f"delete that takes {seconds:g} s, {wire}{', restarted' if restarted else ''}",
            accepted_after=f"{accepted:.2f} s",
            next_attempt_after=f"{waited:.2f} s",
        )
        assert accepted < 1.0
        assert two.made_at >= (one.cancelled_at or 0.0)
        assert waited < seconds * 1.6 + 2.0
