"""`glue`: a task that is a run of a job of AWS Glue, and `GlueTask` to write one.

Glue's runs have neither names nor tokens. The task's key is one of the run's arguments, by which the agent finds a run
that is there: Glue lists the runs of a job newest first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from airside.agents.aws import check_region, console, words
from airside.agents.aws_agent import AWSAgent, listed, pages, picked
from airside.agents.cloudwatch_logs import LogPlace, lines_of, log_link
from airside.agents.config_keys import check_keys, text_at
from airside.agents.glue_states import facts, phase_of, reason_of
from airside.agents.json_values import kind_of
from airside.agents.placeholders import render, text_of
from airside.agents.s3_outputs import error_at, place_in_s3, read_outputs
from airside.model import (
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
    TaskTemplate,
    UsageError,
)

KEY, PLACE = "--airside_key", "--airside_outputs"  # Glue's own reader of arguments wants names without hyphens
_LOOK_BACK = timedelta(hours=48)  # over which the run of a key is looked for: as long as Glue lets a run take
_PAGE, _MOST_PAGES = 200, 25
_MOST_LISTED = 5  # pages that one poll of many runs may read
_GROUP = "/aws-glue/jobs"
_SETTINGS: Mapping[str, tuple[str, type]] = {  # of a task's config: what Glue calls them, and what they are
    "timeoutMinutes": ("Timeout", int),
    "workerType": ("WorkerType", str),
    "workers": ("NumberOfWorkers", int),
    "maxCapacity": ("MaxCapacity", float),
    "executionClass": ("ExecutionClass", str),
    "queue": ("JobRunQueuingEnabled", bool),
    "securityConfiguration": ("SecurityConfiguration", str),
}
_KEYS = ("job", "region", "arguments", *_SETTINGS)


@dataclass(frozen=True, kw_only=True)
class GlueTask(TaskTemplate):
    """A task that starts a run of a job of Glue and ends with it.

    job: the job's name.
    arguments: what the script gets, `{"--day": "{{.inputs.day}}"}`; without them, `--NAME` for every input.
    region: such as "eu-west-1". Empty: the service's.
    worker_type, workers, max_capacity, execution_class ("FLEX"), timeout_minutes, security_configuration: instead of
        the job's own.
    queue: let Glue queue the run while too many others run, instead of refusing it.

    Its outputs are what the script leaves in `outputs.json`, an object of values by name, under its argument
    `--airside_outputs`; or in `outputs.pb`, Flyte's own format.

    >>> from airside import kwtypes
    >>> task = GlueTask(name="load", job="load", inputs=kwtypes(day=str), outputs=kwtypes(rows=int), workers=2)
    >>> task.config
    {'job': 'load', 'workers': 2}
    """

    task_type: str = "glue"
    job: str = ""
    arguments: Mapping[str, str] | None = None
    region: str = ""
    worker_type: str = ""
    workers: int = 0
    max_capacity: float = 0.0
    execution_class: str = ""
    timeout_minutes: int = 0
    security_configuration: str = ""
    queue: bool = False

    def __post_init__(self) -> None:
        if not self.job:
            raise UsageError(f"Task {self.name!r} needs the name of a job of Glue: job=...")
        told = {
            "job": self.job,
            "arguments": None if self.arguments is None else dict(self.arguments),
            "region": self.region,
            "workerType": self.worker_type,
            "workers": self.workers,
            "maxCapacity": self.max_capacity,
            "executionClass": self.execution_class,
            "timeoutMinutes": self.timeout_minutes,
            "securityConfiguration": self.security_configuration,
            "queue": self.queue,
        }
        kept = {name: one for name, one in told.items() if one or one == {}}
        object.__setattr__(self, "config", {**kept, **self.config})
        super().__post_init__()


@dataclass(frozen=True, slots=True)
class GlueRun:
    """What finds the run again, where it leaves its outputs, and what they are to be."""

    job: str
    id: str
    region: str
    place: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)


class GlueAgent(AWSAgent[GlueRun]):
    """Runs jobs of AWS Glue."""

    name = "glue"
    task_type = "glue"
    service = "glue"
    poll_interval = 10.0

    def probe(self) -> str:
        """Ask Glue for a job."""
        self._ask(Call(), "", lambda client: client.list_jobs(MaxResults=1), creating=True)
        return "Glue answers"

    def create(self, task: Task) -> GlueRun:
        request, place = _request(task), place_in_s3(task)

        def start(client: Any) -> tuple[str, str]:
            try:
                return client.start_job_run(**request)["JobRunId"], client.meta.region_name
            except client.exceptions.ResourceNumberLimitExceededException as exc:  # of what runs now, so it passes
                raise Retry(f"Glue runs as much as the account may: {words(str(exc))}", after=30) from exc

        run_id, region = self._ask(task, _region(task), start, creating=True)
        return _run(task, run_id, region, place)

    def find(self, task: Task, key: str) -> GlueRun | None:
        """The first run with the key among its arguments: should two processes start one each, both find the same."""
        name, since = _request(task)["JobName"], datetime.now(UTC) - _LOOK_BACK

        def look(client: Any) -> tuple[list[Any], str]:
            found: list[Any] = []
            for page in _newest(client, name, _MOST_PAGES):
                found += [one for one in page if (one.get("Arguments") or {}).get(KEY) == key]
                if any(one.get("StartedOn", since) < since for one in page):
                    break
            return found, client.meta.region_name

        try:
            found, region = self._ask(task, _region(task), look)
        except NotFound:  # there is no such job; a create says so
            return None
        first = min(found, key=lambda one: (one.get("StartedOn", since), one["Id"]), default=None)
        return None if first is None else _run(task, first["Id"], region, place_in_s3(task))

    def get_many(self, jobs: Sequence[GlueRun], call: Call) -> Sequence[Resource | Exception]:
        """One list for many runs of a job; what its newest pages do not show is asked for by itself."""
        places = [((job.region, job.job), job.id) for job in jobs]
        known = listed(places, lambda group, ids: self._list(group[1], ids, group[0], call))
        return [self._answer(job, known.get(place), call) for job, place in zip(jobs, places, strict=True)]

    def delete(self, job: GlueRun, call: Call) -> None:
        answer = self._ask(
            call, job.region, lambda client: client.batch_stop_job_run(JobName=job.job, JobRunIds=[job.id])
        )
        for one in answer.get("Errors") or ():
            told = one.get("ErrorDetail") or {}
            if phase_of(str(self._describe(job, call)["JobRunState"])).is_terminal:
                return
            raise Retry(f"Glue does not stop the run: {told.get('ErrorCode')}: {words(str(told.get('ErrorMessage')))}")

    def links(self, job: GlueRun) -> Sequence[LogLink]:
        place = f"{quote(job.job, safe='')}/run/{quote(job.id, safe='')}"
        uri = f"{console(job.region)}/gluestudio/home?region={job.region}#/job/{place}"
        return (LogLink(uri, "Glue Console"), _log_link(job, {}, "output"))

    def logs(self, job: GlueRun, *, after: str, limit: int, call: Call) -> Iterator[LogLine]:
        """What the script prints, as it comes."""

        def look() -> LogPlace:
            run = self._describe(job, call)
            is_over = phase_of(str(run["JobRunState"])).is_terminal
            ended = run.get("CompletedOn") or run.get("LastModifiedOn")
            return LogPlace(_group(run, "output"), job.id, ended.timestamp() if is_over and ended else None)

        return lines_of(self._aws, call, job.region, look, after=after, limit=limit)

    # -- what is made of an answer ----------------------------------------------------------------------------------

    def _judge(self, job: GlueRun, run: Mapping[str, Any], call: Call) -> Resource:
        phase, info = phase_of(str(run["JobRunState"])), facts(run, job.region)
        links = (self.links(job)[0], _log_link(job, run, "output"), _log_link(job, run, "error"))
        if not phase.is_terminal:
            return Resource(phase, message=words(str(run.get("StateDetail") or "")), links=links, info=info)
        if not phase.is_success:
            reason, document = reason_of(run), error_at(self._aws, call, job.region, job.place)
            return Resource(phase, message=reason.message, code=reason.code, outputs=document, links=links, info=info)
        try:
            outputs = read_outputs(self._aws, call, job.region, job.place, job.outputs)
        except ConversionError as exc:
            return Resource(Phase.FAILED, message=str(exc), code="OutputConversionError", links=links, info=info)
        return Resource(phase, outputs=outputs, links=links, info=info)

    # -- asking Glue ------------------------------------------------------------------------------------------------

    def _describe(self, job: GlueRun, call: Call) -> Mapping[str, Any]:
        found = self._ask(call, job.region, lambda client: client.get_job_run(JobName=job.job, RunId=job.id))
        run: Mapping[str, Any] = found["JobRun"]
        return run

    def _list(self, name: str, ids: Collection[str], region: str, call: Call) -> dict[str, Mapping[str, Any]]:
        """Those of the runs that the newest pages show. Never more calls than runs."""
        most = min(_MOST_LISTED, len(ids))
        return self._ask(call, region, lambda client: picked(_newest(client, name, most), "Id", ids))

    @staticmethod
    def _is_missing(code: str, _message: str, /) -> bool:
        return code == "EntityNotFoundException"


def _newest(client: Any, name: str, most: int) -> Iterator[Sequence[Mapping[str, Any]]]:
    """The newest runs of a job, page by page."""
    return pages(client.get_job_runs, "JobRuns", "NextToken", most, JobName=name, MaxResults=_PAGE)


def _request(task: Task) -> dict[str, Any]:
    """What `start_job_run` is asked; the same for every create of one attempt."""
    check_keys(task.config, _KEYS, "glue")
    name = text_at(task.config, "job")
    if not name:
        raise Fail("config.job must be the name of a job of Glue.")
    request: dict[str, Any] = {"JobName": name, "Arguments": _arguments(task)}
    for key, (known_as, kind) in _SETTINGS.items():
        value = task.config.get(key)
        if value is None:
            continue
        if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) != (kind is bool):
            raise Fail(f"config.{key} must be of the type {kind.__name__}, not {value!r}.")
        request[known_as] = value
    return request


def _arguments(task: Task) -> dict[str, str]:
    given = task.config.get("arguments")
    if given is None:
        made = {f"--{name}": text_of(value) for name, value in task.inputs.items()}
    elif isinstance(given, Mapping) and all(isinstance(value, str) for value in given.values()):
        others = {"outputprefix": task.output_prefix, "perretryuniquekey": task.key}
        made = {str(name): render(value, task.inputs, others) for name, value in given.items()}
    else:
        raise Fail('config.arguments must map names to texts, such as {"--day": "{{.inputs.day}}"}.')
    return {**made, KEY: task.key, **({PLACE: place} if (place := place_in_s3(task)) else {})}


def _run(task: Task, run_id: str, region: str, place: str) -> GlueRun:
    outputs = {name: kind_of(annotation) for name, annotation in task.interface.outputs.items()}
    return GlueRun(text_at(task.config, "job"), run_id, region, place, outputs)


def _region(task: Task) -> str:
    return check_region(text_at(task.config, "region"))


def _group(run: Mapping[str, Any], kind: str) -> str:
    return f"{str(run.get('LogGroupName') or _GROUP).rstrip('/')}/{kind}"


def _log_link(job: GlueRun, run: Mapping[str, Any], kind: str) -> LogLink:
    return LogLink(log_link(job.region, _group(run, kind), job.id).uri, f"CloudWatch ({kind})")
