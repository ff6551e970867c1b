"""The EMR Serverless agent behind the real service, against moto; what moto leaves out is done by a door before it."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.session import get_session
from tests.backends.aws.conftest import AwsDoor, connect, opened, write_log
from tests.backends.aws.contract import asked_of, departures, enum_of
from tests.backends.aws.examples import run_example
from tests.backends.aws.killing import FAULTS, end_all, end_untold

from airside import kwtypes
from airside.agents import emr_serverless_entry
from airside.agents.emr_serverless import (
    EMRRun,
    EMRServerless,
    EMRServerlessAgent,
    EMRServerlessHiveJobDriver,
    EMRServerlessSparkJobDriver,
    EMRServerlessTask,
)
from airside.agents.emr_serverless_states import ACTIVE, STATES
from airside.model import (
    Call,
    Connection,
    Container,
    Execution,
    Fail,
    Interface,
    NotFound,
    OutputsAt,
    Phase,
    Retry,
    Task,
    TaskType,
    UsageError,
)
from airside.testing import harness
from airside.testing.client import RawClient, Wire

MODEL = get_session().get_service_model("emr-serverless")
ROLE = "arn:aws:iam::123456789012:role/flights"
PLUGIN = "flytekitplugins-awsemrserverless==1.16.*"
WITH_FLYTEKIT = """
from flytekit import task
from flytekitplugins.awsemrserverless import EMRServerless, EMRServerlessHiveJobDriver, EMRServerlessSparkJobDriver

role = "arn:aws:iam::123456789012:role/flights"

@task(task_config=EMRServerless(
    application_id="APPLICATION", execution_role_arn=role, region="eu-west-1", tags={"team": "flights"},
    spark_job_driver=EMRServerlessSparkJobDriver(
        entry_point="s3://flights/load.py", entry_point_arguments=["--day", "monday"],
        spark_submit_parameters="--conf spark.executor.memory=4g",
    ),
    spark_submit_parameters="--conf spark.driver.memory=2g",
    application_configuration=[{"classification": "spark-defaults", "properties": {"spark.cores.max": "2"}}],
    configuration_overrides={"monitoringConfiguration": {"s3MonitoringConfiguration": {"logUri": "s3://flights/logs/"}}},
    inject_flyte_env=False, retry_policy={"maxAttempts": 2},
), container_image="registry/flights:1")
def script():
    ...

@task(task_config=EMRServerless(
    application_id="flights", execution_role_arn=role, region="eu-west-1", application_type="HIVE",
    hive_job_driver=EMRServerlessHiveJobDriver(query="s3://flights/load.hql", parameters="--hivevar day=monday"),
), container_image="registry/flights:1")
def hive():
    ...

@task(task_config=EMRServerless(
    application_id="APPLICATION", execution_role_arn=role, region="eu-west-1", sync_image=False,
), container_image="registry/flights:1")
def function(day: str) -> int:
    return 3
