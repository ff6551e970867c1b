"""`slurm` and `slurm_fn`: tasks that are jobs of a Slurm cluster, over SSH or slurmrestd, and classes to write them.

Tasks of flytekit's `SlurmTask`, `SlurmShellTask` and `SlurmFunctionConfig` run as they are. A job is found again by its
comment, which holds the key of its attempt, so that one attempt makes one job.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from airside.agents import slurm_clusters
from airside.agents.faults import fault_of, faults
from airside.agents.json_values import Kind, from_json
from airside.agents.slurm_clusters import Clusters, Place
from airside.agents.slurm_commands import LARGEST_ANSWER, Commands
from airside.agents.slurm_logs import last_words, stream
from airside.agents.slurm_rest import Rest
from airside.agents.slurm_states import Row, is_id, summarise
from airside.agents.slurm_submission import is_of, read_submission
from airside.agents.slurm_tasks import (
    OutputLocation,
    SlurmConfig,
    SlurmFunctionConfig,
    SlurmFunctionTask,
    SlurmScriptConfig,
    SlurmShellTask,
    SlurmTask,
)
from airside.model import (
    Call,
    ConversionError,
    Directory,
    Fail,
    File,
    LogLine,
    LogLink,
    NotFound,
    OutputsAt,
    Phase,
    Resource,
    Retry,
    Task,
)
from airside.sdk.agent import AsyncAgent

_PATIENCE = 0.9  # of the time that is left, for what finished jobs have left: the others' answers must not be late


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """What finds a job again, and what becomes of it: where its outputs are."""

    job_id: str
    key: str = ""
    host: str = ""
    port: int = 0
    username: str = ""
    url: str = ""
    client_keys: tuple[str, ...] = ()
    log: str = ""
    files: dict[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    outputs_at: str = ""
    has_outputs: bool = True

    @property
    def place(self) -> Place:
        """What two jobs have in common that one command can ask for."""
        return Place(self.host, self.port, self.username, self.url, self.client_keys)


class SlurmAgent(AsyncAgent[SlurmJob]):
    """Runs batch scripts and the commands of containers on Slurm clusters."""

    name = "slurm"
    task_types = ("slurm", "slurm_fn")
    poll_interval = 5.0
    requires = MappingProxyType({"asyncssh": "slurm", "httpx2": "slurm"})

    Options = slurm_clusters.Options

    def open(self, options: slurm_clusters.Options) -> None:
        self._job_url = options.job_url
        self._clusters = Clusters(options)

    async def close(self) -> None:
        await self._clusters.close()

    async def check_credentials(self) -> str:
        """Which credentials there are for tasks that bring none."""
        return await self._clusters.credentials()

    async def probe(self) -> str:
        """Ask the cluster of tasks that name none for no jobs."""
        place = self._clusters.default()
        if place is None:
            return "no cluster is set"
        await (await self._clusters.open(place, None)).find("probe")
        return f"Slurm answers at {place.host or place.url}"

    async def create(self, task: Task) -> SlurmJob:
        submission = read_submission(task)
        job, cluster = await self._place(task)
        return replace(job, job_id=await cluster.submit(submission))

    async def find(self, task: Task, key: str) -> SlurmJob | None:
        job, cluster = await self._place(replace(task, key=key))
        job_id = await cluster.find(key)
        return None if job_id is None else replace(job, job_id=job_id)

    async def get(self, job: SlurmJob, call: Call) -> Resource:
        [resource] = await self.get_many([job], call)
        if isinstance(resource, Exception):
            raise resource
        return resource

    async def get_many(self, jobs: Sequence[SlurmJob], call: Call) -> Sequence[Resource | Exception]:
        """One `squeue` for all the jobs of a cluster, and one `sacct` for those that it has forgotten."""
        groups: dict[Place, list[int]] = {}
        for index, job in enumerate(jobs):
            groups.setdefault(job.place, []).append(index)
        asked = ((where, [jobs[index] for index in indices]) for where, indices in groups.items())
        told = await asyncio.gather(*(self._get_group(where, some, call) for where, some in asked))
        answers: dict[int, Resource | Exception] = {}
        for indices, group in zip(groups.values(), told, strict=True):
            answers |= dict(zip(indices, group, strict=True))
        return [answers[index] for index in range(len(jobs))]

    async def delete(self, job: SlurmJob, call: Call) -> None:
        with suppress(NotFound), faults():
            cluster = await self._clusters.open(job.place, call.connection)
            rows = await _rows_of(cluster, job)
            if not await _is_theirs(cluster, job, rows):
                raise Fail(
                    f"Job {job.job_id} is not cancelled: its comment is not that of this task.", code="Forbidden"
                )
            await cluster.cancel(job.job_id)

    def links(self, job: SlurmJob) -> Sequence[LogLink]:
        url = self._job_url
        return (LogLink(url.replace("{job_id}", job.job_id), "Slurm job"),) if url and job.job_id else ()

    async def logs(self, job: SlurmJob, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        """What the job prints, as it comes; the tasks of an array one after the other."""
        cluster = await self._clusters.open(job.place, call.connection)
        if isinstance(cluster, Rest):
            raise Fail("slurmrestd gives no access to the files of a job; use SSH for its log.", code="NoLogs")
        if not await _is_theirs(cluster, job, await _rows_of(cluster, job)):
            raise Fail(
                f"The log of job {job.job_id} is not shown: its comment is not that of this task.", code="Forbidden"
            )
        async for line in stream(cluster, job.job_id, job.log, after=after, limit=limit):
            yield line

    # -- what is known of jobs --------------------------------------------------------------------------------------

    async def _get_group(self, where: Place, jobs: Sequence[SlurmJob], call: Call) -> Sequence[Resource | Exception]:
        """How the jobs of one cluster are. Whatever goes wrong there is no matter of the jobs of another one."""
        try:
            cluster = await self._clusters.open(where, call.connection)
            ids = sorted({job.job_id for job in jobs if is_id(job.job_id)})
            rows = await cluster.rows(ids) if ids else {}
        except Exception as exc:  # noqa: BLE001 - it is told of each job
            return [fault_of(exc)] * len(jobs)
        patience = None if call.remaining is None else _PATIENCE * call.remaining
        return await asyncio.gather(*(self._one_of(cluster, job, rows.get(job.job_id, []), patience) for job in jobs))

    async def _one_of(
        self, cluster: Commands | Rest, job: SlurmJob, rows: Sequence[Row], patience: float | None
    ) -> Resource | Exception:
        """One job's answer in time, or what went wrong: the others have theirs."""
        try:
            async with asyncio.timeout(patience):
                return await self._resource(cluster, job, rows)
        except TimeoutError:
            return Retry("There was no time left to read what the job has left.")
        except Exception as exc:  # noqa: BLE001 - it is told of this job
            return fault_of(exc)

    async def _resource(self, cluster: Commands | Rest, job: SlurmJob, rows: Sequence[Row]) -> Resource:
        if not rows:
            raise NotFound(f"Slurm does not know job {job.job_id}.")
        resource = replace(summarise(rows), links=self.links(job))
        if not resource.phase.is_terminal:
            return resource
        if isinstance(cluster, Commands) and not await _is_theirs(cluster, job, rows):  # what it left is for others
            raise NotFound(f"The comment of job {job.job_id} is not that of this task.")
        if resource.phase is Phase.SUCCEEDED:
            return await _succeeded(cluster, job, resource)
        if resource.phase.is_failure and resource.phase is not Phase.ABORTED and isinstance(cluster, Commands):
            words = await last_words(cluster, job.job_id, job.log, [row.task for row in rows if row.phase.is_failure])
            message = f"{resource.message}: {words}" if words else resource.message
            document = OutputsAt(job.outputs_at) if job.outputs_at else None  # a function says in error.pb what it was
            return replace(resource, message=message, outputs=document)
        return resource

    # -- which cluster, as whom -------------------------------------------------------------------------------------

    async def _place(self, task: Task) -> tuple[SlurmJob, Commands | Rest]:
        """The job of a task without its id, and the cluster that it is for."""
        submission = read_submission(task)
        place = self._clusters.place_of(task)
        folders = [name for name in submission.files if _bare(task.interface.outputs.get(name)) is Directory]
        job = SlurmJob(
            job_id="",
            key=task.key,
            host=place.host,
            port=place.port,
            username=place.username,
            url=place.url,
            client_keys=place.client_keys,
            log=submission.options.get("output") or "",
            files=dict(submission.files),
            folders=tuple(folders),
            values=dict(submission.values),
            outputs_at=task.output_prefix if task.type.name == "slurm_fn" else "",
            has_outputs=bool(task.interface.outputs),
        )
        return job, await self._clusters.open(job.place, task.connection)


