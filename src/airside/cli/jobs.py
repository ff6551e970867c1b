"""`airside jobs`: what became of detached jobs, and what to do about them."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from airside.cli.exits import Exit
from airside.cli.history import described, portrait, summary, write_time
from airside.cli.run import Duration
from airside.engine.attendance import is_attended
from airside.engine.database import FILE_NAME, Database, Record
from airside.engine.job import Job, Stage
from airside.engine.rundir import RunDir, state_dir
from airside.model import Call, Phase, UsageError

LOOK_EVERY = 0.2
"""Seconds between two looks at a job that is waited for."""


_state = partial(
    click.option, "--state", metavar="DIR", type=click.Path(file_okay=False), help="Its folder. [env: AIRSIDE_STATE]"
)


@click.group()
@_state()
@click.pass_context
def jobs(ctx: click.Context, state: str | None) -> None:
    """See, await, cancel and repeat the jobs that `airside run` made, detached or not.

    A job's ID may be shortened as long as it stays the only one.

    \b
    Examples:
      airside jobs list
      airside jobs show 3f2a
      airside jobs wait 3f2a --json

    Exit codes: 0 it worked (of wait: the job succeeded), 1 the job failed, 2 there is no such job.
    """
    ctx.obj = state


def _choose_state(ctx: click.Context, _: click.Parameter, named: str | None) -> None:
    """The folder that the command itself names, else the one named before it."""
    ctx.obj = state_dir(named=ctx.obj if named is None else named)


in_state = _state(expose_value=False, callback=_choose_state)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


@jobs.command("list")
@click.option("--limit", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.option(
    "--phase", type=click.Choice([one.name for one in Phase if one], case_sensitive=False), help="In it only."
)
@click.option("--task", help="Of this task, or of this task type, only.")
@click.option("--unfinished", is_flag=True, help="Only those that are not over.")
@click.option("--since", type=Duration(), metavar="TIME", help="Only those submitted within this time: 90s, 1h30m.")
@click.option("--watch", is_flag=True, help="Go on showing them as they change, until Ctrl-C.")
@as_json
@in_state
@click.pass_obj
def list_jobs(
    state: Path,
    limit: int,
    phase: str | None,
    task: str | None,
    unfinished: bool,
    since: float | None,
    watch: bool,
    as_json: bool,
) -> int:
    """List jobs, the newest first."""
    wanted = None if phase is None else Phase[phase.upper()]

    def find(database: Database) -> list[Record]:
        after = 0.0 if since is None else time.time() - since
        return database.latest(limit=limit, unfinished=unfinished, phase=wanted, task=task, after=after)

    def look() -> tuple[list[str], bool]:
        if as_json:
            return [_json([described(one) for one in find(database)], one_line=watch)], False
        none = "No such job." if phase or task or unfinished or since else "No job yet: airside run FILE TASK"
        return [summary(one, age=shows_age) for one in find(database)] or [none], False

    shows_age = not watch or sys.stdout.isatty()
    with _database(state) as database:
        if watch:
            from airside.cli.watching import watch as watch_lines

            watch_lines(look, in_place=not as_json)
        else:
            click.echo("\n".join(look()[0]))
    return Exit.OK


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--watch", is_flag=True, help="Go on showing it until it is over, or until Ctrl-C.")
@as_json
@in_state
@click.pass_obj
def show(state: Path, job_id: str, watch: bool, as_json: bool) -> int:
    """Show one job with its history: attempts, phases, and where its time went."""
    from airside.cli.values import show as shown

    with _database(state) as database:
        record = database.find(job_id)

        def look() -> tuple[list[str], bool]:
            now = database.find(record.job.id)
            events, is_over = database.events(now.job.id), now.job.stage is Stage.OVER
            if not as_json:
                return list(portrait(now, events)), is_over
            outputs = _outcome(database, now)
            told = {**described(now), "outputs": outputs, "events": [write_time(event) for event in events]}
            return [_json(told, one_line=watch)], is_over

        if watch:
            from airside.cli.watching import watch as watch_lines

            watch_lines(look, in_place=not as_json)
        else:
            click.echo("\n".join(look()[0]))
        if not as_json and (outputs := _outcome(database, database.find(record.job.id))):
            click.echo(shown(outputs))
    return Exit.OK


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--timeout", type=Duration(), metavar="TIME", help="Wait no longer than this: 90s, 1h30m.")
@as_json
@in_state
@click.pass_obj
def wait(state: Path, job_id: str, timeout: float | None, as_json: bool) -> int:
    """Wait until a job is over, and print its outputs. Ctrl-C ends the waiting only.

    An engine is started if none drives the job: so a run that was left is taken up again.
    """
    from airside.cli.detach import ensure_engine, tell_engine
    from airside.cli.values import show as shown
    from airside.cli.values import to_json

    began = time.monotonic()
    with _database(state) as database:
        record = database.find(job_id)
        if needs_engine(record, state):
            tell_engine(ensure_engine(state), state)
        told = ""
        while record.job.stage is not Stage.OVER:
            if not as_json and summary(record, age=False) != told:
                told = summary(record, age=False)
                click.echo(told, err=True)
            if timeout is not None and time.monotonic() - began >= timeout:
                raise UsageError(f"{record.job.id} is not over after {timeout:g} s; it goes on.")
            time.sleep(LOOK_EVERY)
            record = database.find(record.job.id)
        outputs = _outcome(database, record)
    if as_json:
        _echo_json({**described(record), "outputs": to_json(outputs)})
    else:
        click.echo(summary(record), err=True)
        if outputs:
            click.echo(shown(outputs))
    return Exit.OK if record.job.phase.is_success else Exit.FAILED


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="At most so many lines.")
@click.option("--routes", metavar="FILE", help="The file that the engine was given, if the job went by that.")
@as_json
@in_state
@click.pass_obj
def logs(state: Path, job_id: str, limit: int, routes: str | None, as_json: bool) -> int:
    """Print the log of a job's latest attempt, as its agent tells it."""
    with _database(state) as database:
        record = database.find(job_id)
    if not record.job.meta:
        raise UsageError(f"{record.job.id} has made no job that could have a log ({record.job.stage}).")
    asyncio.run(_print_logs(record, limit, routes, as_json))
    return Exit.OK


