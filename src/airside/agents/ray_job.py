"""`ray_job` and `ray`: tasks that are jobs of a Ray cluster, and `RayJobTask` to write one.

The submission id is made from the key of the attempt, so that Ray itself refuses a second job. Tasks of flytekit's and
Flyte 2's Ray plugins run their container's command on a cluster that is there already.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from airside.agents.http_answer import HttpAnswer
from airside.agents.http_api import HttpApi, bearer, check_server, pattern_of
from airside.agents.http_status import error_of_status
from airside.agents.json_values import kind_of
from airside.agents.printed_outputs import said_in, with_printed
from airside.agents.ray_job_states import resource_of
from airside.agents.ray_job_submission import RAY, RayJobTask, body_of, submission_id
from airside.model import (
    AgentError,
    Call,
    Connection,
    Fail,
    LogLine,
    LogLink,
    NotFound,
    OutputsAt,
    Phase,
    Resource,
    Task,
    UsageError,
)
from airside.sdk.agent import AsyncAgent
from airside.sdk.hosts import HostAllowList

_TOKEN = "ray_auth_token"  # noqa: S105 - a name
_FEW = 3  # up to so many jobs are asked for one by one, more by a list of all jobs
_INNER_STATUS = re.compile(r"Request failed with status code (\d{3})")
_THERE = "Please use a different submission_id."
_LONGEST = 500  # characters of what Ray says


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """What finds a job again, and where its outputs are. `outputs` are their kinds by name."""

    submission_id: str
    address: str
    outputs: dict[str, Any] = field(default_factory=dict)
    output_prefix: str = ""
    prints: bool = True


class RayJobAgent(AsyncAgent[RayJob]):
    """Submits jobs to Ray clusters over the REST interface of their dashboards, watches and stops them."""

    name = "ray_job"
    task_types = ("ray_job", RAY)
    poll_interval = 5.0
    create_is_idempotent = True
    requires = MappingProxyType({"httpx2": "ray_job", "websockets": "ray_job", "yaml": "ray_job"})

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Which clusters may be used.

        address: the dashboard of the cluster of tasks that name none: `https://ray.example.org`,
            `http://10.0.0.7:8265`. Default: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS if it begins with http.
        allowed_hosts: further dashboards that tasks and connections may name: `ray.example.org`,
            `http://10.0.0.8:8265` for one without encryption. Default: none.
        dashboard_url: where people reach the dashboard of `address`, for links. Default: `address`.
        timeout: seconds that one call may take.
        """

        address: str = ""
        allowed_hosts: tuple[str, ...] = ()
        dashboard_url: str = ""
        timeout: float = 25.0

        def __post_init__(self) -> None:
            if self.timeout <= 0:
                raise ValueError("timeout is a number of seconds above 0")

    async def open(self, options: Options) -> None:
        self._options = options
        self._address = _normal(options.address or _of_environment())
        own = (pattern_of(self._address),) if self._address else ()
        self._hosts = HostAllowList((*options.allowed_hosts, *own))
        self._http = HttpApi("Ray", timeout=options.timeout)

    async def close(self) -> None:
        await self._http.close()

    async def check_credentials(self) -> str:
        """Which credentials there are for tasks that bring none."""
        if not self._hosts:
            raise UsageError("no cluster is set: set address")
        return f"the secret {_TOKEN}" if await bearer(_TOKEN, None) else "no token: the cluster must do without"

    async def probe(self) -> str:
        """Ask the cluster of tasks that name none for its version, and for a job."""
        if not self._address:
            return "no cluster is set"
        headers = await bearer(_TOKEN, None)
        told = self._read(await self._http.ask("GET", f"{self._address}/api/version", headers=headers))
        await self._look_up(self._address, submission_id("probe"), None)
        return f"Ray {told.get('ray_version', '')} answers at {self._address}"

    async def create(self, task: Task) -> RayJob:
        job = self._job(task)
        body = await asyncio.to_thread(body_of, task)
        headers = await bearer(_TOKEN, task.connection)
        answer = await self._http.ask("POST", f"{job.address}/api/jobs/", headers=headers, body=body)
        if answer.status == 200:
            return job
        error = _error(answer)
        if not (error.message.endswith(_THERE) or getattr(error, "code", "") == "InvalidRequest"):
            raise error
        found = await self._look_up(job.address, job.submission_id, task.connection)
        if found is None:
            raise error
        return _checked(job, found, task.key)

    async def find(self, task: Task, key: str) -> RayJob | None:
        job = self._job(replace(task, key=key))
        found = await self._look_up(job.address, job.submission_id, task.connection)
        return None if found is None else _checked(job, found, key)

    async def get(self, job: RayJob, call: Call) -> Resource:
        found = await self._look_up(job.address, job.submission_id, call.connection)
        if found is None:
            raise NotFound(f"Ray does not know the job {job.submission_id}.")
        return await self._resource(job, found, call)

    async def get_many(self, jobs: Sequence[RayJob], call: Call) -> Sequence[Resource | Exception]:
        """One list of the jobs of each cluster."""
        if len(jobs) <= _FEW:
            return await asyncio.gather(*(self._one(job, call) for job in jobs))
        clusters: dict[str, list[int]] = {}
        for index, job in enumerate(jobs):
            clusters.setdefault(job.address, []).append(index)
        answers: dict[int, Resource | Exception] = {}
        for address, indices in clusters.items():
            some = [jobs[index] for index in indices]
            answers |= dict(zip(indices, await self._listed(address, some, call), strict=True))
        return [answers[index] for index in range(len(jobs))]

    async def delete(self, job: RayJob, call: Call) -> None:
        """Stop the job. Ray keeps it, with its log, among those that are over."""
        self._check(job.address)
        url = f"{self._url(job)}/stop"
        answer = await self._http.ask("POST", url, headers=await bearer(_TOKEN, call.connection))
        if answer.status == 404:
            raise NotFound(f"Ray does not know the job {job.submission_id}.")
        self._read(answer)

    def links(self, job: RayJob) -> Sequence[LogLink]:
        is_own = job.address == self._address and self._options.dashboard_url
        page = self._options.dashboard_url.rstrip("/") if is_own else job.address
        return (LogLink(f"{page}/#/jobs/{quote(job.submission_id)}", "Ray job"),)

    async def logs(self, job: RayJob, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        """What the driver prints, as it comes; the cursor counts lines."""
        from airside.agents.ray_job_logs import lines_of

        self._check(job.address)
        headers = await bearer(_TOKEN, call.connection)
        async with aclosing(lines_of(f"{self._url(job)}/logs/tail", headers, after=after, limit=limit)) as lines:
            async for line in lines:
                yield line

    # -- what is known of jobs --------------------------------------------------------------------------------------

    async def _one(self, job: RayJob, call: Call) -> Resource | Exception:
        try:
            return await self.get(job, call)
        except Exception as exc:  # noqa: BLE001 - the other jobs are not to suffer from it
            return exc

    async def _listed(self, address: str, jobs: Sequence[RayJob], call: Call) -> Sequence[Resource | Exception]:
        try:
            self._check(address)
            headers = await bearer(_TOKEN, call.connection)
            told = self._read(await self._http.ask("GET", f"{address}/api/jobs/", headers=headers))
        except Exception as exc:  # noqa: BLE001 - the jobs of another cluster are not to suffer from it
            return [exc] * len(jobs)
        shown = {one.get("submission_id"): one for one in told}
        return await asyncio.gather(*(self._listed_one(job, shown.get(job.submission_id), call) for job in jobs))

    async def _listed_one(self, job: RayJob, found: Mapping[str, Any] | None, call: Call) -> Resource | Exception:
        if found is None:
            return NotFound(f"Ray does not know the job {job.submission_id}.")
        try:
            return await self._resource(job, found, call)
        except AgentError as exc:
            return exc

    async def _look_up(self, address: str, submission: str, connection: Connection | None) -> Mapping[str, Any] | None:
        self._check(address)
        url = f"{address}/api/jobs/{quote(submission, safe='')}"
        answer = await self._http.ask("GET", url, headers=await bearer(_TOKEN, connection))
        if answer.status == 404 and "does not exist" in (answer.text or ""):
            return None
        found: Mapping[str, Any] = self._read(answer)
        return found

    async def _resource(self, job: RayJob, found: Mapping[str, Any], call: Call) -> Resource:
        resource = replace(resource_of(found), links=self.links(job))
        if resource.phase is Phase.SUCCEEDED:
            said = await self._said(job, call) if job.outputs and job.prints else None
            return with_printed(resource, job.outputs, said, job.output_prefix)
        if resource.phase.is_failure and not job.prints and job.output_prefix:
            return replace(resource, outputs=OutputsAt(job.output_prefix))  # a function says in error.pb what it was
        return resource

    async def _said(self, job: RayJob, call: Call) -> str | None:
        headers = await bearer(_TOKEN, call.connection)
        told = self._read(await self._http.ask("GET", f"{self._url(job)}/logs", headers=headers))
        return said_in(str(told.get("logs") or "").splitlines())

    def _read(self, answer: HttpAnswer) -> Any:
        if answer.status != 200:
            raise _error(answer, polling=True)
        return self._http.read(answer)

    # -- which cluster ----------------------------------------------------------------------------------------------

    def _job(self, task: Task) -> RayJob:
        """The job of a task, whether it is there or not."""
        given = task.connection.configs.get("address", "") if task.connection is not None else ""
        named = task.config.get("address") if task.type.name != RAY else ""
        if named is not None and not isinstance(named, str):
            raise Fail("config.address must be the address of a dashboard.")
        address = _normal(named or given) or self._address
        self._check(address)
        return RayJob(
            submission_id=submission_id(task.key),
            address=address,
            outputs={name: kind_of(one) for name, one in task.interface.outputs.items()},
            output_prefix=task.output_prefix,
            prints=task.type.name != RAY,
        )

    def _check(self, address: str) -> None:
        check_server(address, self._hosts, "config.address")

    def _url(self, job: RayJob) -> str:
        return f"{job.address}/api/jobs/{quote(job.submission_id, safe='')}"


def _checked(job: RayJob, found: Mapping[str, Any], key: str) -> RayJob:
    if (found.get("metadata") or {}).get("airside_key") != key:
        raise Fail(f"There is a Ray job {job.submission_id} that is not Airside's.", code="Conflict")
    return job


def _normal(address: str) -> str:
    return address.strip().rstrip("/")


def _of_environment() -> str:
    named = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or ""
    return named if named.startswith(("http://", "https://")) else ""


def _error(answer: HttpAnswer, *, polling: bool = False) -> AgentError:
    """The error that an answer means. Ray tells errors as Python's tracebacks, of which the end says what it is."""
    text = (answer.text or "").strip()
    inner = _INNER_STATUS.search(text)
    status = int(inner[1]) if inner else answer.status
    lines = [line.strip() for line in text.splitlines() if line.strip(" .")]
    words = lines[-1][:_LONGEST] if lines else "no reason given"
    return error_of_status(status, f"Ray answered {status}: {words}", answer.headers, polling=polling)


__all__ = ("RayJob", "RayJobAgent", "RayJobTask")
