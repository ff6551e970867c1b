"""`airside engine`: drive detached jobs to their ends, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from airside.cli.exits import Exit
from airside.cli.run import Duration
from airside.observe.logs import configure

if TYPE_CHECKING:
    from airside.engine.database import Record
    from airside.engine.engine import Engine

log = logging.getLogger("airside.engine")

LOOK_EVERY = 0.5
"""Seconds between two looks whether there is still something to do."""


@click.command()
@click.option("--state", metavar="DIR", type=click.Path(file_okay=False), help="Its folder. [env: AIRSIDE_STATE]")
@click.option("--idle-exit", type=Duration(), metavar="TIME", help="End once there was nothing to do for this long.")
@click.option("--log-format", type=click.Choice(["console", "json"]), default="console", help="How log lines look.")
def engine(state: str | None, idle_exit: float | None, log_format: str) -> int:
    """Drive the jobs that `airside run --detach` submitted.

    One engine at a time drives a store. Kill it at any instant: the next one goes on where it was, and no job is lost
    or started twice. SIGTERM and Ctrl-C stop it; remote jobs go on, and are taken up again by the next engine.

    \b
    Examples:
      airside engine
      airside engine --state ./state --idle-exit 10m

    Exit codes: 0 stopped, 2 the store cannot be used or another engine drives it.
    """
    from airside.engine.database import FILE_NAME
    from airside.engine.rundir import state_dir

    configure("json" if log_format == "json" else "console")
    folder = state_dir() if state is None else Path(state).absolute()
    with asyncio.Runner() as runner:
        return runner.run(_drive(folder / FILE_NAME, idle_exit))


async def _drive(store: Path, idle_exit: float | None) -> int:
    """Run engines until a signal, or until nothing is left that came while the last one was ending."""
    from airside.engine.database import Database

    def work_left() -> bool:
        with Database(store) as database:
            return bool(database.unfinished())

    with _signals() as stop:
        while True:
            await _one(store, idle_exit, stop)
            if stop.is_set() or not await asyncio.to_thread(work_left):
                return Exit.OK


async def _one(store: Path, idle_exit: float | None, stop: asyncio.Event) -> None:
    from airside.cli.sources import choose_for
    from airside.engine.engine import Engine

    async with Engine(store, choose=choose_for, on_change=_tell) as running:
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
    said = " ".join(part for part in (job.code, job.message, f"({note})" if note else "") if part)
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
