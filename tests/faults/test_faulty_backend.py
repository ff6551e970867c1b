"""A backend that fails at random: no task is frozen or wrongly failed, no poll fails, and ends are told in time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.faults.flytekit_service import PYFLYTE, serving

from airside.model import Phase
from airside.testing.engine_model import EngineModel, Outcome
from airside.testing.faulty import BackendJob, FaultyBackend
from airside.testing.replicas import Replica

PATIENT = f"{Path(__file__).with_name('agents.py')}:PatientToken"
MAX_WAIT = 1.9  # seconds that an ask waits, less what the way takes
StartReplicas = Callable[..., Awaitable[list[Replica]]]
Figures = Callable[..., None]


async def drive(address: str, jobs: int, resync: float, seconds: float) -> list[Outcome]:
    """Run so many tasks, begun over one resync, each of about `seconds`, with an engine like Flyte's."""
    chance = random.Random(1)  # noqa: S311 - repeatable
    async with EngineModel(address, resync=resync) as engine:

        async def one(number: int) -> Outcome:
            await asyncio.sleep(chance.uniform(0, resync))
            config = {"seconds": chance.uniform(0.2, 1.8) * seconds}
            return await engine.run("faulty_token", f"task{number}", config=config)

        return await asyncio.gather(*(one(number) for number in range(jobs)))


def lateness(outcome: Outcome, job: BackendJob, lead: float) -> int:
    """How many asks came long enough after the job's end and did not tell it."""
    return sum(ask >= job.ends_at + lead for ask in outcome.asks) - 1


LATENCY = (0.05, 2.0)
FULL: dict[str, Any] = {"jobs": 1000, "resync": 30.0, "seconds": 120.0}


@pytest.mark.parametrize(
    ("jobs", "resync", "seconds", "latency", "allowed"),
    [
        pytest.param(100, 3.0, 6.0, (0.01, 0.2), 2, id="short"),
        pytest.param(*FULL.values(), LATENCY, 15, id="full", marks=pytest.mark.faults),
    ],
)
async def test_faults_cost_no_task(
    replicas: StartReplicas,
    figures: Figures,
    jobs: int,
    resync: float,
    seconds: float,
    latency: tuple[float, float],
    allowed: int,
) -> None:
    async with FaultyBackend(faults=0.3, latency=latency, seed=7) as backend:
        (replica,) = await replicas(backend.url, agents=[PATIENT])
        outcomes = await drive(replica.address, jobs, resync, seconds)
        by_id = {job.key: job for job in backend.jobs.values()}
        assert len(by_id) == len(backend.jobs), "two jobs for one key"
    wrong = [one for one in outcomes if one.phase is not Phase.SUCCEEDED]
    assert not wrong, [(one.phase.name, one.message, one.create_errors) for one in wrong]
    lead = backend.p95 + 1.0
    late = [one for one in outcomes if lateness(one, job_of(one, by_id), lead) > 0]
    unlucky = [one for one in late if no_call_went_well(one, job_of(one, by_id), lead)]
    unlearnt = [one for one in late if one not in unlucky and job_of(one, by_id).ends_at <= one.asks[1]]
    frozen = sum(one.is_frozen for one in outcomes)
    failed_polls = sum(one.failed_polls for one in outcomes)
    figures(
        f"{jobs} jobs, 30 % faults, p95 {backend.p95:.2f} s",
        frozen=frozen,
        wrongly_failed=len(wrong),
        failed_GetTask=failed_polls,
        of=sum(len(one.asks) for one in outcomes),
        ends_told_late=len(late),
        since_no_call_in_between_went_well=len(unlucky),
        since_the_second_ask_was_the_first_to_tell_the_period=len(unlearnt),
        backend_calls=sum(backend.calls.values()),
        of_them_failed=sum(backend.failed.values()),
    )
    assert (frozen, failed_polls) == (0, 0)
    assert len(late) - len(unlucky) - len(unlearnt) <= allowed


def no_call_went_well(outcome: Outcome, job: BackendJob, lead: float) -> bool:
    """True if the backend told nobody of the job's end in time for the ask that should have told it."""
    should = next(ask for ask in outcome.asks if ask >= job.ends_at + lead)
    return not any(began >= job.ends_at and ended <= should + MAX_WAIT for began, ended in job.checks)


def job_of(outcome: Outcome, jobs: dict[str, BackendJob]) -> BackendJob:
    from airside.server.handle import unseal

    return jobs[unseal(outcome.handles[-1]).key]


@pytest.mark.faults
@pytest.mark.skipif(not PYFLYTE.exists(), reason="flytekit's environment is missing; `make faults` makes it")
async def test_the_same_with_flytekits_service(figures: Figures) -> None:
    async with FaultyBackend(faults=0.3, latency=LATENCY, seed=7) as backend, serving(backend.url) as address:
        outcomes = await drive(address, **FULL)
    jobs = list(backend.jobs.values())
    finished = [one for one in outcomes if one.phase is Phase.SUCCEEDED]
    failed = [one for one in outcomes if one.create_errors]
    figures(
        f"flytekit: {len(outcomes)} jobs, 30 % faults",
        frozen=sum(one.is_frozen for one in outcomes),
        failed_in_create=len(failed),
        of_them_with_a_job_that_nobody_knows=len(jobs) - (len(outcomes) - len(failed)),
        succeeded=len(finished),
        failed_GetTask=sum(one.failed_polls for one in outcomes),
        of=sum(len(one.asks) for one in outcomes),
        backend_calls=sum(backend.calls.values()),
    )
    assert len(finished) + len(failed) + sum(one.is_frozen for one in outcomes) == len(outcomes)
