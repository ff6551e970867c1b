"""What Slurm says of a job, as a phase with a message: a table of its states, and the sum of an array's tasks."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airside.model import Phase, Resource

log = logging.getLogger("airside.agents.slurm")

_MANY = 3  # tasks of an array that are told one by one in a message

PHASES: Mapping[str, Phase] = {
    "BOOT_FAIL": Phase.RETRYABLE_FAILED,
    "CANCELLED": Phase.ABORTED,
    "COMPLETED": Phase.SUCCEEDED,
    "COMPLETING": Phase.RUNNING,
    "CONFIGURING": Phase.INITIALIZING,
    "DEADLINE": Phase.FAILED,
    "EXPEDITING": Phase.RUNNING,
    "FAILED": Phase.RETRYABLE_FAILED,
    "LAUNCH_FAILED": Phase.RETRYABLE_FAILED,
    "NODE_FAIL": Phase.RETRYABLE_FAILED,
    "OUT_OF_MEMORY": Phase.RETRYABLE_FAILED,
    "PENDING": Phase.QUEUED,
    "POWER_UP_NODE": Phase.INITIALIZING,
    "PREEMPTED": Phase.RETRYABLE_FAILED,
    "RECONFIG_FAIL": Phase.RETRYABLE_FAILED,
    "REQUEUED": Phase.QUEUED,
    "REQUEUE_FED": Phase.QUEUED,
    "REQUEUE_HOLD": Phase.QUEUED,
    "RESIZING": Phase.RUNNING,
    "RESV_DEL_HOLD": Phase.QUEUED,
    "REVOKED": Phase.RUNNING,  # a sibling cluster of a federation runs it
    "RUNNING": Phase.RUNNING,
    "SIGNALING": Phase.RUNNING,
    "SPECIAL_EXIT": Phase.QUEUED,
    "STAGE_OUT": Phase.RUNNING,
    "STOPPED": Phase.RUNNING,
    "SUSPENDED": Phase.RUNNING,
    "TIMEOUT": Phase.FAILED,
    "UPDATE_DB": Phase.RUNNING,
}
"""The states that Slurm knows, up to 25.05. A job that failed by itself may be repeated, as Flyte's own tasks are."""