@jobs.command()
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@as_json
@in_state
@click.pass_obj
def cancel(state: Path, job_ids: tuple[str, ...], as_json: bool) -> int:
    """Cancel jobs. The engine carries it out; `airside jobs wait` tells when it has."""
    from airside.cli.detach import ensure_engine, tell_engine

    with _database(state) as database:
        found = [database.find(job_id) for job_id in job_ids]
        going = [one.job.id for one in found if one.job.stage is not Stage.OVER]
        with database.transaction():
            for job_id in going:
                database.ask(job_id, "cancel", time.time())
    if as_json:
        _echo_json(
            [{"job": one.job.id, "phase": one.job.phase.name, "cancelling": one.job.id in going} for one in found]
        )
    for record in [] if as_json else found:
        over = record.job.id not in going
        click.echo(f"{record.job.id} {'is over already: ' + record.job.phase.name if over else 'is being cancelled'}")
    if any(needs_engine(one, state) for one in found):
        tell_engine(ensure_engine(state), state)
    return Exit.OK


@jobs.command()
@click.argument("job_id", metavar="ID")
@as_json
@in_state
@click.pass_obj
def retry(state: Path, job_id: str, as_json: bool) -> int:
    """Submit the same task with the same inputs again, as a new job."""
    from airside.cli.detach import ensure_engine, tell_engine
    from airside.engine.rundir import new_run

    with _database(state) as database:
        record = database.find(job_id)
        old = record.job
        if old.stage is not Stage.OVER:
            raise UsageError(f"{old.id} is not over; cancel it first: airside jobs cancel {old.id}")
        beside = str(state / "runs")
        parent = record.root.rpartition("/")[0]
        folder, now = new_run(state, None if parent == beside else parent), time.time()
        new = Job(
            id=folder.run_id,
            queued_at=now,
            due=now,
            retries=old.retries,
            timeout=old.timeout,
            active_timeout=old.active_timeout,
        )
        with database.transaction():
            again = replace(record, job=new, root=folder.root, attended=False, reads_cache=False)
            database.add(again, *database.submission(old.id))
    if as_json:
        _echo_json({"job": new.id, "task": record.task, "again": old.id})
    else:
        click.echo(new.id)
    tell_engine(ensure_engine(state), state)
    return Exit.OK


