"""What the engine knows of a job, what may be observed of it, and what may be done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from math import inf

from airside.engine.copier import copier
from airside.model import LogLink, Phase, Resource


class Stage(StrEnum):
    """Where a job stands with the engine."""

    WAITING = "waiting"
    CREATING = "creating"
    WATCHING = "watching"
    CANCELLING = "cancelling"
    CONFIRMING = "confirming"
    OVER = "over"


class Action(StrEnum):
    """What the machine asks for; the answer comes back as an observation."""

    CREATE = "create"
    RECREATE = "recreate"
    """Create again what may exist already: the engine died before the answer was kept."""
    GET = "get"
    DELETE = "delete"
    INTERRUPT = "interrupt"
    """Give up a sync call that is under way; a create is never given up."""


class Trouble(Enum):
    """Why the agent cannot say how a job stands."""

    AWAY = "away"
    """It does not answer, or fails; it may answer later."""
    MISSING = "missing"
    """It does not know the job."""
    NONSENSE = "nonsense"
    """It refuses the question for good, or answers what nobody understands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How jobs of one agent are driven; times are in seconds.

    With `quick` the first polls come at short intervals that grow to `poll_interval`. An agent that is away is given
    up after more than `max_system_failures` failures in a row over at least `fault_tolerance`, or over
    `unfetched_tolerance` if it never answered for this job. A job counts as lost after `misses` answers in a row
    that it is unknown, over `missing_for`, and not before it is that old. `repeats_create` says that creating the
    same attempt twice makes one job, or finds it.
    """

    poll_interval: float = 30.0
    quick: bool = False
    max_system_failures: int = 5
    fault_tolerance: float = 7200.0
    unfetched_tolerance: float = 60.0
    misses: int = 3
    missing_for: float = 60.0
    delete_tries: int = 10
    cancel_patience: float = 300.0
    delete_finished: bool = False
    repeats_create: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How an attempt will have ended once its job is cancelled. `dead`: the job is known to be over already."""

    phase: Phase
    code: str = ""
    message: str = ""
    dead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of a task. `due` is when to act next (infinite while an answer is awaited); attempts count from 0.

    `timeout` bounds one attempt, from the answer to its create on; `active_timeout` bounds them all, from
    `queued_at` on. `job_may_live` is True if it ended without the remote job being known to be over.
    """

    id: str
    queued_at: float = 0.0
    due: float = 0.0
    retries: int = 0
    timeout: float | None = None
    active_timeout: float | None = None
    stage: Stage = Stage.WAITING
    attempt: int = 0
    phase: Phase = Phase.QUEUED
    message: str = ""
    code: str = ""
    links: tuple[LogLink, ...] = ()
    meta: bytes = b""
    created_at: float | None = None
    polls: int = 0
    fetched: bool = False
    faults: int = 0
    faulty_since: float | None = None
    misses: int = 0
    missing_since: float | None = None
    trouble: str = ""
    deletes: int = 0
    cancelled_at: float | None = None
    abort: bool = False
    verdict: Verdict | None = None
    job_may_live: bool = False
    finished_at: float | None = None
    rules: Rules = field(default_factory=Rules, compare=False, repr=False)

    @property
    def deadline(self) -> float:
        """When the attempt, or the whole run, has taken too long; infinite without a timeout."""
        attempt = inf if self.timeout is None or self.created_at is None else self.created_at + self.timeout
        return min(attempt, self.last_deadline)

    @property
    def last_deadline(self) -> float:
        """When the whole run has taken too long."""
        return inf if self.active_timeout is None else self.queued_at + self.active_timeout


changed = copier(Job)
"""The job with some fields changed."""


@dataclass(frozen=True, slots=True)
class Due:
    """The time in `due` has come."""


@dataclass(frozen=True, slots=True)
class Held:
    """There is no room for the job now: a quota is used up. Try again after so many seconds."""

    reason: str
    after: float = 1.0


@dataclass(frozen=True, slots=True)
class Abort:
    """Somebody asked to cancel the run."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The engine was started again: whatever was under way is so no more."""


@dataclass(frozen=True, slots=True)
class Created:
    """The create was answered."""

    attempt: int
    meta: bytes
    links: tuple[LogLink, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The create, or a sync call, failed as `resource` says; `after` is when a next attempt makes sense."""

    attempt: int
    resource: Resource
    after: float | None = None
    may_live: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """The agent said how the job stands; the outputs of a job that succeeded are in their file already.

    `outputs` is what that file holds, if a power failure may undo it: to be kept with the end of the job.
    """

    attempt: int
    resource: Resource
    outputs: bytes | None = None


@dataclass(frozen=True, slots=True)
class Faulted:
    """The agent could not say how the job stands."""

    attempt: int
    text: str
    trouble: Trouble = Trouble.AWAY
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """The agent accepted the cancel."""

    attempt: int


@dataclass(frozen=True, slots=True)
class DeleteFailed:
    """The agent did not accept the cancel."""

    attempt: int
    text: str
    after: float | None = None


Observation = Due | Held | Abort | Resumed | Created | Refused | Answered | Faulted | Deleted | DeleteFailed
