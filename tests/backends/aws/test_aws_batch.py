"""The agent for AWS Batch behind the real service, against moto."""

from __future__ import annotations

import time
from datetime import date
from typing import Any

import pytest
from botocore.session import get_session
from tests.backends.aws.conftest import connect, write_log
from tests.backends.aws.contract import departures, enum_of

from airside import kwtypes
from airside.agents import cloudwatch_logs
from airside.agents.aws_batch import AWSBatchAgent, AWSBatchConfig, AWSBatchTask, BatchJob
from airside.agents.aws_batch_states import STATES
from airside.model import (
    Call,
    Connection,
    Container,
    Execution,
    Fail,
    NotFound,
    OutputsAt,
    Phase,
    Retry,
    Task,
    TaskType,
)
from airside.testing import harness
from airside.testing.client import Wire

MODEL = get_session().get_service_model("batch")
PATHS = {MODEL.operation_model(name).http["requestUri"]: name for name in MODEL.operation_names}
ROLE = "arn:aws:iam::123456789012:role/flights"

pytestmark = pytest.mark.may_block


@pytest.fixture
def agent(batch_queue: Any, door: Any) -> Any:
    made = AWSBatchAgent()
    made.open(made.Options(queue="flights", execution_role=ROLE))
    yield made
    made.close()


def task_of(container: Container | None = None, config: AWSBatchConfig | None = None, **more: Any) -> Task:
    image = Container(image="busybox:1", command=("true",)) if container is None else container
    made = AWSBatchTask(name="late", container=image, task_config=config)
    given = {"key": f"{time.time_ns():032x}", "execution": Execution(task_name="flights.late"), **more}
    return Task(type=TaskType("aws-batch"), container=made.container, config=made.config, **given)


def told(job: BatchJob, status: str, **more: Any) -> dict[str, Any]:
    """A job as Batch describes it."""
    return {"jobs": [{"jobId": job.id, "jobName": "n", "jobQueue": "q/flights", "status": status, **more}]}


async def test_a_container_runs_to_its_end(batch_queue: Any, door: Any, wire: Wire) -> None:
    task = AWSBatchTask(
        name="late",
        container=Container(
            image="registry/late:1",
            command=("late", "--least"),
            args=("{{.inputs.least}}", "{{.outputPrefix}}"),
            env={"CITY": "{{.inputs.city}}"},
            limits={"cpu": "1500m", "memory": "3Gi"},
        ),
        inputs=kwtypes(least=int, city=str),
        timeout=7200,
        task_config=AWSBatchConfig(job_queue="flights", tags={"team": "a"}, job_role=ROLE, attempts=2),
    )
    async with harness(AWSBatchAgent(), wire=wire) as h:
        job = await h.create(task=task, inputs={"least": 3, "city": "Kiel"})
        first = await h.get(job)
        resource = await h.finish(job)
    assert (resource.phase, resource.message) == (Phase.SUCCEEDED, "")
    [submitted] = door.calls("/v1/submitjob")
    key = job.task.key
    environment = {one["name"]: one["value"] for one in submitted["containerOverrides"].pop("environment")}
    assert environment.items() >= {"CITY": "Kiel", "AIRSIDE_KEY": key, "FLYTE_FAIL_ON_ERROR": "true"}.items()
    definition = submitted.pop("jobDefinition")
    assert submitted == {
        "jobName": f"late-{key}",
        "jobQueue": "flights",
        "containerOverrides": {
            "command": ["late", "--least", "3", job.task.output_prefix],
            "resourceRequirements": [{"type": "VCPU", "value": "2"}, {"type": "MEMORY", "value": "3072"}],
        },
        "retryStrategy": {"attempts": 2},
        "timeout": {"attemptDurationSeconds": 7200},
        "tags": {"team": "a"},
    }
    [registered] = batch_queue.describe_job_definitions(jobDefinitionName=definition)["jobDefinitions"]
    assert registered["containerProperties"]["image"] == "registry/late:1"
    assert registered["containerProperties"]["jobRoleArn"] == ROLE
    [described] = batch_queue.list_jobs(jobQueue="flights", filters=[{"name": "JOB_NAME", "values": [f"late-{key}"]}])[
        "jobSummaryList"
    ]
    assert first.links[0].uri.endswith(f"/batch/home?region=eu-west-1#jobs/detail/{described['jobId']}")
    assert resource.info["job_id"] == described["jobId"]
    assert "logsV2:log-groups/log-group/$252Faws$252Fbatch$252Fjob/log-events/" in resource.links[1].uri


def test_jobs_of_one_image_share_a_definition(agent: AWSBatchAgent, door: Any) -> None:
    image = f"registry/shared:{time.time_ns()}"
    jobs = [agent.create(task_of(Container(image=image, limits={"cpu": "2"}))) for _ in range(3)]
    assert len({job.id for job in jobs}) == 3
    assert len(door.calls("/v1/registerjobdefinition")) == 1
    agent.create(task_of(Container(image=image), AWSBatchConfig(job_role=ROLE)))
    assert len(door.calls("/v1/registerjobdefinition")) == 2


