"""`airside jobs`: what became of detached jobs, and what to do about them."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from airside.cli.exits import Exit
from airside.cli.history import described, history, summary, write_time
from airside.cli.run import Duration
from airside.engine.attendance import is_attended
from airside.engine.database import FILE_NAME, Database, Record
from airside.engine.job import Job, Stage
from airside.engine.rundir import RunDir, state_dir
from airside.model import Call, Phase, UsageError

LOOK_EVERY = 0.2
"""Seconds between two looks at a job that is waited for."""


@click.group()
@click.option("--state", metavar="DIR", type=click.Path(file_okay=False), help="Its folder. [env: AIRSIDE_STATE]")
@click.pass_context
def jobs(ctx: click.Context, state: str | None) -> None:
    """See, await, cancel and repeat the jobs that `airside run --detach` submitted.

    A job's ID may be shortened as long as it stays the only one.

    \b
    Examples:
      airside jobs list
      airside jobs show 3f2a
      airside jobs wait 3f2a --json

    Exit codes: 0 it worked (of wait: the job succeeded), 1 the job failed, 2 there is no such job.
    """
    ctx.obj = state_dir() if state is None else Path(state).absolute()


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


@jobs.command("list")
@click.option("--limit", "-n", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.option(
    "--phase", type=click.Choice([one.name for one in Phase if one], case_sensitive=False), help="In it only."
)
@click.option("--task", help="Of this task, or of this task type, only.")
@click.option("--unfinished", is_flag=True, help="Only those that are not over.")
@as_json
@click.pass_obj
def list_jobs(state: Path, limit: int, phase: str | None, task: str | None, unfinished: bool, as_json: bool) -> int:
    """List jobs, the newest first."""
    with _database(state) as database:
        wanted = None if phase is None else Phase[phase.upper()]
        found = database.latest(limit=limit, unfinished=unfinished, phase=wanted, task=task)
    if as_json:
        _echo_json([described(one) for one in found])
    elif not found:
        click.echo("No such job." if phase or task or unfinished else "No job yet: airside run FILE TASK --detach")
    for record in [] if as_json else found:
        click.echo(summary(record))
    return Exit.OK


@jobs.command()
@click.argument("job_id", metavar="ID")
@as_json
@click.pass_obj
def show(state: Path, job_id: str, as_json: bool) -> int:
    """Show one job with its history: attempts, phases, and where its time went."""
    with _database(state) as database:
        record = database.find(job_id)
        events = database.events(record.job.id)
        outcome = _outcome(database, record)
    if as_json:
        _echo_json({**described(record), "outputs": outcome, "events": [write_time(event) for event in events]})
        return Exit.OK
    click.echo(summary(record))
    for line in history(record, events):
        click.echo(f"  {line}")
    for link in record.job.links:
        click.echo(f"  {link.name or 'link'}: {link.uri}")
    if outcome:
        from airside.cli.values import show as shown

        click.echo(shown(outcome))
    return Exit.OK


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--timeout", type=Duration(), metavar="TIME", help="Wait no longer than this: 90s, 1h30m.")
@as_json
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
        if needs_engine(record):
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
@click.pass_obj
def logs(state: Path, job_id: str, limit: int) -> int:
    """Print the log of a job's latest attempt, as its agent tells it."""
    with _database(state) as database:
        record = database.find(job_id)
    if not record.job.meta:
        raise UsageError(f"{record.job.id} has made no job that could have a log ({record.job.stage}).")
    asyncio.run(_print_logs(record, limit))
    return Exit.OK


@jobs.command()
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@click.pass_obj
def cancel(state: Path, job_ids: tuple[str, ...]) -> int:
    """Cancel jobs. The engine carries it out; `airside jobs wait` tells when it has."""
    from airside.cli.detach import ensure_engine, tell_engine

    with _database(state) as database:
        found = [database.find(job_id) for job_id in job_ids]
        going = [one.job.id for one in found if one.job.stage is not Stage.OVER]
        with database.transaction():
            for job_id in going:
                database.ask(job_id, "cancel", time.time())
    for record in found:
        over = record.job.id not in going
        click.echo(f"{record.job.id} {'is over already: ' + record.job.phase.name if over else 'is being cancelled'}")
    if any(needs_engine(one) for one in found):
        tell_engine(ensure_engine(state), state)
    return Exit.OK


@jobs.command()
@click.argument("job_id", metavar="ID")
@as_json
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
        folder, now = new_run(state), time.time()
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
@click.pass_obj
def prune(state: Path, older_than: float, dry_run: bool) -> int:
    """Delete jobs that are over, with their history, inputs and outputs. Outputs in object stores stay."""
    with _database(state) as database:
        found = database.finished_before(time.time() - older_than)
        if not dry_run:
            with database.transaction():
                for job_id, _ in found:
                    database.forget(job_id)
    for _, root in [] if dry_run else found:
        if Path(root).parent == state / "runs":  # never a folder that is not ours
            shutil.rmtree(root, ignore_errors=True)
    click.echo(f"{'Would delete' if dry_run else 'Deleted'} {len(found)} jobs.")
    return Exit.OK


def needs_engine(record: Record) -> bool:
    """True for a job that is not over, and that no command drives itself."""
    return record.job.stage is not Stage.OVER and not (record.attended and is_attended(record.root))


async def _print_logs(record: Record, limit: int) -> None:
    from airside.cli.sources import choose_for
    from airside.engine.local import opened

    job = record.job
    agent, options = await choose_for(record)
    if "logs" not in agent.supports:
        raise UsageError(f"The agent of {record.task_type} tells no logs.")
    prefix = RunDir(job.id, record.root).output_prefix(job.attempt)
    call = Call(output_prefix=prefix, task_type=record.task_type)
    async with opened(agent, options):
        async for line in agent.logs(job.meta, after="", limit=limit, call=call):
            click.echo(line.message)


def _outcome(database: Database, record: Record) -> Any:
    """The outputs of a job that succeeded, by name; nothing if they are gone."""
    from airside.engine.engine import outcome_of

    if not record.job.phase.is_success:
        return {}
    try:
        return dict(outcome_of(record, *database.submission(record.job.id)).outputs)
    except UsageError as exc:
        click.echo(f"The outputs cannot be read: {exc}", err=True)
        return {}


@contextmanager
def _database(state: Path) -> Iterator[Database]:
    with Database(state / FILE_NAME) as database:
        yield database


def _echo_json(value: Any) -> None:
    from airside.cli.main import echo_json
    from airside.cli.values import to_json

    echo_json(to_json(value))
