"""The agents `boto` and `sagemaker` behind the real service, against moto."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from botocore.session import get_session
from tests.backends.aws.conftest import already_there, connect, write_log
from tests.backends.aws.contract import departures, enum_of

from airside.agents import cloudwatch_logs
from airside.agents.boto import BotoAgent, BotoConfig, BotoTask
from airside.agents.sagemaker import (
    STATES,
    Endpoint,
    SageMakerAgent,
    SageMakerDeleteEndpointTask,
    SageMakerEndpointConfigTask,
    SageMakerEndpointTask,
    SageMakerModelTask,
)
from airside.model import Call, Fail, NotFound, Phase, Retry, Task, TaskType
from airside.testing import harness
from airside.testing.client import Wire

MODEL = get_session().get_service_model("sagemaker")
ROLE = "arn:aws:iam::123456789012:role/flights"

pytestmark = pytest.mark.may_block


@pytest.fixture
def sagemaker(moto: int) -> Any:
    """SageMaker as another user sees it, with an endpoint's configuration `flights`."""
    client = connect("sagemaker", f"http://127.0.0.1:{moto}")
    client.create_model(ModelName="flights", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": "registry/model:1"})
    for name in ("flights", "others"):
        variant = {
            "VariantName": "all",
            "ModelName": "flights",
            "InitialInstanceCount": 1,
            "InstanceType": "ml.m5.large",
        }
        client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
    return client


@pytest.fixture
def agent(sagemaker: Any, door: Any) -> Any:
    made = SageMakerAgent()
    made.open(made.Options())
    yield made
    made.close()


def unique(prefix: str) -> str:
    return f"{prefix}-{time.time_ns()}"


def deploy(name: str, configuration: str = "flights") -> Task:
    made = SageMakerEndpointTask(name="deploy", config={"EndpointName": name, "EndpointConfigName": configuration})
    return Task(type=TaskType("sagemaker-endpoint"), config=made.config, key=f"{time.time_ns():032x}")


async def test_a_model_becomes_an_endpoint_and_is_taken_down(sagemaker: Any, door: Any, wire: Wire) -> None:
    model = SageMakerModelTask(
        name="model",
        config={
            "ModelName": "{inputs.name}-{idempotence_token}",
            "ExecutionRoleArn": ROLE,
            "PrimaryContainer": {"Image": "{images.model}", "Environment": {"WORKERS": "{inputs.workers}"}},
        },
        images={"model": "registry/model:1"},
        inputs={"name": str, "workers": int},
    )
    variant = {"VariantName": "all", "ModelName": "{inputs.model}", "InstanceType": "ml.m5.large"}
    configuration = SageMakerEndpointConfigTask(
        name="configuration",
        config={
            "EndpointConfigName": "c-{idempotence_token}",
            "ProductionVariants": [{**variant, "InitialInstanceCount": "{inputs.count}"}],
        },
        inputs={"model": str, "count": int},
    )
    endpoint = SageMakerEndpointTask(
        name="endpoint",
        config={"EndpointName": "e-{idempotence_token}", "EndpointConfigName": "{inputs.configuration}"},
        inputs={"configuration": str},
    )
    gone = SageMakerDeleteEndpointTask(name="gone", config={"EndpointName": "{inputs.name}"}, inputs={"name": str})
    name = unique(wire)
    async with harness(BotoAgent(), wire=wire) as h:
        made = dict((await h.finish(await h.create(task=model, inputs={"name": name, "workers": 2}))).outputs)
        model_name = made["result"]["ModelArn"].rpartition("/")[2]
        assert model_name == f"{name}-{made['idempotence_token']}"
        inputs = {"model": model_name, "count": 1}
        configured = dict((await h.finish(await h.create(task=configuration, inputs=inputs))).outputs)
    config_name = configured["result"]["EndpointConfigArn"].rpartition("/")[2]
    async with harness(SageMakerAgent(), wire=wire) as h:
        job = await h.create(task=endpoint, inputs={"configuration": config_name})
        resource = await h.finish(job)
        assert resource.phase is Phase.SUCCEEDED, resource.message
        endpoint_name = dict(resource.outputs)["result"]["EndpointArn"].rpartition("/")[2]
        await h.delete(job)
    described = sagemaker.describe_endpoint(EndpointName=endpoint_name)
    assert (described["EndpointStatus"], described["EndpointConfigName"]) == ("InService", config_name)
    assert sagemaker.describe_model(ModelName=model_name)["PrimaryContainer"]["Environment"] == {"WORKERS": "2"}
    async with harness(BotoAgent(), wire=wire) as h:
        await h.finish(await h.create(task=gone, inputs={"name": endpoint_name}))
    with pytest.raises(sagemaker.exceptions.ClientError):
        sagemaker.describe_endpoint(EndpointName=endpoint_name)
    problems = [
        problem
        for name, body in door.asked
        for problem in departures(MODEL, name, body)
        if name in MODEL.operation_names
    ]
    assert problems == []


def test_an_endpoint_that_is_there_already_is_taken(agent: SageMakerAgent, sagemaker: Any, door: Any) -> None:
    name = unique("there")
    first = agent.create(deploy(name))
    assert agent.create(deploy(name)) == first
    assert door.repeats == 1
    assert agent.get(first, Call()).phase is Phase.SUCCEEDED


def test_another_endpoint_of_the_same_name_is_not_taken(agent: SageMakerAgent, sagemaker: Any, door: Any) -> None:
    name = unique("taken")
    agent.create(deploy(name))
    with pytest.raises(Fail, match="with the configuration flights: delete it") as raised:
        agent.create(deploy(name, "others"))
    assert raised.value.code == "EndpointExists"


def test_a_key_of_the_task_that_there_is_not_is_named(agent: SageMakerAgent, boto: BotoAgent) -> None:
    with pytest.raises(Fail, match=r"config\.regoin: a sagemaker-endpoint task knows no such key"):
        agent.create(Task(type=TaskType("sagemaker-endpoint"), config={"regoin": "eu-west-1"}))
    with pytest.raises(Fail, match=r"config\.regoin: a boto task knows no such key"):
        boto.do(Task(type=TaskType("boto"), config={"regoin": "eu-west-1"}))


def test_a_deployed_endpoint_is_not_deleted_and_one_in_the_making_is(
    agent: SageMakerAgent, sagemaker: Any, door: Any
) -> None:
    job = agent.create(deploy(unique("kept")))
    agent.delete(job, Call())
    assert sagemaker.describe_endpoint(EndpointName=job.name)["EndpointStatus"] == "InService"
    assert door.calls("DeleteEndpoint") == []
    told = {"EndpointStatus": "Creating", "EndpointName": job.name, "EndpointConfigName": "others"}
    door.answer("DescribeEndpoint", 200, told)
    agent.delete(job, Call())
    assert door.calls("DeleteEndpoint") == []
    door.answer("DescribeEndpoint", 200, {**told, "EndpointConfigName": "flights"})
    agent.delete(job, Call())
    assert door.calls("DeleteEndpoint") == [{"EndpointName": job.name}]


def test_a_failed_endpoint_tells_why(agent: SageMakerAgent, door: Any) -> None:
    job = agent.create(deploy(unique("failed")))
    told = {"EndpointStatus": "Failed", "EndpointConfigName": "flights", "FailureReason": "no capacity"}
    door.answer("DescribeEndpoint", 200, told)
    resource = agent.get(job, Call())
    assert (resource.phase, resource.code, resource.message) == (Phase.FAILED, "EndpointFailed", "no capacity")


def test_log_lines_and_last_words_come_from_cloudwatch(
    agent: SageMakerAgent, moto: int, door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloudwatch_logs, "SETTLES", 0.0)
    monkeypatch.setattr(cloudwatch_logs, "_PAUSE", 0.01)
    job = Endpoint(unique("logged"), "eu-west-1", "flights")
    told = {"EndpointName": job.name, "EndpointConfigName": "flights", "LastModifiedTime": 1.0}
    for status in ("Creating", "Failed", "Failed"):
        door.answer("DescribeEndpoint", 200, {**told, "EndpointStatus": status, "FailureReason": "no ping"})
    assert list(agent.logs(job, after="", limit=9, call=Call())) == []  # it fails before it has a log
    write_log(moto, f"/aws/sagemaker/Endpoints/{job.name}", "all/i-0a", "loading", "OSError: no model")
    assert agent.get(job, Call()).message == "no ping: OSError: no model"
    door.answer("DescribeEndpoint", 200, {**told, "EndpointStatus": "InService", "EndpointArn": "a"})
    first, second = agent.logs(job, after="", limit=9, call=Call())
    assert (first.message, second.message) == ("loading", "OSError: no model")
    door.answer("DescribeEndpoint", 200, {**told, "EndpointStatus": "InService", "EndpointArn": "a"})
    assert [line.message for line in agent.logs(job, after=first.cursor, limit=9, call=Call())] == [second.message]


def test_many_endpoints_are_one_list(agent: SageMakerAgent, door: Any) -> None:
    jobs = [agent.create(deploy(unique("many"))) for _ in range(5)]
    summaries = [{"EndpointName": job.name, "EndpointStatus": "Creating"} for job in jobs[:4]]
    door.answer("ListEndpoints", 200, {"Endpoints": summaries})
    gone = Endpoint(unique("gone"), "eu-west-1", "flights")
    resources = agent.get_many([*jobs, gone], Call())
    assert [getattr(one, "phase", None) for one in resources] == [Phase.RUNNING] * 4 + [Phase.SUCCEEDED, None]
    assert isinstance(resources[-1], NotFound)
    assert len(door.calls("ListEndpoints")) == 1
    assert len(door.calls("DescribeEndpoint")) == 2


def test_a_throttled_poll_waits_as_long_as_aws_says(agent: SageMakerAgent, door: Any) -> None:
    job = agent.create(deploy(unique("slow")))
    door.answer("DescribeEndpoint", 400, {"__type": "ThrottlingException", "message": "slower"}, Retry_After="9")
    with pytest.raises(Retry) as raised:
        agent.get(job, Call())
    assert raised.value.after == 9.0


def test_the_table_of_states_is_complete() -> None:
    assert set(enum_of(MODEL, "EndpointStatus")) == set(STATES)


@pytest.fixture
def boto(door: Any) -> Any:
    made = BotoAgent()
    made.open(made.Options(methods=("s3.*", "sagemaker.*", "athena.start_query_execution"), max_result_bytes=1000))
    yield made
    made.close()


def call(service: str, method: str, config: dict[str, Any], **more: Any) -> Task:
    made = BotoTask(name="ask", task_config=BotoConfig(service=service, method=method, config=config))
    return Task(type=TaskType("boto"), config=made.config, key=f"{time.time_ns():032x}", **more)


def test_what_comes_in_a_stream_is_read_and_bounded(boto: BotoAgent, moto: int) -> None:
    s3 = connect("s3", f"http://127.0.0.1:{moto}")
    s3.create_bucket(Bucket="things", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    for name, body in {"text": b"hello", "raw": b"\xff\x00", "long": b"x" * 1001}.items():
        s3.put_object(Bucket="things", Key=name, Body=body)
    answers = {name: boto.do(call("s3", "get_object", {"Bucket": "things", "Key": name})) for name in ("text", "raw")}
    bodies = {name: dict(answer.outputs or {})["result"]["Body"] for name, answer in answers.items()}  # type: ignore[call-overload]
    assert bodies == {"text": "hello", "raw": "/wA="}
    with pytest.raises(Fail, match="more than 1000 bytes"):
        boto.do(call("s3", "get_object", {"Bucket": "things", "Key": "long"}))


@pytest.mark.parametrize(
    ("service", "method", "config", "message"),
    [
        ("iam", "list_users", {}, "iam.list_users may not be called"),
        ("s3", "close", {}, "has no method close"),
        ("s3", "generate_presigned_url", {}, "has no method"),
        ("s3", "get_object", {"Buckett": "a"}, "Missing required parameter"),
        ("s3", "get_object", {"Bucket": "{inputs.gone}"}, "there is no 'gone'"),
        ("", "", {}, "needs config.service"),
    ],
)
def test_a_call_that_cannot_be_made_fails_for_good(
    boto: BotoAgent, service: str, method: str, config: dict[str, Any], message: str
) -> None:
    task = Task(type=TaskType("boto"), config={"service": service, "method": method, "config": config})
    with pytest.raises(Fail, match=message):
        boto.do(task)


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        ("AccessDeniedException", Fail, "Forbidden"),
        ("ResourceLimitExceeded", Fail, "QuotaExceeded"),
        ("ValidationException", Fail, "InvalidRequest"),
        ("ResourceNotFound", Fail, "ResourceNotFound"),
    ],
)
def test_errors_are_told_apart(boto: BotoAgent, door: Any, kind: str, error: type, code: str) -> None:
    door.answer("DeleteModel", 400, {"__type": kind, "message": "said so"})
    with pytest.raises(error, match="said so") as raised:
        boto.do(call("sagemaker", "delete_model", {"ModelName": "m"}))
    assert raised.value.code == code


