"""Agents of the faulty backend as the proofs need them."""

from __future__ import annotations

from airside.testing.faulty import FindingAgent, TokenAgent


class DefaultTask(FindingAgent):
    """Of the routing configuration in Flyte's documentation: served by the default agent."""

    task_type = "default_task"


class CustomTask(TokenAgent):
    """Of the same: served by the agent that is named for its type."""

    task_type = "custom_task"


class PatientFind(FindingAgent):
    """Goes on with a create while the cancel of the attempt before takes its time."""

    create_timeout = 300.0


class PatientToken(TokenAgent):
    """Goes on with a create for as long as agents do that say nothing else."""

    create_timeout = 300.0