@jobs.command()
@click.option(
    "--older-than", type=Duration(), default="7d", show_default=True, metavar="TIME", help="Over for so long."
)
@click.option("--dry-run", is_flag=True, help="Only tell what would be deleted.")
@as_json
@in_state
@click.pass_obj
def prune(state: Path, older_than: float, dry_run: bool, as_json: bool) -> int:
    """Delete jobs that are over, with their history, inputs and outputs. Outputs in object stores stay.

    Folders of runs that the store does not know go, too, once nothing was written into them for as long.
    """
    before = time.time() - older_than
    with _database(state) as database:
        found = database.finished_before(before)
        strays = _strays(state, {Path(root).name for root in database.folders()}, before)
        if not dry_run:
            with database.transaction():
                for job_id, _ in found:
                    database.forget(job_id)
    own = [Path(root) for _, root in found if Path(root).parent == state / "runs"]  # never a folder that is not ours
    for folder in [] if dry_run else [*own, *strays]:
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        _echo_json(
            {"jobs": [job_id for job_id, _ in found], "folders": [str(one) for one in strays], "dry_run": dry_run}
        )
    else:
        also = f" and {_counted(len(strays), 'folder')} of runs that it does not know" if strays else ""
        click.echo(f"{'Would delete' if dry_run else 'Deleted'} {_counted(len(found), 'job')}{also}.")
    return Exit.OK


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _strays(state: Path, known: set[str], before: float) -> list[Path]:
    """The folders of runs that are no job's, and in which nothing changed since."""
    folders = [one for one in (state / "runs").glob("*") if re.fullmatch(r"[0-9a-f]{16}", one.name)]
    return [one for one in folders if one.name not in known and _changed_at(one) < before]


def _changed_at(folder: Path) -> float:
    """When something in a folder was last written."""
    with suppress(OSError):
        return max(one.stat().st_mtime for one in (folder, *folder.rglob("*")))
    return time.time()  # it is changing now


def needs_engine(record: Record, state: Path) -> bool:
    """True for a job that is not over, and that no command drives itself."""
    return record.job.stage is not Stage.OVER and not (record.attended and is_attended(state, record.job.id))


async def _print_logs(record: Record, limit: int, routes: str | None, as_json: bool) -> None:
    from airside.cli.routing import agent_of
    from airside.engine.credentials import connect

    job = record.job
    async with agent_of(record, routes) as agent:
        if "logs" not in agent.supports:
            raise UsageError(f"The agent of {record.task_type} tells no logs.")
        call = Call(
            connection=connect(record.source.get("connection", {})) if agent.takes_connection else None,
            output_prefix=RunDir(job.id, record.root).output_prefix(job.attempt),
            task_type=record.task_type,
        )
        async for line in agent.logs(job.meta, after="", limit=limit, call=call):
            if as_json:  # a line each, so that a reader need not wait for the last one
                at = None if line.timestamp is None else line.timestamp.isoformat()
                click.echo(json.dumps({"at": at, "message": line.message}, ensure_ascii=False))
            else:
                click.echo(line.message)


def _outcome(database: Database, record: Record) -> Any:
    """The outputs of a job that succeeded, by name; nothing if they are gone."""
    from airside.engine.engine import outcome_of

    if not record.job.phase.is_success:
        return {}
    try:
        return dict(outcome_of(record, *database.submission(record.job.id), database.outputs(record.job.id)).outputs)
    except UsageError as exc:
        click.echo(f"The outputs cannot be read: {exc}", err=True)
        return {}


@contextmanager
def _database(state: Path) -> Iterator[Database]:
    with Database(state / FILE_NAME) as database:
        yield database


def _echo_json(value: Any) -> None:
    click.echo(_json(value))


def _json(value: Any, *, one_line: bool = False) -> str:
    from airside.cli.values import to_json

    indent = 2 if sys.stdout.isatty() and not one_line else None
    return json.dumps(to_json(value), ensure_ascii=False, indent=indent)
