"""A job for a person: one line, or its history with a bar for every stretch of time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from airside.cli.durations import write_duration
from airside.engine.calls import FROM_CACHE
from airside.engine.database import Event, Record
from airside.engine.job import Stage
from airside.engine.progress import readable
from airside.model import Phase
from airside.wire.ending import without_code

BAR = 30
HANDLE_SHOWN = 100
_DOING = {
    Stage.WAITING: "waiting to begin",
    Stage.CREATING: "being created",
    Stage.CANCELLING: "being cancelled",
    Stage.CONFIRMING: "being cancelled",
}


def summary(record: Record, *, age: bool = True) -> str:
    """One line about a job."""
    job = record.job
    took = write_duration((job.finished_at or time.time()) - job.queued_at)
    again = f" attempt {job.attempt + 1}" if job.attempt else ""
    said = " ".join(part for part in (job.code, without_code(job.message, job.code)) if part)
    stage = "" if job.stage in (Stage.OVER, Stage.WATCHING, Stage.WAITING) else f" ({job.stage})"
    alive = " (the remote job may still run)" if job.job_may_live else ""
    since = f"  {took:>6}" if age else ""
    return f"{job.id}  {record.task}  {job.phase.name}{stage}{again}{since}  {said}{alive}".rstrip()


def history(record: Record, events: Sequence[Event]) -> Iterator[str]:
    """A line for each event: when, for how long, and what; the bars show where the time went."""
    if not events:
        return
    begin = events[0].at
    end = record.job.finished_at or time.time()
    whole = max(end - begin, 1e-6)
    for event, until in zip(events, [*(one.at for one in events[1:]), end], strict=True):
        left = int(BAR * (event.at - begin) / whole)
        width = max(0, min(BAR - left, round(BAR * (until - event.at) / whole)))
        bar = f"{' ' * left}{'█' * width}".ljust(BAR)
        said = " ".join(part for part in (event.message, f"({event.note})" if event.note else "") if part)
        attempt = f"{event.attempt + 1} "
        line = f"{write_duration(event.at - begin):>6} |{bar}| {attempt}{event.stage} {event.phase.name} {said}"
        yield line.rstrip()


def portrait(record: Record, events: Sequence[Event]) -> Iterator[str]:
    """All there is to see of a job: what it is, its history, where its time went, and its links."""
    yield summary(record)
    for line in (*details(record), *history(record, events)):
        yield f"  {line}"
    spent = where_time_went(record, events)
    if spent:
        yield f"  {spent}"
    for link in record.job.links:
        yield f"  {link.name or 'link'}: {link.uri}"


def where_time_went(record: Record, events: Sequence[Event], now: float | None = None) -> str:
    """One line: how long the job waited, ran, was cancelled, the longest first."""
    if not events:
        return ""
    end = record.job.finished_at or (time.time() if now is None else now)
    spent: dict[str, float] = {}
    for event, until in zip(events, [*(one.at for one in events[1:]), end], strict=True):
        if event.stage is not Stage.OVER:
            what = _DOING.get(event.stage) or event.phase.name.lower().replace("_", " ")
            if event.phase is Phase.WAITING_FOR_RESOURCES:
                what = "waiting for resources"
            spent[what] = spent.get(what, 0.0) + until - event.at
    whole = sum(spent.values()) or 1.0
    longest = sorted(spent.items(), key=lambda one: -one[1])
    return ", ".join(f"{write_duration(took)} {what} ({took / whole:.0%})" for what, took in longest)


def details(record: Record) -> Iterator[str]:
    """What a job is, in lines of a name and a value."""
    job = record.job
    yield f"task type  {record.task_type}"
    yield f"submitted  {_iso(job.queued_at)}"
    yield f"attempt    {job.attempt + 1} of at most {job.retries + 1}"
    if job.timeout is not None:
        yield f"timeout    {write_duration(job.timeout)} for an attempt"
    where = record.source.get("endpoint") or record.source.get("config") or record.source.get("file")
    if where:
        yield f"runs by    {where}"
    if record.cache_key:
        yield f"cache      {'outputs of an earlier job' if is_cached(record) else 'outputs are kept for later jobs'}"
    if job.meta:
        yield f"handle     {_shortened(readable(job.meta))}"
    yield f"folder     {record.root}"


def _shortened(text: str) -> str:
    return text if len(text) <= HANDLE_SHOWN else f"{text[:HANDLE_SHOWN]}... ({len(text)} characters)"


def described(record: Record) -> dict[str, Any]:
    """A job for a program. Times are ISO 8601 in UTC."""
    job = record.job
    return {
        "job": job.id,
        "task": record.task,
        "task_type": str(record.task_type),
        "phase": job.phase.name,
        "stage": job.stage.value,
        "code": job.code,
        "message": job.message,
        "attempt": job.attempt + 1,
        "retries": job.retries,
        "links": [{"name": link.name, "uri": link.uri} for link in job.links],
        "handle": readable(job.meta),
        "submitted": _iso(job.queued_at),
        "finished": None if job.finished_at is None else _iso(job.finished_at),
        "job_may_live": job.job_may_live,
        "folder": record.root,
        "cached": is_cached(record),
    }


def is_cached(record: Record) -> bool:
    """True if the job took its outputs from an earlier one."""
    job = record.job
    return bool(record.cache_key) and job.phase.is_success and job.message.endswith(FROM_CACHE)


def write_time(event: Event) -> dict[str, Any]:
    """An event for a program."""
    return {
        "at": _iso(event.at),
        "attempt": event.attempt + 1,
        "stage": event.stage.value,
        "phase": event.phase.name,
        "message": event.message,
        "note": event.note,
    }


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
