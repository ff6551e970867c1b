"""Carry out `airside run`: find the agent, run the task, show its progress, answer signals, print the outcome."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from airside.cli.choice import choose
from airside.cli.detach import jobs_line
from airside.cli.exits import Exit
from airside.cli.progress import Display, display
from airside.cli.sources import source_of
from airside.cli.values import show, to_json
from airside.engine.background import Background
from airside.engine.calls import FROM_CACHE
from airside.engine.database import FILE_NAME, MEMORY, StoreError
from airside.engine.drivers import AgentSource
from airside.engine.local import LocalRun, opened
from airside.engine.progress import Outcome
from airside.engine.rundir import state_dir
from airside.model import Phase, TaskTemplate
from airside.sdk.agent import Agent
from airside.wire.ending import without_code

if TYPE_CHECKING:
    from airside.cli.run import RunOptions
    from airside.cli.taskfile import TaskFile

LIVELY_AFTER = 0.3  # seconds until a run is shown live; most first tries are over by then


class Left(BaseException):
    """Raised by a signal handler: leave the run at once."""


class Launch:
    """One `airside run`, and how it answers signals: the first cancels the job, the second leaves it.

    The run has a thread of its own, so that a signal is answered even while the agent blocks.
    """

    def __init__(
        self, task: TaskTemplate, values: Mapping[str, Any], file: TaskFile, options: RunOptions, shown: Display
    ) -> None:
        self.task, self.values, self.file, self.options, self.shown = task, values, file, options, shown
        self.caught: list[int] = []
        self.run: LocalRun | None = None
        self.background: Background[Outcome] | None = None

    def finish(self) -> Outcome:
        """Carry the run out and wait for its end."""
        with self._signals():
            self.background = Background(self._work)
            try:
                return self.background.result()
            except StoreError as exc:
                if self.run is None or not self.run.is_kept:
                    raise
                line = jobs_line("wait", self.run.job_id, self.options.state)
                raise StoreError(f"{exc} The job is not lost; take it up again: {line}") from exc
            except Left:
                if self.run is None or not self.run.is_kept:
                    raise KeyboardInterrupt from None
                return self.run.left()

    async def _work(self) -> Outcome:
        options = self.options
        async with self._agents() as agents:
            livener = asyncio.get_running_loop().call_later(LIVELY_AFTER, self.shown.liven)
            self.run = LocalRun(
                self.task,
                self.values,
                agents,
                timeout=options.timeout,
                retries=options.retries,
                cache=not options.no_cache,
                outputs=options.outputs,
                source=source_of(self.file, options),
                store=_store_of(options.state),
                on_progress=self.shown.show,
            )
            try:
                return await self.run.finish()
            finally:
                livener.cancel()

    @contextlib.asynccontextmanager
    async def _agents(self) -> AsyncIterator[Agent | AgentSource]:
        if self.options.config:
            from airside.cli.routing import routed

            async with routed(self.task.type, self.options) as agents:
                yield agents
        else:
            agent, agent_options = choose(self.task.type, self.file, self.options)
            async with opened(agent, agent_options):
                yield agent

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.caught.append(number)
        if len(self.caught) > 1 or self.run is None or self.options.on_interrupt == "detach":
            raise Left
        if self.background is not None:
            self.background.call(self.run.cancel)
        self.shown.say("Cancelling the job and waiting until it is over; Ctrl-C again leaves it.")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def launch(task: TaskTemplate, values: Mapping[str, Any], file: TaskFile, options: RunOptions) -> int:
    """Run the task, print how it ended, and return the exit code of the command."""
    with display(task.name) as shown:
        this = Launch(task, values, file, options, shown)
        outcome = this.finish()
    if options.as_json:
        _print_json(task, outcome)
    else:
        _print(task, outcome, options)
    return _exit_code(outcome, this.caught[0] if this.caught else 0)


def _exit_code(outcome: Outcome, caught: int) -> int:
    if caught and (outcome.detached or not outcome.phase.is_success):
        return 128 + caught
    return Exit.OK if outcome.phase.is_success else Exit.FAILED


def _store_of(state: str | None) -> str | Path:
    if state == MEMORY:
        return MEMORY
    return state_dir(named=state) / FILE_NAME


def _print(task: TaskTemplate, outcome: Outcome, options: RunOptions) -> None:
    from airside.cli.durations import write_duration

    took = write_duration(outcome.elapsed)
    if outcome.detached:
        click.echo(f"Left {task.name} after {took}; the job may still run.", err=True)
        if options.state != MEMORY:
            click.echo(f"  take it up again: {jobs_line('wait', outcome.run_id, options.state)}", err=True)
    elif outcome.phase.is_success:
        click.echo(f"{task.name} succeeded in {took}", err=True)
        if task.cache and outcome.message.endswith(FROM_CACHE):
            click.echo(f"  {outcome.message}", err=True)
        if outcome.outputs:
            click.echo(show(outcome.outputs))
        return
    else:
        what = "was cancelled" if outcome.phase is Phase.ABORTED else "failed"
        tries = f" ({outcome.attempts} attempts)" if outcome.attempts > 1 else ""
        click.echo(f"{task.name} {what} after {took}{tries}", err=True)
        reason = ": ".join(part for part in (outcome.code, without_code(outcome.message, outcome.code)) if part)
        click.echo(f"  {reason}" if reason else f"  {outcome.phase.name}", err=True)
    if outcome.job_may_live and outcome.handle:
        click.echo(f"  job: {outcome.handle}", err=True)
    for link in outcome.links:
        click.echo(f"  {link.name or 'link'}: {link.uri}", err=True)


def _print_json(task: TaskTemplate, outcome: Outcome) -> None:
    from airside.cli.main import echo_json

    echo_json(
        {
            "job": outcome.run_id,
            "task": task.name,
            "phase": outcome.phase.name,
            "code": outcome.code,
            "message": outcome.message,
            "outputs": to_json(outcome.outputs),
            "links": [{"name": link.name, "uri": link.uri} for link in outcome.links],
            "elapsed": round(outcome.elapsed, 3),
            "attempts": outcome.attempts,
            "detached": outcome.detached,
            "job_may_live": outcome.job_may_live,
            "handle": outcome.handle,
        }
    )
