"""What every agent of AWS promises, whatever its service: seen from a door that answers as the test says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.session import Session, get_session
from tests.backends.aws.conftest import KEYS, AwsDoor, opened, refusal
from tests.backends.aws.contract import asked_of, departures

from airside.agents.athena import AthenaAgent, Query
from airside.agents.aws_agent import AWSAgent
from airside.agents.aws_batch import AWSBatchAgent, BatchJob
from airside.agents.boto import BotoAgent
from airside.agents.ecs_task import ECSJob, ECSTaskAgent
from airside.agents.emr_serverless import EMRRun, EMRServerlessAgent
from airside.agents.glue import GlueAgent, GlueRun
from airside.agents.sagemaker import Endpoint, SageMakerAgent
from airside.agents.sagemaker_jobs import Job, SageMakerJobsAgent
from airside.agents.step_functions import Execution, StepFunctionsAgent
from airside.model import AirsideError, Call, Connection, Container, Fail, Phase, Resource, Retry, Sql, Task, TaskType

HERE, ELSEWHERE = "eu-west-1", "us-west-2"
ROLE = "arn:aws:iam::123456789012:role/flights"
MACHINE = "arn:aws:states:eu-west-1:123456789012:stateMachine:flights"
PLACE, OUTPUTS = "s3://flights/runs/0", {"n": "int"}
IMAGE = Container(image="busybox:1", command=("true",))

pytestmark = pytest.mark.may_block


@dataclass(frozen=True, kw_only=True)
class Case:
    """One agent: how its jobs look, and what its service tells of one.

    job: the job of this number in a region. describe, stop: what is asked for one job, or to end it.
    told: what the service tells of the job in this state. good, bad: the states of success and of a failure.
    fact: one of a job, its cost if the service tells that. asks: the operations of polls, cancels and probes.
    """

    agent: type[AWSAgent[Any]]
    job: Callable[[int, str], Any]
    describe: str
    told: Callable[[Any, str], Mapping[str, Any]]
    stop: str
    good: str
    bad: str
    fact: str
    config: Mapping[str, Any]
    asks: set[str]
    container: Container | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task_type(self) -> TaskType:
        one = self.agent
        return TaskType(getattr(one, "task_type", "") or one.task_types[0])

    def opened(self, **settings: Any) -> Any:
        made = self.agent()
        made.open(made.Options(region=HERE, **{**self.settings, **settings}))
        return made

    def task(self, **more: Any) -> Task:
        config = {**self.config, **more.pop("config", {})}
        sql = Sql("SELECT 1", "ansi") if self.agent is AthenaAgent else None
        given = {"key": f"{time.time_ns():032x}", "output_prefix": PLACE, **more}
        return Task(type=self.task_type, config=config, container=self.container, sql=sql, **given)


CASES = {
    "athena": Case(
        agent=AthenaAgent,
        job=lambda number, region: Query(f"query-{number}", region),
        describe="GetQueryExecution",
        told=lambda job, state: {
            "QueryExecution": {
                "QueryExecutionId": job.id,
                "Status": {"State": state},
                "Statistics": {"DataScannedInBytes": 7},
            }
        },
        stop="StopQueryExecution",
        good="SUCCEEDED",
        bad="FAILED",
        fact="bytes_scanned",
        asks={"BatchGetQueryExecution", "GetQueryExecution", "ListWorkGroups", "StopQueryExecution"},
        config={},
    ),
    "aws-batch": Case(
        agent=AWSBatchAgent,
        job=lambda number, region: BatchJob(f"job-{number}", region, PLACE, OUTPUTS),
        describe="/v1/describejobs",
        told=lambda job, state: {
            "jobs": [{"jobId": job.id, "jobQueue": "q/q", "status": state, "createdAt": 1, "container": LOGGED}]
        },
        stop="/v1/terminatejob",
        good="SUCCEEDED",
        bad="FAILED",
        fact="created_at",
        asks={"DescribeJobQueues", "DescribeJobs", "TerminateJob"},
        config={},
        container=IMAGE,
        settings={"queue": "flights"},
    ),
    "ecs_task": Case(
        agent=ECSTaskAgent,
        job=lambda number, region: ECSJob(
            arn=f"arn:aws:ecs:{region}:123456789012:task/flights/{number:032x}",
            cluster="flights",
            region=region,
            container="main",
            log_group="flights",
            log_prefix="airside",
            place=PLACE,
            outputs=OUTPUTS,
        ),
        describe="DescribeTasks",
        told=lambda job, state: {
            "tasks": [{"taskArn": job.arn, "cpu": "256", **ECS_ENDS.get(state, {"lastStatus": state})}]
        },
        stop="StopTask",
        good="GOOD",
        bad="BAD",
        fact="cpu",
        asks={"DescribeClusters", "DescribeTasks", "StopTask"},
        config={},
        container=IMAGE,
        settings={"subnets": ("subnet-0a",), "execution_role": ROLE},
    ),
    "emr_serverless": Case(
        agent=EMRServerlessAgent,
        job=lambda number, region: EMRRun("00fab", f"00{number}", region, PLACE, OUTPUTS),
        describe="/applications/00fab/jobruns/001",
        told=lambda job, state: {
            "jobRun": {"jobRunId": job.id, "state": state, "billedResourceUtilization": {"vCPUHour": 0.5}}
        },
        stop="/applications/00fab/jobruns/001",
        good="SUCCESS",
        bad="FAILED",
        fact="vcpu_hours",
        asks={"CancelJobRun", "GetJobRun", "ListApplications", "ListJobRuns"},
        config={
            "application_id": "00fab",
            "execution_role_arn": ROLE,
            "spark_job_driver": {"entryPoint": "s3://flights/load.py"},
        },
    ),
    "glue": Case(
        agent=GlueAgent,
        job=lambda number, region: GlueRun("flights", f"jr_{number}", region, PLACE, OUTPUTS),
        describe="GetJobRun",
        told=lambda job, state: {"JobRun": {"Id": job.id, "JobRunState": state, "DPUSeconds": 12.5}},
        stop="BatchStopJobRun",
        good="SUCCEEDED",
        bad="FAILED",
        fact="dpu_seconds",
        asks={"BatchStopJobRun", "GetJobRun", "GetJobRuns", "ListJobs"},
        config={"job": "flights"},
    ),
    "sagemaker": Case(
        agent=SageMakerAgent,
        job=lambda number, region: Endpoint(f"endpoint-{number}", region, "flights"),
        describe="DescribeEndpoint",
        told=lambda job, state: {
            "EndpointName": job.name,
            "EndpointConfigName": "flights",
            "EndpointArn": f"arn:aws:sagemaker:{HERE}:123456789012:endpoint/{job.name}",
            "EndpointStatus": state,
        },
        stop="DeleteEndpoint",
        good="InService",
        bad="Failed",
        fact="status",
        asks={"DeleteEndpoint", "DescribeEndpoint", "ListEndpoints"},
        config={"config": {"EndpointName": "a", "EndpointConfigName": "flights"}},
    ),
    "sagemaker-jobs": Case(
        agent=SageMakerJobsAgent,
        job=lambda number, region: Job(task_type="sagemaker-training-job", name=f"job-{number}", region=region),
        describe="DescribeTrainingJob",
        told=lambda job, state: {
            "TrainingJobName": job.name,
            "TrainingJobStatus": state,
            "FailureReason": "AlgorithmError: no wings",
            "BillableTimeInSeconds": 9,
        },
        stop="StopTrainingJob",
        good="Completed",
        bad="Failed",
        fact="billable_seconds",
        asks={"DescribeTrainingJob", "ListTrainingJobs", "StopTrainingJob"},
        config={
            "config": {
                "RoleArn": ROLE,
                "OutputDataConfig": {"S3OutputPath": PLACE},
                "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 10},
                "StoppingCondition": {"MaxRuntimeInSeconds": 600},
            }
        },
    ),
    "step_functions": Case(
        agent=StepFunctionsAgent,
        job=lambda number, region: Execution(f"arn:aws:states:{region}:123456789012:execution:flights:a{number}"),
        describe="DescribeExecution",
        told=lambda job, state: {
            "executionArn": job.arn,
            "stateMachineArn": MACHINE,
            "status": state,
            "startDate": 1.0,
            "output": "{}",
        },
        stop="StopExecution",
        good="SUCCEEDED",
        bad="FAILED",
        fact="started",
        asks={"DescribeExecution", "ListExecutions", "ListStateMachines", "StopExecution"},
        config={"stateMachine": MACHINE},
    ),
}
LOGGED = {"logStreamName": "flights/0a", "logConfiguration": {"logDriver": "awslogs"}, "exitCode": 1}
EXITED = {"lastStatus": "STOPPED", "stopCode": "EssentialContainerExited"}
ECS_ENDS = {
    "GOOD": {**EXITED, "containers": [{"name": "main", "exitCode": 0}]},
    "BAD": {**EXITED, "containers": [{"name": "main", "exitCode": 1}]},
}
# What may be refused while a job runs: a right that was taken away, keys that have expired, a wrong request, too many.
REFUSALS = [
    refusal("AccessDeniedException"),
    refusal("ThrottlingException", Retry_After="9"),
    refusal("ValidationException"),
    refusal("InvalidRequestException"),
    refusal("ExpiredTokenException", status=403),
    refusal("InternalFailure", status=500),
    (502, "<html>Bad Gateway</html>", {}),
]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsDoor]:
    """A door with nothing behind it, to which every service of the agent under test leads."""
    with opened(AwsDoor(upstream=9)) as door:
        monkeypatch.setenv("AWS_ENDPOINT_URL", door.url)
        yield door


@pytest.fixture
def agent(case: Case, away: AwsDoor) -> Iterator[Any]:
    made = case.opened()
    yield made
    made.close()


@pytest.mark.parametrize("number", range(len(REFUSALS)), ids=[str(one[1])[13:34] for one in REFUSALS])
def test_a_refusal_never_ends_a_job_that_runs(case: Case, agent: Any, away: AwsDoor, number: int) -> None:
    refused = REFUSALS[number]
    away.rule = lambda _operation, _region: refused
    jobs = [case.job(one, HERE) for one in range(5)]
    with pytest.raises(Retry) as raised:
        agent.get(jobs[0], Call())
    answers = [raised.value, *agent.get_many(jobs, Call()), *agent.get_many(jobs[:1], Call())]
    with pytest.raises(Retry) as raised:
        agent.delete(jobs[0], Call())
    assert len(answers) == 7
    assert {type(one) for one in (*answers, raised.value)} == {Retry}
    if "Retry_After" in refused[2]:
        assert {one.after for one in (*answers, raised.value)} == {9.0}


def test_one_region_does_not_suffer_from_another(case: Case, agent: Any, away: AwsDoor) -> None:
    there, here = refusal("ThrottlingException", "slower"), refusal("AccessDeniedException", "not you")
    away.rule = lambda _operation, region: there if region == ELSEWHERE else here
    jobs = [case.job(number, region) for number in range(4) for region in (ELSEWHERE, HERE)]
    answers = agent.get_many(jobs, Call())
    assert [isinstance(one, Retry) and ("slower" in one.message, "not you" in one.message) for one in answers] == [
        (True, False),
        (False, True),
    ] * 4


def test_nothing_is_built_for_a_poll(case: Case, agent: Any, away: AwsDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    make = Session.create_client

    def counted(self: Session, service: str, *args: Any, **more: Any) -> Any:
        built.append(service)
        return make(self, service, *args, **more)

    monkeypatch.setattr(Session, "create_client", counted)
    job = case.job(1, HERE)
    away.rule = lambda operation, _region: (200, case.told(job, "STRANGE"), {}) if operation == case.describe else None
    for _ in range(10):
        agent.get(job, Call())
    assert len(away.calls(case.describe)) == 10
    assert len(built) == 1


def test_a_state_that_is_not_known_is_running_and_is_told(
    case: Case, agent: Any, away: AwsDoor, caplog: pytest.LogCaptureFixture
) -> None:
    job = case.job(1, HERE)
    away.answer(case.describe, 200, case.told(job, "STRANGE"))
    assert agent.get(job, Call()).phase is Phase.RUNNING
    assert {one.levelname for one in caplog.records if "STRANGE" in one.getMessage()} == {"WARNING"}


def test_links_and_facts_come_with_every_answer(case: Case, agent: Any, away: AwsDoor) -> None:
    job = case.job(1, HERE)
    first = agent.links(job)
    assert away.asked == []  # so the answer before the first poll has them, too
    assert all(link.uri.startswith(f"https://{HERE}.console.aws.amazon.com/") for link in first)
    away.answer(case.describe, 200, case.told(job, "STRANGE"))
    resource = agent.get(job, Call())
    assert resource.links[0] == first[0]
    assert resource.info[case.fact]


def test_what_is_asked_of_other_services_may_be_refused_without_losing_a_result(
    case: Case, agent: Any, away: AwsDoor
) -> None:
    """A job has succeeded, and what it has left cannot be read just now: the answer comes later."""
    job = case.job(1, HERE)

    def answer(operation: str, _region: str) -> tuple[int, Any, dict[str, str]]:
        known = operation == case.describe
        return (200, case.told(job, case.good), {}) if known else refusal("SlowDown", "slower", 503)

    away.rule = answer
    if getattr(job, "place", ""):
        with pytest.raises(Retry, match="503"):
            agent.get(job, Call())
    else:
        assert agent.get(job, Call()).phase is Phase.SUCCEEDED


def test_the_reason_of_a_failure_is_told_without_its_log(case: Case, agent: Any, away: AwsDoor) -> None:
    job = case.job(1, HERE)

    def answer(operation: str, _region: str) -> tuple[int, Any, dict[str, str]]:
        known = operation == case.describe
        return (200, case.told(job, case.bad), {}) if known else refusal("AccessDeniedException")

    away.rule = answer
    resource = agent.get(job, Call())
    assert resource.phase.is_failure
    assert resource.code
    assert resource.message


def test_a_cancel_ends_what_runs_and_deletes_nothing(case: Case, agent: Any, away: AwsDoor) -> None:
    """An endpoint in the making is deleted, since it cannot be stopped; what is finished is not touched by anybody."""
    job = case.job(1, HERE)
    running = "Creating" if case.agent is SageMakerAgent else "RUNNING"
    for state, ends in ((running, 1), (case.good, case.agent is not SageMakerAgent)):
        away.forget()
        away.answer(case.describe, 200, case.told(job, state))
        away.rule = lambda _operation, _region: (200, {}, {})
        agent.delete(job, Call())
        asked = [operation for operation, _ in away.asked]
        assert asked.count(case.stop) == ends
        assert set(asked) <= {case.stop, case.describe}
        assert case.stop in ("DeleteEndpoint", "StopTask") or "elete" not in case.stop


KEPT = {"aws_access_key_id": "AKIDOTHER", "aws_secret_access_key": "another-secret-key"}


def test_keys_go_to_listed_hosts_only(case: Case, away: AwsDoor) -> None:
    theirs = Connection(name="theirs", secrets=KEPT, configs={"endpoint_url": away.url, "region": HERE})
    away.rule = lambda _operation, _region: refusal("AccessDeniedException")
    agent = case.opened()
    with pytest.raises(Fail, match="Credentials are not sent to 127"):
        agent.create(case.task(connection=theirs))
    with pytest.raises(Retry, match="Credentials are not sent to 127"):  # nor is a job given up for that
        agent.get(case.job(1, HERE), Call(connection=theirs))
    assert away.asked == []
    agent.close()
    agent = case.opened(allowed_hosts=(away.url,))
    with pytest.raises(AirsideError) as raised:
        agent.create(case.task(connection=theirs))
    assert away.signers == {"AKIDOTHER"}
    assert KEPT["aws_secret_access_key"] not in repr((raised.value, case.job(1, HERE)))
    agent.close()


def test_a_boto_call_goes_to_listed_hosts_only(away: AwsDoor) -> None:
    theirs = Connection(name="theirs", secrets=KEPT, configs={"endpoint_url": away.url, "region": HERE})
    config = {"service": "sagemaker", "method": "list_endpoints", "config": {}}
    task = Task(type=TaskType("boto"), config=config, connection=theirs)
    away.rule = lambda _operation, _region: (200, {"Endpoints": []}, {})
    for hosts, signers in (((), set()), ((away.url,), {"AKIDOTHER"})):
        agent = BotoAgent()
        agent.open(agent.Options(allowed_hosts=hosts))
        if hosts:
            assert agent.do(task).phase is Phase.SUCCEEDED
        else:
            with pytest.raises(Fail, match="Credentials are not sent to 127"):
                agent.do(task)
        assert away.signers == signers
        agent.close()


def test_every_request_is_one_that_the_api_describes(case: Case, agent: Any, away: AwsDoor) -> None:
    """What the service answers does not matter; creates are held against the API by the tests of each agent."""
    asked = asked_of(agent._aws.client(None, case.agent.service, HERE))
    jobs = [case.job(number, HERE) for number in range(1, 6)]
    away.rule = lambda _operation, _region: refusal("AccessDeniedException")
    agent.get_many(jobs, Call())
    for ask in (agent.get, agent.delete):
        with pytest.raises(Retry):
            ask(jobs[0], Call())
    if case.agent is SageMakerAgent:  # it looks before it deletes
        away.answer(case.describe, 200, case.told(jobs[0], "Creating"))
        with pytest.raises(Retry):
            agent.delete(jobs[0], Call())
    with pytest.raises(Fail) as raised:
        agent.probe()
    assert raised.value.code == "Forbidden"
    model = get_session().get_service_model(case.agent.service)
    assert {name for name, _ in asked} == case.asks
    assert [problem for name, body in asked for problem in departures(model, name, body)] == []


# What every service may answer to a create, and what some say in words of their own: the status and our code.
ERRORS: dict[str, dict[str, tuple[int, str]]] = {
    "": {
        "ThrottlingException": (400, "Retryable"),
        "ServiceUnavailableException": (503, "Retryable"),
        "ExpiredTokenException": (403, "Retryable"),
        "AccessDeniedException": (403, "Forbidden"),
        "ValidationException": (400, "InvalidRequest"),
        "ResourceNotFoundException": (404, "ResourceNotFound"),
        "ServiceQuotaExceededException": (402, "QuotaExceeded"),
    },
    "athena": {
        "TooManyRequestsException": (400, "Retryable"),
        "InternalServerException": (500, "Retryable"),
        "InvalidRequestException": (400, "InvalidRequest"),
    },
    "aws-batch": {
        "TooManyRequestsException": (429, "Retryable"),
        "ServerException": (500, "Retryable"),
        "ClientException": (400, "InvalidRequest"),
    },
    "ecs_task": {
        "ServerException": (500, "Retryable"),
        "InvalidParameterException": (400, "InvalidRequest"),
        "ClusterNotFoundException": (400, "ResourceNotFound"),
    },
    "emr_serverless": {
        "TooManyRequestsException": (429, "Retryable"),
        "InternalServerException": (500, "Retryable"),
    },
    "glue": {
        "ConcurrentRunsExceededException": (400, "Retryable"),
        "OperationTimeoutException": (400, "Retryable"),
        "InvalidInputException": (400, "InvalidRequest"),
        "EntityNotFoundException": (400, "ResourceNotFound"),
    },
    "sagemaker": {"ResourceLimitExceeded": (400, "QuotaExceeded")},
    "sagemaker-jobs": {
        "InternalFailure": (500, "Retryable"),
        "ResourceLimitExceeded": (400, "QuotaExceeded"),
        "ResourceNotFound": (400, "ResourceNotFound"),
    },
    "step_functions": {
        "ExecutionLimitExceeded": (400, "Retryable"),
        "KmsAccessDeniedException": (400, "Forbidden"),
        "InvalidExecutionInput": (400, "InvalidRequest"),
        "StateMachineDoesNotExist": (400, "ResourceNotFound"),
        "StateMachineDeleting": (400, "StateMachineDeleting"),
    },
}


@pytest.mark.parametrize(
    ("case", "kind"), [(name, kind) for name in CASES for kind in (*ERRORS[""], *ERRORS[name])], indirect=["case"]
)
def test_errors_of_a_create_are_told_apart(case: Case, agent: Any, away: AwsDoor, kind: str) -> None:
    status, code = {**ERRORS[""], **ERRORS[case.agent.name]}[kind]
    error = Retry if code == "Retryable" else Fail
    away.rule = lambda _operation, _region: refusal(kind, "so AWS said", status, Retry_After="7")
    with pytest.raises(error) as raised:
        agent.create(case.task())
    assert (raised.value.code, getattr(raised.value, "after", 7.0)) == (code, 7.0)
    assert "so AWS said" in raised.value.message or "named" in raised.value.message  # an application by its name
    assert len(away.asked) == len({operation for operation, _ in away.asked})  # the SDK repeats nothing by itself


@pytest.mark.parametrize(("used", "error"), [(2, Retry), (0, Fail)])
def test_a_quota_that_others_use_up_is_waited_for(away: AwsDoor, used: int, error: type) -> None:
    said = (
        f"The limit 'ml.p3.2xlarge for training job usage' is 2 Instances, with current utilization of {used} Instances"
    )
    away.rule = lambda _operation, _region: refusal("ResourceLimitExceeded", said)
    agent = CASES["sagemaker-jobs"].opened()
    with pytest.raises(error, match="training job usage"):
        agent.create(CASES["sagemaker-jobs"].task())
    agent.close()


def test_a_region_that_is_a_host_is_refused(case: Case, agent: Any, away: AwsDoor) -> None:
    """A region becomes part of a host's name."""
    place = "x.example.org/"
    by_task = {"stateMachine": MACHINE.replace(HERE, place)} if "stateMachine" in case.config else {"region": place}
    with pytest.raises(Fail, match=r"no region of AWS|must be the ARN"):
        agent.create(case.task(config=by_task))
    if "stateMachine" not in case.config:
        with pytest.raises(Fail, match="no region of AWS"):
            agent.create(case.task(connection=Connection(configs={"region": place})))
    assert away.asked == []