"""
OPERATIONS = {  # of the API, by method and path
    ("POST", "jobruns"): "StartJobRun",
    ("GET", "jobruns"): "ListJobRuns",
    ("GET", "jobrun"): "GetJobRun",
    ("DELETE", "jobrun"): "CancelJobRun",
    ("GET", "application"): "GetApplication",
    ("PATCH", "application"): "UpdateApplication",
    ("GET", "applications"): "ListApplications",
    ("POST", "start"): "StartApplication",
    ("POST", "applications"): "CreateApplication",
}
_PATH = re.compile(r"/applications(?:/(?P<application>[^/]+)(?:/(?P<rest>jobruns|start)(?:/(?P<run>[^/]+))?)?)?\Z")

pytestmark = [pytest.mark.may_block, pytest.mark.usefixtures("emr_door")]


def operation_of(method: str, path: str) -> str:
    found = _PATH.match(path.partition("?")[0])
    assert found is not None, path
    kind = "jobrun" if found["run"] else found["rest"] or ("application" if found["application"] else "applications")
    return OPERATIONS[method, kind]


@dataclass
class EmrDoor(AwsDoor):
    """A door before moto, which knows no tokens: a repeated token is the first run, and refused for another one."""

    runs: dict[str, tuple[Any, bytes]] = field(default_factory=dict)

    def handle(self, call: Any, operation: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        name = operation_of(call.command, call.path)
        if name != "StartJobRun" or self.answers.get(name):
            return super().handle(call, name, body)
        told = json.loads(body)
        with self.lock:
            known = self.runs.get(told["clientToken"])
            if known is not None:
                self.asked.append((name, told))
                self.repeats += 1
                if known[0] != told:
                    return 409, json.dumps({"message": "the token was used for another run"}).encode(), {}
                return 200, known[1], {}
            status, answer, headers = super().handle(call, name, body)
            if status == 200:
                self.runs[told["clientToken"]] = told, answer
            return status, answer, headers


@pytest.fixture(scope="module")
def outside(moto: int) -> Any:
    """EMR Serverless as another user sees it."""
    s3 = connect("s3", f"http://127.0.0.1:{moto}")
    s3.create_bucket(Bucket="emr-runs", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return connect("emr-serverless", f"http://127.0.0.1:{moto}")


@pytest.fixture(scope="module")
def application(outside: Any) -> str:
    """The id of the application `flights`."""
    made = outside.create_application(name="flights", releaseLabel="emr-7.0.0", type="SPARK")
    return str(made["applicationId"])


@pytest.fixture(scope="module")
def one_door(outside: Any, moto: int) -> Iterator[EmrDoor]:
    with opened(EmrDoor(moto)) as door:
        yield door


@pytest.fixture
def emr_door(moto: int, one_door: EmrDoor, monkeypatch: pytest.MonkeyPatch) -> EmrDoor:
    """The door, to which the agent under test is led."""
    one_door.forget()
    one_door.repeats = 0
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{moto}")
    monkeypatch.setenv("AWS_ENDPOINT_URL_EMR_SERVERLESS", one_door.url)
    return one_door


@pytest.fixture(scope="module")
def agent() -> Any:
    made = EMRServerlessAgent()
    made.open(made.Options())
    yield made
    made.close()


def task_of(application: str = "00fab", *, config: Mapping[str, Any] | None = None, **more: Any) -> Task:
    spark = {"spark_job_driver": {"entryPoint": "s3://flights/load.py"}}
    given = {"application_id": application, "execution_role_arn": ROLE, **(spark if config is None else config)}
    return Task(
        type=TaskType("emr_serverless"),
        config=given,
        key=more.pop("key", "") or f"{time.time_ns():032x}",
        interface=Interface(outputs=more.pop("outputs", {})),
        execution=Execution(task_name="flights.load", name="x", attempt=1),
        **more,
    )


def told_of(job: EMRRun, state: str, **more: Any) -> dict[str, Any]:
    return {"jobRun": {"applicationId": job.application, "jobRunId": job.id, "state": state, **more}}


def prefix() -> str:
    return f"s3://emr-runs/{time.time_ns()}/0"


def put(moto: int, uri: str, body: bytes) -> None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    connect("s3", f"http://127.0.0.1:{moto}").put_object(Bucket=bucket, Key=key, Body=body)


async def test_a_run_gives_what_its_script_leaves(emr_door: EmrDoor, application: str, moto: int, wire: Wire) -> None:
    place = EMRServerless(
        application_id=application,
        execution_role_arn=ROLE,
        spark_job_driver=EMRServerlessSparkJobDriver("s3://flights/load.py", ["{{.inputs.day}}", "{{.outputPrefix}}"]),
    )
    task = EMRServerlessTask(name="load", task_config=place, inputs=kwtypes(day=str), outputs=kwtypes(rows=int))
    to = prefix()
    put(moto, f"{to}/outputs.json", b'{"rows": 7}')
    async with harness(EMRServerlessAgent(), wire=wire) as h:
        job = await h.create(task=task, inputs={"day": "a b"}, output_prefix=to)
        resource = await h.finish(job)
    assert resource.phase is Phase.SUCCEEDED, resource.message
    assert dict(resource.outputs) == {"rows": 7}
    (asked,) = emr_door.calls("StartJobRun")
    assert asked["clientToken"] == job.task.key
    assert asked["jobDriver"]["sparkSubmit"]["entryPointArguments"] == ["a b", to]
    parameters = asked["jobDriver"]["sparkSubmit"]["sparkSubmitParameters"]
    assert f"--conf spark.executorEnv.AIRSIDE_KEY={job.task.key}" in parameters
    run_id = resource.info["job_run_id"]
    home = "https://eu-west-1.console.aws.amazon.com/emr/home?region=eu-west-1"
    assert resource.links[0].uri == f"{home}#/serverless/{application}/jobs/{run_id}"
    assert resource.info["vcpu_hours"] == 0.0


def test_a_container_is_run_by_the_driver(
    emr_door: EmrDoor, agent: EMRServerlessAgent, application: str, moto: int
) -> None:
    to = prefix()
    container = Container(image="registry/flights:1", args=("pyflyte-execute", "--output-prefix", "{{.outputPrefix}}"))
    config = {"sync_image": False, "spark_submit_parameters": "--conf spark.executorEnv.PYSPARK_PYTHON=python3.12"}
    task = task_of(application, config=config, container=container, output_prefix=to, outputs={"o0": int})
    job = agent.create(task)
    assert agent.get(job, Call()).outputs == OutputsAt(to)
    (asked,) = emr_door.calls("StartJobRun")
    submit = asked["jobDriver"]["sparkSubmit"]
    assert submit["entryPoint"] == f"{to}/airside_entry.py"
    assert submit["entryPointArguments"] == ["pyflyte-execute", "--output-prefix", to]
    parameters = submit["sparkSubmitParameters"]
    assert parameters.startswith(
        "--conf spark.executorEnv.PYSPARK_PYTHON=python3.12 --conf spark.emr-serverless.driverEnv"
    )
    assert parameters.count("spark.executorEnv.PYSPARK_PYTHON") == 1
    assert "spark.emr-serverless.driverEnv.FLYTE_FAIL_ON_ERROR=true" in parameters
    bucket, _, key = submit["entryPoint"].removeprefix("s3://").partition("/")
    found = connect("s3", f"http://127.0.0.1:{moto}").get_object(Bucket=bucket, Key=key)["Body"].read()
    assert found == Path(emr_serverless_entry.__file__).read_bytes()


def test_the_entry_becomes_the_command(tmp_path: Path) -> None:
    entry = str(emr_serverless_entry.__file__)
    script = "import os, sys; print(sys.argv[1:], os.environ['PYTHONPATH']); sys.exit(3)"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    argv = [sys.executable, entry, sys.executable, "-c", script, "a b"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"['a b'] {tmp_path}\n", 3)


def test_a_variable_that_would_be_torn_apart_is_left_out(
    emr_door: EmrDoor, agent: EMRServerlessAgent, application: str
) -> None:
    container = Container(image="a", env={"GOOD": "x", "BAD": "a --conf spark.evil=1", "WORSE": "k=v"})
    agent.create(task_of(application, container=container))
    (asked,) = emr_door.calls("StartJobRun")
    parameters = asked["jobDriver"]["sparkSubmit"]["sparkSubmitParameters"]
    assert "driverEnv.GOOD=x" in parameters
    assert not re.search("BAD|WORSE|evil", parameters)


def test_a_repeated_create_is_the_same_run(emr_door: EmrDoor, agent: EMRServerlessAgent, application: str) -> None:
    task = task_of(application)
    assert agent.create(task) == agent.create(task)
    assert emr_door.repeats == 1
    other = {"spark_job_driver": {"entryPoint": "s3://flights/other.py"}}
    emr_door.answer("StartJobRun", 409, {"message": "another run"}, x_amzn_ErrorType="ConflictException")
    with pytest.raises(Fail, match="another run"):
        agent.create(task_of(application, config=other, key=task.key))


def test_an_application_is_found_by_its_name(emr_door: EmrDoor, agent: EMRServerlessAgent, application: str) -> None:
    task = task_of(
        config={"application_id": "", "application_name": "flights", "hive_job_driver": {"query": "SELECT 1"}}
    )
    assert agent.create(task).application == application
    with pytest.raises(Fail, match="There is no application named 'No such one'"):
        agent.create(task_of("No such one"))


MAKING: dict[str, Any] = {
    "release_label": "emr-7.1.0",
    "application_type": "SPARK",
    "architecture": "ARM64",
    "image_configuration": {"imageUri": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/base:1"},
    "runtime_configuration": [{"classification": "spark-defaults", "properties": {"a": "b"}}],
    "scheduler_configuration": {"maxConcurrentRuns": 5},
    "auto_stop_config": {"enabled": True, "idleTimeoutMinutes": 5},
    "network_configuration": {"subnetIds": ["subnet-0a"]},
    "initial_capacity": {
        "DRIVER": {"workerCount": 1, "workerConfiguration": {"cpu": "2 vCPU", "memory": "4 GB"}},
    },
    "maximum_capacity": {"cpu": "8 vCPU", "memory": "64 GB"},
    "tags": {"team": "flights"},
    "sync_image": False,  # the emulator forgets the image
}


def test_an_application_that_is_not_there_is_made_if_it_may_be(
    emr_door: EmrDoor, agent: EMRServerlessAgent, outside: Any
) -> None:
    name = f"made-{time.time_ns()}"
    job = {"application_id": "", "application_name": name, "spark_job_driver": SPARK}
    with pytest.raises(Fail, match=f"There is no application named '{name}'"):
        agent.create(task_of(config={**job, **MAKING}))
    assert emr_door.calls("CreateApplication") == []
    maker = EMRServerlessAgent()
    maker.open(maker.Options(create_applications=True, application_prefix="flyte-"))
    asked = asked_of(maker._aws.client(None, "emr-serverless", ""))
    first, second = (maker.create(task_of(config={**job, **MAKING})) for _ in range(2))
    assert first.application == second.application
    made = outside.get_application(applicationId=first.application)["application"]
    assert (made["name"], made["releaseLabel"]) == (f"flyte-{name}", "emr-7.1.0")
    assert made["tags"]["team"] == "flights"
    (request,) = emr_door.calls("CreateApplication")
    assert (request["architecture"], request["maximumCapacity"]) == ("ARM64", MAKING["maximum_capacity"])
    assert set(request) == {
        *("name", "releaseLabel", "type", "clientToken", "architecture", "imageConfiguration", "runtimeConfiguration"),
        *("schedulerConfiguration", "autoStopConfiguration", "networkConfiguration", "initialCapacity"),
        *("maximumCapacity", "tags"),
    }
    assert [problem for name, body in asked for problem in departures(MODEL, name, body)] == []
    for _ in range(2):  # under either name it does not show yet: another service has just made it
        emr_door.answer("ListApplications", 200, {"applications": []})
    emr_door.answer("CreateApplication", 200, {"applicationId": first.application, "name": name, "arn": "a"})
    assert maker.create(task_of(config={**job, **MAKING})).application == first.application
    one, other = emr_door.calls("CreateApplication")
    assert one["clientToken"] == other["clientToken"]
    maker.close()


def test_an_application_in_the_making_is_waited_for(emr_door: EmrDoor, agent: EMRServerlessAgent) -> None:
    emr_door.answer("GetApplication", 200, {"application": {"applicationId": "00fab", "state": "CREATING"}})
    with pytest.raises(Retry, match="is being made"):
        agent.create(task_of())


def test_an_application_that_does_not_start_by_itself_is_started(emr_door: EmrDoor, agent: EMRServerlessAgent) -> None:
    told = {"applicationId": "00fab", "autoStartConfiguration": {"enabled": False}}
    emr_door.answer("GetApplication", 200, {"application": {**told, "state": "STOPPED"}})
    emr_door.answer("StartApplication", 200, {})
    with pytest.raises(Retry, match="is starting") as raised:
        agent.create(task_of())
    assert raised.value.after == 10.0
    emr_door.answer("GetApplication", 200, {"application": {**told, "state": "STARTING"}})
    with pytest.raises(Retry, match="is starting"):
        agent.create(task_of())
    emr_door.answer("GetApplication", 200, {"application": {**told, "state": "STARTED"}})
    emr_door.answer("StartJobRun", 200, {"applicationId": "00fab", "jobRunId": "00a", "arn": "a"})
    assert agent.create(task_of()).id == "00a"
    assert len(emr_door.calls("StartApplication")) == 1
    emr_door.answer("GetApplication", 200, {"application": {**told, "state": "TERMINATED"}})
    with pytest.raises(Fail, match="is terminated"):
        agent.create(task_of())


def test_an_application_gets_the_image_of_the_task_while_it_is_stopped(
    emr_door: EmrDoor, agent: EMRServerlessAgent
) -> None:
    task = task_of(config={}, container=Container(image="registry/b:2", args=("run",)), output_prefix=prefix())
    told = {"applicationId": "00fab", "imageConfiguration": {"imageUri": "registry/a:1"}}
    started = {"applicationId": "00fab", "jobRunId": "00a", "arn": "a"}
    emr_door.answer("GetApplication", 200, {"application": {**told, "state": "STARTED"}})
    with pytest.raises(Fail, match="has another image") as raised:
        agent.create(task)
    assert raised.value.code == "ImageDiffers"
    emr_door.answer("GetApplication", 200, {"application": {**told, "state": "STOPPED"}})
    emr_door.answer("UpdateApplication", 200, {"application": told})
    emr_door.answer("StartJobRun", 200, started)
    agent.create(task)
    assert emr_door.calls("UpdateApplication")[0]["imageConfiguration"] == {"imageUri": "registry/b:2"}
    same = {**told, "imageConfiguration": {"imageUri": "registry/b:2"}, "state": "STARTED"}
    emr_door.answer("GetApplication", 200, {"application": same})
    emr_door.answer("StartJobRun", 200, started)
    agent.create(task)
    assert len(emr_door.calls("UpdateApplication")) == 1


def test_many_runs_are_one_list(emr_door: EmrDoor, agent: EMRServerlessAgent, application: str) -> None:
    jobs = [agent.create(task_of(application)) for _ in range(4)]
    shown = [{"id": job.id, "applicationId": application, "state": "RUNNING"} for job in jobs[:3]]
    emr_door.answer("ListJobRuns", 200, {"jobRuns": shown[:2], "nextToken": "more"})
    emr_door.answer("ListJobRuns", 200, {"jobRuns": shown[2:]})
    gone = EMRRun(application, "00gone", "eu-west-1")
    found = agent.get_many([*jobs, gone], Call())
    assert [getattr(one, "phase", None) for one in found] == [Phase.RUNNING] * 3 + [Phase.SUCCEEDED, None]
    assert isinstance(found[-1], NotFound)
    assert (len(emr_door.calls("ListJobRuns")), len(emr_door.calls("GetJobRun"))) == (2, 2)


def test_a_list_that_fails_is_the_answer_of_its_runs(
    emr_door: EmrDoor, agent: EMRServerlessAgent, application: str
) -> None:
    jobs = [EMRRun("00fab", f"00{number}", "eu-west-1") for number in range(3)]
    emr_door.answer("ListJobRuns", 400, {"message": "slower"}, x_amzn_ErrorType="ThrottlingException")
    found = agent.get_many([*jobs, agent.create(task_of(application))], Call())
    assert [type(one) for one in found[:3]] == [Retry] * 3
    assert getattr(found[3], "phase", None) is Phase.SUCCEEDED
    assert len(emr_door.calls("GetJobRun")) == 1


async def test_a_run_is_cancelled(emr_door: EmrDoor, agent: EMRServerlessAgent, application: str) -> None:
    job = agent.create(task_of(application))
    agent.delete(job, Call())
    resource = agent.get(job, Call())
    assert (resource.phase, resource.code) == (Phase.ABORTED, "Cancelled")
    refused = {"message": "it cannot be cancelled"}
    emr_door.answer("CancelJobRun", 400, refused, x_amzn_ErrorType="ValidationException")
    agent.delete(job, Call())  # it is over
    emr_door.answer("CancelJobRun", 400, refused, x_amzn_ErrorType="ValidationException")
    emr_door.answer("GetJobRun", 200, told_of(job, "RUNNING"))
    with pytest.raises(Retry, match="it cannot be cancelled"):
        agent.delete(job, Call())


@pytest.mark.parametrize(
    ("state", "details", "phase", "code"),
    [
        ("NEW", "", Phase.RUNNING, ""),
        ("CANCELLING", "", Phase.RUNNING, ""),
        ("FAILED", "Job failed. Last few exceptions: ValueError: x", Phase.RETRYABLE_FAILED, "ValueError"),
        ("FAILED", "", Phase.RETRYABLE_FAILED, "JobFailed"),
        ("CANCELLED", "Job execution timed out", Phase.FAILED, "TimeLimit"),
    ],
)
def test_how_a_run_ends(
    emr_door: EmrDoor, agent: EMRServerlessAgent, moto: int, state: str, details: str, phase: Phase, code: str
) -> None:
    job = EMRRun("00fab", "00a", "eu-west-1", prefix())
    put(moto, f"{job.place}/error.pb", b"")
    emr_door.answer("GetJobRun", 200, told_of(job, state, **({"stateDetails": details} if details else {})))
    resource = agent.get(job, Call())
    assert (resource.phase, resource.code) == (phase, code)
    assert details in resource.message
    assert (resource.outputs == OutputsAt(job.place)) is phase.is_terminal


def test_the_drivers_log_in_s3_is_unpacked(emr_door: EmrDoor, agent: EMRServerlessAgent, moto: int) -> None:
    job = EMRRun("00fab", f"00{time.time_ns()}", "eu-west-1")
    monitoring = {"s3MonitoringConfiguration": {"logUri": "s3://emr-runs/logs/"}}
    told = told_of(job, "SUCCESS", configurationOverrides={"monitoringConfiguration": monitoring})
    for _ in range(3):
        emr_door.answer("GetJobRun", 200, told)
    assert list(agent.logs(job, after="", limit=10, call=Call())) == []
    text = "".join(f"line {number}\n" for number in range(20_000))
    uri = f"s3://emr-runs/logs/applications/00fab/jobs/{job.id}/SPARK_DRIVER/stdout.gz"
    put(moto, uri, gzip.compress(f"{text}last".encode()))
    first = list(agent.logs(job, after="", limit=19_999, call=Call()))
    rest = list(agent.logs(job, after=first[-1].cursor, limit=10, call=Call()))
    assert [line.message for line in first] == text.splitlines()[:-1]
    assert [line.message for line in rest] == ["line 19999", "last"]


def test_the_drivers_log_in_cloudwatch_is_streamed(emr_door: EmrDoor, agent: EMRServerlessAgent, moto: int) -> None:
    job = EMRRun("00fab", f"00{time.time_ns()}", "eu-west-1")
    cloudwatch = {"enabled": True, "logGroupName": "flights", "logStreamNamePrefix": "ours"}
    overrides = {"monitoringConfiguration": {"cloudWatchLoggingConfiguration": cloudwatch}}
    told = told_of(job, "SUCCESS", configurationOverrides=overrides, endedAt=time.time() - 60)
    for _ in range(4):
        emr_door.answer("GetJobRun", 200, told)
    assert list(agent.logs(job, after="", limit=10, call=Call())) == []
    for name in ("SPARK_DRIVER/stderr", "SPARK_DRIVER/stdout", "SPARK_EXECUTOR/1/stdout"):
        write_log(moto, "flights", f"ours/applications/00fab/jobs/{job.id}/{name}", name)
    lines = [line.message for line in agent.logs(job, after="", limit=10, call=Call())]
    assert lines == ["SPARK_DRIVER/stdout"]
    emr_door.answer("GetJobRun", 200, told)
    assert agent.get(job, Call()).links[1].uri.endswith("log-group/flights")


def test_a_run_without_a_log_says_so(emr_door: EmrDoor, agent: EMRServerlessAgent) -> None:
    job = EMRRun("00fab", "00a", "eu-west-1")
    emr_door.answer("GetJobRun", 200, told_of(job, "SUCCESS"))
    with pytest.raises(Fail, match="set monitoringConfiguration") as raised:
        next(agent.logs(job, after="", limit=1, call=Call()))
    assert raised.value.code == "NoLogs"


@pytest.mark.parametrize("kind", ["AccessDeniedException", "ThrottlingException"])
def test_a_run_that_is_there_is_asked_for_again(emr_door: EmrDoor, agent: EMRServerlessAgent, kind: str) -> None:
    emr_door.answer("GetJobRun", 400, {"message": "no"}, x_amzn_ErrorType=kind, Retry_After="9")
    with pytest.raises(Retry) as raised:
        agent.get(EMRRun("00fab", "00a", "eu-west-1"), Call())
    assert raised.value.after == 9.0


SPARK: dict[str, Any] = {"entryPoint": "s3://flights/load.py"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"application_id": ""}, r"config\.application_id must be the id or the name"),
        ({"execution_role_arn": ""}, r"config\.execution_role_arn must be"),
        ({"execution_timeout_minutes": "long"}, "must be a number from 1, not 'long'"),
        ({"hive_job_driver": {"query": "x"}}, "one of config.spark_job_driver and config.hive_job_driver"),
        ({"spark_job_driver": {**SPARK, "entryPointArguments": [1]}}, "must be a list of texts"),
        ({"spark_job_driver": {**SPARK, "entryPointArguments": ["{{.inputs.x}}"]}}, "asks for the input 'x'"),
        ({"spark_job_driver": None}, "or a container"),
        ({"tags": {"a": 1}}, r"config\.tags must map names to texts"),
        ({"configuration_overrides": "x"}, r"config\.configuration_overrides must be an object"),
        ({"application_configuration": {"a": 1}}, "must be a list of classifications"),
        ({"region": "x/"}, "no region of AWS"),
    ],
)
def test_a_task_that_cannot_run_fails_for_good(
    emr_door: EmrDoor, agent: EMRServerlessAgent, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(Fail, match=message):
        agent.create(task_of(config={"spark_job_driver": SPARK, **config}))
    assert emr_door.asked == []


def test_a_container_needs_a_place_in_s3(emr_door: EmrDoor, agent: EMRServerlessAgent) -> None:
    task = task_of(config={}, container=Container(image="a", args=("run",)), output_prefix="/tmp/runs/0")
    with pytest.raises(Fail, match="run the task with --outputs"):
        agent.create(task)


def test_a_task_that_is_written_wrongly_is_refused() -> None:
    with pytest.raises(UsageError, match="needs application_id"):
        EMRServerless(execution_role_arn=ROLE)
    with pytest.raises(UsageError, match="needs a job driver, or a container"):
        EMRServerlessTask(name="a", task_config=EMRServerless(execution_role_arn=ROLE, application_id="00a"))
    hive = EMRServerlessHiveJobDriver("SELECT 1")
    with pytest.raises(UsageError, match="takes one of"):
        EMRServerless(
            execution_role_arn=ROLE,
            application_id="00a",
            hive_job_driver=hive,
            spark_job_driver=EMRServerlessSparkJobDriver("s3://a/b.py"),
        )


def test_a_connections_keys_are_sent_to_listed_hosts_only(emr_door: EmrDoor, agent: EMRServerlessAgent) -> None:
    keys = {"aws_access_key_id": "AKIDOTHER", "aws_secret_access_key": "another-secret"}
    elsewhere = Connection(secrets=keys, configs={"endpoint_url": "https://emr.example.org"})
    with pytest.raises(Fail, match=r"Credentials are not sent to emr\.example\.org"):
        agent.create(task_of(connection=elsewhere))


def test_the_table_of_states_is_complete() -> None:
    assert set(enum_of(MODEL, "JobRunState")) == set(STATES)
    assert set(ACTIVE) < set(STATES)
    shape = MODEL.operation_model("ListJobRuns").input_shape.members["states"]
    assert len(ACTIVE) <= shape.metadata["max"]


@pytest.mark.parametrize(
    ("data", "run"),
    [
        (
            '{"application_id": "00fab", "job_run_id": "00a", "region": "us-west-2"}',
            EMRRun("00fab", "00a", "us-west-2"),
        ),
        ('{"application_id": "00fab", "job_run_id": "", "region": "us-west-2"}', None),
        ('{"application_id": "00fab", "job_run_id": "00a", "region": "x/"}', None),
        ("[1]", None),
        ("x", None),
    ],
)
def test_a_run_that_flytekits_connector_started_is_understood(
    agent: EMRServerlessAgent, data: str, run: EMRRun | None
) -> None:
    assert agent.read_handle(data.encode()) == run


def test_the_key_is_the_services_own_token() -> None:
    assert MODEL.operation_model("StartJobRun").idempotent_members == ["clientToken"]


def test_every_request_is_one_that_the_api_describes(
    emr_door: EmrDoor, agent: EMRServerlessAgent, application: str, moto: int
) -> None:
    config = {
        "spark_job_driver": {**SPARK, "entryPointArguments": ["a"], "sparkSubmitParameters": "--conf a=b"},
        "configuration_overrides": {"monitoringConfiguration": {"s3MonitoringConfiguration": {"logUri": "s3://a/b"}}},
        "application_configuration": [{"classification": "spark-defaults", "properties": {"a": "b"}}],
        "retry_policy": {"maxAttempts": 2},
        "tags": {"team": "flights"},
    }
    asked = asked_of(agent._aws.client(None, "emr-serverless", ""))
    jobs = [agent.create(task_of(application, config=config)) for _ in range(3)]
    agent.create(
        task_of("flights", config={"hive_job_driver": {"query": "a", "initQueryFile": "b", "parameters": "c"}})
    )
    agent.get_many(jobs, Call())
    agent.delete(jobs[0], Call())
    assert "answers" in agent.probe()
    assert {name for name, _ in emr_door.asked} == {
        *("GetApplication", "ListApplications", "StartJobRun", "GetJobRun", "ListJobRuns", "CancelJobRun"),
    }
    assert {name for name, _ in asked} == {name for name, _ in emr_door.asked}
    assert [problem for name, body in asked for problem in departures(MODEL, name, body)] == []


@pytest.mark.parametrize("variable", ["script", pytest.param("hive", marks=pytest.mark.backend), "function"])
async def test_a_task_of_the_plugin_runs_unchanged(
    emr_door: EmrDoor,
    application: str,
    start_service: Callable[..., Any],
    plugin_task: Callable[..., Any],
    variable: str,
    moto: int,
) -> None:
    source = WITH_FLYTEKIT.replace("APPLICATION", application)
    inputs = {"day": "monday"} if variable == "function" else {}
    task = plugin_task("flytekit", source, variable, PLUGIN, **inputs)
    service = await start_service(EMRServerlessAgent())
    to = prefix()
    if variable == "function":
        put(moto, f"{to}/outputs.pb", outputs_file(o0=3))
    client = RawClient(service.channel, "v1")
    handle = await client.create("emr_serverless", template=task.template, inputs=task.inputs, prefix=to)
    while not Phase((resource := await client.get(handle, "emr_serverless")).phase).is_terminal:
        await asyncio.sleep(0.05)
    assert Phase(resource.phase) is Phase.SUCCEEDED, resource.message
    (asked,) = emr_door.calls("StartJobRun")
    driver = asked["jobDriver"]
    assert asked["executionTimeoutMinutes"] == 60
    if variable == "script":
        assert driver == {
            "sparkSubmit": {
                "entryPoint": "s3://flights/load.py",
                "entryPointArguments": ["--day", "monday"],
                "sparkSubmitParameters": "--conf spark.executor.memory=4g --conf spark.driver.memory=2g",
            }
        }
        assert asked["retryPolicy"] == {"maxAttempts": 2}
        assert asked["tags"]["team"] == "flights"
        overrides = asked["configurationOverrides"]
        assert overrides["applicationConfiguration"][0]["properties"] == {"spark.cores.max": "2"}
        assert overrides["monitoringConfiguration"]["s3MonitoringConfiguration"]["logUri"] == "s3://flights/logs/"
    elif variable == "hive":
        assert driver == {"hive": {"query": "s3://flights/load.hql", "parameters": "--hivevar day=monday"}}
    else:
        words = driver["sparkSubmit"]["entryPointArguments"]
        assert words[0] == "pyflyte-execute"
        assert words[words.index("--output-prefix") + 1] == to
        assert resource.outputs.literals["o0"].scalar.primitive.integer == 3


def outputs_file(**values: int) -> bytes:
    """What flytekit's entry point leaves."""
    from flyteidl.core import literals_pb2

    made = literals_pb2.LiteralMap()
    for name, value in values.items():
        made.literals[name].scalar.primitive.integer = value
    return bytes(made.SerializeToString())


