"""`Engine`: tasks in, outcomes out, and nothing lost in between. The part that a Python program talks to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from airside.engine.attendance import Attendance
from airside.engine.caching import cache_key
from airside.engine.credentials import connection_names
from airside.engine.database import FILE_NAME, MEMORY, Event, Record
from airside.engine.drivers import AgentSource, Choose, OpenedAgents
from airside.engine.job import Job, Stage
from airside.engine.loop import Entry, Loop
from airside.engine.outputs import read_outputs
from airside.engine.ownership import Ownership
from airside.engine.progress import Outcome, readable
from airside.engine.rundir import RunDir, new_run, state_dir
from airside.engine.store import Store
from airside.engine.submission import Submission
from airside.model import TaskTemplate, UsageError
from airside.sdk.agent import Agent
from airside.sdk.registry import Registry

if TYPE_CHECKING:
    from airside.engine.flyteconfig import FlyteConfig
    from airside.engine.routes import RoutedAgents

_log = logging.getLogger("airside.engine")

_SMALL = (bool, int, float, type(None), timedelta)
"""What is converted so quickly that a thread would take longer."""

LISTEN_EVERY = 0.25
"""Seconds between two looks at what other processes wrote into the store."""

Listener = Callable[[Record, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A job that is ready to be written into a store."""

    record: Record
    template: bytes
    inputs: bytes


def prepare(
    task: TaskTemplate,
    inputs: Mapping[str, Any],
    *,
    state: Path | None = None,
    source: Mapping[str, Any] | None = None,
    retries: int | None = None,
    timeout: float | None = None,
    cache: bool = True,
    outputs: str | None = None,
) -> Submitted:
    """Make a job of a task and its inputs. Raises `ConversionError` for inputs that do not fit.

    As in Flyte, a task's timeout bounds each attempt, and twice that time all of them from the submission on. Without
    `cache` it runs even if there are outputs of the same task and inputs; later jobs may use its own. `outputs` is
    where the folders of runs are, instead of the state folder.
    """
    names = connection_names(task.config)
    source = {**(source or {}), **({"connection": names} if names else {})}
    submission = Submission(task, inputs, project=source.get("project", ""), domain=source.get("domain", ""))
    limit = task.timeout if timeout is None else timeout
    template, folder = submission.template, new_run(state, outputs)
    now = time.time()
    job = Job(
        id=folder.run_id,
        queued_at=now,
        due=now,
        retries=task.retries if retries is None else retries,
        timeout=limit,
        active_timeout=None if limit is None else 2 * limit,
    )
    record = Record(
        job=job,
        task=task.name,
        task_type=task.type,
        root=folder.root,
        source=source,
        cache_key=cache_key(template, submission.inputs) if task.cache else "",
        reads_cache=cache,
    )
    return Submitted(record=record, template=template, inputs=submission.inputs)


