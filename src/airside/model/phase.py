"""The phase of a remote job, and the facts that follow from it."""

from __future__ import annotations

from enum import IntEnum


class Phase(IntEnum):
    """Where a remote job stands. The numbers are Flyte's (`flyteidl.core.TaskExecution.Phase`).

    >>> Phase.RETRYABLE_FAILED.is_terminal, Phase.RETRYABLE_FAILED.is_retryable
    (True, True)
    >>> [phase.name for phase in Phase if phase.is_success]
    ['SUCCEEDED']
    """

    UNDEFINED = 0
    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    ABORTED = 4
    FAILED = 5
    INITIALIZING = 6
    WAITING_FOR_RESOURCES = 7
    RETRYABLE_FAILED = 8

    @property
    def is_terminal(self) -> bool:
        """True if the job is over: it will never change phase again."""
        return self in _TERMINAL

    @property
    def is_success(self) -> bool:
        """True if the job is over and did what was asked."""
        return self is Phase.SUCCEEDED

    @property
    def is_failure(self) -> bool:
        """True if the job is over and did not do what was asked."""
        return self in _TERMINAL and self is not Phase.SUCCEEDED

    @property
    def is_retryable(self) -> bool:
        """True if the job failed in a way that another attempt may mend."""
        return self is Phase.RETRYABLE_FAILED

    @property
    def rank(self) -> int:
        """How far along the job is; within one process an answer never goes back to a lower rank."""
        return _RANK[self]


_TERMINAL = frozenset({Phase.SUCCEEDED, Phase.ABORTED, Phase.FAILED, Phase.RETRYABLE_FAILED})
_RANK = {
    Phase.UNDEFINED: 0,
    Phase.QUEUED: 1,
    Phase.WAITING_FOR_RESOURCES: 1,
    Phase.INITIALIZING: 2,
    Phase.RUNNING: 3,
    Phase.SUCCEEDED: 4,
    Phase.ABORTED: 4,
    Phase.FAILED: 4,
    Phase.RETRYABLE_FAILED: 4,
}
