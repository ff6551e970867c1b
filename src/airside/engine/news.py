"""What of a step is kept: a restart must know of some changes, a job's history tells of fewer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from airside.engine.database import Event
from airside.engine.ending import Step
from airside.engine.job import Job, changed
from airside.model import LogLink
from airside.model.redaction import redact

_DURABLE = ("meta", "links", "abort", "verdict", "deletes", "fetched", "faulty_since", "missing_since", "job_may_live")


class News(NamedTuple):
    """What is written of a step, without secrets: the job, and an event if its history tells of it."""

    job: Job
    event: Event | None


def news(before: Job, after: Step, now: float) -> News | None:
    """What is to be kept of a step; None if it is nothing.

    How often a job was polled, and when it is next, need no fsync.
    """
    job, note = after.job, after.note
    if not note and (before is job or not _is_news(before, job)):
        return None
    kept, event = _without_secrets(job), None
    if note or _story(before) != _story(job):
        event = Event(
            job=job.id,
            at=now,
            attempt=job.attempt,
            stage=job.stage,
            phase=job.phase,
            message=kept.message,
            note=redact(note),
        )
    return News(kept, event)


def _without_secrets(job: Job) -> Job:
    """The job as it may lie on a disk; secrets are in what agents say."""
    said: dict[str, Any] = {}
    if job.message and (message := redact(job.message)) != job.message:
        said["message"] = message
    if job.trouble and (trouble := redact(job.trouble)) != job.trouble:
        said["trouble"] = trouble
    if job.verdict is not None and (message := redact(job.verdict.message)) != job.verdict.message:
        said["verdict"] = replace(job.verdict, message=message)
    if job.links and (links := tuple(LogLink(redact(one.uri), redact(one.name)) for one in job.links)) != job.links:
        said["links"] = links
    return changed(job, **said) if said else job


def _is_news(before: Job, after: Job) -> bool:
    return _story(before) != _story(after) or any(getattr(before, name) != getattr(after, name) for name in _DURABLE)


def _story(job: Job) -> tuple[Any, ...]:
    """What of a job belongs into its history."""
    return job.attempt, job.stage, job.phase, job.message, job.code