async def _rows_of(cluster: Commands | Rest, job: SlurmJob) -> Sequence[Row]:
    rows = (await cluster.rows([job.job_id])).get(job.job_id)
    if not rows:
        raise NotFound(f"Slurm does not know job {job.job_id}.")
    return rows


async def _is_theirs(cluster: Commands | Rest, job: SlurmJob, rows: Sequence[Row]) -> bool:
    """True if the job was made for the handle's key: handles come from outside, and others' jobs are not theirs."""
    if any(is_of(job.key, row.comment) for row in rows):
        return True
    return isinstance(cluster, Commands) and await cluster.has_made(job.key, job.job_id)


async def _succeeded(cluster: Commands | Rest, job: SlurmJob, resource: Resource) -> Resource:
    """A job that ended well, with its outputs: files by their place, values as its script wrote them."""
    if not job.has_outputs:
        return replace(resource, outputs={})
    if job.outputs_at:
        return replace(resource, outputs=OutputsAt(job.outputs_at))
    outputs: dict[str, Any] = {
        name: (Directory if name in job.folders else File)(place) for name, place in job.files.items()
    }
    if job.values and isinstance(cluster, Commands):
        data = await cluster.outputs(job.key)
        try:
            outputs |= _read_values(data, job.values)
        except ConversionError as exc:
            return replace(resource, phase=Phase.FAILED, message=str(exc), code="OutputConversionError")
        except Fail as exc:
            return replace(resource, phase=Phase.FAILED, message=exc.message, code=exc.code)
    return replace(resource, outputs=outputs)


