"""What to do next with one attempt of a task: pure decisions on what the agent answered, no clock and no calls.

`Watch` is what is known of the job so far. `answered` and `faulted` take it one answer further and say whether
to ask again, and when, or that the attempt is over. All times are seconds on one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from airside.model import ConversionError, Fail, NotFound, Phase, Resource, Retry
from airside.sdk.agent import AgentSettings

FIRST_POLL = 0.05
GROWTH = 1.5
LONGEST_BACKOFF = 60.0
MISSES = 3
MISSING_FOR = 60.0
"""A job counts as lost after so many `NotFound` in a row over so long a time, and never in its first minute."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What is known of one job: `since` is when it was created, `resource` the last answer that counted."""

    since: float
    resource: Resource = field(default_factory=lambda: Resource(Phase.QUEUED))
    polls: int = 0
    faults: int = 0
    faulty_since: float | None = None
    misses: int = 0
    missing_since: float | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the agent again after so many seconds. `note` says what went wrong, if anything did."""

    after: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """The attempt is over. `job_may_live` is True if it was given up without the job being known dead.

    `error` is the exception that ended it, if one did.
    """

    resource: Resource
    job_may_live: bool = False
    error: Exception | None = None


Step = Ask | End


def answered(watch: Watch, resource: Resource, settings: AgentSettings) -> tuple[Watch, Step]:
    """The agent answered. Phases do not go backwards; an ABORTED of its own accord is a failure.

    >>> watch, step = answered(Watch(since=0.0), Resource(Phase.RUNNING), AgentSettings())
    >>> watch.resource.phase.name, step
    ('RUNNING', Ask(after=0.05, note=''))
    """
    phase = resource.phase
    if phase is Phase.ABORTED:
        message = resource.message or "The job was cancelled, but not by this run."
        resource = replace(resource, phase=Phase.FAILED, message=message, code=resource.code or "Aborted")
    elif phase.rank < watch.resource.phase.rank:
        resource = replace(resource, phase=watch.resource.phase)
    known = Watch(watch.since, resource, watch.polls + 1)
    return known, End(resource) if resource.phase.is_terminal else Ask(pause(known.polls, resource, settings))


def faulted(watch: Watch, error: Exception, now: float, settings: AgentSettings) -> tuple[Watch, Step]:
    """The agent could not answer. Faults are waited out with back-off, up to `fault_tolerance` seconds."""
    match error:
        case Fail():
            return watch, End(_failed(Phase.FAILED, error, error.code), job_may_live=True)
        case NotFound():
            return _missed(watch, error, now)
    since = now if watch.faulty_since is None else watch.faulty_since
    known = replace(watch, faults=watch.faults + 1, faulty_since=since, misses=0, missing_since=None)
    if known.faults > 1 and now - since >= settings.fault_tolerance:
        return known, End(_failed(Phase.RETRYABLE_FAILED, error, "AgentUnreachable"), job_may_live=True)
    return known, Ask(backoff(known.faults, error), told(error))


def pause(polls: int, resource: Resource, settings: AgentSettings) -> float:
    """Seconds until the next poll: as the agent says, else short at first and then its `poll_interval`.

    >>> [round(pause(n, Resource(Phase.RUNNING), AgentSettings(poll_interval=0.1)), 3) for n in (1, 2, 3, 4)]
    [0.05, 0.075, 0.1, 0.1]
    """
    if resource.poll_after is not None:
        return max(FIRST_POLL, resource.poll_after)  # an agent that says 0 must not make us spin
    return min(settings.poll_interval, FIRST_POLL * GROWTH ** min(polls - 1, 50))


def backoff(faults: int, error: Exception | None = None) -> float:
    """Seconds until a failed call is tried again: as the backend asked, else doubling from 0.1 s to a minute."""
    if isinstance(error, Retry) and error.after is not None:
        return max(0.0, error.after)
    return min(LONGEST_BACKOFF, 0.1 * 2.0 ** min(faults - 1, 20))


def refused(error: Exception) -> Resource:
    """How an attempt ends whose create or `do` raised: for good, or so that another attempt may mend it."""
    if isinstance(error, ConversionError):
        return _failed(Phase.FAILED, error, "InputConversionError")
    from airside.wire.status import failure  # as in `told`

    return failure(error)


def told(error: Exception) -> str:
    """What an error says, in one line."""
    from airside.wire.status import sentence  # loads gRPC, which a run that goes well does not need

    return sentence(error)


def goes_on(end: End, attempt: int, retries: int) -> bool:
    """True if another attempt follows this one: never while the job of this one may live. Attempts count from 0."""
    return end.resource.phase.is_retryable and not end.job_may_live and attempt < retries


def _missed(watch: Watch, error: NotFound, now: float) -> tuple[Watch, Step]:
    since = now if watch.missing_since is None else watch.missing_since
    known = replace(watch, misses=watch.misses + 1, missing_since=since)
    long_enough = now - since >= MISSING_FOR and now - watch.since >= MISSING_FOR
    if known.misses >= MISSES and long_enough:
        return known, End(_failed(Phase.RETRYABLE_FAILED, error, error.code))
    return known, Ask(backoff(known.misses, error), told(error))


def _failed(phase: Phase, error: Exception, code: str) -> Resource:
    return Resource(phase, message=told(error), code=code)