def test_on_fargate_the_size_is_one_that_there_is(agent: AWSBatchAgent, door: Any) -> None:
    asked = Container(image="busybox:1", requests={"cpu": "300m", "memory": "5Gi"})
    agent.create(task_of(asked, AWSBatchConfig(platformCapabilities="FARGATE")))
    [submitted] = door.calls("/v1/submitjob")
    assert submitted["containerOverrides"]["resourceRequirements"] == [
        {"type": "VCPU", "value": "1"},
        {"type": "MEMORY", "value": "5120"},
    ]
    [registered] = door.calls("/v1/registerjobdefinition")
    assert registered["platformCapabilities"] == ["FARGATE"]
    assert registered["containerProperties"]["executionRoleArn"] == ROLE
    assert registered["containerProperties"]["networkConfiguration"] == {"assignPublicIp": "DISABLED"}


def test_a_definition_that_is_there_is_used_as_it_is(agent: AWSBatchAgent, batch_queue: Any, door: Any) -> None:
    properties = {"image": "busybox:1", "command": ["true"], "vcpus": 1, "memory": 128}
    batch_queue.register_job_definition(
        jobDefinitionName="theirs", type="container", containerProperties=properties, parameters={"a": "b"}
    )
    made = AWSBatchTask(
        name="theirs", task_config=AWSBatchConfig(job_definition="theirs", parameters={"day": "{{.inputs.day}}"})
    )
    agent.create(
        Task(type=TaskType("aws-batch"), config=made.config, inputs={"day": "2024-01-02"}, key=f"{time.time_ns():032x}")
    )
    [submitted] = door.calls("/v1/submitjob")
    assert (submitted["jobDefinition"], submitted["parameters"]) == ("theirs", {"day": "2024-01-02"})
    assert set(submitted["containerOverrides"]) == {"environment"}
    assert door.calls("/v1/registerjobdefinition") == []