def test_a_throttled_call_is_tried_again(boto: BotoAgent, door: Any, sagemaker: Any) -> None:
    door.answer("DescribeModel", 400, {"__type": "ThrottlingException", "message": "slower"})
    answer = boto.do(call("sagemaker", "describe_model", {"ModelName": "flights"}))
    assert json.loads(json.dumps(answer.outputs))["result"]["ModelName"] == "flights"
    assert len(door.calls("DescribeModel")) == 2


def test_what_is_there_already_is_success(boto: BotoAgent, door: Any) -> None:
    door.answer("CreateModel", 400, already_there("model", "flights"))
    answer = boto.do(call("sagemaker", "create_model", {"ModelName": "flights", "ExecutionRoleArn": ROLE}))
    assert answer.outputs == {
        "result": {"ModelArn": "arn:aws:sagemaker:eu-west-1:123456789012:model/flights"},
        "idempotence_token": "",
    }


def test_a_token_of_the_api_is_made_of_the_key(boto: BotoAgent, door: Any) -> None:
    task = call("athena", "start_query_execution", {"QueryString": "SELECT 1"})
    tokens = set()
    for _ in range(2):
        door.answer("StartQueryExecution", 200, {"QueryExecutionId": "a"})
        boto.do(task)
    tokens = {one["ClientRequestToken"].replace("-", "") for one in door.calls("StartQueryExecution")}
    assert tokens == {task.key}
