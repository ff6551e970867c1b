"""What a run tells while it goes on, and how it ended."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airside.model import LogLink, Phase
from airside.model.redaction import redact


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


def readable(handle: bytes) -> str:
    """A job's handle for a person: as text if it is text, else in Base64.

    >>> readable(b'{"id":"job-1"}'), readable(b"\\xff")
    ('{"id":"job-1"}', '/w==')
    """
    try:
        text = handle.decode()
    except UnicodeDecodeError:
        text = ""
    shown = text if text.isprintable() else ""
    return redact(shown) if shown or not handle else base64.b64encode(handle).decode()
