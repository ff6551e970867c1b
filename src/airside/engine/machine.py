"""The life of a job as a table: what is known, what is observed, and what follows. No clock, no calls, no I/O.

    step(job, observation, now) -> Step(job, actions, note)

| stage | means | waits for |
| --- | --- | --- |
| WAITING | an attempt is about to begin | `due` |
| CREATING | the agent is asked to create the job | `Created`, `Refused`, or `Answered` by a sync agent |
| WATCHING | there is a job, and it is polled | `due`, then `Answered` or `Faulted` |
| CANCELLING | it is asked to cancel the job | `due`, then `Deleted`, `DeleteFailed`, or an `Answered` that it is over |
| CONFIRMING | the cancel was accepted, and the end is awaited | `due`, then `Answered` or `Faulted` |
| OVER | nothing more happens | nothing |

It is what Flyte's engines do, but for these: faults are counted in a row, not over a job's life, and a job whose
agent stays away ends in bounded time; deletes that keep failing end too; a job is not retried while the one before may
live; a cancel is waited for. All times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Any

from airside.engine.ending import Step, cancel, conclude, finished, too_long, verdict_of
from airside.engine.job import (
    Abort,
    Action,
    Answered,
    Created,
    Deleted,
    DeleteFailed,
    Due,
    Faulted,
    Held,
    Job,
    Observation,
    Refused,
    Resumed,
    Stage,
    Trouble,
    Verdict,
    changed,
)
from airside.engine.pause import LONGEST_BACKOFF, backoff, poll_pause
from airside.model import Phase


def step(job: Job, observation: Observation, now: float) -> Step:
    """What follows. An answer for another attempt or for nobody any more, and a `Due` before its time, change nothing.

    >>> job, actions, _ = step(Job(id="r1"), Due(), 100.0)
    >>> job.stage, actions
    (<Stage.CREATING: 'creating'>, (<Action.CREATE: 'create'>,))
    >>> job, actions, _ = step(job, Created(0, b"job-7"), 101.0)
    >>> job.stage, job.due
    (<Stage.WATCHING: 'watching'>, 101.0)
    """
    if getattr(observation, "attempt", job.attempt) != job.attempt:
        return Step(job)
    if isinstance(observation, Due) and now < job.due:
        return Step(job)
    row = TABLE.get((job.stage, type(observation)))
    return Step(job) if row is None else row(job, observation, now)


# -- WAITING -----------------------------------------------------------------------------------------------------------


def _begin(job: Job, _: Due, now: float) -> Step:
    if now >= job.last_deadline:
        return conclude(job, too_long(job, now), now)
    return Step(changed(job, stage=Stage.CREATING, phase=Phase.QUEUED, message="", due=inf), (Action.CREATE,))


def _hold(job: Job, held: Held, now: float) -> Step:
    if now >= job.last_deadline:
        return conclude(job, too_long(job, now), now)
    due = min(now + held.after, job.last_deadline)
    return Step(changed(job, phase=Phase.WAITING_FOR_RESOURCES, message=held.reason, due=due))


def _abort_waiting(job: Job, _: Abort, now: float) -> Step:
    text = "Cancelled between two attempts." if job.attempt else "Cancelled before it started."
    return conclude(changed(job, abort=True), Verdict(phase=Phase.ABORTED, message=text), now)


# -- CREATING ----------------------------------------------------------------------------------------------------------


def _created(job: Job, created: Created, now: float) -> Step:
    job = changed(job, meta=created.meta, created_at=now, links=created.links, faults=0, faulty_since=None, trouble="")
    if job.abort:
        return cancel(job, Verdict(phase=Phase.ABORTED, message="Cancelled."), now)
    return Step(changed(job, stage=Stage.WATCHING, due=now))


def _refused(job: Job, refused: Refused, now: float) -> Step:
    resource = refused.resource
    verdict = Verdict(phase=resource.phase, code=resource.code, message=resource.message)
    return conclude(job, verdict, now, may_live=refused.may_live, after=refused.after)


def _answered_at_once(job: Job, answered: Answered, now: float) -> Step:
    if answered.resource.phase.is_terminal:
        return finished(job, answered.resource, now)
    text = f"The sync agent answered {answered.resource.phase.name}, which is not the end."
    return conclude(job, Verdict(phase=Phase.FAILED, code="AgentError", message=text), now)


def _abort_creating(job: Job, _: Abort, __: float) -> Step:
    if job.abort:
        return Step(job)
    return Step(changed(job, abort=True), (Action.INTERRUPT,), "cancel asked for while the job is being created")


def _resume_creating(job: Job, _: Resumed, now: float) -> Step:
    if job.rules.repeats_create:
        return Step(changed(job, due=inf), (Action.RECREATE,), "the answer to the create was lost; asking again")
    return _unknown(job, now)


def _unknown(job: Job, now: float) -> Step:
    text = (
        "The engine was stopped while the job was being created, and the agent cannot tell whether it was: "
        "look for it at the backend, then retry."
    )
    return conclude(job, Verdict(phase=Phase.FAILED, code="CreateUnknown", message=text), now, may_live=True)


def _not_repeated(job: Job, faulted: Faulted, now: float) -> Step:
    """A create that is repeated because its answer was lost must not burn an attempt: there may be a job."""
    if not job.rules.repeats_create:
        return _unknown(job, now)
    since = now if job.faulty_since is None else job.faulty_since
    known = changed(job, faults=job.faults + 1, faulty_since=since, trouble=faulted.text)
    if known.faults > job.rules.max_system_failures and now - since >= job.rules.fault_tolerance:
        verdict = Verdict(phase=Phase.RETRYABLE_FAILED, code="AgentUnreachable", message=faulted.text)
        return conclude(known, verdict, now, may_live=True)
    note = "" if faulted.text == job.trouble else f"the create could not be repeated ({faulted.text}); trying again"
    return Step(changed(known, due=now + backoff(known.faults, faulted.after)), (), note)


def _repeat(job: Job, _: Due, __: float) -> Step:
    return Step(changed(job, due=inf), (Action.RECREATE,))


# -- WATCHING ----------------------------------------------------------------------------------------------------------


def _poll(job: Job, _: Due, now: float) -> Step:
    if now >= job.deadline:
        return cancel(job, too_long(job, now), now)
    given_up = _given_up(job, now)
    if given_up is not None:
        return cancel(job, given_up, now)
    return Step(changed(job, due=inf), (Action.GET,))


def _answered(job: Job, answered: Answered, now: float) -> Step:
    resource = answered.resource
    job = changed(
        job,
        fetched=True,
        polls=job.polls + 1,
        faults=0,
        faulty_since=None,
        misses=0,
        missing_since=None,
        trouble="",
        links=tuple(resource.links) or job.links,
    )
    if resource.phase.is_terminal:
        return finished(job, resource, now)
    pause = poll_pause(job.rules, job.polls, resource.poll_after)
    phase = resource.phase if resource.phase.rank >= job.phase.rank else job.phase
    return Step(changed(job, phase=phase, message=resource.message, due=min(now + pause, job.deadline)))


def _faulted(job: Job, faulted: Faulted, now: float) -> Step:
    pause = poll_pause(job.rules, 1)
    if job.rules.quick or faulted.after is not None:
        pause = max(pause, backoff(job.faults + job.misses + 1, faulted.after))
    if faulted.trouble is Trouble.MISSING:
        job = _missed(job, now)
        if _is_lost(job, now):
            verdict = Verdict(phase=Phase.RETRYABLE_FAILED, code="JobNotFound", message=faulted.text, dead=True)
            return conclude(job, verdict, now)
    else:
        since = now if job.faulty_since is None else job.faulty_since
        job = changed(job, faults=job.faults + 1, faulty_since=since, misses=0, missing_since=None)
    note = f"the agent cannot say how the job stands ({faulted.text}); asking again"
    note = "" if faulted.text == job.trouble else note  # said once
    job = changed(job, trouble=faulted.text, due=min(now + pause, job.deadline))
    if faulted.trouble is Trouble.NONSENSE and job.faults > job.rules.max_system_failures:
        return cancel(job, Verdict(phase=Phase.FAILED, code="MaxSystemFailuresExceeded", message=faulted.text), now)
    return Step(job, (), note)


def _abort_watching(job: Job, _: Abort, now: float) -> Step:
    return cancel(changed(job, abort=True), Verdict(phase=Phase.ABORTED, message="Cancelled."), now)


def _missed(job: Job, now: float) -> Job:
    since = now if job.missing_since is None else job.missing_since
    return changed(job, misses=job.misses + 1, missing_since=since)


def _is_lost(job: Job, now: float) -> bool:
    rules = job.rules
    if job.misses < rules.misses or job.missing_since is None or job.created_at is None:
        return False
    return now - job.missing_since >= rules.missing_for and now - job.created_at >= rules.missing_for


def _given_up(job: Job, now: float) -> Verdict | None:
    """The end of a job whose agent stayed away for too long, at the poll after the last failure."""
    rules = job.rules
    if job.faults <= rules.max_system_failures or job.faulty_since is None:
        return None
    away = now - job.faulty_since
    if not job.fetched and away >= rules.unfetched_tolerance:
        return Verdict(phase=Phase.FAILED, code="AutoRefreshCacheFailed", message=job.trouble)
    if away >= rules.fault_tolerance:
        return Verdict(phase=Phase.RETRYABLE_FAILED, code="AgentUnreachable", message=job.trouble)
    return None


# -- CANCELLING and CONFIRMING ---------------------------------------------------------------------------------------


def _delete(job: Job, _: Due, __: float) -> Step:
    return Step(changed(job, due=inf), (Action.DELETE,))


def _deleted(job: Job, _: Deleted, now: float) -> Step:
    verdict = verdict_of(job)
    if verdict.dead:
        return conclude(job, verdict, now)
    return Step(changed(job, stage=Stage.CONFIRMING, cancelled_at=now, polls=0, due=now), (), "cancel accepted")


def _delete_failed(job: Job, failed: DeleteFailed, now: float) -> Step:
    job = changed(job, deletes=job.deletes + 1)
    if job.deletes < job.rules.delete_tries:
        due = now + min(LONGEST_BACKOFF, backoff(job.deletes, failed.after))
        return Step(changed(job, due=due), (), f"the cancel failed ({failed.text}); trying again")
    verdict = verdict_of(job)
    if verdict.dead:
        return conclude(job, verdict, now)
    text = f"{verdict.message} The job could not be cancelled, so it may still run: {failed.text}".strip()
    return conclude(job, replace(verdict, message=text), now, may_live=True)


def _confirm(job: Job, _: Due, now: float) -> Step:
    if now >= _patience(job):
        verdict = verdict_of(job)
        text = f"{verdict.message} The cancel was accepted, but the job is not known to be over.".strip()
        return conclude(job, replace(verdict, message=text), now, may_live=True)
    return Step(changed(job, due=inf), (Action.GET,))


def _confirmed(job: Job, answered: Answered, now: float) -> Step:
    resource = answered.resource
    if resource.phase.is_success:  # it was faster than the cancel
        return finished(job, resource, now)
    if resource.phase.is_terminal:
        return conclude(job, verdict_of(job), now)
    job = changed(_linked(job, answered), polls=job.polls + 1)
    pause = poll_pause(replace(job.rules, quick=True), job.polls, resource.poll_after)
    return Step(changed(job, due=min(now + pause, _patience(job))))


def _not_confirmed(job: Job, faulted: Faulted, now: float) -> Step:
    if faulted.trouble is Trouble.MISSING:
        return conclude(job, verdict_of(job), now)
    job = changed(job, faults=job.faults + 1)
    due = min(now + backoff(job.faults, faulted.after), _patience(job))
    return Step(changed(job, due=due), (), f"the agent cannot say whether the job is over ({faulted.text})")


def _over_already(job: Job, answered: Answered, now: float) -> Step:
    """The job ended before it was cancelled. What was asked for before the cancel may be answered now, too."""
    if verdict_of(job).dead or not answered.resource.phase.is_terminal:
        return Step(_linked(job, answered))
    return _confirmed(job, answered, now)


def _linked(job: Job, answered: Answered) -> Job:
    links = tuple(answered.resource.links)
    return changed(job, links=links) if links and links != job.links else job


def _abort_cancelling(job: Job, _: Abort, __: float) -> Step:
    if job.abort:
        return Step(job)
    return Step(changed(job, abort=True), (), "cancel asked for; the job is being cancelled already")


def _patience(job: Job) -> float:
    """Until when the end of a cancelled job is awaited."""
    return (job.queued_at if job.cancelled_at is None else job.cancelled_at) + job.rules.cancel_patience


def _at_once(job: Job, _: Resumed, now: float) -> Step:
    return Step(changed(job, due=min(job.due, now)))


def _stay(job: Job, _: Resumed, __: float) -> Step:
    return Step(job)


TABLE: Mapping[tuple[Stage, type[Any]], Callable[[Job, Any, float], Step]] = {
    (Stage.WAITING, Due): _begin,
    (Stage.WAITING, Held): _hold,
    (Stage.WAITING, Abort): _abort_waiting,
    (Stage.WAITING, Refused): _refused,
    (Stage.WAITING, Resumed): _stay,
    (Stage.CREATING, Created): _created,
    (Stage.CREATING, Refused): _refused,
    (Stage.CREATING, Answered): _answered_at_once,
    (Stage.CREATING, Faulted): _not_repeated,
    (Stage.CREATING, Due): _repeat,
    (Stage.CREATING, Abort): _abort_creating,
    (Stage.CREATING, Resumed): _resume_creating,
    (Stage.WATCHING, Due): _poll,
    (Stage.WATCHING, Answered): _answered,
    (Stage.WATCHING, Faulted): _faulted,
    (Stage.WATCHING, Abort): _abort_watching,
    (Stage.WATCHING, Resumed): _at_once,
    (Stage.CANCELLING, Due): _delete,
    (Stage.CANCELLING, Deleted): _deleted,
    (Stage.CANCELLING, DeleteFailed): _delete_failed,
    (Stage.CANCELLING, Answered): _over_already,
    (Stage.CANCELLING, Abort): _abort_cancelling,
    (Stage.CANCELLING, Resumed): _at_once,
    (Stage.CONFIRMING, Due): _confirm,
    (Stage.CONFIRMING, Answered): _confirmed,
    (Stage.CONFIRMING, Faulted): _not_confirmed,
    (Stage.CONFIRMING, Abort): _abort_cancelling,
    (Stage.CONFIRMING, Resumed): _at_once,
}
"""Every row there is; whatever is not here changes nothing."""
