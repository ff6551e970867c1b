"""`sagemaker-endpoint`: a task that deploys an endpoint of Amazon SageMaker, and the tasks around it.

Tasks of flytekit's SageMaker plugin run as they are. A deployed endpoint is never deleted, except by a task that says
so.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from airside.agents.aws import check_region, console, words
from airside.agents.aws_agent import AWSAgent, listed, pages, picked
from airside.agents.boto import BotoConfig, BotoTask, existing
from airside.agents.boto_request import fill, fit, region_of
from airside.agents.cloudwatch_logs import LogPlace, last_words, lines_of, log_link, streams_of
from airside.agents.config_keys import check_keys
from airside.model import (
    AirsideError,
    Call,
    Fail,
    LogLine,
    LogLink,
    Phase,
    Resource,
    Retry,
    Task,
    TaskTemplate,
    UsageError,
)

log = logging.getLogger("airside.agents.sagemaker")

STATES: Mapping[str, Phase] = {
    "Creating": Phase.RUNNING,
    "InService": Phase.SUCCEEDED,
    "Failed": Phase.FAILED,
    "Updating": Phase.RUNNING,
    "SystemUpdating": Phase.RUNNING,
    "RollingBack": Phase.RUNNING,
    "UpdateRollbackFailed": Phase.FAILED,
    "OutOfService": Phase.FAILED,
    "Deleting": Phase.ABORTED,
}
_WORDS = {
    "Failed": "SageMaker tells no reason",
    "OutOfService": "the endpoint is out of service",
    "UpdateRollbackFailed": "an update of the endpoint failed, and so did its rollback",
    "Deleting": "the endpoint is being deleted",
}
_PAGE, _MOST_PAGES = 100, 10
_TO_SPARE = 5.0  # seconds, without which an endpoint's last words are not asked for


@dataclass(frozen=True, kw_only=True)
class SageMakerCall(BotoTask):
    """A task that is one call of SageMaker's API, with `config` as its arguments, as in `BotoConfig`."""

    service: ClassVar[str] = "sagemaker"
    method: ClassVar[str]

    region: str | None = None
    images: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        asked = BotoConfig(
            service=self.service, method=self.method, config=self.config, region=self.region, images=self.images
        )
        object.__setattr__(self, "task_config", asked)
        object.__setattr__(self, "config", {})
        super().__post_init__()


class SageMakerModelTask(SageMakerCall):
    """A task that makes a model.

    >>> config = {"ModelName": "delays-{idempotence_token}", "PrimaryContainer": {"Image": "{images.model}"}}
    >>> SageMakerModelTask(name="model", config=config, images={"model": "registry/model:1"}).config["method"]
    'create_model'
    """

    method = "create_model"


class SageMakerEndpointConfigTask(SageMakerCall):
    """A task that makes the configuration of an endpoint."""

    method = "create_endpoint_config"


class SageMakerDeleteEndpointTask(SageMakerCall):
    """A task that deletes an endpoint."""

    method = "delete_endpoint"


class SageMakerDeleteEndpointConfigTask(SageMakerCall):
    """A task that deletes an endpoint's configuration."""

    method = "delete_endpoint_config"


class SageMakerDeleteModelTask(SageMakerCall):
    """A task that deletes a model."""

    method = "delete_model"


class SageMakerInvokeEndpointTask(SageMakerCall):
    """A task that asks an asynchronous endpoint."""

    service = "sagemaker-runtime"
    method = "invoke_endpoint_async"


