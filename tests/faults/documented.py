"""The agents of the routing configuration in Flyte's documentation; each call of their backend takes a second."""

from __future__ import annotations

from airside.testing.faulty import FindingAgent, TokenAgent


class DefaultTask(FindingAgent):
    """Served by the default agent."""

    task_type = "default_task"


class CustomTask(TokenAgent):
    """Served by the agent that is named for its type."""

    task_type = "custom_task"
