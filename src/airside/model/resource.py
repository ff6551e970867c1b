"""What is known of a remote job: its phase, message, outputs, links, log lines and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from airside.model.phase import Phase


@dataclass(frozen=True, slots=True)
class OutputsAt:
    """The outputs are not values but a file that the job wrote: `uri/outputs.pb`.

    On a failed phase the service reads `uri/error.pb` instead, if it is there.

    >>> OutputsAt("s3://bucket/run/0").uri
    's3://bucket/run/0'
    """

    uri: str


@dataclass(frozen=True, slots=True)
class LogLink:
    """A link that Flyte's console shows beside the task.

    >>> LogLink("https://example.org/jobs/1", "Job").name
    'Job'
    """

    uri: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a job's log. `cursor` is where the next page would begin, as the agent counts.

    `originator` is "user", "system" or empty; `timestamp` is timezone-aware.

    >>> LogLine("3 rows read", originator="user", cursor="17").cursor
    '17'
    """

    message: str
    timestamp: datetime | None = None
    originator: str = ""
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One series of a job's metrics: (time, value) points under a name and labels.

    >>> from datetime import UTC
    >>> Metric("cpu", [(datetime(2024, 1, 2, tzinfo=UTC), 0.5)], {"pod": "a"}).points[0][1]
    0.5
    """

    name: str
    points: Sequence[tuple[datetime, float]]
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Resource:
    """What an agent knows of its job.

    `message` is one line for the person who waits. `outputs` are Python values by name, or `OutputsAt`,
    or None if there are none to tell. `info` is anything JSON that Flyte's console may show.
    `code` is the error code of a failure. `poll_after` is the number of seconds until asking again
    makes sense, if the agent knows. A phase may be given as Flyte's number, too; for anything else, and for a
    `poll_after` that is no number, it raises `TypeError`.

    >>> Resource(Phase.SUCCEEDED, outputs={"o0": 3}).outputs
    {'o0': 3}
    """

    phase: Phase
    message: str = field(default="", kw_only=True)
    outputs: Mapping[str, Any] | OutputsAt | None = field(default=None, kw_only=True)
    links: Sequence[LogLink] = field(default=(), kw_only=True)
    info: Mapping[str, Any] | None = field(default=None, kw_only=True)
    code: str = field(default="", kw_only=True)
    poll_after: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if type(self.phase) is not Phase:
            object.__setattr__(self, "phase", _phase(self.phase))
        if self.poll_after is not None and not isinstance(self.poll_after, (int, float)):
            raise TypeError(f"poll_after must be a number of seconds or None, not {self.poll_after!r}")


def _phase(given: object) -> Phase:
    """The phase that Flyte's own number stands for; anything else is a mistake to show where it is made."""
    if isinstance(given, int) and not isinstance(given, bool) and given in set(Phase):
        return Phase(given)
    raise TypeError(f"phase must be a Phase, such as Phase.RUNNING, not {given!r}")
