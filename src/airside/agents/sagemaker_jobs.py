"""`sagemaker-training-job` and its like: tasks that are jobs of Amazon SageMaker.

SageMaker refuses a second job of one name, and the task's key is a tag of the job: what is there under the name is
taken only if this attempt has made it. Tasks of flytekit's SageMaker plugin run as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from airside.agents.aws import check_region, code_of, console
from airside.agents.aws_agent import AWSAgent, listed, pages, picked
from airside.agents.boto_request import region_of
from airside.agents.cloudwatch_logs import LogPlace, last_words, lines_of, log_link, streams_of
from airside.agents.flyte_container import place_of, rendered
from airside.agents.sagemaker_job_kinds import KINDS, TRAINING_KIND, Kind, message_of, phase_of, plain, reason_for
from airside.agents.sagemaker_job_request import KEY_TAG, arguments_of, is_container
from airside.model import (
    AirsideError,
    Call,
    Fail,
    LogLine,
    LogLink,
    NotFound,
    OutputsAt,
    Phase,
    Resource,
    Task,
)

_PAGE, _MOST_PAGES = 100, 10
_TO_SPARE = 5.0  # seconds, without which a job's last words are not asked for
_TOKEN = "{idempotence_token}"  # noqa: S105 - a placeholder


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What finds a job again. `place` is where a container leaves its outputs; empty if SageMaker tells them."""

    task_type: str
    name: str
    region: str
    place: str = ""

    @property
    def kind(self) -> Kind:
        return KINDS[self.task_type]


class SageMakerJobsAgent(AWSAgent[Job]):
    """Runs training, processing, transform, tuning and recommender jobs of Amazon SageMaker."""

    name = "sagemaker-jobs"
    task_types = tuple(KINDS)
    service = "sagemaker"
    requires = MappingProxyType({"boto3": "aws", "xxhash": "aws"})
    poll_interval = 15.0
    create_is_idempotent = True  # SageMaker refuses a second job of one name

    def probe(self) -> str:
        """Ask SageMaker for a training job."""
        self._ask(Call(), "", lambda client: client.list_training_jobs(MaxResults=1), creating=True)
        return "SageMaker answers"

    def create(self, task: Task) -> Job:
        kind, task_type = KINDS[task.type.name], task.type.name
        own = is_container(task_type)
        region = check_region(str(task.config.get("region") or "") if own else region_of(task.config, task.inputs))

        def make(client: Any) -> Job:
            arguments = arguments_of(task, kind, client)
            name = str(arguments[kind.name])
            job = Job(task_type=task_type, name=name, region=client.meta.region_name, place=_place_of(task))
            try:
                getattr(client, f"create_{kind.method}")(**arguments)
            except client.exceptions.ClientError as exc:
                if not _is_there(exc):
                    raise
                _check(client, task, job)
            return job

        return self._ask(task, region, make, creating=True)

    def get_many(self, jobs: Sequence[Job], call: Call) -> Sequence[Resource | Exception]:
        """One list for many jobs of a kind; what it does not show, or shows as over, is described."""
        kinds = {job.kind.method: job.kind for job in jobs}
        places = [((job.region, job.kind.method), job.name) for job in jobs]
        known = listed(places, lambda group, names: self._list(kinds[group[1]], names, group[0], call))
        return [self._answer(job, known.get(place), call) for job, place in zip(jobs, places, strict=True)]

    def delete(self, job: Job, call: Call) -> None:
        """Stop the job. What it has made so far stays."""

        def stop(client: Any) -> None:
            try:
                getattr(client, f"stop_{job.kind.method}")(**{job.kind.name: job.name})
            except client.exceptions.ClientError as exc:
                if code_of(exc) != "ValidationException" or "non-running" not in str(exc):
                    raise  # else it is over

        self._ask(call, job.region, stop)

    def links(self, job: Job) -> Sequence[LogLink]:
        kind = job.kind
        logs = log_link(job.region, kind.group or TRAINING_KIND.group)
        logs = replace(logs, uri=f"{logs.uri}$3FlogStreamNameFilter$3D{job.name}")
        if not kind.page:
            return (logs,)
        uri = f"{console(job.region)}/sagemaker/home?region={job.region}#/{kind.page}/{job.name}"
        return LogLink(uri, "SageMaker Console"), logs

    def logs(self, job: Job, *, after: str, limit: int, call: Call) -> Iterator[LogLine]:
        """What the job's first container prints, as it comes."""
        return lines_of(
            self._aws,
            call,
            job.region,
            lambda: self._log_place(job, self._describe(job, call), call),
            after=after,
            limit=limit,
        )

    # -- what is made of an answer ----------------------------------------------------------------------------------

    def _judge(self, job: Job, told: Mapping[str, Any], call: Call) -> Resource:
        kind = job.kind
        resource = Resource(
            phase_of(kind, told), message=message_of(told), links=self.links(job), info=_facts(job, told)
        )
        if not resource.phase.is_terminal:
            return resource
        if resource.phase is Phase.SUCCEEDED:
            outputs = OutputsAt(job.place) if job.place else {"result": kind.outputs(self._whole(job, told, call))}
            return replace(resource, message="", outputs=outputs)
        reason = reason_for(kind, told)
        in_time = call.remaining is None or call.remaining > _TO_SPARE
        last = self._last_words(job, told, call) if reason.code == "AlgorithmError" and in_time else ""
        message = f"{reason.message}: {last}" if last and last not in reason.message else reason.message
        document = OutputsAt(job.place) if job.place else None
        return replace(resource, phase=reason.phase, code=reason.code, message=message, outputs=document)

    def _whole(self, job: Job, told: Mapping[str, Any], call: Call) -> Mapping[str, Any]:
        """The description of a job that succeeded, with where the model of the best trial is."""
        best = (told.get("BestTrainingJob") or {}).get("TrainingJobName")
        if not best:
            return told
        try:
            trial = self._ask(call, job.region, lambda client: client.describe_training_job(TrainingJobName=best))
        except NotFound:  # of the trial, which somebody has deleted: the tuning itself is there
            return told
        return {**told, "BestModel": (trial.get("ModelArtifacts") or {}).get("S3ModelArtifacts")}

    def _last_words(self, job: Job, told: Mapping[str, Any], call: Call) -> str:
        try:
            place = self._log_place(job, told, call)
        except AirsideError:
            return ""
        return last_words(self._aws, call, job.region, place) if place.stream else ""

    def _log_place(self, job: Job, told: Mapping[str, Any], call: Call) -> LogPlace:
        kind = job.kind
        found = streams_of(self._aws, call, job.region, kind.group, f"{job.name}/", limit=1) if kind.group else []
        stream = found[0] if found else ""
        if not phase_of(kind, told).is_terminal:
            return LogPlace(kind.group, stream)
        ended = told.get(kind.ended)
        return LogPlace(kind.group, stream, ended.timestamp() if ended is not None else 0.0)

    # -- asking SageMaker -------------------------------------------------------------------------------------------

    def _describe(self, job: Job, call: Call) -> Mapping[str, Any]:
        kind = job.kind
        asked = {kind.name: job.name}
        found: Mapping[str, Any] = self._ask(
            call, job.region, lambda client: getattr(client, f"describe_{kind.method}")(**asked)
        )
        return found

    def _list(self, kind: Kind, names: Collection[str], region: str, call: Call) -> dict[str, Mapping[str, Any]]:
        """Those of the jobs that the newest pages show as not yet over. Never more calls than jobs."""
        asked = {"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": _PAGE}

        def look(client: Any) -> dict[str, Mapping[str, Any]]:
            ask, most = getattr(client, f"list_{kind.method}s"), min(_MOST_PAGES, len(names))
            return picked(pages(ask, kind.summaries, "NextToken", most, **asked), kind.name, names)

        shown = self._ask(call, region, look)
        return {name: one for name, one in shown.items() if not phase_of(kind, one).is_terminal}

    @staticmethod
    def _is_missing(code: str, message: str, /) -> bool:
        says_so = "not find" in message or "not found" in message
        return code == "ResourceNotFound" or (code in ("ValidationException", "ValidationError") and says_so)


