"""How things stand right now: what is read when somebody looks, and costs nothing until then."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Self


class Gauge(StrEnum):
    """What can be read: its name in the metrics, its labels, and what it tells."""

    labels: tuple[str, ...]
    text: str

    def __new__(cls, name: str, labels: tuple[str, ...], text: str) -> Self:
        member = str.__new__(cls, name)
        member._value_ = name
        member.labels = labels
        member.text = text
        return member

    SERVING = "airside_serving", (), "1 while new work is taken; 0 while the service starts or drains."
    AGENTS = "airside_agents", (), "Agents that are served."
    BROKEN = "airside_agents_broken", (), "Agents that could not be loaded or opened."
    IN_FLIGHT = "airside_calls_in_flight", (), "Calls that are being answered."
    JOBS = "airside_jobs_watched", (), "Jobs that are answered from memory."
    HANDLES = "airside_handles", ("key",), "Handles among them, by the key that signed them; none: not signed."
    CREATING = "airside_creates_running", (), "Creates under way."
    PENDING = "airside_creates_pending", (), "Creates under way that were answered before they were done."
    CANCELLING = "airside_jobs_cancelling", (), "Jobs being cancelled, until their backend confirms it."
    UNCERTAIN = "airside_jobs_uncertain", (), "Jobs that may be running although nobody needs them: see /uncertain."
    ASKING = "airside_agent_calls", ("agent",), "Calls of an agent that are under way."
    THREADS = "airside_lane_threads", ("agent", "lane"), "Blocking calls that a lane can carry out at once."
    BUSY = "airside_lane_busy", ("agent", "lane"), "Blocking calls that run or wait for a thread."
    STUCK = "airside_lane_stuck", ("agent", "lane"), "Threads whose call was given up and has not come back."


class LaneLoad(NamedTuple):
    """How busy one lane of an agent is: calls it can carry out at once, calls it has, threads that are stuck."""

    name: str
    size: int
    busy: int
    stuck: int


class Reading(NamedTuple):
    """One value; `labels` are in the order of the gauge's.

    >>> Reading(Gauge.STUCK, 2, ("warehouse", "refresh")).gauge.labels
    ('agent', 'lane')
    """

    gauge: Gauge
    value: float
    labels: tuple[str, ...] = ()
