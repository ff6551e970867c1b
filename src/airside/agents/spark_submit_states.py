"""Where a Spark driver stands: the states of the standalone master, and what they mean here.

The table is complete as of the Spark that the tests install; one of them fails when Spark knows more. A state that is
not in it is taken for a running one, so that a task outlives a release of Spark.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from airside.model import Phase, Resource

log = logging.getLogger("airside.agents.spark_submit")

STATES: Mapping[str, Phase] = {
    "SUBMITTED": Phase.QUEUED,
    "RUNNING": Phase.RUNNING,
    "RELAUNCHING": Phase.RUNNING,
    "UNKNOWN": Phase.RUNNING,  # while a master recovers
    "FINISHED": Phase.SUCCEEDED,
    "KILLED": Phase.ABORTED,
    "FAILED": Phase.RETRYABLE_FAILED,
    "ERROR": Phase.RETRYABLE_FAILED,
}
"""Every state of a driver."""

_WORDS = {
    "SUBMITTED": "The driver waits for a worker with room for it.",
    "RELAUNCHING": "The driver is started anew.",
    "UNKNOWN": "The master recovers.",
    "KILLED": "The driver was killed.",
    "FAILED": "The driver failed",
    "ERROR": "The driver's worker was lost.",
}
_LAST_LINES = 10
_LONGEST = 2000  # characters of a message
_NOISE = re.compile(
    r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d (TRACE|DEBUG|INFO|WARN) |\s+at |Launch Command: |=+$|WARNING: Using incubator|"
    r"Picked up \w+: |Using Spark's default log4j|Setting default log level|To adjust logging level"
)


def resource_of(state: str, message: str) -> Resource:
    """What is known of a driver by its state and the master's message. Outputs and links are not part of it.

    >>> resource_of("ERROR", "Exception from the cluster:\\njava.io.IOException: no /a.jar\\n\\tat x").message
    'java.io.IOException: no /a.jar'
    """
    phase = STATES.get(state)
    if phase is None:
        log.warning("Spark names a state of a driver that is not in the table: %s", state)
        return Resource(Phase.RUNNING, message=f"Spark says {state}.")
    told = _first_line(message)
    if state == "ERROR" and told:  # the worker could not start it, and another could not either
        return Resource(Phase.FAILED, message=told, code="CannotStart")
    code = {"KILLED": "Canceled", "FAILED": "DriverFailed", "ERROR": "WorkerLost"}.get(state, "")
    return Resource(phase, message=told or _WORDS.get(state, ""), code=code)


def last_words(text: str) -> str:
    """The last lines of a driver's log that Spark itself did not write."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not _NOISE.match(line)]
    return "\n".join(lines[-_LAST_LINES:])[-_LONGEST:]


def _first_line(message: str) -> str:
    """An exception without its trace."""
    lines = [line.strip() for line in message.splitlines()]
    kept = [line for line in lines if line and not line.startswith(("at ", "Exception from the cluster"))]
    return kept[0][:_LONGEST] if kept else ""
