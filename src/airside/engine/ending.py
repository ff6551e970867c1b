"""How an attempt ends: for good, with another attempt after it, or with its job cancelled first."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from airside.engine.job import Action, Job, Stage, Verdict, changed
from airside.engine.pause import backoff
from airside.model import Phase, Resource

EXHAUSTED = "RetriesExhausted|"
"""What begins the code of a failure that another attempt might have mended, as Flyte 1 writes it."""
UNNAMED = "TaskFailedWithError"
"""The code of a failure that its agent gave none."""


class Step(NamedTuple):
    """What follows from an observation: the job now, what to do, and a word about it for a person."""

    job: Job
    actions: tuple[Action, ...] = ()
    note: str = ""


def finished(job: Job, resource: Resource, now: float) -> Step:
    """The remote job is over. ABORTED of its own accord is a failure that no retry mends, as in Flyte."""
    phase, code, message = resource.phase, resource.code, resource.message
    if phase is Phase.ABORTED:
        phase, code = Phase.FAILED, code or "Aborted"
        message = message or "The job was cancelled, but not by this engine."
    if phase.is_success:
        return _over(job, phase, "", message, now)
    verdict = Verdict(phase=phase, code=code or UNNAMED, message=message, dead=True)
    if job.meta and (job.rules.delete_finished or (_may_retry(job, verdict, now) and not job.abort)):
        return cancel(job, verdict, now)
    return conclude(job, verdict, now)


def conclude(job: Job, verdict: Verdict, now: float, *, may_live: bool = False, after: float | None = None) -> Step:
    """The attempt is over: another one follows, or the run is over."""
    job = changed(job, job_may_live=may_live)
    if job.abort:
        message = verdict.message if verdict.phase is Phase.ABORTED or may_live else "Cancelled."
        return _over(job, Phase.ABORTED, "", message, now)
    if may_live or not _may_retry(job, verdict, now):
        return _fail(job, verdict, now)
    wait = backoff(job.attempt + 1, after)
    following = Job(
        id=job.id,
        queued_at=job.queued_at,
        due=min(now + wait, job.last_deadline),
        retries=job.retries,
        timeout=job.timeout,
        active_timeout=job.active_timeout,
        attempt=job.attempt + 1,
        rules=job.rules,
    )
    why = verdict.message or verdict.code or verdict.phase.name
    return Step(following, (), f"attempt {job.attempt + 1} failed ({why}); the next begins in {wait:.1f} s")


def _may_retry(job: Job, verdict: Verdict, now: float) -> bool:
    return verdict.phase.is_retryable and job.attempt < job.retries and now < job.last_deadline


def _fail(job: Job, verdict: Verdict, now: float) -> Step:
    code, message = verdict.code, verdict.message
    if verdict.phase.is_retryable and job.attempt >= job.retries:
        code = f"{EXHAUSTED}{code}"
        if job.retries:
            message = f"{message} (attempt {job.attempt + 1} of {job.retries + 1})".strip()
    return _over(job, Phase.ABORTED if verdict.phase is Phase.ABORTED else Phase.FAILED, code, message, now)


def _over(job: Job, phase: Phase, code: str, message: str, now: float) -> Step:
    return Step(
        changed(job, stage=Stage.OVER, phase=phase, code=code, message=message, verdict=None, due=inf, finished_at=now)
    )


def cancel(job: Job, verdict: Verdict, now: float) -> Step:
    """Have the job cancelled before the attempt ends as `verdict` says."""
    job = changed(
        job, stage=Stage.CANCELLING, verdict=verdict, deletes=0, faults=0, faulty_since=None, cancelled_at=None, due=now
    )
    asked = verdict.phase is Phase.ABORTED
    return Step(job, (), "cancel asked for" if asked else f"cancelling the job: {verdict.message or verdict.code}")


def verdict_of(job: Job) -> Verdict:
    """Why a job is being cancelled."""
    assert job.verdict is not None, "a job is cancelled for a reason"  # noqa: S101 - set by `cancel` alone
    return job.verdict


def too_long(job: Job, now: float) -> Verdict:
    """How an attempt, or the whole run, ends whose time is up."""
    if now >= job.last_deadline:
        text = f"The run took longer than {job.active_timeout:g} s since it was queued."
        return Verdict(phase=Phase.FAILED, code="TimeoutExpired", message=text)
    text = f"The attempt took longer than {job.timeout:g} s."
    return Verdict(phase=Phase.RETRYABLE_FAILED, code="TimeoutExpired", message=text)
