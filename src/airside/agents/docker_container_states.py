"""What an engine says of a container, as a phase with a message."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from typing import Any

from airside.model import Phase, Resource

log = logging.getLogger("airside.agents.docker_container")

_ENDED = Phase.SUCCEEDED  # by its exit status: `resource_of` looks at it

PHASES: Mapping[str, Phase] = {
    "configured": Phase.QUEUED,
    "created": Phase.QUEUED,
    "initialized": Phase.QUEUED,
    "dead": _ENDED,
    "exited": _ENDED,
    "paused": Phase.RUNNING,
    "removing": Phase.RUNNING,
    "restarting": Phase.RUNNING,
    "running": Phase.RUNNING,
    "stopped": _ENDED,
    "stopping": Phase.RUNNING,
    "unknown": Phase.RUNNING,
}
"""Every state of Docker and of Podman."""

_CANNOT_START = (125, 126, 127)


def resource_of(told: Mapping[str, Any]) -> Resource:
    """What is known of a container by what the engine's inspection tells. Outputs are not part of it."""
    state = told["State"]
    status = str(state.get("Status", ""))
    phase = PHASES.get(status)
    if phase is None:
        log.warning("the engine names a state that is not in the table, taken for running: %s", status)
        phase = Phase.RUNNING
    info = {"container_id": str(told.get("Id", ""))[:12], "image": str(told.get("Config", {}).get("Image", ""))}
    info |= {name: state[key] for name, key in (("started", "StartedAt"), ("finished", "FinishedAt")) if state.get(key)}
    if phase is not _ENDED:
        return Resource(phase, message=status, info=info)
    code = int(state.get("ExitCode") or 0)
    info["exit_status"] = str(code)
    if state.get("OOMKilled"):
        message = "it used more memory than its limit"
        return Resource(Phase.RETRYABLE_FAILED, message=message, code="OutOfMemory", info=info)
    if code == 0:
        return Resource(Phase.SUCCEEDED, message="exited with 0", info=info)
    if state.get("Error") and code in _CANNOT_START:
        words = " ".join(str(state["Error"]).split())[:500]
        return Resource(Phase.FAILED, message=f"it cannot be started: {words}", code="CannotStart", info=info)
    limit = int((told.get("HostConfig") or {}).get("Memory") or 0)
    return Resource(Phase.RETRYABLE_FAILED, message=_manner(code, limit), code="ContainerFailed", info=info)


def _manner(code: int, limit: int) -> str:
    """How a container has ended, in words. Not every engine tells that memory ran out: Podman 4.3 may not."""
    if code == 128 + signal.SIGKILL and limit:
        return f"killed by SIGKILL, as one is that uses more memory than its limit of {limit / 2**20:g}Mi"
    if code > 128:
        try:
            return f"killed by {signal.Signals(code - 128).name}"
        except ValueError:
            pass
    return f"exited with {code}"
