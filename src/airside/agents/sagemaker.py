"""`sagemaker-endpoint`: a task that deploys an endpoint of Amazon SageMaker, and the tasks around it.

Tasks of flytekit's SageMaker plugin run as they are. A deployed endpoint is never deleted, except by a task that says
so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from airside.agents.aws import Aws, Place, check_region, console, words
from airside.agents.boto import BotoConfig, BotoTask, existing
from airside.agents.boto_request import fill, fit, region_of
from airside.agents.cloudwatch_logs import log_link
from airside.agents.config_keys import check_keys
from airside.model import Call, Fail, LogLink, NotFound, Phase, Resource, Retry, Task, TaskTemplate, UsageError
from airside.sdk.agent import AsyncAgent
from airside.sdk.declare import missing_extra

T = TypeVar("T")

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
    "OutOfService": "the endpoint is out of service",
    "UpdateRollbackFailed": "an update of the endpoint failed, and so did its rollback",
    "Deleting": "the endpoint is being deleted",
}
_SINGLE_GETS = 2  # endpoints up to which each is asked for by itself
_PAGE, _MOST_PAGES = 100, 10


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


class SageMakerAgent(AsyncAgent[Endpoint]):
    """Deploys endpoints of Amazon SageMaker."""

    name = "sagemaker"
    task_type = "sagemaker-endpoint"
    requires = MappingProxyType({"boto3": "aws", "xxhash": "aws"})
    poll_interval = 10.0
    create_is_idempotent = True  # SageMaker refuses a second endpoint of one name

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options:
        """Whose account is used, and where.

        region: for tasks that name none.
        profile: of the AWS command line's files.
        endpoint_url: another address of SageMaker's API, such as a private one.
        allowed_hosts: hosts besides Amazon's that a connection may name.
        """

        region: str = ""
        profile: str = ""
        endpoint_url: str = ""
        allowed_hosts: tuple[str, ...] = ()

    def open(self, options: Options) -> None:
        if (missing := missing_extra(self)) is not None:
            raise missing
        self._aws = Aws(
            Place(
                region=options.region,
                profile=options.profile,
                endpoint_url=options.endpoint_url,
                allowed_hosts=options.allowed_hosts,
            )
        )

    def close(self) -> None:
        self._aws.close()

    def check_credentials(self) -> str:
        """Whose credentials there are for tasks that bring none."""
        return self._aws.identity()

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

    def get(self, job: Endpoint, call: Call) -> Resource:
        return self._judge(job, self._describe(job, call))

    def get_many(self, jobs: Sequence[Endpoint], call: Call) -> Sequence[Resource | Exception]:
        """One list for many endpoints of a region; what it does not show, or shows as failed, is described."""
        listed: dict[tuple[str, str], Mapping[str, Any]] = {}
        for region in {job.region for job in jobs}:
            names = {job.name for job in jobs if job.region == region}
            if len(names) > _SINGLE_GETS:
                listed |= {(region, name): found for name, found in self._list(names, region, call).items()}
        return [self._answer(job, listed.get((job.region, job.name)), call) for job in jobs]

    def delete(self, job: Endpoint, call: Call) -> None:
        """Delete the endpoint while it is being created. One that is in service stays, whoever asks."""
        found = self._describe(job, call)
        if found["EndpointStatus"] != "Creating" or not _is_ours(found, job):
            return
        self._ask(call, job.region, lambda client: client.delete_endpoint(EndpointName=job.name))

    def links(self, job: Endpoint) -> Sequence[LogLink]:
        uri = f"{console(job.region)}/sagemaker/home?region={job.region}#/endpoints/{job.name}"
        return LogLink(uri, "SageMaker Console"), log_link(job.region, f"/aws/sagemaker/Endpoints/{job.name}")

    # -- what is made of an answer ----------------------------------------------------------------------------------

    def _answer(self, job: Endpoint, found: Mapping[str, Any] | None, call: Call) -> Resource | Exception:
        if found is not None and not phase_of(found["EndpointStatus"]).is_terminal:
            return self._judge(job, found)
        if call.remaining is not None and call.remaining < 1.0:
            return Retry("there was no time left to ask for this endpoint")
        try:
            return self.get(job, call)
        except (Retry, Fail, NotFound) as exc:
            return exc

    def _judge(self, job: Endpoint, found: Mapping[str, Any]) -> Resource:
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
        code = "Cancelled" if status == "Deleting" else "EndpointFailed"
        return Resource(phase, message=message, code=code if phase.is_terminal else "", links=links, info=info)

    # -- asking SageMaker -------------------------------------------------------------------------------------------

    def _describe(self, job: Endpoint, call: Call) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._ask(
            call, job.region, lambda client: client.describe_endpoint(EndpointName=job.name)
        )
        return found

    def _list(self, names: set[str], region: str, call: Call) -> dict[str, Mapping[str, Any]]:
        """Those of the endpoints that the newest pages show. Never more calls than endpoints."""

        def look(client: Any) -> dict[str, Mapping[str, Any]]:
            found: dict[str, Mapping[str, Any]] = {}
            more: dict[str, Any] = {}
            for _ in range(min(_MOST_PAGES, len(names))):
                page = client.list_endpoints(SortBy="CreationTime", SortOrder="Descending", MaxResults=_PAGE, **more)
                found |= {one["EndpointName"]: one for one in page["Endpoints"] if one["EndpointName"] in names}
                if len(found) == len(names) or not page.get("NextToken"):
                    break
                more = {"NextToken": page["NextToken"]}
            return found

        return self._ask(call, region, look)

    def _ask(self, call: Call | Task, region: str, question: Callable[[Any], T], *, creating: bool = False) -> T:
        return self._aws.ask(call, "sagemaker", region, question, creating=creating, is_missing=_is_missing)


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


def _is_missing(code: str, message: str) -> bool:
    return code in ("ValidationException", "ValidationError") and "could not find" in message.lower()
