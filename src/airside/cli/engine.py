"""`airside engine`: drive detached jobs to their ends, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from airside.cli.exits import Exit
from airside.cli.logfile import LogFile
from airside.cli.run import Duration
from airside.observe.logs import configure
from airside.wire.ending import without_code

if TYPE_CHECKING:
    from airside.engine.database import Record
    from airside.engine.drivers import AgentSource
    from airside.engine.engine import Engine
    from airside.engine.flyteconfig import FlyteConfig
    from airside.sdk.agent import Agent

log = logging.getLogger("airside.engine")

LOOK_EVERY = 0.5
"""Seconds between two looks whether there is still something to do."""


@click.command()
@click.option("--state", metavar="DIR", type=click.Path(file_okay=False), help="Its folder. [env: AIRSIDE_STATE]")
@click.option("--routes", metavar="FILE", help="Send tasks where this YAML file of a Flyte engine sends them.")
@click.option("--containers", metavar="AGENT", help="Run what is routed to `container` with this agent here.")
@click.option("--settings", metavar="FILE", help="Read this file instead of ./airside.toml for that agent.")
@click.option("--idle-exit", type=Duration(), metavar="TIME", help="End once there was nothing to do for this long.")
@click.option("--log-file", metavar="FILE", help="Log into this file, of at most 10 MiB, and one before it: FILE.1.")
@click.option("--log-format", type=click.Choice(["console", "json"]), default="console", help="How log lines look.")
def engine(
    state: str | None,
    routes: str | None,
    containers: str | None,
    settings: str | None,
    idle_exit: float | None,
    log_file: str | None,
    log_format: str,
) -> int:
    """Drive the jobs that `airside run --detach` submitted, and those that `airside run` left.

    One engine at a time drives a store. Kill it at any instant: the next one goes on where it was, and no job is lost
    or started twice. SIGTERM and Ctrl-C stop it; remote jobs go on, and are taken up again by the next engine.

    With --routes, a task whose submitter named no endpoint goes where the file says: FlytePropeller's configuration,
    or Flyte 2's. The services are asked all the time what they serve.

    \b
    Examples:
      airside engine
      airside engine --routes flyte.yaml
      airside engine --state ./state --idle-exit 10m

    Exit codes: 0 stopped, 2 the store cannot be used or another engine drives it.
    """
    from airside.engine.database import FILE_NAME
    from airside.engine.rundir import state_dir

    stream = cast("TextIO", LogFile(log_file)) if log_file else None
    configure("json" if log_format == "json" else "console", stream=stream)
    folder = state_dir(named=state)
    agents = Agents(routes, containers, settings)
    if routes is not None:
        from airside.engine.flyteconfig import load_config

        agents.config = load_config(routes)
        for warning in agents.config.warnings:
            log.warning("%s", warning)
    with asyncio.Runner() as runner:
        return runner.run(_drive(folder / FILE_NAME, agents, idle_exit))


@dataclass
class Agents:
    """Where jobs go that say nothing of it themselves."""

    routes: str | None
    containers: str | None
    settings: str | None
    config: FlyteConfig | None = None

    def source(self) -> AgentSource:
        """The drivers of jobs, not open yet."""
        from airside.cli.sources import choose_for, container_agent
        from airside.engine.dispatch import Dispatch
        from airside.engine.drivers import OpenedAgents
        from airside.engine.routes import RoutedAgents

        async def choose_container(record: Record) -> tuple[Agent, Any]:
            named = record.source.get("containers") or self.containers
            settings = record.source.get("settings") or self.settings
            return await asyncio.to_thread(container_agent, named, settings, record.task_type)

        routes = None if self.config is None else RoutedAgents(self.config, containers=choose_container)
        return Dispatch(OpenedAgents(choose_for), routes, choose_container)


async def _drive(store: Path, agents: Agents, idle_exit: float | None) -> int:
    """Run engines until a signal, or until nothing is left that came while the last one was ending."""
    from airside.engine.attendance import is_attended
    from airside.engine.database import Database

    def work_left() -> bool:
        with Database(store) as database:
            return any(not (one.attended and is_attended(store.parent, one.job.id)) for one in database.unfinished())

    with _signals() as stop:
        while True:
            await _one(store, agents, idle_exit, stop)
            if stop.is_set() or not await asyncio.to_thread(work_left):
                return Exit.OK


async def _one(store: Path, agents: Agents, idle_exit: float | None, stop: asyncio.Event) -> None:
    from airside.engine.engine import Engine

    async with Engine(store, drivers=agents.source(), on_change=_tell) as running:
        log.info("engine drives %s: %d unfinished jobs", store, running.unfinished)
        failure = asyncio.create_task(running.failure())
        try:
            await _until_idle(running, idle_exit, stop, failure)
        finally:
            failure.cancel()
        if failure.done() and not failure.cancelled():
            raise failure.result()
        log.info("engine stops: %d unfinished jobs stay in the store", running.unfinished)


async def _until_idle(
    running: Engine, idle_exit: float | None, stop: asyncio.Event, failure: asyncio.Task[BaseException]
) -> None:
    idle_since = time.monotonic()
    while not stop.is_set() and not failure.done():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY):
                await stop.wait()
        if running.unfinished:
            idle_since = time.monotonic()
        elif idle_exit is not None and time.monotonic() - idle_since >= idle_exit:
            return


def _tell(record: Record, note: str) -> None:
    job = record.job
    message = without_code(job.message, job.code)
    said = " ".join(part for part in (job.code, message, f"({note})" if note else "") if part)
    log.info("%s %s %s", record.task, job.phase.name, said, extra={"job": job.id, "attempt": job.attempt + 1})


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Event]:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