async def test_a_service_killed_before_it_is_told_leaves_one_run(
    outside: Any, application: str, emr_door: EmrDoor, killed_service: Callable[..., Any]
) -> None:
    run = f"untold{time.time_ns()}"
    place = EMRServerless(
        application_id=application,
        execution_role_arn=ROLE,
        spark_job_driver=EMRServerlessSparkJobDriver("s3://flights/load.py", [run]),
    )
    await end_untold(
        "emr_serverless",
        [EMRServerlessTask(name=run, task_config=place)] * 3,
        door=emr_door,
        operation="/jobruns$",
        run=run,
        endpoint="AWS_ENDPOINT_URL_EMR_SERVERLESS",
        killed_service=killed_service,
    )
    assert emr_door.repeats == 3
    assert len(runs_of(outside, application, run)) == 3


def runs_of(outside: Any, application: str, run: str) -> list[Any]:
    pages = outside.get_paginator("list_job_runs").paginate(applicationId=application)
    return [one for page in pages for one in page["jobRuns"] if one.get("name") == run]


@pytest.mark.backend  # a create whose service was killed is left alone for a minute, so this takes 10 or 80 s
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_run(
    outside: Any,
    application: str,
    emr_door: EmrDoor,
    fault_proxy: Callable[..., Any],
    killed_service: Callable[..., Any],
) -> None:
    run = f"once{time.time_ns()}"
    place = EMRServerless(
        application_id=application,
        execution_role_arn=ROLE,
        spark_job_driver=EMRServerlessSparkJobDriver("s3://flights/load.py", [run]),
    )
    await end_all(
        "emr_serverless",
        [EMRServerlessTask(name=run, task_config=place)] * 8,
        run=run,
        upstream=emr_door.port,
        endpoint="AWS_ENDPOINT_URL_EMR_SERVERLESS",
        fault_proxy=fault_proxy,
        killed_service=killed_service,
        kills=1,
        faults={**FAULTS, "match": "^(POST|GET) /"},
    )
    starts = [one for one in emr_door.calls("StartJobRun") if one["name"] == run]
    assert len({one["clientToken"] for one in starts}) == 8
    assert len({repr(one) for one in starts}) == 8  # a repeated create is the same to the letter
    assert len(runs_of(outside, application, run)) == 8


def test_the_example_of_the_documentation_runs(emr_door: EmrDoor, application: str, moto: int, tmp_path: Path) -> None:
    run_example("emr_serverless", tmp_path, "wf.py", "load", "--day", "2024-01-02")
    (asked,) = emr_door.calls("StartJobRun")
    assert asked["jobDriver"]["sparkSubmit"]["entryPointArguments"] == ["--day", "2024-01-02"]
