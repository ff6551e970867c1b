"""`ecs_task`: a task whose container runs as a task of Amazon ECS, on Fargate or machines; `ECSTask` writes one.

The task's key is the request's token, so ECS itself starts one task for an attempt, whatever dies in between.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airside.agents.aws import AccountOptions, check_region, code_of, console
from airside.agents.aws_agent import AWSAgent, listed
from airside.agents.cloudwatch_logs import LogPlace, last_words, lines_of, log_link
from airside.agents.ecs_task_request import (
    EC2,
    EXTERNAL,
    FARGATE,
    Defaults,
    ECSConfig,
    ECSTask,
    checked,
    definition_of,
    log_of,
    run_of,
)
from airside.agents.ecs_task_states import facts, phase_of, reason_for, runtime_of, succeeded
from airside.agents.flyte_container import kinds_of, place_of, rendered
from airside.agents.quantities import amount, size
from airside.agents.s3_outputs import container_outputs
from airside.model import (
    Call,
    ConversionError,
    Fail,
    LogLine,
    LogLink,
    NotFound,
    OutputsAt,
    Phase,
    Resource,
    Retry,
    Task,
)

_BATCH = 100  # tasks that ECS tells of in one call
_TO_SPARE = 5.0  # seconds, without which a task's last words are not asked for
_WHY = "Cancelled by Airside"
_GONE = "ECS has no task {} any more: it keeps them for an hour after their end."
_PASSING = ("RESOURCE", "AGENT", "CAPACITY", "EMPTY CAPACITY PROVIDER")  # why ECS places no task just now


@dataclass(frozen=True, slots=True, kw_only=True)
class ECSJob:
    """What finds an ECS task again. `place` is where its container leaves its outputs; empty if it leaves none."""

    arn: str
    cluster: str
    region: str
    container: str
    log_group: str = ""
    log_prefix: str = ""
    place: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.arn.rpartition("/")[2]


class ECSTaskAgent(AWSAgent[ECSJob]):
    """Runs the containers of tasks in Amazon ECS."""

    name = "ecs_task"
    task_type = "ecs_task"
    service = "ecs"
    poll_interval = 10.0
    create_is_idempotent = True  # a request of the same token is the same task

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options(AccountOptions):
        """For tasks that say less, and whose account is used.

        cluster, launch_type: for tasks that name none; `FARGATE`, `EC2` or `EXTERNAL`.
        subnets, security_groups: of tasks that name none.
        public_ip: whether tasks on Fargate get a public address, as they need in a subnet without a NAT gateway.
        task_role, execution_role: ARNs of the roles of containers, and of ECS for their images and logs.
        log_group: of CloudWatch Logs, which must be there; empty: no logs.
        cpu, memory: of containers that ask for none.

        The rest, as for every agent of AWS: `region`, `profile`, `endpoint_url`, `allowed_hosts`.
        """

        cluster: str = "default"
        launch_type: str = FARGATE
        subnets: tuple[str, ...] = ()
        security_groups: tuple[str, ...] = ()
        public_ip: bool = False
        task_role: str = ""
        execution_role: str = ""
        log_group: str = "/ecs/airside"
        cpu: str = "1"
        memory: str = "2Gi"

        def __post_init__(self) -> None:
            if self.launch_type not in (FARGATE, EC2, EXTERNAL):
                raise ValueError("launch_type is FARGATE, EC2 or EXTERNAL")
            amount(self.cpu)
            size(self.memory)

    def open(self, options: Options) -> None:
        super().open(options)
        self._defaults = Defaults(
            cluster=options.cluster,
            launch_type=options.launch_type,
            subnets=options.subnets,
            security_groups=options.security_groups,
            public_ip=options.public_ip,
            task_role=options.task_role,
            execution_role=options.execution_role,
            log_group=options.log_group,
            cpus=options.cpu,
            memory=options.memory,
        )

    def probe(self) -> str:
        """Ask ECS for the cluster."""
        name = self._defaults.cluster
        found = self._ask(Call(), "", lambda client: client.describe_clusters(clusters=[name]), creating=True)
        shown = [one["clusterName"] for one in found["clusters"] if one.get("status") == "ACTIVE"]
        return f"ECS answers, and shows the cluster {shown[0]}" if shown else f"ECS answers, and has no cluster {name}"

    def create(self, task: Task) -> ECSJob:
        config = checked(task)
        configs = task.connection.configs if task.connection is not None else {}
        cluster = str(config.get("cluster") or configs.get("cluster") or self._defaults.cluster)

        def start(client: Any) -> ECSJob:
            region = client.meta.region_name
            if config.get("taskDefinition"):
                definition = client.describe_task_definition(taskDefinition=config["taskDefinition"])["taskDefinition"]
            else:
                definition = definition_of(task, config, region, self._defaults)
                _ensure(client, definition)
            log = log_of(definition, str(config.get("container") or ""))
            answer = client.run_task(**run_of(task, config, definition, log.container, cluster, self._defaults))
            made = _started(answer)
            words = rendered(task, task.container.args if task.container is not None else ())
            return ECSJob(
                arn=made["taskArn"],
                cluster=made.get("clusterArn") or cluster,
                region=region,
                container=log.container,
                log_group=log.group,
                log_prefix=log.prefix,
                place=place_of(task, words),
                outputs=kinds_of(task, words),
            )

        return self._ask(task, check_region(str(config.get("region") or "")), start, creating=True)

    def get_many(self, jobs: Sequence[ECSJob], call: Call) -> Sequence[Resource | Exception]:
        """A hundred tasks of a cluster in one call."""
        places = [((job.region, job.cluster), job.arn) for job in jobs]
        known = listed(places, lambda group, arns: self._shown(arns, *group, call), single=0, at_once=_BATCH)
        return [self._answer(job, known.get(place), call) for job, place in zip(jobs, places, strict=True)]

    def delete(self, job: ECSJob, call: Call) -> None:
        asked = {"cluster": job.cluster, "task": job.arn, "reason": _WHY}
        self._ask(call, job.region, lambda client: client.stop_task(**asked))

    def links(self, job: ECSJob) -> Sequence[LogLink]:
        cluster = job.cluster.rpartition("/")[2]
        uri = f"{console(job.region)}/ecs/v2/clusters/{cluster}/tasks/{job.id}?region={job.region}"
        console_link, stream = LogLink(uri, "ECS Console"), _stream(job)
        return (console_link, log_link(job.region, job.log_group, stream)) if stream else (console_link,)

    def logs(self, job: ECSJob, *, after: str, limit: int, call: Call) -> Iterator[LogLine]:
        """What the container prints, as it comes."""
        return lines_of(
            self._aws,
            call,
            job.region,
            lambda: _log_place(job, self._describe(job, call)),
            after=after,
            limit=limit,
        )

    # -- what is made of an answer ----------------------------------------------------------------------------------

    def _judge(self, job: ECSJob, told: Mapping[str, Any], call: Call) -> Resource:
        phase, info, links = phase_of(told["lastStatus"]), facts(told, job.container, job.region), self.links(job)
        if not phase.is_terminal:
            return Resource(phase, message=str(told.get("stoppedReason") or ""), links=links, info=info)
        if succeeded(told, job.container):
            try:
                outputs = container_outputs(self._aws, call, job.region, job.place, job.outputs)
            except ConversionError as exc:
                return Resource(Phase.FAILED, message=str(exc), code="OutputConversionError", links=links, info=info)
            return Resource(Phase.SUCCEEDED, outputs=outputs, links=links, info=info)
        place = _log_place(job, told)
        in_time = call.remaining is None or call.remaining > _TO_SPARE
        last = last_words(self._aws, call, job.region, place) if place.stream and in_time else ""
        reason = reason_for(told, job.container, last)
        resource = Resource(reason.phase, message=reason.message, code=reason.code, links=links, info=info)
        return replace(resource, outputs=OutputsAt(job.place) if job.place else None)

    # -- asking ECS -------------------------------------------------------------------------------------------------

    def _describe(self, job: ECSJob, call: Call) -> Mapping[str, Any]:
        told = self._shown([job.arn], job.region, job.cluster, call)[job.arn]
        if isinstance(told, NotFound):
            raise told
        return told

    def _shown(
        self, arns: Collection[str], region: str, cluster: str, call: Call
    ) -> dict[str, Mapping[str, Any] | NotFound]:
        """What ECS tells of each of these tasks of a cluster."""
        answer = self._ask(call, region, lambda client: client.describe_tasks(cluster=cluster, tasks=list(arns)))
        shown = {one["taskArn"]: one for one in answer["tasks"]}
        return {arn: shown.get(arn) or NotFound(_GONE.format(arn.rpartition("/")[2])) for arn in arns}

    @staticmethod
    def _is_missing(code: str, message: str, /) -> bool:
        return code == "InvalidParameterException" and "not found" in message.lower()


def _ensure(client: Any, definition: dict[str, Any]) -> None:
    """Register a definition, unless there is one of its name: the name is made of what is in it."""
    try:
        client.describe_task_definition(taskDefinition=definition["family"])
    except client.exceptions.ClientError as exc:
        if code_of(exc) != "ClientException":
            raise
        client.register_task_definition(**definition)


def _started(answer: Mapping[str, Any]) -> Any:
    """The ECS task of an answer. `Retry` or `Fail` if there is none."""
    if answer.get("tasks"):
        return answer["tasks"][0]
    reasons = [str(one.get("reason") or "") for one in answer.get("failures") or ()]
    text = f"ECS starts no task: {'; '.join(dict.fromkeys(reasons)) or 'it tells no reason'}"
    if not reasons or any(reason.upper().startswith(_PASSING) for reason in reasons):
        raise Retry(text)
    raise Fail(text, code="NotPlaced")


def _stream(job: ECSJob) -> str:
    """The stream of a container's log; empty if only the running container knows."""
    return f"{job.log_prefix}/{job.container}/{job.id}" if job.log_group and job.log_prefix else ""


def _log_place(job: ECSJob, told: Mapping[str, Any]) -> LogPlace:
    stream = _stream(job) or (runtime_of(told, job.container) if job.log_group else "")
    if not phase_of(told["lastStatus"]).is_terminal:
        return LogPlace(job.log_group, stream)
    stopped = told.get("executionStoppedAt") or told.get("stoppedAt")
    return LogPlace(job.log_group, stream, stopped.timestamp() if stopped is not None else 0.0)


__all__ = ("ECSConfig", "ECSJob", "ECSTask", "ECSTaskAgent")
