"""`airside run --detach`: hand the task to the engine's store and be done; start an engine if none runs."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from airside.cli.exits import Exit
from airside.engine.database import FILE_NAME, Database
from airside.engine.engine import prepare
from airside.engine.ownership import owner_of
from airside.engine.rundir import VARIABLE, state_dir
from airside.model import TaskTemplate

if TYPE_CHECKING:
    from airside.cli.run import RunOptions
    from airside.cli.taskfile import TaskFile

LOG_NAME = "engine.log"
IDLE_EXIT = "60s"
START_PATIENCE = 5.0
"""Seconds to wait until an engine that was started has taken the store."""


def detach(task: TaskTemplate, values: Mapping[str, Any], file: TaskFile, options: RunOptions) -> int:
    """Submit the task, make sure that an engine runs, and tell how to go on."""
    from airside.cli.sources import source_of

    state = state_dir(named=options.state)
    if options.config:
        from airside.cli.routing import read_routes

        read_routes(options.config)  # what is wrong with it is better told now
    made = prepare(
        task,
        values,
        state=state,
        source=source_of(file, options),
        retries=options.retries,
        timeout=options.timeout,
        cache=not options.no_cache,
        outputs=options.outputs,
    )
    with Database(state / FILE_NAME) as database, database.transaction():
        database.add(made.record, made.template, made.inputs)
    job_id = made.record.job.id
    drives = ensure_engine(state)
    if options.as_json:
        from airside.cli.main import echo_json

        echo_json({"job": job_id, "task": task.name, "store": str(state / FILE_NAME), "engine": drives})
    else:
        click.echo(job_id)
        click.echo(f"Submitted {task.name}. Its outcome: {jobs_line('wait', job_id, options.state)}", err=True)
        tell_engine(drives, state)
    return Exit.OK


def jobs_line(command: str, job_id: str, state: str | None) -> str:
    """The `airside jobs` line about a job, as a person types it.

    >>> jobs_line("wait", "3f2a", None), jobs_line("wait", "3f2a", "my state")
    ('airside jobs wait 3f2a', "airside jobs --state 'my state' wait 3f2a")
    """
    where = f" --state {shlex.quote(state)}" if state else ""
    return f"airside jobs{where} {command} {job_id}"


def ensure_engine(state: Path) -> bool:
    """Start an engine in the background unless one drives the store; False if it did not come up."""
    store = str(state / FILE_NAME)
    if owner_of(store) is not None:
        return True
    with (state / LOG_NAME).open("ab") as log:
        engine = subprocess.Popen(
            [
                *(sys.executable, "-m", "airside", "engine", "--state", str(state)),
                *("--idle-exit", IDLE_EXIT, "--log-file", str(state / LOG_NAME)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a closed terminal must not end it
        )
    until = time.monotonic() + START_PATIENCE
    while time.monotonic() < until:
        if owner_of(store) is not None:
            return True
        if engine.poll() is not None:  # another one may have been faster
            return owner_of(store) is not None
        time.sleep(0.05)
    return False


def tell_engine(drives: bool, state: Path) -> None:
    """Say so if no engine could be started."""
    if not drives:
        click.echo(
            f"No engine drives it yet: run `airside engine`; {state / LOG_NAME} says why none could be started. "
            f"({VARIABLE} names the folder.)",
            err=True,
        )
