"""What a run tells while it goes on, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airside.model import LogLink, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One piece of news of a run. `elapsed` is in seconds since the run began; attempts count from 0.

    `note` is about the run and not about the job: that a poll failed, that another attempt follows, that the
    job is being cancelled.
    """

    run_id: str
    attempt: int
    phase: Phase
    message: str = ""
    links: Sequence[LogLink] = ()
    elapsed: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. `outputs` is empty unless it succeeded.

    `detached` is True if the run was left before the end. `job_may_live` is True if the job is not known to be
    over: it was left, or could not be cancelled. `handle` is what the agent calls the job, for a person to read.
    """

    run_id: str
    phase: Phase
    message: str = ""
    code: str = ""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    links: Sequence[LogLink] = ()
    elapsed: float = 0.0
    attempts: int = 1
    handle: str = ""
    detached: bool = False
    job_may_live: bool = False
