"""`boto`: a task that is one call of any method of boto3, and `BotoTask` to write one.

Tasks of flytekit's SageMaker plugin, whose parts are such calls, run as they are.
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

from airside.agents.aws import AccountOptions, Aws, check_region, code_of
from airside.agents.boto_request import Filled, fill, fit, region_of
from airside.agents.config_keys import check_keys, text_at
from airside.model import Call, Fail, Phase, Resource, Task, TaskTemplate, UsageError
from airside.sdk.agent import SyncAgent

_ARN = re.compile(r"arn:aws[a-z-]*:[a-z0-9-]+:[a-z0-9-]+:\d+:[A-Za-z0-9/_-]+")
_EXISTS = "Cannot create already existing"
_ARNS: Mapping[str, str] = {  # what the answer of a create is cut down to
    "create_model": "ModelArn",
    "create_endpoint_config": "EndpointConfigArn",
    "create_endpoint": "EndpointArn",
}


@dataclass(frozen=True, kw_only=True)
class BotoConfig:
    """One call: `method` of the client of `service`, as boto3 names them, with `config` as its arguments.

    `{inputs.name}` in any text of `config` stands for an input; a text that is only that becomes its value.
    `{images.name}` stands for one of `images`, and `{idempotence_token}` for a hash of all arguments.

    >>> BotoConfig(service="sagemaker", method="delete_model", config={"ModelName": "{inputs.name}"}).method
    'delete_model'
    """

    service: str
    method: str
    config: Mapping[str, Any]
    region: str | None = None
    images: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class BotoTask(TaskTemplate):
    """A task that is one call of boto3. Its outputs are the answer, `result`, and `idempotence_token`.

    >>> config = BotoConfig(service="s3", method="head_bucket", config={"Bucket": "flights"}, region="eu-west-1")
    >>> BotoTask(name="look", task_config=config).config["method"]
    'head_bucket'
    """

    task_type: str = "boto"
    task_config: BotoConfig | None = None
    outputs: Mapping[str, Any] = field(default_factory=lambda: {"result": dict, "idempotence_token": str})

    def __post_init__(self) -> None:
        asked = self.task_config
        if asked is None or not asked.service or not asked.method:
            raise UsageError(f"Task {self.name!r} needs task_config=BotoConfig(service=..., method=..., config=...).")
        told = {
            "service": asked.service,
            "method": asked.method,
            "config": dict(asked.config),
            "region": asked.region,
            "images": dict(asked.images) if asked.images else None,
        }
        object.__setattr__(self, "config", {**told, **self.config})
        super().__post_init__()


class BotoAgent(SyncAgent):
    """Makes one call of boto3 and answers with its answer."""

    name = "boto"
    task_type = "boto"
    requires = MappingProxyType({"boto3": "aws", "xxhash": "aws"})

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options(AccountOptions):
        """What may be called, and whose account is used.

        methods: what tasks may call, as `service.method`; `*` stands for anything.
        request_attempts: how often the SDK tries one call that is throttled or gets no answer.
        request_timeout: seconds for one try.
        max_result_bytes: how long a text or file in the answer may be.

        The rest, as for every agent of AWS: `region`, `profile`, `endpoint_url` (for every service that is called),
        `allowed_hosts`.
        """

        methods: tuple[str, ...] = ("*.*",)
        request_attempts: int = 3
        request_timeout: int = 60
        max_result_bytes: int = 1_048_576

        def __post_init__(self) -> None:
            if min(self.request_attempts, self.request_timeout, self.max_result_bytes) < 1:
                raise ValueError("request_attempts, request_timeout and max_result_bytes are numbers from 1")
            if not all("." in one for one in self.methods):
                raise ValueError("methods are written as service.method, such as sagemaker.*")

    def open(self, options: Options) -> None:
        self._options = options
        place = replace(options.place, attempts=options.request_attempts, answers_within=options.request_timeout)
        self._aws = Aws(place)

    def close(self) -> None:
        self._aws.close()

    def check_credentials(self) -> str:
        """Whose credentials there are for tasks that bring none."""
        return self._aws.identity()

    def probe(self) -> str:
        """Ask AWS whose credentials these are."""
        found = self._aws.ask(Call(), "sts", "", lambda client: client.get_caller_identity(), creating=True)
        return f"AWS answers, to {found['Arn']}"

    def do(self, task: Task) -> Resource:
        config = task.config
        check_keys(config, ("service", "method", "config", "region", "images"), "boto")
        service, method = text_at(config, "service"), text_at(config, "method")
        self._check(service, method)
        region = check_region(region_of(config, task.inputs))

        def ask(client: Any) -> tuple[Any, Filled]:
            filled = fill(
                config.get("config") or {},
                task.inputs,
                config.get("images"),
                service=service,
                region=client.meta.region_name,
            )
            return self._call(client, service, method, filled, task.key), filled

        answer, filled = self._aws.ask(task, service, region, ask, creating=True)
        outputs = {"result": answer, "idempotence_token": filled.token}
        declared = task.interface.outputs or outputs
        return Resource(
            Phase.SUCCEEDED,
            outputs={name: outputs[name] for name in declared if name in outputs},
            info={"service": service, "method": method},
        )

    def _check(self, service: str, method: str) -> None:
        if not service or not method:
            raise Fail("A boto task needs config.service and config.method, such as sagemaker and create_model.")
        if not any(fnmatchcase(f"{service}.{method}", pattern) for pattern in self._options.methods):
            raise Fail(
                f"{service}.{method} may not be called: an operator may add it to `methods` in the agent's settings.",
                code="MethodNotAllowed",
            )

    def _call(self, client: Any, service: str, method: str, filled: Filled, key: str) -> Any:
        operation = client.meta.method_to_api_mapping.get(method)
        if operation is None:
            raise Fail(f"boto3's client of {service} has no method {method}.", code="InvalidRequest")
        model = client.meta.service_model.operation_model(operation)
        arguments = dict(filled.arguments)
        if model.input_shape is not None:
            for name in model.idempotent_members:  # a call that is repeated is the same one
                arguments.setdefault(name, str(uuid.UUID(key)))
            arguments = fit(arguments, model.input_shape)
        try:
            answer = getattr(client, method)(**arguments)
        except client.exceptions.ClientError as exc:
            if (arn := existing(exc)) and method in _ARNS:
                return {_ARNS[method]: arn}
            raise
        if method in _ARNS and _ARNS[method] in answer:
            return {_ARNS[method]: answer[_ARNS[method]]}
        return self._plain(answer)

    def _plain(self, value: Any) -> Any:
        """An answer in types that Flyte has."""
        match value:
            case None | bool() | int() | float():
                return value
            case str():
                return self._short(value)
            case dict():
                return {str(name): self._plain(one) for name, one in value.items()}
            case list() | tuple():
                return [self._plain(one) for one in value]
            case date():
                return value.isoformat()
            case bytes():
                return self._short(_decoded(value))
        if hasattr(value, "read"):  # a body that is streamed
            with value:
                return self._short(_decoded(value.read(self._options.max_result_bytes + 1)))
        return str(value)

    def _short(self, text: str) -> str:
        if len(text) > self._options.max_result_bytes:
            raise Fail(f"The answer has more than {self._options.max_result_bytes} bytes.", code="ResponseTooLarge")
        return text


def existing(exc: Exception) -> str:
    """The ARN of what a create has found to be there already; empty if that is not what the error says."""
    told = str(exc)
    found = _ARN.search(told)
    return found[0] if code_of(exc) == "ValidationException" and _EXISTS in told and found is not None else ""


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode("ascii")