@dataclass(frozen=True, kw_only=True)
class SageMakerEndpointTask(TaskTemplate):
    """A task that deploys an endpoint and ends when it is in service. Its output `result` has the `EndpointArn`.

    config: what `create_endpoint` takes; `{inputs.name}` in any text stands for an input, `{idempotence_token}` for a
    hash of all arguments.

    >>> config = {"EndpointName": "delays", "EndpointConfigName": "{inputs.config}"}
    >>> SageMakerEndpointTask(name="deploy", config=config, region="eu-west-1", inputs={"config": str}).config["region"]
    'eu-west-1'
    """

    task_type: str = "sagemaker-endpoint"
    region: str | None = None
    outputs: Mapping[str, Any] = field(default_factory=lambda: {"result": dict})

    def __post_init__(self) -> None:
        if not self.config.get("EndpointName") or not self.config.get("EndpointConfigName"):
            raise UsageError(f"Task {self.name!r} needs EndpointName and EndpointConfigName in its config.")
        object.__setattr__(self, "config", {"config": dict(self.config), "region": self.region})
        super().__post_init__()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What finds the endpoint again. `configuration` is the name of the one that it was asked to have."""

    name: str
    region: str
    configuration: str


class SageMakerAgent(AWSAgent[Endpoint]):
    """Deploys endpoints of Amazon SageMaker."""

    name = "sagemaker"
    task_type = "sagemaker-endpoint"
    service = "sagemaker"
    requires = MappingProxyType({"boto3": "aws", "xxhash": "aws"})
    poll_interval = 10.0
    create_is_idempotent = True  # SageMaker refuses a second endpoint of one name

    def probe(self) -> str:
        """Ask SageMaker for an endpoint."""
        self._ask(Call(), "", lambda client: client.list_endpoints(MaxResults=1), creating=True)
        return "SageMaker answers"

    def create(self, task: Task) -> Endpoint:
        check_keys(task.config, ("config", "region", "images"), "sagemaker-endpoint")
        region = check_region(region_of(task.config, task.inputs))

        def make(client: Any) -> Endpoint:
            arguments = _arguments(task, client)
            job = Endpoint(
                str(arguments.get("EndpointName") or ""),
                client.meta.region_name,
                str(arguments.get("EndpointConfigName") or ""),
            )
            try:
                client.create_endpoint(**arguments)
            except client.exceptions.ClientError as exc:
                if not existing(exc):
                    raise
                _check(client.describe_endpoint(EndpointName=job.name), job)
            return job

        return self._ask(task, region, make, creating=True)

    def get_many(self, jobs: Sequence[Endpoint], call: Call) -> Sequence[Resource | Exception]:
        """One list for many endpoints of a region; what it does not show, or shows as failed, is described."""
        places = [(job.region, job.name) for job in jobs]
        known = listed(places, lambda region, names: self._list(names, region, call))
        return [self._answer(job, known.get(place), call) for job, place in zip(jobs, places, strict=True)]

    def delete(self, job: Endpoint, call: Call) -> None:
        """Delete the endpoint while it is being created. One that is in service stays, whoever asks."""
        found = self._describe(job, call)
        if found["EndpointStatus"] != "Creating" or not _is_ours(found, job):
            return
        self._ask(call, job.region, lambda client: client.delete_endpoint(EndpointName=job.name))

    def links(self, job: Endpoint) -> Sequence[LogLink]:
        uri = f"{console(job.region)}/sagemaker/home?region={job.region}#/endpoints/{job.name}"
        return LogLink(uri, "SageMaker Console"), log_link(job.region, _group(job))

    def logs(self, job: Endpoint, *, after: str, limit: int, call: Call) -> Iterator[LogLine]:
        """What the first of the endpoint's containers prints, as it comes, until the endpoint is in service."""
        return lines_of(
            self._aws,
            call,
            job.region,
            lambda: self._log_place(job, self._describe(job, call), call),
            after=after,
            limit=limit,
        )

    # -- what is made of an answer ----------------------------------------------------------------------------------

    def _judge(self, job: Endpoint, found: Mapping[str, Any], call: Call, /) -> Resource:
        status, links = str(found["EndpointStatus"]), self.links(job)
        phase = phase_of(status)
        info = {"endpoint": job.name, "configuration": job.configuration, "region": job.region, "status": status}
        if phase.is_success and not _is_ours(found, job):
            message = f"The endpoint has the configuration {found['EndpointConfigName']}, not {job.configuration}."
            return Resource(Phase.FAILED, message=message, code="EndpointExists", links=links, info=info)
        if phase.is_success:
            outputs = {"result": {"EndpointArn": found["EndpointArn"]}}
            return Resource(phase, outputs=outputs, links=links, info=info)
        message = words(str(found.get("FailureReason") or _WORDS.get(status, "")))
        if status == "Failed" and (last := self._last_words(job, found, call)):
            message = f"{message}: {last}"
        code = "Cancelled" if status == "Deleting" else "EndpointFailed"
        return Resource(phase, message=message, code=code if phase.is_terminal else "", links=links, info=info)

    def _last_words(self, job: Endpoint, found: Mapping[str, Any], call: Call) -> str:
        """What the container said before it failed; empty if that cannot be read, or not in time."""
        if call.remaining is not None and call.remaining < _TO_SPARE:
            return ""
        try:
            place = self._log_place(job, found, call)
        except AirsideError:
            return ""
        return last_words(self._aws, call, job.region, place) if place.stream else ""

    def _log_place(self, job: Endpoint, found: Mapping[str, Any], call: Call) -> LogPlace:
        streams = streams_of(self._aws, call, job.region, _group(job), limit=1)
        changed = found.get("LastModifiedTime")
        is_over = phase_of(str(found["EndpointStatus"])).is_terminal
        ended = (changed.timestamp() if changed is not None else 0.0) if is_over else None
        return LogPlace(_group(job), streams[0] if streams else "", ended)

    # -- asking SageMaker -------------------------------------------------------------------------------------------

    def _describe(self, job: Endpoint, call: Call) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._ask(
            call, job.region, lambda client: client.describe_endpoint(EndpointName=job.name)
        )
        return found

    def _list(self, names: Collection[str], region: str, call: Call) -> dict[str, Mapping[str, Any]]:
        """Those of the endpoints that the newest pages show as not yet there. Never more calls than endpoints."""
        asked = {"SortBy": "CreationTime", "SortOrder": "Descending", "MaxResults": _PAGE}

        def look(client: Any) -> dict[str, Mapping[str, Any]]:
            most = min(_MOST_PAGES, len(names))
            return picked(pages(client.list_endpoints, "Endpoints", "NextToken", most, **asked), "EndpointName", names)

        shown = self._ask(call, region, look)
        return {name: one for name, one in shown.items() if not phase_of(one["EndpointStatus"]).is_terminal}

    @staticmethod
    def _is_missing(code: str, message: str, /) -> bool:
        return code in ("ValidationException", "ValidationError") and "could not find" in message.lower()