def _read_values(data: bytes | None, kinds: Mapping[str, Kind]) -> Mapping[str, Any]:
    names = ", ".join(kinds)
    if data is None:
        raise Fail(
            f"The job ended well but left no outputs: write {names} as a JSON object into "
            "$AIRSIDE_OUTPUT_DIR/outputs.json.",
            code="OutputsNotFound",
        )
    if len(data) > LARGEST_ANSWER:
        raise Fail("outputs.json is over 1 MiB; put large data into files and give their paths.", code="OutputTooLarge")
    try:
        told = json.loads(data)
    except ValueError as exc:
        raise ConversionError("outputs", f"outputs.json is not JSON: {exc}") from exc
    if not isinstance(told, dict):
        raise ConversionError("outputs", "outputs.json must be an object of values by name")
    return {name: from_json(one, kinds.get(name, "any"), f"outputs.{name}") for name, one in told.items()}


def _bare(hint: Any) -> Any:
    return getattr(hint, "__origin__", hint)


__all__ = (
    "OutputLocation",
    "SlurmAgent",
    "SlurmConfig",
    "SlurmFunctionConfig",
    "SlurmFunctionTask",
    "SlurmJob",
    "SlurmScriptConfig",
    "SlurmShellTask",
    "SlurmTask",
)