_CODES = {
    "BOOT_FAIL": "NodeFailed",
    "CANCELLED": "Cancelled",
    "DEADLINE": "DeadlineMissed",
    "FAILED": "JobFailed",
    "LAUNCH_FAILED": "NodeFailed",
    "NODE_FAIL": "NodeFailed",
    "OUT_OF_MEMORY": "OutOfMemory",
    "PREEMPTED": "Preempted",
    "RECONFIG_FAIL": "NodeFailed",
    "TIMEOUT": "TimeLimit",
}
_WORDS = {
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "cancelled",
    "DEADLINE": "it could not end before its deadline",
    "LAUNCH_FAILED": "it could not be launched on its node",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "it used more memory than it had asked for",
    "PREEMPTED": "another job took its place",
    "RECONFIG_FAIL": "its node could not be configured",
    "TIMEOUT": "it reached its time limit",
}
_WAITS = {
    "AssocGrpCpuLimit": "the account's limit of processors is reached",
    "BeginTime": "its begin time has not come",
    "Dependency": "it waits for another job",
    "DependencyNeverSatisfied": "the job that it waits for has failed, so it will never start: cancel it",
    "JobHeldAdmin": "an administrator holds it",
    "JobHeldUser": "a user holds it: scontrol release",
    "Licenses": "it waits for a licence",
    "PartitionDown": "its partition is down",
    "Priority": "other jobs come first",
    "QOSMaxJobsPerUserLimit": "the user's limit of running jobs is reached",
    "ReqNodeNotAvail": "a node that it asks for is not available",
    "Resources": "it waits for resources",
}
_NOTHING_TO_SAY = ("", "None", "(null)", "N/A", "NonZeroExitCode")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One job, or one task of an array: `task` is its index ("3", or "4-9%2" for some that wait), empty if it is none.

    `status` is the exit status, `signal` the signal that ended it; times are as Slurm writes them. It has run for so
    many `seconds` on so many `cpus`; 0 if Slurm does not tell.
    """

    job_id: str
    task: str = ""
    state: str
    reason: str = ""
    status: int = 0
    signal: int = 0
    start: str = ""
    end: str = ""
    nodes: str = ""
    comment: str = ""
    cpus: int = 0
    seconds: int = 0

    @property
    def phase(self) -> Phase:
        """Where this row stands. A state that nobody here knows counts as RUNNING."""
        phase = PHASES.get(self.state)
        if phase is None:
            log.warning("Slurm names a state that is not in the table, taken for RUNNING: %s", self.state)
            return Phase.RUNNING
        if phase is Phase.QUEUED and self.reason == "Resources":
            return Phase.WAITING_FOR_RESOURCES
        return phase


def describe(row: Row) -> str:
    """A row in words: "FAILED: exited with 3".

    >>> describe(Row(job_id="7", state="FAILED", status=3, reason="NonZeroExitCode"))
    'FAILED: exited with 3'
    >>> describe(Row(job_id="7", state="PENDING", reason="Priority"))
    'PENDING: other jobs come first'
    """
    words = []
    if row.phase.is_failure:
        words.append(_WORDS.get(row.state, ""))
        if row.signal:
            words.append(f"killed by {_signal_name(row.signal)}")
        elif row.status:
            words.append(f"exited with {row.status}")
    if not any(words) and row.reason not in _NOTHING_TO_SAY:
        words.append(_WAITS.get(row.reason, row.reason))
    told = ", ".join(filter(None, words))
    return f"{row.state}: {told}" if told else row.state


def summarise(rows: Sequence[Row]) -> Resource:
    """What is known of a job by its rows: its own, or those of its array's tasks. Not for no rows at all.

    >>> done = Row(job_id="7", task="0", state="COMPLETED")
    >>> summarise([done, Row(job_id="7", task="1", state="FAILED", status=1)]).message
    '1 of 2 tasks failed: task 1 FAILED: exited with 1'
    """
    rows = sorted(rows, key=lambda row: _first(row.task))
    info = _facts(rows)
    if len(rows) == 1 and not rows[0].task:
        [row] = rows
        return Resource(row.phase, message=describe(row), code=_code(row), info=info)
    unfinished = [row for row in rows if not row.phase.is_terminal]
    failed = [row for row in rows if row.phase.is_failure]
    if unfinished:
        phase = max((row.phase for row in rows if not row.phase.is_terminal), key=lambda one: one.rank)
        if len(unfinished) < len(rows):
            phase = Phase.RUNNING
        return Resource(phase, message=_counts(rows), info=info)
    if not failed:
        return Resource(Phase.SUCCEEDED, message=_counts(rows), info=info)
    phases = {row.phase for row in failed}
    worst = next(one for one in (Phase.FAILED, Phase.RETRYABLE_FAILED, Phase.ABORTED) if one in phases)
    told = "; ".join(f"task {row.task} {describe(row)}" for row in failed[:_MANY])
    more = f"; and {len(failed) - _MANY} more" if len(failed) > _MANY else ""
    message = f"{len(failed)} of {len(rows)} tasks failed: {told}{more}"
    code = _code(next(row for row in failed if row.phase is worst))
    return Resource(worst, message=message, code=code, info=info)


def is_id(text: str) -> bool:
    """True for what can be the id of a job: handles come from outside.

    >>> is_id("7"), is_id("7; rm -rf /")
    (True, False)
    """
    return text.isascii() and text.isdigit()


def state_of(text: str) -> str:
    """The bare state: Slurm may say who cancelled a job, or cut a long name and mark it with a plus.

    >>> state_of("CANCELLED by 0"), state_of("OUT_OF_ME+"), state_of("COMPLETED")
    ('CANCELLED', 'OUT_OF_MEMORY', 'COMPLETED')
    """
    word = text.split(maxsplit=1)[0].upper() if text.split() else ""
    if word.endswith("+"):
        word = next((state for state in PHASES if state.startswith(word[:-1])), word[:-1])
    return word


def exit_of(text: str) -> tuple[int, int]:
    """Exit status and signal, from Slurm's `status:signal` or from a raw wait status.

    >>> exit_of("3:0"), exit_of("0:9"), exit_of("768"), exit_of("9"), exit_of("N/A")
    ((3, 0), (0, 9), (3, 0), (0, 9), (0, 0))
    """
    first, colon, second = text.strip().partition(":")
    if not first.isdigit():
        return 0, 0
    if colon:
        return int(first), int(second) if second.isdigit() else 0
    return int(first) >> 8 & 0xFF, int(first) & 0x7F


def seconds_of(text: str) -> int:
    """How long a job has run, as squeue writes it: D-H:M:S, of which the first parts may be left out.

    >>> seconds_of("1-02:03:04"), seconds_of("2:05"), seconds_of("INVALID")
    (93784, 125, 0)
    """
    days, _, time = text.strip().rpartition("-")
    parts = [days or "0", *("0:0:" + time).split(":")[-3:]]
    if not all(part.isdigit() for part in parts):
        return 0
    day, hours, minutes, seconds = map(int, parts)
    return ((day * 24 + hours) * 60 + minutes) * 60 + seconds


def _code(row: Row) -> str:
    return _CODES.get(row.state, "JobFailed") if row.phase.is_failure else ""


def _counts(rows: Sequence[Row]) -> str:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + _size(row.task)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def _size(task: str) -> int:
    """How many tasks an index stands for: "0-9:3,12%2" is five."""
    size = 0
    for part in task.strip("[]").partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        if first.isdigit() and last.isdigit():
            size += len(range(int(first), int(last) + 1, int(step) if step.isdigit() else 1))
        else:
            size += 1
    return size


def _first(task: str) -> int:
    digits = re.match(r"\[?(\d+)", task)
    return int(digits[1]) if digits else 0


def _facts(rows: Sequence[Row]) -> Mapping[str, Any]:
    first = rows[0]
    facts: dict[str, Any] = {"slurm_job_id": first.job_id, "slurm_state": first.state}
    if first.task:
        facts["slurm_state"] = _counts(rows)
        facts["tasks"] = sum(_size(row.task) for row in rows)
    told = {"nodes": first.nodes, "start_time": first.start, "end_time": first.end if first.phase.is_terminal else ""}
    facts |= {name: value for name, value in told.items() if value and value not in ("N/A", "Unknown", "None assigned")}
    used = sum(row.cpus * row.seconds for row in rows)
    cost = {"cpus": sum(row.cpus for row in rows), "cpu_seconds": used}
    if not first.task:
        cost["seconds"] = first.seconds
    facts |= {name: value for name, value in cost.items() if value}
    if first.phase.is_terminal and not first.task:
        facts |= {"exit_status": first.status, "signal": first.signal}
    return facts


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