def phase_of(status: str) -> Phase:
    """The phase of an endpoint's status; one that is not known yet is RUNNING, with a warning in the log.

    >>> phase_of("InService").name, phase_of("Paused").name
    ('SUCCEEDED', 'RUNNING')
    """
    known = STATES.get(status)
    if known is None:
        log.warning("SageMaker names an endpoint's status %r, which is not known here; it is taken to run", status)
        return Phase.RUNNING
    return known


def _arguments(task: Task, client: Any) -> dict[str, Any]:
    images, region = task.config.get("images"), client.meta.region_name
    filled = fill(task.config.get("config") or {}, task.inputs, images, service="sagemaker", region=region)
    fitted: dict[str, Any] = fit(
        filled.arguments, client.meta.service_model.operation_model("CreateEndpoint").input_shape
    )
    return fitted


def _group(job: Endpoint) -> str:
    return f"/aws/sagemaker/Endpoints/{job.name}"


def _check(found: Mapping[str, Any], job: Endpoint) -> None:
    """Raise `Fail` or `Retry` if the endpoint that is there already is not the one that is wanted."""
    if found["EndpointStatus"] == "Deleting":
        raise Retry(f"The endpoint {job.name} is being deleted", after=30)
    if not _is_ours(found, job):
        raise Fail(
            f"There is an endpoint {job.name} with the configuration {found['EndpointConfigName']}: delete it, or "
            "write {idempotence_token} into the name.",
            code="EndpointExists",
        )


def _is_ours(found: Mapping[str, Any], job: Endpoint) -> bool:
    return bool(found.get("EndpointConfigName", job.configuration) == job.configuration)