def test_an_endpoint_of_the_settings_is_that_of_one_service(case: Case, away: AwsDoor) -> None:
    with opened(AwsDoor(upstream=9)) as private:
        private.rule = lambda _operation, _region: refusal("AccessDeniedException")
        agent = case.opened(endpoint_url=private.url)
        with pytest.raises(Retry):
            agent.get(case.job(1, HERE), Call())
        assert private.signers == {KEYS["aws_access_key_id"]}
        assert (len(private.asked), away.asked) == (1, [])
        assert agent._aws.client(None, "s3", HERE).meta.endpoint_url == away.url
        agent.close()


def test_keys_that_were_refused_are_read_anew(
    case: Case, agent: Any, away: AwsDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    away.rule = lambda _operation, _region: refusal("ExpiredTokenException", status=403)
    job = case.job(1, HERE)
    for key in ("AKIDONE", "AKIDTWO"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
        with pytest.raises(Retry):
            agent.get(job, Call())
    assert away.signers == {"AKIDONE", "AKIDTWO"}


def test_answers_of_get_many_are_in_order(case: Case, agent: Any, away: AwsDoor) -> None:
    """No list knows the jobs: each is asked for by itself, or told to be gone."""
    jobs = [case.job(1, HERE), case.job(1, HERE)]
    told = case.told(jobs[0], "STRANGE")
    away.rule = lambda operation, _region: (200, told if operation == case.describe else {}, {})
    answers = agent.get_many(jobs, Call())
    assert [isinstance(one, Resource) and one.phase for one in answers] == [Phase.RUNNING] * 2