class Engine:
    """Drives tasks to their ends as Flyte's engine would, and survives restarts. Use it with `async with`.

    Jobs live in `store`: a file, ":memory:" (nothing outlives the engine), or by default `engine.db` in the state
    folder. One engine at a time may drive a store; a second one raises `StoreError` that names the first. With
    `only_own` it drives none but the jobs that are submitted to it, and any number of such engines share a store;
    what they leave unfinished is taken up by the one that drives the store.

    Agents are found as `airside.run` finds them: `agents` if given, else registered ones, else installed plugins;
    with `endpoint` ("host:port") all tasks run on the agent service there; with `routes` they go where the YAML file of
    a Flyte engine says, or what `load_config` read of one. `choose` or `drivers` replaces all that.
    Inputs and outputs are kept beside the store, or under `outputs`: a folder, or a URI such as "s3://bucket/runs"
    where agents on other machines reach them.
    `on_change` hears of every transition, once it is on the disk, with a note about what the engine does.

    >>> import asyncio
    >>> from airside import Engine, TaskTemplate, kwtypes
    >>> hello = TaskTemplate(name="hello", task_type="echo", inputs=kwtypes(x=int), outputs=kwtypes(x=int))
    >>> async def main():
    ...     async with Engine(":memory:") as engine:
    ...         job = await engine.submit(hello, {"x": 3})
    ...         return await engine.wait(job)
    >>> asyncio.run(main()).outputs
    {'x': 3}
    """

    def __init__(
        self,
        store: str | Path | None = None,
        *,
        agents: Registry | Iterable[Any] | None = None,
        endpoint: str | None = None,
        routes: str | Path | FlyteConfig | None = None,
        options: Mapping[str, Any] | None = None,
        choose: Choose | None = None,
        drivers: AgentSource | None = None,
        outputs: str | None = None,
        only_own: bool = False,
        on_change: Listener | None = None,
    ) -> None:
        self.path = str(state_dir() / FILE_NAME if store is None else store)
        self._state = None if self.path == MEMORY else Path(self.path).parent
        self._store = Store(self.path)
        self._ownership = None if only_own else Ownership(self.path)
        self._attendances: dict[str, Attendance] = {}
        self._drivers = drivers or (
            OpenedAgents(choose or _chooser(agents, endpoint, options or {})) if routes is None else _routed(routes)
        )
        self._on_change = on_change
        self._outputs = outputs
        self._loop = Loop(
            self._store, self._drivers, on_change=self._changed, on_failure=self._failed, only_own=only_own
        )
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        if self._ownership is not None:
            await asyncio.to_thread(self._ownership.take)
        try:
            await self._store.open()
            await self._drivers.open()
            await self._loop.start()
        except BaseException:
            await self._close()
            raise
        if self._state is not None:
            self._listener = asyncio.create_task(self._listen(), name="airside-engine-listener")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.wait({self._listener})
        await self._loop.stop()
        await self._close()

    @property
    def unfinished(self) -> int:
        """How many jobs are not over."""
        return self._loop.size

    async def submit(
        self,
        task: TaskTemplate,
        inputs: Mapping[str, Any] | None = None,
        *,
        retries: int | None = None,
        timeout: float | None = None,
        cache: bool = True,
        source: Mapping[str, Any] | None = None,
    ) -> str:
        """Hand in a task and return its job's id, once it is on the disk. From then on it is not lost.

        `retries` and `timeout` (seconds, for one attempt) override the task's own. A task with `cache=True` takes the
        outputs of an earlier job of the store with the same cache version, interface and inputs, if there is one; with
        `cache=False` here it runs all the same. Raises `ConversionError` for inputs that do not fit.
        """
        make = partial(
            prepare,
            task,
            inputs or {},
            state=self._state,
            source=source,
            retries=retries,
            timeout=timeout,
            cache=cache,
            outputs=self._outputs,
        )
        is_small = all(isinstance(value, _SMALL) for value in (inputs or {}).values())
        return await self.take(make() if is_small else await asyncio.to_thread(make))

    async def take(self, made: Submitted) -> str:
        """Hand in what `prepare` made, and return its job's id, once it is on the disk."""
        record = made.record
        if self._ownership is None and self._state is not None:
            await asyncio.to_thread(self._attend, record)
            record = replace(record, attended=True)
        await self._loop.intake.submit(record, made.template, made.inputs)
        return record.job.id

    async def wait(self, job_id: str) -> Outcome:
        """How a job ended, once it has. Raises `UsageError` for an unknown id, `StoreError` if the engine stops."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, set()).add(done)
        try:
            record = await self.job(job_id)
            if record.job.stage is not Stage.OVER:
                await done
                record = await self.job(job_id)
        finally:
            self._waiting[job_id].discard(done)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
        return await self.outcome(record)

    async def cancel(self, job_id: str) -> None:
        """Cancel a job; `wait` tells when it is over. A job that is over already stays as it is."""
        record = await self.job(job_id)
        self._loop.abort(record.job.id)

    async def job(self, job_id: str) -> Record:
        """What is known of a job; `job_id` may be shortened. Raises `UsageError` if there is none."""
        return await self._store.read(lambda database: database.find(job_id))

    async def jobs(self, **filters: Any) -> list[Record]:
        """The newest jobs first; filters are `limit`, `unfinished`, `phase`, `task` and `after` (a time)."""
        return await self._store.read(lambda database: database.latest(**filters))

    async def events(self, job_id: str) -> list[Event]:
        """The history of a job, oldest first."""
        return await self._store.read(lambda database: database.events(job_id))

    async def outcome(self, record: Record) -> Outcome:
        """How a job stands, with its outputs if it succeeded."""
        job_id = record.job.id
        submission, kept = await self._store.read(lambda found: (found.submission(job_id), found.outputs(job_id)))
        return await asyncio.to_thread(outcome_of, record, *submission, kept)

    async def failure(self) -> BaseException:
        """Wait until the engine stops by itself, and return why: its store cannot be written any more."""
        return await asyncio.shield(self._failure)

    # -- inside ----------------------------------------------------------------------------------------------------

    async def _close(self) -> None:
        await self._drivers.close()
        await self._store.close()
        if self._ownership is not None:
            self._ownership.release()
        if self._attendances:
            await asyncio.to_thread(self._let_go)

    def _attend(self, record: Record) -> None:
        """Say, to the engine of the store, that this process drives the job. Blocks."""
        attendance = self._attendances[record.job.id] = Attendance(Path(self.path).parent, record.job.id)
        attendance.take()
        RunDir(record.job.id, record.root).make()

    def _let_go(self) -> None:
        while self._attendances:
            self._attendances.popitem()[1].release()

    def _changed(self, entry: Entry, job: Job, note: str) -> None:
        if self._on_change is not None:
            self._on_change(entry.record(job), note)
        if job.stage is Stage.OVER:
            attendance = self._attendances.pop(job.id, None)
            if attendance is not None:
                asyncio.get_running_loop().run_in_executor(None, attendance.release)
            for done in self._waiting.get(job.id, ()):
                if not done.done():
                    done.set_result(None)

    def _failed(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_result(error)
        for done in [one for waiting in self._waiting.values() for one in waiting]:
            if not done.done():
                done.set_exception(error)

    async def _listen(self) -> None:
        """Take up what other processes wrote into the store: new jobs, and requests."""
        seen: int | None = None
        while True:
            with contextlib.suppress(UsageError):  # the loop itself finds out what is wrong with the store
                version = await self._store.read(lambda database: database.version_of_data())
                if version != seen:
                    if self._ownership is not None:
                        await self._loop.intake.adopt()
                    seen = version if await self._answer_requests() else None
                await self._loop.intake.revisit()
            await asyncio.sleep(LISTEN_EVERY)

    async def _answer_requests(self) -> bool:
        """Do what was asked of this engine; False if some of it is for another one, or too early."""
        requests = await self._store.read(lambda database: database.requests())
        own = [(seq, job_id) for seq, job_id, _ in requests if not self._loop.leaves(job_id)]
        for seq, job_id in own:
            self._loop.abort(job_id)
            await self._store.answered(seq)
        return len(own) == len(requests)


def outcome_of(record: Record, template: bytes, inputs: bytes, kept: bytes | None = None) -> Outcome:
    """How a job stands, with its outputs if it succeeded: those that the store `kept`, else those in their file.

    Blocks. Raises `UsageError` if the outputs are gone.
    """
    job = record.job
    outputs: Mapping[str, Any] = {}
    if job.phase.is_success:
        declared = Submission.read(template, inputs).declared_outputs
        outputs = read_outputs(declared, RunDir(job.id, record.root).output_prefix(job.attempt), kept)
    return Outcome(
        run_id=job.id,
        phase=job.phase,
        message=job.message,
        code=job.code,
        outputs=outputs,
        links=job.links,
        elapsed=(job.finished_at or time.time()) - job.queued_at,
        attempts=job.attempt + 1,
        handle=readable(job.meta),
        job_may_live=job.job_may_live,
    )


def _routed(routes: str | Path | FlyteConfig) -> RoutedAgents:
    from airside.engine.flyteconfig import FlyteConfig, load_config
    from airside.engine.routes import RoutedAgents

    config = routes if isinstance(routes, FlyteConfig) else load_config(routes)
    for warning in config.warnings:
        _log.warning("%s", warning)
    return RoutedAgents(config)


def _chooser(agents: Registry | Iterable[Any] | None, endpoint: str | None, options: Mapping[str, Any]) -> Choose:
    given = agents if agents is None or isinstance(agents, Registry) else list(agents)

    async def choose(record: Record) -> tuple[Agent, Any]:
        from airside.engine.run import choose_agent

        return await asyncio.to_thread(choose_agent, record.task_type, endpoint, given, options)

    return choose