@pytest.mark.parametrize(
    ("container", "config", "message"),
    [
        (Container(image="busybox:1"), {"platformCapabilities": "MOON"}, "is EC2 or FARGATE"),
        (Container(image="busybox:1"), {"queue": "flights"}, "config.queue: an aws-batch task knows no such key"),
        (Container(image="busybox:1"), {"tags": "team"}, "config.tags: 'team' is not what belongs there"),
        (Container(image="busybox:1"), {"jobDefinition": "theirs"}, "and not both"),
        (None, {}, "needs a container with an image"),
        (Container(image="busybox:1", limits={"cpu": "much"}), {}, "resources cannot be read"),
        (
            Container(image="busybox:1", limits={"cpu": "32"}),
            {"platformCapabilities": "FARGATE"},
            "Fargate has no 32 vCPUs",
        ),
    ],
)
def test_a_task_that_cannot_be_asked_for_fails_for_good(
    agent: AWSBatchAgent, container: Container | None, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(Fail, match=message):
        agent.create(Task(type=TaskType("aws-batch"), container=container, config=config, key="0a"))


def test_a_queue_has_to_be_named_and_a_connection_may_name_it(batch_queue: Any, door: Any) -> None:
    agent = AWSBatchAgent()
    agent.open(agent.Options())
    with pytest.raises(Fail, match="No queue is named"):
        agent.create(task_of())
    agent.create(task_of(connection=Connection(configs={"queue": "flights"})))
    with pytest.raises(Fail, match="does not exist"):
        agent.create(task_of(connection=Connection(configs={"queue": "elsewhere"})))
    assert agent.find(task_of(connection=Connection(configs={"queue": "elsewhere"})), "0a") is None
    agent.close()


def test_the_first_job_of_a_key_is_found(agent: AWSBatchAgent, door: Any) -> None:
    task = task_of()
    assert agent.find(task, task.key) is None
    made = agent.create(task)
    assert agent.find(task, task.key) == made
    name = f"flights-late-{task.key}"
    shown = [
        {"jobId": "late", "jobName": name, "createdAt": 2},
        {"jobId": "b", "jobName": name, "createdAt": 1},
        {"jobId": "another", "jobName": name.upper(), "createdAt": 0},
    ]
    door.answer("/v1/listjobs", 200, {"jobSummaryList": shown, "nextToken": "more"})
    door.answer("/v1/listjobs", 200, {"jobSummaryList": [{"jobId": "a", "jobName": name, "createdAt": 1}]})
    found = agent.find(task, task.key)
    assert found is not None
    assert found.id == "a"


async def test_a_repeated_create_finds_the_job(batch_queue: Any, door: Any) -> None:
    task, prefix = AWSBatchTask(name="again", container=Container(image="busybox:1")), f"s3://runs/{time.time_ns()}/0"
    for _ in range(2):  # two services that know nothing of each other
        async with harness(AWSBatchAgent(), options={"queue": "flights"}) as h:
            await h.finish(await h.create(task=task, output_prefix=prefix))
    assert len(door.calls("/v1/submitjob")) == 1


def test_many_jobs_are_a_hundred_a_call(agent: AWSBatchAgent, door: Any) -> None:
    job = agent.create(task_of())
    unknown = [BatchJob(f"0000-{number}", "eu-west-1") for number in range(120)]
    resources = agent.get_many([job, *unknown, job], Call())
    assert [len(one["jobs"]) for one in door.calls("/v1/describejobs")] == [100, 21]
    assert [getattr(one, "phase", None) for one in (resources[0], resources[-1])] == [Phase.SUCCEEDED] * 2
    assert all(isinstance(one, NotFound) for one in resources[1:-1])


def test_the_jobs_of_one_region_do_not_suffer_from_another(agent: AWSBatchAgent, door: Any) -> None:
    job = agent.create(task_of())
    door.answer("/v1/describejobs", 500, {"message": "no"})
    resources = agent.get_many([BatchJob("a", "us-west-2"), job], Call())
    assert isinstance(resources[0], Retry)
    assert getattr(resources[1], "phase", None) is Phase.SUCCEEDED


@pytest.mark.parametrize(
    ("status", "more", "phase", "code", "message"),
    [
        ("RUNNABLE", {"statusReason": "CAPACITY:INSUFFICIENT"}, Phase.WAITING_FOR_RESOURCES, "", "CAPACITY"),
        ("STARTING", {}, Phase.INITIALIZING, "", ""),
        ("PAUSED", {}, Phase.RUNNING, "", ""),
        ("FAILED", {"container": {"exitCode": 3}}, Phase.RETRYABLE_FAILED, "ContainerFailed", "exited with 3"),
        (
            "FAILED",
            {"container": {"exitCode": 137, "reason": "OutOfMemoryError: Container killed due to memory usage"}},
            Phase.RETRYABLE_FAILED,
            "OutOfMemory",
            "memory usage",
        ),
        (
            "FAILED",
            {"container": {"reason": "CannotPullContainerError: manifest unknown"}},
            Phase.FAILED,
            "ImagePullFailed",
            "manifest unknown",
        ),
        (
            "FAILED",
            {"container": {"reason": "CannotPullContainerError: i/o timeout"}},
            Phase.RETRYABLE_FAILED,
            "ImagePullFailed",
            "i/o timeout",
        ),
        (
            "FAILED",
            {"statusReason": "Job attempt duration exceeded timeout", "isTerminated": True},
            Phase.FAILED,
            "TimeLimit",
            "duration exceeded",
        ),
        (
            "FAILED",
            {"statusReason": "Cancelled by Airside", "isTerminated": True, "container": {"exitCode": 137}},
            Phase.ABORTED,
            "Cancelled",
            "Cancelled by Airside",
        ),
        (
            "FAILED",
            {"statusReason": "Host EC2 (instance i-0a) terminated.", "container": {"exitCode": 137}},
            Phase.RETRYABLE_FAILED,
            "NodeFailed",
            "Host EC2",
        ),
    ],
)
def test_what_a_job_says_of_itself(
    agent: AWSBatchAgent, door: Any, status: str, more: dict[str, Any], phase: Phase, code: str, message: str
) -> None:
    job = BatchJob("a", "eu-west-1")
    door.answer("/v1/describejobs", 200, told(job, status, **more))
    resource = agent.get(job, Call())
    assert (resource.phase, resource.code) == (phase, code)
    assert message in resource.message


def test_outputs_are_where_the_container_was_told_to_leave_them(agent: AWSBatchAgent, door: Any) -> None:
    words = ("pyflyte-execute", "--output-prefix", "{{.outputPrefix}}/0", "--", "task")
    made = agent.create(task_of(Container(image="flyte:1", args=words), output_prefix="s3://runs/a/0"))
    assert made.place == "s3://runs/a/0/0"
    assert agent.get(made, Call()).outputs == OutputsAt("s3://runs/a/0/0")
    door.answer("/v1/describejobs", 200, told(made, "FAILED", container={"exitCode": 1}))
    assert agent.get(made, Call()).outputs == OutputsAt("s3://runs/a/0/0")
    plain = agent.create(task_of(output_prefix="s3://runs/a/0"))
    assert agent.get(plain, Call()).outputs == {}


async def test_a_container_may_tell_its_outputs_in_json(batch_queue: Any, moto: int, door: Any) -> None:
    s3 = connect("s3", f"http://127.0.0.1:{moto}")
    s3.create_bucket(Bucket="batch-runs", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    task = AWSBatchTask(name="count", container=Container(image="busybox:1"), outputs=kwtypes(n=int, day=date))
    told = {"good": b'{"n": 7, "day": "2024-01-02"}', "bad": b'{"n": 7}'}
    ended = {}
    async with harness(AWSBatchAgent(), options={"queue": "flights"}) as h:
        for name, body in told.items():
            s3.put_object(Bucket="batch-runs", Key=f"{name}/0/outputs.json", Body=body)
            ended[name] = await h.finish(await h.create(task=task, output_prefix=f"s3://batch-runs/{name}/0"))
    assert (ended["good"].phase, dict(ended["good"].outputs)["n"]) == (Phase.SUCCEEDED, 7)
    assert (ended["bad"].phase, ended["bad"].code) == (Phase.FAILED, "OutputConversionError")
    assert "outputs.day: not in outputs.json" in ended["bad"].message


def test_a_job_is_terminated_and_told_so(agent: AWSBatchAgent, door: Any) -> None:
    job = agent.create(task_of())
    agent.delete(job, Call())
    assert door.calls("/v1/terminatejob") == [{"jobId": job.id, "reason": "Cancelled by Airside"}]
    door.answer("/v1/terminatejob", 404, {"message": f"Job {job.id} not found"}, x_amzn_errortype="ClientException")
    with pytest.raises(NotFound):
        agent.delete(job, Call())


def test_log_lines_and_last_words_come_from_cloudwatch(
    agent: AWSBatchAgent, moto: int, door: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloudwatch_logs, "SETTLES", 0.0)
    monkeypatch.setattr(cloudwatch_logs, "_PAUSE", 0.01)
    job = agent.create(task_of())
    stream = str((agent.get(job, Call()).info or {})["log_stream"])
    assert list(agent.logs(job, after="", limit=9, call=Call())) == []
    write_log(moto, "/aws/batch/job", stream, "reading", "ValueError: no wings")
    lines = list(agent.logs(job, after="", limit=9, call=Call()))
    assert [line.message for line in lines] == ["reading", "ValueError: no wings"]
    assert [one.message for one in agent.logs(job, after=lines[0].cursor, limit=9, call=Call())] == [lines[1].message]
    door.answer(
        "/v1/describejobs", 200, told(job, "FAILED", container={"exitCode": 1, "logStreamName": stream}, stoppedAt=1)
    )
    assert agent.get(job, Call()).message == "exited with 1: ValueError: no wings"


@pytest.mark.parametrize("kind", ["ClientException", "AccessDeniedException"])
def test_a_job_that_is_there_is_asked_for_again_whatever_the_answer(agent: AWSBatchAgent, door: Any, kind: str) -> None:
    door.answer("/v1/describejobs", 400, {"message": "no"}, x_amzn_errortype=kind)
    with pytest.raises(Retry):
        agent.get(BatchJob("a", "eu-west-1"), Call())


def test_the_table_of_states_is_complete() -> None:
    assert set(enum_of(MODEL, "JobStatus")) == set(STATES)


def test_batch_has_no_token_of_its_own() -> None:
    """Should it get one, jobs need not be found by their names any more."""
    assert MODEL.operation_model("SubmitJob").idempotent_members == []


def test_every_error_of_the_service_is_known() -> None:
    asked = ("SubmitJob", "ListJobs", "DescribeJobs", "TerminateJob", "RegisterJobDefinition")
    shapes = {shape.name for name in asked for shape in MODEL.operation_model(name).error_shapes}
    assert shapes <= {"ClientException", "ServerException"}


def test_every_request_is_one_that_the_api_describes(agent: AWSBatchAgent, door: Any) -> None:
    everything = AWSBatchConfig(
        parameters={"a": "b"}, schedulingPriority=5, platformCapabilities="FARGATE", propagateTags=True,
        tags={"team": "a"}, job_role=ROLE, share_identifier="team", attempts=3, region="eu-west-1",
    )  # fmt: skip
    container = Container(image=f"registry/all:{time.time_ns()}", command=("a",), limits={"cpu": "2", "memory": "8Gi"})
    task = task_of(container, everything)
    agent.find(task, task.key)
    job = agent.create(task)
    agent.get_many([job], Call())
    agent.delete(job, Call())
    agent.probe()
    asked = [(PATHS[path], body) for path, body in door.asked]
    assert {name for name, _ in asked} == {
        *("ListJobs", "DescribeJobDefinitions", "RegisterJobDefinition", "SubmitJob", "DescribeJobs"),
        *("TerminateJob", "DescribeJobQueues"),
    }
    assert [problem for name, body in asked for problem in departures(MODEL, name, body)] == []
    [submitted] = door.calls("/v1/submitjob")
    assert submitted["schedulingPriorityOverride"] == 5
