"""Why a container that Amazon ECS ran has failed, for itself or for AWS Batch: the same words mean the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from airside.agents.aws import words
from airside.model import Phase

_FOR_GOOD = re.compile(
    r"not found|manifest unknown|does not exist|denied|no basic auth|invalid reference", re.IGNORECASE
)
# What is said, the code that it gets, and the phase.
_REASONS: Sequence[tuple[re.Pattern[str], str, Phase]] = [
    (re.compile(r"OutOfMemory"), "OutOfMemory", Phase.RETRYABLE_FAILED),
    (re.compile(r"duration exceeded timeout", re.IGNORECASE), "TimeLimit", Phase.FAILED),
    (re.compile(r"CannotPull(ECR|Image|Container|RegistryCredential)?\w*Error"), "ImagePullFailed", Phase.FAILED),
    (re.compile(r"MISCONFIGURATION|ACTION_REQUIRED"), "Misconfigured", Phase.FAILED),
    (re.compile(r"CAPACITY|Capacity is unavailable"), "NoCapacity", Phase.RETRYABLE_FAILED),
    (re.compile(r"Spot (Task|interruption)|SpotInterruption", re.IGNORECASE), "Preempted", Phase.RETRYABLE_FAILED),
    (
        re.compile(r"Host EC2|TerminationNotice|InfrastructureHealth", re.IGNORECASE),
        "NodeFailed",
        Phase.RETRYABLE_FAILED,
    ),
    (re.compile(r"Cannot(Start|Create)\w*Error|ContainerRuntimeError"), "CannotStart", Phase.FAILED),
    (
        re.compile(r"ResourceInitializationError|TaskFailedToStart|\w*Timeout\w*Error|InternalError"),
        "CannotStart",
        Phase.RETRYABLE_FAILED,
    ),
]


class Reason(NamedTuple):
    """Why a container ended without success."""

    phase: Phase
    code: str
    message: str


def reason_of(told: Sequence[str], exit_code: int | None, last: str = "") -> Reason:
    """The first known reason among what is told, else the exit code with the container's last words.

    >>> reason_of(["OutOfMemoryError: Container killed due to memory usage"], 137).code
    'OutOfMemory'
    >>> reason_of(["Essential container in task exited"], 3, "ValueError: no wings").message
    'exited with 3: ValueError: no wings'
    """
    texts = list(dict.fromkeys(words(text) for text in told if text))
    for pattern, code, phase in _REASONS:
        for text in texts:
            if pattern.search(text):
                passes = code == "ImagePullFailed" and not _FOR_GOOD.search(text)
                return Reason(Phase.RETRYABLE_FAILED if passes else phase, code, text)
    if exit_code:
        message = f"exited with {exit_code}"
        return Reason(Phase.RETRYABLE_FAILED, "ContainerFailed", f"{message}: {last}" if last else message)
    return Reason(Phase.RETRYABLE_FAILED, "JobFailed", "; ".join(texts) or "AWS tells no reason")
