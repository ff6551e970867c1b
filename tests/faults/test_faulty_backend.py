"""A backend that fails at random: no task is frozen or wrongly failed, no poll fails, and ends are told in time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.faults.flytekit_service import PYFLYTE, serving

from airside.model import Phase
from airside.server.refresh import LEAD, SLACK
from airside.testing.engine_model import EngineModel, Outcome
from airside.testing.faulty import PATIENCE, BackendCheck, BackendJob, FaultyBackend
from airside.testing.replicas import Replica

PATIENT = f"{Path(__file__).with_name('agents.py')}:PatientToken"
MAX_WAIT = 2.0  # seconds for which the service lets an ask wait
WAY = 0.1  # seconds from the backend's answer through the service to the engine
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
    """How many asks came long enough after the job's end, and since the service knew of it, and did not tell it."""
    return sum(ask >= knowable(job) + lead for ask in outcome.asks) - 1


def knowable(job: BackendJob) -> float:
    """When the job was over, and its id had come back to the service."""
    return max(job.ends_at, job.known_at)


LATENCY = (0.05, 2.0)
FULL: dict[str, Any] = {"jobs": 1000, "resync": 30.0, "seconds": 120.0}


@pytest.mark.parametrize(
    ("jobs", "resync", "seconds", "latency"),
    [
        pytest.param(100, 3.0, 6.0, (0.01, 0.2), id="short"),
        pytest.param(*FULL.values(), LATENCY, id="full", marks=pytest.mark.faults),
    ],
)
async def test_faults_cost_no_task(
    replicas: StartReplicas,
    figures: Figures,
    jobs: int,
    resync: float,
    seconds: float,
    latency: tuple[float, float],
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
    windows = [Window.of(one, job_of(one, by_id), lead) for one in late]
    unexcused = [window for window in windows if not window.is_excuse]
    frozen = sum(one.is_frozen for one in outcomes)
    failed_polls = sum(one.failed_polls for one in outcomes)
    figures(
        f"{jobs} jobs, 30 % faults, p95 {backend.p95:.2f} s",
        frozen=frozen,
        wrongly_failed=len(wrong),
        failed_GetTask=failed_polls,
        of=sum(len(one.asks) for one in outcomes),
        ends_told_late=len(late),
        since_each_call_in_between_failed=len(late) - len(unexcused),
        fewest_calls_in_between=min((len(window.calls) for window in windows), default="-"),
        backend_calls=sum(backend.calls.values()),
        of_them_failed=sum(backend.failed.values()),
    )
    assert (frozen, failed_polls) == (0, 0)
    assert not unexcused, "\n".join(map(str, unexcused))


@dataclass(frozen=True, slots=True)
class Window:
    """The seconds from a job's end to the answer of the ask that should have told it, and the calls that fell into it.

    Times are counted from that ask, which was the `number`th. `found` is how many calls had gone well before, `limit`
    the seconds after which the service gives a call up. No call of this backend takes so long by itself.
    """

    number: int
    end: float
    answer: float
    found: int
    calls: list[BackendCheck]
    limit: float

    @classmethod
    def of(cls, outcome: Outcome, job: BackendJob, lead: float) -> Window:
        number, ask = next((n, ask) for n, ask in enumerate(outcome.asks) if ask >= knowable(job) + lead)
        end, answer = knowable(job) - ask, outcome.answers[number] - ask
        ended = [min(check.ended, check.began + PATIENCE) for check in job.checks]  # it may hang for ever
        calls = [
            BackendCheck(check.began - ask, over - ask, check.fault)
            for check, over in zip(job.checks, ended, strict=True)
        ]
        found = sum(not check.fault and check.ended <= end for check in calls)
        within = [one for one in calls if one.began < answer and one.ended > end]
        return cls(number, end, answer, found, within, lead - LEAD + SLACK)

    @property
    def is_excuse(self) -> bool:
        """True if the service could not know: it asked, and whatever it asked since the end failed or took too long.

        Where it could expect the ask, one call that failed is no excuse, unless as many went well before as there were
        asks, and one more: so many are all that it may make.
        """
        may_ask_ahead = self.number > 1 and self.found <= self.number
        late = max(0.0, self.answer - MAX_WAIT)  # the machine's doing, which held up the call as well
        news = [one for one in self.calls if one.began >= self.end and not one.fault]
        news = [one for one in news if one.ended - one.began < self.limit]  # else the machine's doing too
        told = [one for one in news if one.ended < self.answer - late - WAY]
        return not told and len(self.calls) > may_ask_ahead


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
