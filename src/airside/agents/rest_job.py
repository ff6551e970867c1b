"""Any REST job service, without code: an agent described in a TOML or YAML file.

    name = "transcode"
    task_type = "transcode"
    base_url = "https://transcode.example.org/api"

    [create]
    path = "/jobs"
    json = {source = "{{.inputs.source}}"}
    id = "$.id"

    [get]
    path = "/jobs/{{.id}}"
    state = "$.state"
    states = {queued = "QUEUED", running = "RUNNING", done = "SUCCEEDED", failed = "FAILED"}
    outputs = {url = "$.result.url"}

    [delete]
    path = "/jobs/{{.id}}"

`airside serve --modules transcode.toml` serves it, and `rest_job("transcode.toml")` is the agent in Python.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from airside.agents.json_values import from_json, kind_of
from airside.agents.placeholders import render, text_of
from airside.agents.rest_job_client import Facts, RestClient
from airside.agents.rest_job_description import Description, is_path, read_description
from airside.model import (
    AirsideError,
    Call,
    ConversionError,
    Fail,
    LogLine,
    LogLink,
    NotFound,
    Phase,
    Resource,
    Retry,
    Task,
)
from airside.sdk.agent import AsyncAgent
from airside.sdk.declare import missing_extra

log = logging.getLogger("airside.agents.rest_job")

_OF_MANY = 100  # jobs in one question


@dataclass(frozen=True, slots=True)
class Job:
    """What finds a job again. `outputs` are the kinds of the declared outputs by name."""

    id: str
    outputs: dict[str, Any] = field(default_factory=dict)
    link: str = ""


class RestJobAgent(AsyncAgent[Job]):
    """Asks a service as its description says. Made by `rest_job`."""

    requires = MappingProxyType({"httpx2": "rest_job", "jsonpath": "rest_job"})

    def __init__(self, described: Description) -> None:
        self.name = described.name or described.task_type
        self.task_type = described.task_type
        self.poll_interval = described.poll_interval
        self.call_timeout = described.timeout + 10
        self.create_is_idempotent = described.create.idempotent
        self._described = described
        self._unknown: set[str] = set()
        if described.find is not None:
            self.find = self._find
        if described.many is not None:
            self.get_many = self._get_many
        if described.logs is not None:
            self.logs = self._logs

    async def open(self, options: None) -> None:
        del options  # all is in the description
        # The libraries take a while to load.
        self._client = await asyncio.to_thread(RestClient, self.name, self._described)

    async def close(self) -> None:
        await self._client.close()

    def check_credentials(self) -> str:
        """Whether the secret is there for tasks that bring none."""
        auth = self._described.auth
        if auth is None:
            return ""
        self._client.credential(None)
        return f"the secret {auth.secret}"

    async def probe(self) -> str:
        """What the service answers to the description's `probe`; without one, that something answers at all."""
        described = self._described.probe
        if described is None:
            status = await self._client.knock()
        else:
            status, _ = await self._client.send(await self._client.prepare(described, {}, {}, None), as_text=True)
        return f"{self._described.base_url} answers {status}"

    async def create(self, task: Task, call: Call) -> Job:
        described = self._described.create
        facts = _facts(task)
        outputs = {name: kind_of(one) for name, one in task.interface.outputs.items()}
        request = await self._client.prepare(described, facts, task.inputs, call.connection, task.inputs, polling=False)
        status, answer = await self._client.send(request, exists=described.exists)
        if is_path(described.id) and status not in described.exists:
            found = self._client.first(described.id, answer)
            if answer is None and (described.idempotent or self._described.find is not None):
                raise Retry(f"{self.name} answered a create with something else than JSON.")
            if found is None:
                raise Fail(f"{self.name} answered without an id at {described.id}.", code="UnexpectedAnswer")
            job_id = text_of(found)
        else:
            job_id = render(described.id, task.inputs, facts)
        return Job(job_id, outputs, self._link(job_id, facts))

    async def get(self, job: Job, call: Call) -> Resource:
        request = await self._client.prepare(self._described.get, _facts_of(job), {}, call.connection)
        _, answer = await self._client.send(request, polling=True)
        return await self._resource(job, answer, call)

    async def delete(self, job: Job, call: Call) -> None:
        request = await self._client.prepare(self._described.delete, _facts_of(job), {}, call.connection, polling=False)
        try:
            await self._client.send(request)
        except Fail as exc:
            if exc.code == "ResourceNotFound":
                raise NotFound(exc.message) from None
            raise

    def links(self, job: Job) -> Sequence[LogLink]:
        return [LogLink(job.link, f"{self.name} job")] if job.link else []

    async def _find(self, task: Task, key: str, call: Call) -> Job | None:
        described = self._described.find
        assert described is not None  # noqa: S101 - only then is there a `find`
        facts = {**_facts(task), "key": key}
        request = await self._client.prepare(described, facts, task.inputs, call.connection)
        try:
            _, answer = await self._client.send(request, polling=True)
        except NotFound:
            return None
        found = self._client.first(described.id, answer)
        if found is None:
            return None
        outputs = {name: kind_of(one) for name, one in task.interface.outputs.items()}
        return Job(text_of(found), outputs, self._link(text_of(found), facts))

    async def _get_many(self, jobs: Sequence[Job], call: Call) -> Sequence[Resource | Exception]:
        """Up to a hundred jobs in one question; each that the answer leaves out is asked for."""
        described = self._described.many
        assert described is not None  # noqa: S101 - only then is there a `get_many`
        told: dict[str, Any] = {}
        for start in range(0, len(jobs), _OF_MANY):
            ids = ",".join(job.id for job in jobs[start : start + _OF_MANY])
            request = await self._client.prepare(described, {"ids": ids}, {}, call.connection)
            _, answer = await self._client.send(request, polling=True)
            for one in self._client.all(described.jobs, answer):
                told[text_of(self._client.first(described.id, one))] = one
        return [await self._one_of(job, told.get(job.id), call) for job in jobs]

    async def _logs(self, job: Job, *, after: str, limit: int, call: Call) -> AsyncIterator[LogLine]:
        described = self._described.logs
        assert described is not None  # noqa: S101 - only then are there `logs`
        if after and not after.isdecimal():
            raise Fail(f"{after!r} is no place in this log; take the token of the page before.", code="BadToken")
        request = await self._client.prepare(described, _facts_of(job), {}, call.connection)
        _, answer = await self._client.send(request, polling=True, as_text=True)
        begin = int(after or 0)
        for number, line in enumerate(str(answer).splitlines()[begin : begin + limit], begin + 1):
            yield LogLine(line, originator="user", cursor=str(number))

    async def _one_of(self, job: Job, told: Any, call: Call) -> Resource | Exception:
        if call.remaining is not None and call.remaining < self._described.timeout / 2 and self._asks(told):
            return Retry("there was no time left to ask for this job")
        try:
            return await self.get(job, call) if told is None else await self._resource(job, told, call)
        except AirsideError as exc:
            return exc

    def _asks(self, told: Any) -> bool:
        """True if a job takes a question of its own: it is not among many, or its outputs are elsewhere."""
        if told is None:
            return True
        state = self._client.first(self._described.get.state, told)
        ended = state is not None and self._described.get.states.get(text_of(state)) == Phase.SUCCEEDED.name
        return ended and self._described.result is not None

    async def _resource(self, job: Job, answer: Any, call: Call) -> Resource:
        described = self._described.get
        found = self._client.first(described.state, answer)
        if found is None:
            raise Retry(f"{self.name} answered without a state at {described.state}.")
        phase = self._phase(text_of(found))
        message = self._client.text(described.message, answer)
        page = self._client.text(described.link, answer) or job.link
        links = [LogLink(page, f"{self.name} job")] if page else []
        info = {"id": job.id, "state": text_of(found)}
        if phase is not Phase.SUCCEEDED:
            code = {Phase.ABORTED: "Canceled"}.get(phase, "JobFailed") if phase.is_failure else ""
            return Resource(phase, message=message, links=links, info=info, code=code)
        try:
            outputs = await self._outputs(job, answer, call)
        except ConversionError as exc:
            code = "OutputConversionError"
            return Resource(Phase.FAILED, message=str(exc), code=code, links=links, info=info)
        return Resource(phase, message=message, outputs=outputs or None, links=links, info=info)

    async def _outputs(self, job: Job, answer: Any, call: Call) -> dict[str, Any]:
        outputs = self._values(self._described.get.outputs, answer, job)
        if self._described.result is not None:
            request = await self._client.prepare(self._described.result, _facts_of(job), {}, call.connection)
            _, result = await self._client.send(request, polling=True)
            outputs |= self._values(self._described.result.outputs, result, job)
        return outputs

    def _phase(self, state: str) -> Phase:
        name = self._described.get.states.get(state)
        if name is not None:
            return Phase[name]
        if state not in self._unknown and len(self._unknown) < _OF_MANY:
            self._unknown.add(state)
            log.warning("%s names the state %r of a job, which get.states does not know", self.name, state)
        return Phase.RUNNING

    def _values(self, paths: Mapping[str, str], answer: Any, job: Job) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, path in paths.items():
            if job.outputs and name not in job.outputs:
                continue
            found = self._client.first(path, answer)
            if found is not None:
                values[name] = from_json(found, job.outputs.get(name, "any"), f"outputs.{name}")
        return values

    def _link(self, job_id: str, facts: Facts) -> str:
        return render(self._described.link, {}, {**facts, "id": quote(job_id, safe="")})


def rest_job(path: str | Path) -> RestJobAgent:
    """The agent that a file describes. Raises `UsageError`, which names the file and the key."""
    missing = missing_extra(RestJobAgent)
    if missing is not None:
        raise missing
    return RestJobAgent(read_description(Path(path)))


def _facts(task: Task) -> Facts:
    config = {f"config.{name}".lower(): text_of(value) for name, value in task.config.items()}
    return {"key": task.key, "outputprefix": task.output_prefix, **config}


def _facts_of(job: Job) -> Facts:
    return {"id": job.id}
