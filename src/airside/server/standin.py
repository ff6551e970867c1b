"""Agents that answer for one job in place of its own agent."""

from __future__ import annotations

from airside.sdk.agent import Agent


class StandIn(Agent):
    """Answers for one job; `real` is the agent whose job it is, as far as there is one here."""

    real: Agent


def real(agent: Agent) -> Agent:
    """The agent itself, or the one that it stands in for."""
    return agent.real if isinstance(agent, StandIn) else agent
