"""What a refresh means for a job: found, missing or faulty. Pure: no I/O, no clock of its own.

Flyte's engines count failed polls over a task's whole life and stop polling at the sixth. So a fault is answered with
the last known phase and a message; only a fault that lasts ends the job, and as something that can be retried.
"""

from __future__ import annotations

import random
from dataclasses import replace

from airside.model import NotFound, Phase, Resource, Retry
from airside.server.job import Job, nothing_known
from airside.wire.status import sentence

MIN_FAILURES = 20
"""Refreshes that must fail in a row before a job is given up."""
MISSES = 3
"""`NotFound` answers before a job counts as gone ..."""
MISSING_FOR = 60.0
"""... over at least this many seconds, and never in a job's first minute: backends list new jobs late."""
FIRST_BACKOFF = 0.25
MAX_BACKOFF = 60.0
MAX_RETRY_AFTER = 600.0


def found(job: Job, resource: Resource) -> Resource:
    """What the agent says, except that a phase never goes back from what was told within this process."""
    phase: Phase = Phase.RUNNING if resource.phase is Phase.UNDEFINED else resource.phase
    if job.answer and phase.rank < job.resource.phase.rank:
        phase = job.resource.phase
    return resource if phase is resource.phase else replace(resource, phase=phase)


def recovered(job: Job) -> None:
    """A refresh went well: what failed before it no longer counts."""
    job.failures = job.misses = 0
    job.retry_at = 0.0


def missing(job: Job, error: NotFound, now: float, text: str = "") -> Resource:
    """The backend does not show the job. It counts after three times over a minute.

    `text` is what to say of the error, if not its own words.
    """
    job.misses += 1
    if job.misses == 1:
        job.missing_since = now
    text = text or sentence(error)
    if job.misses >= MISSES and now - job.missing_since >= MISSING_FOR and not job.is_young:
        return Resource(Phase.RETRYABLE_FAILED, message=f"The job is gone: {text}", code=error.code)
    job.retry_at = now + _jitter(MISSING_FOR / MISSES)
    return replace(_last(job), message=f"The backend does not show the job: {text}. Asking again.")


def faulty(job: Job, error: Exception, now: float, text: str = "", *, longest: float = MAX_BACKOFF) -> Resource:
    """The refresh failed. The last known phase holds until faults have lasted for `fault_tolerance`.

    `text` is what to say of the error, if not its own words, `longest` the seconds after which to try again at the
    latest.
    """
    job.failures += 1
    if job.failures == 1:
        job.failing_since = now
    text = text or sentence(error)
    lasted = now - job.failing_since
    if lasted >= job.agent.settings.fault_tolerance and job.failures >= MIN_FAILURES:
        message = f"The job could not be checked for {lasted:.0f} s: {text}"
        job.given_up = True
        return Resource(Phase.RETRYABLE_FAILED, message=message, code="BackendUnreachable")
    job.retry_at = now + backoff(job.failures, error, longest)
    job.held_until = now + asked_pause(error)
    return replace(_last(job), message=f"The last check failed: {text}. Trying again.")


def backoff(failures: int, error: Exception, longest: float = MAX_BACKOFF) -> float:
    """Seconds to wait after so many failures in a row: doubling with jitter, and as long as the backend asks for."""
    usual = _jitter(min(longest, FIRST_BACKOFF * 2.0 ** min(failures - 1, 16)))
    return max(usual, asked_pause(error) * random.uniform(1.0, 1.2))  # noqa: S311 - spreads load


def asked_pause(error: Exception) -> float:
    """Seconds for which the backend asks to be left alone."""
    asked = error.after if isinstance(error, Retry) and error.after is not None else 0.0
    return min(asked, MAX_RETRY_AFTER)


def _jitter(seconds: float) -> float:
    return seconds * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, guards nothing


def _last(job: Job) -> Resource:
    return job.resource if job.answer else nothing_known(job)
