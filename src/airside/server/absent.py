"""The agent of a job that cannot be served here now."""

from __future__ import annotations

from airside.model import Call, Resource, Retry
from airside.sdk.agent import Agent, AgentSettings
from airside.server.standin import StandIn

NOBODY = Agent()


class AbsentAgent(StandIn):
    """Stands in for an agent that is not served here now, or whose handle cannot be read.

    Its jobs are honest: in a rolling update another process made them, or will answer for them. So they stay RUNNING
    for `tolerance` seconds, which `reason` explains, before they count as failed.
    """

    real = NOBODY

    def __init__(self, reason: str, tolerance: float) -> None:
        self._reason = reason
        self.settings = AgentSettings(fault_tolerance=tolerance)

    async def get(self, meta: bytes, call: Call) -> Resource:
        del meta, call
        raise Retry(self._reason)

    async def delete(self, meta: bytes, call: Call) -> None:
        del meta, call
        raise Retry(self._reason)