def _check(client: Any, task: Task, job: Job) -> None:
    """Raise `Fail` if the job that is there already is not this attempt's, nor one that does the same."""
    kind = job.kind
    told = getattr(client, f"describe_{kind.method}")(**{kind.name: job.name})
    tags = client.list_tags(ResourceArn=told[kind.arn], MaxResults=50).get("Tags") or ()
    if any((one["Key"], one["Value"]) == (KEY_TAG, task.key) for one in tags):
        return
    does_the_same = _TOKEN in str((task.config.get("config") or {}).get(kind.name) or "")
    if does_the_same and not phase_of(kind, told).is_failure:
        return
    raise Fail(
        f"There is a job {job.name} already, which is {told[kind.status]}: leave the name out, and the job gets one of "
        "its own.",
        code="JobExists",
    )


def _is_there(exc: Exception) -> bool:
    code = code_of(exc)
    return code == "ResourceInUse" or (code == "ValidationException" and "Cannot create already existing" in str(exc))


def _place_of(task: Task) -> str:
    if not is_container(task.type.name) or task.container is None:
        return ""
    return place_of(task, rendered(task, [*task.container.command, *task.container.args]))


def _facts(job: Job, told: Mapping[str, Any]) -> dict[str, Any]:
    known = {
        "job": job.name,
        "arn": told.get(job.kind.arn),
        "region": job.region,
        "status": told.get(job.kind.status),
        "secondary_status": told.get("SecondaryStatus"),
        "created_at": told.get("CreationTime"),
        "ended_at": told.get(job.kind.ended),
        "billable_seconds": told.get("BillableTimeInSeconds"),
        "training_seconds": told.get("TrainingTimeInSeconds"),
        "metrics": {one["MetricName"]: one["Value"] for one in told.get("FinalMetricDataList") or ()} or None,
        "trials": told.get("TrainingJobStatusCounters"),
    }
    return {name: plain(value) for name, value in known.items() if value is not None}
