"""Run one task with one agent to its end: an engine that drives this job only, for whoever waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from airside.engine.attempt import told
from airside.engine.database import MEMORY, Record
from airside.engine.drivers import AgentSource, OpenAgent
from airside.engine.ending import EXHAUSTED
from airside.engine.engine import Engine, outcome_of, prepare
from airside.engine.progress import Outcome, Progress
from airside.engine.rundir import RunDir
from airside.model import AirsideError, Phase, PluginError, TaskTemplate
from airside.model.redaction import redact
from airside.sdk.agent import Agent

FAREWELL = 5.0
"""Seconds that an agent may take to close."""

Listener = Callable[[Progress], None]


class LocalRun:
    """One run of a task. `await finish()` once; `cancel` and `detach` may be called meanwhile, from the same loop.

    `agent` must be open already; or it finds the agent, and is opened and closed here. The job lives in `store`: a
    file, or memory only. `timeout` (seconds, for one attempt) and `retries` override the task's own; without `cache`
    the task runs even if the store has its outputs; `source` is what finds the agent again; `outputs` is where inputs
    and outputs are kept, instead of the state folder.
    Raises `ConversionError` here, before anything starts, if an input is missing or does not fit.
    """

    def __init__(
        self,
        template: TaskTemplate,
        inputs: Mapping[str, Any],
        agent: Agent | AgentSource,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        cache: bool = True,
        source: Mapping[str, Any] | None = None,
        store: str | Path = MEMORY,
        outputs: str | None = None,
        on_progress: Listener | None = None,
    ) -> None:
        self.store = str(store)
        self._made = prepare(
            template,
            inputs,
            state=None if self.store == MEMORY else Path(store).parent,
            source=source,
            retries=retries,
            timeout=timeout,
            cache=cache,
            outputs=outputs,
        )
        self._drivers = OpenAgent(agent) if isinstance(agent, Agent) else agent
        self._listener = on_progress
        self._known = self._made.record
        self._began = time.monotonic()
        self._told: Progress | None = None
        self.is_kept = False
        """True once the job is in the store: from then on it is not lost."""
        self._stop = asyncio.Event()
        self._detached = asyncio.Event()

    @property
    def job_id(self) -> str:
        """The id of the job, in `airside jobs` if the store is a file."""
        return self._known.job.id

    def cancel(self) -> None:
        """Cancel the job; `finish` returns once it is known to be over."""
        self._stop.set()

    def detach(self) -> None:
        """Leave the job alone; `finish` returns at once. The store's engine takes it up if the store is a file."""
        self._detached.set()

    async def finish(self) -> Outcome:
        """Run the task to its end.

        If the awaiting task is cancelled, the job is cancelled too, and waited for, before `CancelledError` goes on.
        """
        if self.store == MEMORY:
            await asyncio.to_thread(RunDir(self.job_id, self._made.record.root).make)
        async with Engine(self.store, drivers=self._drivers, only_own=True, on_change=self._changed) as engine:
            await engine.take(self._made)
            self.is_kept = True
            self._tell()
            over = asyncio.create_task(engine.wait(self.job_id))
            cancelling = asyncio.create_task(self._cancel(engine))
            detached = asyncio.create_task(self._detached.wait())
            try:
                await asyncio.wait({over, detached}, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                self.cancel()
                await asyncio.wait({over, detached}, return_when=asyncio.FIRST_COMPLETED)
                raise
            finally:
                for task in (over, cancelling, detached):
                    task.cancel()
                await asyncio.wait({over, cancelling, detached})
        return self.left() if over.cancelled() else _as_a_run(over.result())

    def left(self) -> Outcome:
        """The outcome of a run that was left while its job may still be going; may be asked from any thread."""
        going = (
            self._known if not self._known.job.phase.is_terminal else replace(self._known, job=self._made.record.job)
        )
        found = outcome_of(going, self._made.template, self._made.inputs)
        return replace(found, message=redact(found.message), detached=True, job_may_live=True)

    async def _cancel(self, engine: Engine) -> None:
        await self._stop.wait()
        await engine.cancel(self.job_id)

    def _changed(self, record: Record, note: str) -> None:
        self._known = record
        self._tell(note)

    def _tell(self, note: str = "") -> None:
        job = self._known.job
        news = Progress(
            run_id=job.id,
            attempt=job.attempt,
            phase=job.phase,
            message=redact(job.message),
            links=tuple(job.links),
            note=redact(note),
        )
        if self._listener is None or news == self._told:
            return
        self._told = news
        self._listener(replace(news, elapsed=time.monotonic() - self._began))


def _as_a_run(outcome: Outcome) -> Outcome:
    """The outcome for somebody who waited: with the last failure itself, not that the retries are spent."""
    if not outcome.code.startswith(EXHAUSTED):
        return outcome
    return replace(outcome, phase=Phase.RETRYABLE_FAILED, code=outcome.code.removeprefix(EXHAUSTED))


async def run_task(
    template: TaskTemplate,
    inputs: Mapping[str, Any],
    agent: Agent,
    *,
    options: Any = None,
    **settings: Any,
) -> Outcome:
    """Open the agent with its options, run the task to its end, and close the agent.

    `settings` are those of `LocalRun`. Raises `ConversionError` for inputs that do not fit; how the task itself
    ended is in the outcome.
    """
    run = LocalRun(template, inputs, agent, **settings)
    async with opened(agent, options):
        return await run.finish()


@contextlib.asynccontextmanager
async def opened(agent: Agent, options: Any) -> AsyncIterator[Agent]:
    """The agent, open; closed on leaving, unless closing hangs.

    Raises `UsageError` if the agent cannot be opened: a client that cannot be made, a login that is refused.
    """
    try:
        await agent.open(options)
    except AirsideError:
        raise
    except Exception as exc:
        raise PluginError(f"Agent {agent.name} cannot be opened: {told(exc)}") from exc
    try:
        yield agent
    finally:
        with contextlib.suppress(Exception):  # how the run ended matters more
            async with asyncio.timeout(FAREWELL):
                await agent.close()
