"""`aws-batch`: a task whose container runs as a job of AWS Batch; `AWSBatchTask` writes one.

Batch has no tokens, but the task's key is part of the job's name, by which the agent finds a job that is there. Tasks
of flytekit's plugin for AWS Batch run as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airside.agents.aws import AccountOptions, check_region, console
from airside.agents.aws_agent import AWSAgent, listed
from airside.agents.aws_batch_request import (
    AWSBatchConfig,
    AWSBatchTask,
    Defaults,
    asked_of,
    job_name,
    queue_of,
)
from airside.agents.aws_batch_states import facts, log_place, phase_of, reason_for
from airside.agents.cloudwatch_logs import last_words, lines_of, log_link
from airside.agents.flyte_container import kinds_of, place_of, rendered
from airside.agents.quantities import amount, size
from airside.agents.s3_outputs import container_outputs
from airside.model import (
    Call,
    ConversionError,
    LogLine,
    LogLink,
    NotFound,
    OutputsAt,
    Phase,
    Resource,
    Task,
)

_BATCH = 100  # jobs that Batch tells of in one call
_TO_SPARE = 5.0  # seconds, without which a job's last words are not asked for
_WHY = "Cancelled by Airside"


@dataclass(frozen=True, slots=True)
class BatchJob:
    """What finds a job again. `place` is where its container leaves its outputs; empty if it leaves none."""

    id: str
    region: str
    place: str = ""
    outputs: dict[str, Any] = field(default_factory=dict, hash=False)


class AWSBatchAgent(AWSAgent[BatchJob]):
    """Runs the containers of tasks as jobs of AWS Batch."""

    name = "aws-batch"
    task_type = "aws-batch"
    service = "batch"
    poll_interval = 10.0

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options(AccountOptions):
        """For tasks that say less, and whose account is used.

        queue: for tasks that name none.
        job_role, execution_role: ARNs of the roles of containers, and of ECS for their images and logs.
        cpu, memory: of containers that ask for none.
        public_ip: whether containers on Fargate get a public address, as they need in a subnet without a NAT gateway.

        The rest, as for every agent of AWS: `region`, `profile`, `endpoint_url`, `allowed_hosts`.
        """

        queue: str = ""
        job_role: str = ""
        execution_role: str = ""
        cpu: str = "1"
        memory: str = "2Gi"
        public_ip: bool = False

        def __post_init__(self) -> None:
            amount(self.cpu)
            size(self.memory)

    def open(self, options: Options) -> None:
        super().open(options)
        self._options = options
        self._defaults = Defaults(
            queue=options.queue,
            job_role=options.job_role,
            execution_role=options.execution_role,
            cpus=options.cpu,
            memory=options.memory,
            public_ip=options.public_ip,
        )

    def probe(self) -> str:
        """Ask Batch for a queue."""
        queue = self._options.queue
        asked = {"jobQueues": [queue]} if queue else {"maxResults": 1}
        found = self._ask(Call(), "", lambda client: client.describe_job_queues(**asked), creating=True)
        names = [one["jobQueueName"] for one in found["jobQueues"]]
        return f"Batch answers, and shows the queue {names[0]}" if names else f"Batch answers, and has no queue {queue}"

    def create(self, task: Task) -> BatchJob:
        asked = asked_of(task, self._defaults)

        def submit(client: Any) -> tuple[str, str]:
            if asked.definition is not None:
                _ensure(client, asked.definition)
            return client.submit_job(**asked.job)["jobId"], client.meta.region_name

        job_id, region = self._ask(task, _region_of(task), submit, creating=True)
        return _job(task, job_id, region)

    def find(self, task: Task, key: str) -> BatchJob | None:
        """The first job of the key's name: should two processes make one at once, both find the same."""
        name = job_name(task, key)
        asked = {
            "jobQueue": queue_of(task, self._defaults.queue),
            "filters": [{"name": "JOB_NAME", "values": [name]}],
        }

        def look(client: Any) -> tuple[list[Any], str]:
            pages = client.get_paginator("list_jobs").paginate(**asked)
            return [one for page in pages for one in page["jobSummaryList"]], client.meta.region_name

        try:
            shown, region = self._aws.ask(task, self.service, _region_of(task), look, is_missing=_has_no_queue)
        except NotFound:  # a create says so
            return None
        named = [one for one in shown if one["jobName"] == name]
        first = min(named, key=lambda one: (one.get("createdAt", 0), one["jobId"]), default=None)
        return None if first is None else _job(task, first["jobId"], region)

    def get_many(self, jobs: Sequence[BatchJob], call: Call) -> Sequence[Resource | Exception]:
        """A hundred jobs of a region in one call."""
        places = [(job.region, job.id) for job in jobs]
        known = listed(places, lambda region, ids: self._shown(ids, region, call), single=0, at_once=_BATCH)
        return [self._answer(job, known[place], call) for job, place in zip(jobs, places, strict=True)]

    def delete(self, job: BatchJob, call: Call) -> None:
        asked = {"jobId": job.id, "reason": _WHY}
        self._aws.ask(
            call, self.service, job.region, lambda client: client.terminate_job(**asked), is_missing=_has_no_job
        )

    def links(self, job: BatchJob) -> Sequence[LogLink]:
        uri = f"{console(job.region)}/batch/home?region={job.region}#jobs/detail/{job.id}"
        return (LogLink(uri, "AWS Batch Console"),)

    def logs(self, job: BatchJob, *, after: str, limit: int, call: Call) -> Iterator[LogLine]:
        """What the newest attempt of the container prints, as it comes."""
        return lines_of(
            self._aws,
            call,
            job.region,
            lambda: log_place(self._describe(job, call)),
            after=after,
            limit=limit,
        )

    # -- what is made of an answer ----------------------------------------------------------------------------------

    def _judge(self, job: BatchJob, told: Mapping[str, Any], call: Call) -> Resource:
        place = log_place(told)
        resource = Resource(
            phase_of(told["status"]),
            message=str(told.get("statusReason") or ""),
            links=(*self.links(job), *([log_link(job.region, place.group, place.stream)] if place.stream else [])),
            info=facts(told, job.region),
        )
        if not resource.phase.is_terminal:
            return resource
        if resource.phase is Phase.SUCCEEDED:
            try:
                outputs = container_outputs(self._aws, call, job.region, job.place, job.outputs)
            except ConversionError as exc:
                return replace(resource, phase=Phase.FAILED, code="OutputConversionError", message=str(exc))
            return replace(resource, message="", outputs=outputs)
        in_time = call.remaining is None or call.remaining > _TO_SPARE
        last = last_words(self._aws, call, job.region, place) if place.stream and in_time else ""
        reason = reason_for(told, last)
        document = OutputsAt(job.place) if job.place else None
        return replace(resource, phase=reason.phase, code=reason.code, message=reason.message, outputs=document)

    # -- asking Batch -----------------------------------------------------------------------------------------------

    def _describe(self, job: BatchJob, call: Call) -> Mapping[str, Any]:
        told = self._shown([job.id], job.region, call)[job.id]
        if isinstance(told, NotFound):
            raise told
        return told

    def _shown(self, ids: Collection[str], region: str, call: Call) -> dict[str, Mapping[str, Any] | NotFound]:
        """What Batch tells of each of these jobs."""
        answer = self._ask(call, region, lambda client: client.describe_jobs(jobs=list(ids)))
        shown = {one["jobId"]: one for one in answer["jobs"]}
        return {job: shown.get(job) or NotFound(f"AWS Batch has no job {job} in {region} any more.") for job in ids}

    @staticmethod
    def _is_missing(_code: str, _message: str, /) -> bool:
        return False  # a job that is gone is left out of an answer


def _ensure(client: Any, definition: dict[str, Any]) -> None:
    """Register a definition, unless there is one of its name: the name is made of what is in it."""
    name = definition["jobDefinitionName"]
    shown = client.describe_job_definitions(jobDefinitionName=name, status="ACTIVE", maxResults=1)
    if not shown["jobDefinitions"]:
        client.register_job_definition(**definition)


def _region_of(task: Task) -> str:
    return check_region(str(task.config.get("region") or ""))


def _job(task: Task, job_id: str, region: str) -> BatchJob:
    words = rendered(task, task.container.args if task.container is not None else ())
    return BatchJob(job_id, region, place_of(task, words), kinds_of(task, words))


def _has_no_job(code: str, message: str) -> bool:
    return code == "ClientException" and ("not found" in message or "does not exist" in message)


def _has_no_queue(code: str, _message: str) -> bool:
    return code == "ClientException"


__all__ = ("AWSBatchAgent", "AWSBatchConfig", "AWSBatchTask", "BatchJob")
