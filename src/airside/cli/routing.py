"""Run tasks where the configuration of a Flyte engine sends them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import click

from airside.cli.sources import choose_container, choose_for, container_agent
from airside.engine.database import Record
from airside.engine.drivers import MissingAgent
from airside.engine.flyteconfig import FlyteConfig, load_config
from airside.engine.local import opened
from airside.engine.routes import RoutedAgents
from airside.model import TaskType, UsageError
from airside.sdk.agent import Agent

if TYPE_CHECKING:
    from airside.cli.run import RunOptions


def read_routes(path: str) -> FlyteConfig:
    """The configuration in a file; what is odd about it is told on stderr. Raises `UsageError`."""
    config = load_config(path)
    for warning in config.warnings:
        click.echo(f"Warning: {warning}.", err=True)
    return config


@contextlib.asynccontextmanager
async def routed(task_type: TaskType, options: RunOptions) -> AsyncIterator[RoutedAgents]:
    """The agents that `--config` leads to, open. Raises `UsageError` if it leads nowhere for the task type."""
    assert options.config is not None  # noqa: S101 - the caller looks
    agents = RoutedAgents(read_routes(options.config), containers=choose_container)
    try:
        await agents.open()
        if agents.route(task_type, options.project, options.domain) is None:
            container_agent(options.containers, options.settings, task_type)
        yield agents
    finally:
        await agents.close()


@contextlib.asynccontextmanager
async def agent_of(record: Record, routes: str | None) -> AsyncIterator[Agent]:
    """The agent of a job, open: as its submitter said, else as `routes` says. Raises `UsageError` if there is none."""
    config = record.source.get("config") or (None if record.source.get("endpoint") else routes)
    if not config:
        agent, options = await choose_for(record)
        async with opened(agent, options):
            yield agent
        return
    agents = RoutedAgents(read_routes(config), containers=choose_container)
    try:
        await agents.open()
        driver = await agents.find(record)
        if isinstance(driver.agent, MissingAgent):
            raise UsageError(driver.agent.why)
        yield driver.agent
    finally:
        await agents.close()
