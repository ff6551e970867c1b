"""Drive one task with one agent to its end, on this machine: the part that calls, waits and cancels.

What to do next is decided in `attempt`; this module carries it out.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from math import inf
from typing import Any, TypeVar

from airside.engine.attempt import Ask, End, Watch, answered, backoff, faulted, goes_on, refused, told
from airside.engine.outputs import settle
from airside.engine.progress import Outcome, Progress
from airside.engine.rundir import RunDir, new_run
from airside.engine.submission import Submission
from airside.model import AirsideError, Call, LogLink, NotFound, Phase, PluginError, Resource, Task, TaskTemplate
from airside.model.redaction import redact
from airside.sdk.agent import Agent

CANCEL_PATIENCE = 300.0
"""Seconds to wait until a cancelled job is known to be over."""
LAST_LOOK = 5.0
"""Seconds to learn, before a cancel, whether the job is over already."""
FAREWELL = 5.0
"""Seconds that an agent may take to close."""
GRACE = 1.0
"""Seconds that a call of an agent may take to end once it is cancelled."""

T = TypeVar("T")
Listener = Callable[[Progress], None]


class LocalRun:
    """One run of a task. `await finish()` once; `cancel` and `detach` may be called meanwhile, from the same loop.

    The agent must be open already. `timeout` (seconds, for one attempt) and `retries` override the task's own.
    Raises `ConversionError` here, before anything starts, if an input is missing or does not fit.
    """

    def __init__(
        self,
        template: TaskTemplate,
        inputs: Mapping[str, Any],
        agent: Agent,
        *,
        timeout: float | None = None,
        retries: int | None = None,
        on_progress: Listener | None = None,
        folder: RunDir | None = None,
    ) -> None:
        self.submission = Submission(template, inputs)
        self.agent = agent
        self.timeout = template.timeout if timeout is None else timeout
        self.retries = template.retries if retries is None else retries
        self.folder = folder or new_run()
        self._listener = on_progress
        self._began = time.monotonic()
        self._attempt = 0
        self._known = Resource(Phase.QUEUED)
        self._told: Progress | None = None
        self._handle = b""
        self._stop = asyncio.Event()
        self._detached = asyncio.Event()

    def cancel(self) -> None:
        """Cancel the job; `finish` returns once it is known to be over."""
        self._stop.set()

    def detach(self) -> None:
        """Leave the job alone; `finish` returns at once."""
        self._detached.set()

    async def finish(self) -> Outcome:
        """Run the task to its end.

        If the awaiting task is cancelled, the job is cancelled too, and waited for, before `CancelledError` goes on.
        """
        driver = asyncio.create_task(self._drive())
        detached = asyncio.create_task(self._detached.wait())
        try:
            await asyncio.wait({driver, detached}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.cancel()
            await asyncio.wait({driver, detached}, return_when=asyncio.FIRST_COMPLETED)
            raise
        finally:
            await _dismiss(detached)
            await _dismiss(driver)
        return driver.result() if driver.done() and not driver.cancelled() else self.left()

    def left(self) -> Outcome:
        """The outcome of a run that was left while its job may still be going; may be asked from any thread."""
        return self._outcome(self._known, detached=True, job_may_live=True)

    # -- attempts ---------------------------------------------------------------------------------------------------

    async def _drive(self) -> Outcome:
        await asyncio.to_thread(self.submission.write_inputs, self.folder)
        while True:
            end = await self._one_attempt()
            if self._stop.is_set() or not goes_on(end, self._attempt, self.retries):
                return self._outcome(end.resource, job_may_live=end.job_may_live)
            wait = backoff(self._attempt + 1, end.error)
            text = end.resource.message or end.resource.code
            self._tell(note=f"attempt {self._attempt + 1} failed: {text}; the next begins in {wait:.1f} s")
            await self._pause(wait)
            self._attempt += 1
            self._known, self._handle = Resource(Phase.QUEUED), b""

    async def _one_attempt(self) -> End:
        if self._stop.is_set():
            return End(Resource(Phase.ABORTED, message="Cancelled before it started."))
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        try:
            task = await asyncio.to_thread(self.submission.task, self.folder, self._attempt)
        except Exception as exc:  # noqa: BLE001 - whatever stops the task from being made ends the attempt
            return End(refused(exc), error=exc)
        end = await (self._do(task, deadline) if self.agent.is_sync else self._job(task, deadline))
        resource = await asyncio.to_thread(settle, end.resource, self.submission.declared_outputs, task.output_prefix)
        self._learn(resource)
        return replace(end, resource=resource)

    async def _do(self, task: Task, deadline: float | None) -> End:
        """Run a sync agent's task: one call."""
        self._learn(Resource(Phase.RUNNING))
        try:
            resource = await self._unless_stopped(self.agent.do(task, self._call(task, deadline)), deadline)
        except Exception as exc:  # noqa: BLE001 - any error of an agent ends the attempt, not the run
            return End(refused(exc), error=exc)
        if resource is None:
            return End(self._aborted("") if self._stop.is_set() else self._timed_out())
        if resource.phase.is_terminal:
            return End(resource)
        return End(
            Resource(Phase.FAILED, message=f"`do` answered {resource.phase.name}, not the end.", code="AgentError")
        )

    async def _job(self, task: Task, deadline: float | None) -> End:
        """Create a job and watch it. A create is never abandoned: the job it makes could not be found again."""
        self._tell()
        call = self._call(task, None, self.agent.settings.create_timeout)
        try:
            meta = await self.agent.create(task, call)
        except Exception as exc:  # noqa: BLE001 - any error of an agent ends the attempt, not the run
            return End(refused(exc), error=exc, job_may_live=not await self._undo_lost(task, exc))
        self._handle = meta
        self._learn(replace(self._known, links=await self._links(meta)))
        watch = Watch(since=time.monotonic())
        while True:
            if self._stop.is_set():
                return await self._cancel(task, meta, watch, self._aborted)
            if deadline is not None and time.monotonic() >= deadline:
                self._tell(note=f"no end after {self.timeout:g} s: cancelling the job")
                return await self._cancel(task, meta, watch, lambda _: self._timed_out())
            asked = await self._unless_stopped(self._ask(task, meta, watch), deadline)
            if asked is None:
                continue
            watch, step = asked
            if isinstance(step, End):
                return await self._ended(task, meta, step)
            await self._pause(step.after, until=deadline)

    async def _ask(self, task: Task, meta: bytes, watch: Watch, limit: float = inf) -> tuple[Watch, Ask | End]:
        settings = self.agent.settings
        try:
            resource = await self.agent.get(meta, self._call(task, None, min(limit, settings.call_timeout)))
        except Exception as exc:  # noqa: BLE001 - faults are waited out
            watch, step = faulted(watch, exc, time.monotonic(), settings)
            if isinstance(step, Ask):
                self._tell(note=f"the agent cannot say ({step.note}); asking again")
            return watch, step
        if not resource.links:
            resource = replace(resource, links=await self._links(meta))
        watch, step = answered(watch, resource, settings)
        self._learn(watch.resource)
        return watch, step

    async def _links(self, meta: bytes) -> tuple[LogLink, ...]:
        try:
            return tuple(await self.agent.links(meta))
        except Exception as exc:  # noqa: BLE001 - a job without links runs all the same
            self._tell(note=f"the agent's links cannot be shown ({told(exc)})")
            return ()

    async def _ended(self, task: Task, meta: bytes, end: End) -> End:
        """Cancel a job that was given up, and let one go that asks for it, when its attempt ends."""
        if not end.job_may_live and (end.resource.phase.is_success or not self.agent.settings.delete_finished):
            return end
        problem = await self._delete(task, meta, patience=self.agent.settings.call_timeout)
        return replace(end, job_may_live=end.job_may_live and bool(problem))

    # -- cancelling -------------------------------------------------------------------------------------------------

    async def _cancel(self, task: Task, meta: bytes, watch: Watch, result: Callable[[str], Resource]) -> End:
        """Delete the job and wait until it is known to be over. A job that ended by itself first keeps its result."""
        watch, step = await self._ask(task, meta, watch, LAST_LOOK)
        if isinstance(step, End) and not step.job_may_live:
            return step
        until = time.monotonic() + CANCEL_PATIENCE
        problem = await self._delete(task, meta, patience=CANCEL_PATIENCE)
        if problem:
            return End(result(f"The job could not be cancelled and may still run: {problem}"), job_may_live=True)
        last = await self._wait_until_over(task, meta, until)
        if last is None:
            return End(result("The cancel was accepted, but the job was not seen to end."), job_may_live=True)
        return End(last if last.phase.is_success else result(last.message))

    async def _delete(self, task: Task, meta: bytes, *, patience: float) -> str:
        """Ask for the cancel until the agent accepts it; returns what was wrong if it never did."""
        until, faults = time.monotonic() + patience, 0
        while True:
            try:
                await self.agent.delete(meta, self._call(task, None, self.agent.settings.call_timeout))
            except NotFound:
                return ""
            except Exception as exc:  # noqa: BLE001 - a cancel is tried again whatever went wrong
                faults += 1
                wait = backoff(faults, exc)
                if time.monotonic() + wait >= until:
                    return told(exc)
                self._tell(note=f"the cancel failed ({told(exc)}); trying again")
                await asyncio.sleep(wait)
            else:
                return ""

    async def _wait_until_over(self, task: Task, meta: bytes, until: float) -> Resource | None:
        polls = 0
        while time.monotonic() < until:
            polls += 1
            try:
                resource = await self.agent.get(meta, self._call(task, None, self.agent.settings.call_timeout))
            except NotFound:
                return Resource(Phase.ABORTED)
            except Exception as exc:  # noqa: BLE001 - the cancel was accepted; wait for better news
                await asyncio.sleep(backoff(polls, exc))
                continue
            if resource.phase.is_terminal:
                return resource
            await asyncio.sleep(min(self.agent.settings.poll_interval, 0.05 * 1.5 ** min(polls, 20)))
        return None

    async def _undo_lost(self, task: Task, error: Exception) -> bool:
        """A create that failed late may have made a job; if the agent can look it up, cancel it.

        False if there is one and it could not be cancelled.
        """
        if "find" not in self.agent.supports:
            return True
        call = self._call(task, None, self.agent.settings.call_timeout)
        try:
            meta = await self.agent.find(task, task.key, call)
        except Exception as exc:  # noqa: BLE001 - the create's own error is what matters
            self._tell(note=f"a job that the failed create may have made could not be looked for ({told(exc)})")
            return True
        if meta is None:
            return True
        self._handle = meta
        self._tell(note=f"create failed ({told(error)}) but had made a job; cancelling it")
        return not await self._delete(task, meta, patience=self.agent.settings.call_timeout)

    # -- telling ----------------------------------------------------------------------------------------------------

    def _learn(self, resource: Resource) -> None:
        self._known = resource
        self._tell()

    def _tell(self, note: str = "") -> None:
        news = Progress(
            run_id=self.folder.run_id,
            attempt=self._attempt,
            phase=self._known.phase,
            message=redact(self._known.message),
            links=tuple(self._known.links),
            note=redact(note),
        )
        if self._listener is None or news == self._told:
            return
        self._told = news
        self._listener(replace(news, elapsed=time.monotonic() - self._began))

    def _outcome(self, resource: Resource, *, job_may_live: bool, detached: bool = False) -> Outcome:
        outputs = resource.outputs if isinstance(resource.outputs, Mapping) and resource.phase.is_success else {}
        return Outcome(
            run_id=self.folder.run_id,
            phase=resource.phase,
            message=redact(resource.message),
            code=resource.code,
            outputs=outputs,
            links=tuple(resource.links or self._known.links),
            elapsed=time.monotonic() - self._began,
            attempts=self._attempt + 1,
            handle=readable(self._handle),
            detached=detached,
            job_may_live=job_may_live,
        )

    def _aborted(self, message: str) -> Resource:
        return Resource(Phase.ABORTED, message=message or "Cancelled.", links=self._known.links)

    def _timed_out(self) -> Resource:
        message = f"The attempt took longer than {self.timeout:g} s and was cancelled."
        return Resource(Phase.RETRYABLE_FAILED, message=message, code="TimeoutExpired", links=self._known.links)

    # -- calls and waits --------------------------------------------------------------------------------------------

    def _call(self, task: Task, deadline: float | None, limit: float | None = None) -> Call:
        until = deadline if limit is None else time.monotonic() + limit
        return Call(
            connection=task.connection,
            output_prefix=task.output_prefix,
            key=task.key,
            deadline=until,
            task_type=task.type,
        )

    async def _unless_stopped(self, work: Coroutine[Any, Any, T], deadline: float | None) -> T | None:
        """What a call of the agent returns or raises; None if a cancel or the deadline comes first."""
        call = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop.wait())
        limit = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            await asyncio.wait({call, stop}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _dismiss(stop)
            await _dismiss(call)
        return call.result() if call.done() and not call.cancelled() else None

    async def _pause(self, seconds: float, until: float | None = None) -> None:
        """Wait; a cancel or the attempt's deadline ends the wait early."""
        limit = seconds if until is None else max(0.0, min(seconds, until - time.monotonic()))
        try:
            async with asyncio.timeout(limit):
                await self._stop.wait()
        except TimeoutError:
            return


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


async def _dismiss(task: asyncio.Task[Any]) -> None:
    """Cancel a task of ours unless it is done, and give it a moment to end; an agent's code may refuse to."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=GRACE)


def readable(handle: bytes) -> str:
    """A job's handle for a person: as text if it is text, else in Base64."""
    try:
        text = handle.decode()
    except UnicodeDecodeError:
        text = ""
    shown = text if text.isprintable() else ""
    return redact(shown) if shown or not handle else base64.b64encode(handle).decode()
