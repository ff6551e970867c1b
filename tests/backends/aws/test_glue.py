"""The Glue agent behind the real service, against moto; what moto leaves out is done by a door before it."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.session import get_session
from tests.backends.aws.conftest import AwsDoor, connect, opened, write_log
from tests.backends.aws.contract import departures, enum_of
from tests.backends.aws.examples import run_example
from tests.backends.aws.killing import end_all, end_untold

from airside import File, kwtypes
from airside.agents.aws import PASSING
from airside.agents.glue import KEY, PLACE, GlueAgent, GlueRun, GlueTask
from airside.agents.glue_states import STATES
from airside.model import (
    Call,
    Connection,
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
from airside.testing.client import Wire

MODEL = get_session().get_service_model("glue")
ROLE = "arn:aws:iam::123456789012:role/flights"

pytestmark = [pytest.mark.may_block, pytest.mark.usefixtures("glue_door")]


@dataclass
class GlueDoor(AwsDoor):
    """A door before moto's Glue, which cannot stop a run and runs no script.

    A run that was stopped is told so from then on. `leaves` is what the script of each run leaves in `outputs.json`.
    """

    stopped: set[str] = field(default_factory=set)
    leaves: Mapping[str, Any] | None = None

    def handle(self, call: Any, operation: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if operation == "BatchStopJobRun" and not self.answers.get(operation):
            told = json.loads(body)
            self.asked.append((operation, told))
            self.stopped.update(told["JobRunIds"])
            done = [{"JobName": told["JobName"], "JobRunId": one} for one in told["JobRunIds"]]
            return 200, json.dumps({"SuccessfulSubmissions": done, "Errors": []}).encode(), {}
        if operation == "StartJobRun" and self.leaves is not None:
            bucket, _, key = json.loads(body)["Arguments"][PLACE].removeprefix("s3://").partition("/")
            s3 = connect("s3", f"http://127.0.0.1:{self.upstream}")
            s3.put_object(Bucket=bucket, Key=f"{key}/outputs.json", Body=json.dumps(self.leaves).encode())
        status, answer, headers = super().handle(call, operation, body)
        if operation in ("GetJobRun", "GetJobRuns") and self.stopped and status == 200:
            shown = json.loads(answer)
            for run in shown.get("JobRuns") or [shown["JobRun"]]:
                if run["Id"] in self.stopped:
                    run["JobRunState"] = "STOPPED"
            answer = json.dumps(shown).encode()
        return status, answer, headers


@pytest.fixture(scope="module")
def outside(moto: int) -> Any:
    """Glue as another user sees it, with the job `flights`."""
    client = connect("glue", f"http://127.0.0.1:{moto}")
    many = {"MaxConcurrentRuns": 1000}
    command = {"Name": "pythonshell", "ScriptLocation": "s3://flights/load.py"}
    for name in ("flights", "delays"):
        client.create_job(Name=name, Role=ROLE, Command=command, ExecutionProperty=many)
    client.create_job(Name="single", Role=ROLE, Command=command, ExecutionProperty={"MaxConcurrentRuns": 0})
    s3 = connect("s3", f"http://127.0.0.1:{moto}")
    s3.create_bucket(Bucket="glue-runs", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return client


@pytest.fixture(scope="module")
def one_door(moto: int, outside: Any) -> Iterator[GlueDoor]:
    with opened(GlueDoor(moto)) as door:
        yield door


@pytest.fixture
def glue_door(moto: int, one_door: GlueDoor, monkeypatch: pytest.MonkeyPatch) -> GlueDoor:
    """The door, to which the agent under test is led."""
    one_door.forget()
    one_door.leaves = None
    one_door.stopped.clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{moto}")
    monkeypatch.setenv("AWS_ENDPOINT_URL_GLUE", one_door.url)
    return one_door


@pytest.fixture(scope="module")
def agent() -> Any:
    made = GlueAgent()
    made.open(made.Options())
    yield made
    made.close()


def task_of(job: str = "flights", *, config: Mapping[str, Any] | None = None, **more: Any) -> Task:
    interface = Interface(outputs=more.pop("outputs", {}))
    key = more.pop("key", "") or f"{time.time_ns():032x}"
    given = {"job": job, **(config or {})}
    return Task(type=TaskType("glue"), config=given, key=key, interface=interface, **more)


def told_of(run_id: str, state: str, **more: Any) -> Mapping[str, Any]:
    return {"Id": run_id, "JobName": "flights", "JobRunState": state, "StartedOn": time.time(), **more}


def prefix() -> str:
    return f"s3://glue-runs/{time.time_ns()}/0"


def put(moto: int, uri: str, body: bytes) -> None:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    connect("s3", f"http://127.0.0.1:{moto}").put_object(Bucket=bucket, Key=key, Body=body)


async def test_a_run_gives_what_its_script_leaves(glue_door: GlueDoor, outside: Any, wire: Wire) -> None:
    task = GlueTask(
        name="load",
        job="flights",
        arguments={"--day": "{{.inputs.day}}", "--to": "{{.outputPrefix}}"},
        inputs=kwtypes(day=str, least=int),
        outputs=kwtypes(rows=int, seen=datetime, report=File, gone=int | None),
        worker_type="G.1X",
        workers=2,
    )
    glue_door.leaves = {"rows": 7, "seen": "2024-01-02T00:00:00+00:00", "report": "s3://flights/a.csv"}
    place = prefix()
    async with harness(GlueAgent(), wire=wire) as h:
        job = await h.create(task=task, inputs={"day": "monday", "least": 3}, output_prefix=place)
        first = await h.get(job)
        resource = await h.finish(job)
    assert resource.phase is Phase.SUCCEEDED, resource.message
    outputs = dict(resource.outputs)
    assert (outputs["rows"], outputs["seen"].year, outputs["report"].uri, outputs["gone"]) == (
        *(7, 2024),
        *("s3://flights/a.csv", None),
    )
    (asked,) = glue_door.calls("StartJobRun")
    assert asked == {
        "JobName": "flights",
        "Arguments": {"--day": "monday", "--to": place, KEY: job.task.key, PLACE: place},
        "WorkerType": "G.1X",
        "NumberOfWorkers": 2,
    }
    run_id = resource.info["run_id"]
    home = "https://eu-west-1.console.aws.amazon.com"
    assert first.links[0].uri == f"{home}/gluestudio/home?region=eu-west-1#/job/flights/run/{run_id}"
    assert first.links[1].uri.endswith(f"$252Foutput/log-events/{run_id}")
    assert (resource.info["worker_type"], resource.info["workers"]) == ("G.1X", 2)
    assert outside.get_job_run(JobName="flights", RunId=run_id)["JobRun"]["Arguments"]["--day"] == "monday"


def test_without_arguments_each_input_is_one(agent: GlueAgent, glue_door: GlueDoor) -> None:
    task = task_of(inputs={"n": 3, "all": ["a", 1], "yes": True})
    agent.create(task)
    (asked,) = glue_door.calls("StartJobRun")
    assert asked["Arguments"] == {"--n": "3", "--all": "[a,1]", "--yes": "true", KEY: task.key}


def test_outputs_may_be_flytes_own_file(agent: GlueAgent, moto: int) -> None:
    task = task_of(outputs={"rows": int}, output_prefix=prefix())
    job = agent.create(task)
    resource = agent.get(job, Call())
    assert (resource.phase, resource.code) == (Phase.FAILED, "OutputConversionError")
    assert "neither outputs.json nor outputs.pb" in resource.message
    put(moto, f"{task.output_prefix}/outputs.pb", b"")
    assert agent.get(job, Call()).outputs == OutputsAt(task.output_prefix)


def test_optional_outputs_may_be_left_out(agent: GlueAgent) -> None:
    job = agent.create(task_of(outputs={"rows": int | None}, output_prefix=prefix()))
    assert agent.get(job, Call()).outputs == {"rows": None}


def test_the_error_that_a_script_leaves_is_told(agent: GlueAgent, glue_door: GlueDoor, moto: int) -> None:
    job = agent.create(task_of(outputs={"rows": int}, output_prefix=prefix()))
    failed = {"JobRun": told_of(job.id, "FAILED")}
    glue_door.answer("GetJobRun", 200, failed)
    assert agent.get(job, Call()).outputs is None
    put(moto, f"{job.place}/error.pb", b"")
    glue_door.answer("GetJobRun", 200, failed)
    assert agent.get(job, Call()).outputs == OutputsAt(job.place)
    glue_door.answer("GetJobRun", 200, failed)
    elsewhere = replace(job, place="s3://no-such-bucket-here/0")
    assert agent.get(elsewhere, Call()).outputs is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must hold an object"),
        ("{", "is not JSON"),
        ('{"row": 1}', r"outputs\.rows: .*not in outputs\.json \(there is: row\)"),
        ("{}" + " " * 4 * 1024 * 1024, "has more than 4194304 bytes"),
    ],
    ids=["list", "broken", "missing", "large"],
)
def test_outputs_that_are_none_fail_the_task(agent: GlueAgent, moto: int, text: str, message: str) -> None:
    task = task_of(outputs={"rows": int}, output_prefix=prefix())
    job = agent.create(task)
    put(moto, f"{task.output_prefix}/outputs.json", text.encode())
    resource = agent.get(job, Call())
    assert (resource.phase, resource.code) == (Phase.FAILED, "OutputConversionError")
    assert re.search(message, resource.message)


def test_outputs_that_cannot_be_reached_are_refused(agent: GlueAgent, glue_door: GlueDoor) -> None:
    with pytest.raises(Fail, match="run it with --outputs s3://bucket/prefix") as raised:
        agent.create(task_of(outputs={"rows": int}, output_prefix="/tmp/runs/0"))
    assert raised.value.code == "OutputsNotReachable"
    assert glue_door.asked == []


def test_a_run_is_found_by_its_key(agent: GlueAgent, glue_door: GlueDoor) -> None:
    task = task_of()
    assert agent.find(task, task.key) is None
    job = agent.create(task)
    agent.create(task_of())
    assert agent.find(task, task.key) == job
    agent.create(task)  # as another process would, at the same time
    assert agent.find(task, task.key) == job
    assert agent.find(task_of("nothing"), task.key) is None


def test_runs_are_looked_for_as_far_back_as_a_run_may_take(agent: GlueAgent, glue_door: GlueDoor) -> None:
    task = task_of()
    mine = told_of("jr_mine", "RUNNING", Arguments={KEY: task.key})
    old = told_of("jr_old", "SUCCEEDED") | {"StartedOn": time.time() - 49 * 3600}
    glue_door.answer("GetJobRuns", 200, {"JobRuns": [told_of("jr_other", "RUNNING")], "NextToken": "b"})
    glue_door.answer("GetJobRuns", 200, {"JobRuns": [mine], "NextToken": "c"})
    glue_door.answer("GetJobRuns", 200, {"JobRuns": [old], "NextToken": "d"})
    found = agent.find(task, task.key)
    assert found is not None
    assert found.id == "jr_mine"
    assert [one.get("NextToken") for one in glue_door.calls("GetJobRuns")] == [None, "b", "c"]


async def test_a_run_is_stopped(glue_door: GlueDoor, agent: GlueAgent) -> None:
    job = agent.create(task_of())
    agent.delete(job, Call())
    assert glue_door.calls("BatchStopJobRun") == [{"JobName": "flights", "JobRunIds": [job.id]}]
    resource = agent.get(job, Call())
    assert (resource.phase, resource.code) == (Phase.ABORTED, "Cancelled")


def test_a_run_that_cannot_be_stopped_is_told(glue_door: GlueDoor, agent: GlueAgent) -> None:
    job = agent.create(task_of())
    detail = {"ErrorCode": "JobRunNotInTerminalStateException", "ErrorMessage": "not now"}
    refused = {
        "SuccessfulSubmissions": [],
        "Errors": [{"JobName": "flights", "JobRunId": job.id, "ErrorDetail": detail}],
    }
    glue_door.answer("BatchStopJobRun", 200, refused)
    agent.delete(job, Call())  # it is over
    glue_door.answer("BatchStopJobRun", 200, refused)
    glue_door.answer("GetJobRun", 200, {"JobRun": told_of(job.id, "RUNNING")})
    with pytest.raises(Retry, match="JobRunNotInTerminalStateException: not now"):
        agent.delete(job, Call())


def test_many_runs_are_one_list(agent: GlueAgent, glue_door: GlueDoor) -> None:
    jobs = [agent.create(task_of("delays")) for _ in range(5)]
    gone = GlueRun("delays", "jr_gone", "eu-west-1")
    found = agent.get_many([*jobs, gone], Call())
    assert [getattr(one, "phase", None) for one in found] == [Phase.SUCCEEDED] * 5 + [None]
    assert isinstance(found[-1], NotFound)
    assert (len(glue_door.calls("GetJobRuns")), len(glue_door.calls("GetJobRun"))) == (1, 1)
    assert all(isinstance(one, NotFound) for one in agent.get_many([GlueRun("no", "a", ""), gone], Call()))


def test_a_list_that_fails_is_the_answer_of_its_runs(agent: GlueAgent, glue_door: GlueDoor) -> None:
    jobs = [GlueRun("flights", f"jr_{number}", "eu-west-1") for number in range(3)]
    glue_door.answer("GetJobRuns", 400, {"__type": "ThrottlingException", "Message": "slower"})
    found = agent.get_many([*jobs, agent.create(task_of("delays"))], Call())
    assert [type(one) for one in found[:3]] == [Retry] * 3
    assert getattr(found[3], "phase", None) is Phase.SUCCEEDED
    assert len(glue_door.calls("GetJobRun")) == 1


@pytest.mark.parametrize(
    ("told", "phase", "code", "message"),
    [
        ({"state": "WAITING", "StateDetail": "in the queue"}, Phase.QUEUED, "", "in the queue"),
        ({"state": "NEW"}, Phase.RUNNING, "", ""),
        (
            {"state": "FAILED", "ErrorMessage": "NameError: name 'x' is not defined"},
            *(Phase.RETRYABLE_FAILED, "NameError", "NameError: name 'x' is not defined"),
        ),
        (
            {"state": "FAILED", "ErrorMessage": "Error Category: PERMISSION_ERROR; denied"},
            *(Phase.RETRYABLE_FAILED, "PermissionError", "Error Category: PERMISSION_ERROR; denied"),
        ),
        ({"state": "FAILED"}, Phase.RETRYABLE_FAILED, "JobFailed", "Glue tells no reason."),
        ({"state": "TIMEOUT"}, Phase.FAILED, "TimeLimit", "The run took longer than its timeout."),
        ({"state": "ERROR", "ErrorMessage": "no ip"}, Phase.RETRYABLE_FAILED, "SystemError", "no ip"),
    ],
)
def test_how_a_run_ends(
    agent: GlueAgent, glue_door: GlueDoor, told: dict[str, str], phase: Phase, code: str, message: str
) -> None:
    job = GlueRun("flights", "jr_a", "eu-west-1")
    glue_door.answer("GetJobRun", 200, {"JobRun": told_of(job.id, told.pop("state"), **told)})
    resource = agent.get(job, Call())
    assert (resource.phase, resource.code, resource.message) == (phase, code, message)


def test_the_log_of_a_script_is_streamed(agent: GlueAgent, moto: int, glue_door: GlueDoor) -> None:
    job = agent.create(task_of())
    write_log(moto, "/aws-glue/jobs/output", job.id, "line 0", "line 1", "line 2")
    over = told_of(job.id, "SUCCEEDED", LogGroupName="/aws-glue/jobs/", CompletedOn=time.time() - 60)
    glue_door.answer("GetJobRun", 200, {"JobRun": over})
    first = list(agent.logs(job, after="", limit=2, call=Call()))
    glue_door.answer("GetJobRun", 200, {"JobRun": over})
    rest = list(agent.logs(job, after=first[-1].cursor, limit=10, call=Call()))
    assert [line.message for line in first + rest] == ["line 0", "line 1", "line 2"]


def test_a_job_that_runs_as_often_as_it_may_is_waited_for(agent: GlueAgent, glue_door: GlueDoor) -> None:
    with pytest.raises(Retry, match="already running"):
        agent.create(task_of("single"))
    glue_door.answer("StartJobRun", 400, {"__type": "ResourceNumberLimitExceededException", "Message": "no more"})
    with pytest.raises(Retry, match="no more"):
        agent.create(task_of())


@pytest.mark.parametrize("kind", ["AccessDeniedException", "ThrottlingException", "InternalServiceException"])
def test_a_run_that_is_there_is_asked_for_again(agent: GlueAgent, glue_door: GlueDoor, kind: str) -> None:
    glue_door.answer("GetJobRun", 400, {"__type": kind, "Message": "no"}, Retry_After="9")
    with pytest.raises(Retry) as raised:
        agent.get(GlueRun("flights", "jr_a", "eu-west-1"), Call())
    assert raised.value.after == 9.0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"job": ""}, r"config\.job must be the name"),
        ({"job": 3}, r"config\.job must be a text"),
        ({"workers": "two"}, r"config\.workers must be of the type int, not 'two'"),
        ({"workers": True}, r"config\.workers must be of the type int, not True"),
        ({"queue": 1}, r"config\.queue must be of the type bool, not 1"),
        ({"arguments": ["--day"]}, r"config\.arguments must map names to texts"),
        ({"arguments": {"--day": "{{.inputs.day}}"}}, "asks for the input 'day'"),
        ({"region": "x.example.org/"}, "no region of AWS"),
        ({"jobName": "a"}, r"config\.jobName: .* knows no such key"),
    ],
)
def test_a_task_that_cannot_run_fails_for_good(agent: GlueAgent, config: dict[str, Any], message: str) -> None:
    task = task_of(config=config)
    with pytest.raises(Fail, match=message):
        agent.create(task)
    with pytest.raises(Fail, match=message):  # the service looks first whether there is a run
        agent.find(task, task.key)


def test_a_task_without_a_job_is_refused_when_it_is_written() -> None:
    with pytest.raises(UsageError, match="needs the name of a job"):
        GlueTask(name="load")


def test_a_connections_region_and_keys_are_used(agent: GlueAgent, glue_door: GlueDoor) -> None:
    keys = {"aws_access_key_id": "AKIDOTHER", "aws_secret_access_key": "another-secret"}
    glue_door.answer("StartJobRun", 200, {"JobRunId": "jr_west"})
    job = agent.create(task_of(connection=Connection(secrets=keys, configs={"region": "us-west-2"})))
    assert job.region == "us-west-2"
    elsewhere = Connection(secrets=keys, configs={"endpoint_url": "https://glue.example.org"})
    with pytest.raises(Fail, match=r"Credentials are not sent to glue\.example\.org"):
        agent.create(task_of(connection=elsewhere))


def test_the_table_of_states_is_complete() -> None:
    assert set(enum_of(MODEL, "JobRunState")) == set(STATES)


def test_every_error_of_the_service_is_known() -> None:
    known = {
        *("InvalidInputException", "EntityNotFoundException", "InternalServiceException", "OperationTimeoutException"),
        *("ResourceNumberLimitExceededException", "ConcurrentRunsExceededException"),
    }
    for operation in ("StartJobRun", "GetJobRun", "GetJobRuns", "BatchStopJobRun"):
        assert {shape.name for shape in MODEL.operation_model(operation).error_shapes} <= known
    assert {"InternalServiceException", "OperationTimeoutException", "ConcurrentRunsExceededException"} <= PASSING


def test_glue_has_no_token_and_no_describe_of_many() -> None:
    """When it has one day, the agent is to use it."""
    assert MODEL.operation_model("StartJobRun").idempotent_members == []
    assert not [name for name in MODEL.operation_names if re.search("Batch(Get|Describe)JobRuns?", name)]


def test_every_request_is_one_that_the_api_describes(agent: GlueAgent, glue_door: GlueDoor) -> None:
    config = {
        "arguments": {"--day": "monday"},
        "timeoutMinutes": 10,
        "workerType": "G.1X",
        "workers": 2,
        "maxCapacity": 2.0,
        "executionClass": "FLEX",
        "queue": True,
        "securityConfiguration": "ours",
    }
    task = task_of(config=config)
    jobs = [agent.create(task), *(agent.create(task_of()) for _ in range(2))]
    agent.find(task, task.key)
    agent.get_many(jobs, Call())
    agent.get(jobs[0], Call())
    agent.delete(jobs[0], Call())
    assert "answers" in agent.probe()
    assert {name for name, _ in glue_door.asked} == {
        *("StartJobRun", "GetJobRun", "GetJobRuns", "BatchStopJobRun", "ListJobs"),
    }
    assert [problem for name, body in glue_door.asked for problem in departures(MODEL, name, body)] == []
    assert set(glue_door.calls("StartJobRun")[0]) == {
        *("JobName", "Arguments", "Timeout", "WorkerType", "NumberOfWorkers", "MaxCapacity", "ExecutionClass"),
        *("JobRunQueuingEnabled", "SecurityConfiguration"),
    }


async def test_a_service_killed_before_it_is_told_leaves_one_run(
    outside: Any, glue_door: GlueDoor, killed_service: Callable[..., Any]
) -> None:
    run = f"untold{time.time_ns()}"
    await end_untold(
        "glue",
        [GlueTask(name=run, job="flights", arguments={"--run": run})] * 3,
        door=glue_door,
        operation="StartJobRun",
        run=run,
        endpoint="AWS_ENDPOINT_URL_GLUE",
        killed_service=killed_service,
    )
    assert len({one["Arguments"][KEY] for one in runs_of(outside, run)}) == len(runs_of(outside, run)) == 3
    assert glue_door.stopped == set()  # the service that came after has found what was there


def runs_of(outside: Any, run: str) -> list[Any]:
    pages = outside.get_paginator("get_job_runs").paginate(JobName="flights")
    return [one for page in pages for one in page["JobRuns"] if one["Arguments"].get("--run") == run]


@pytest.mark.backend  # a create whose service was killed is left alone for a minute, so this takes 10 or 80 s
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_run(
    outside: Any, glue_door: GlueDoor, fault_proxy: Callable[..., Any], killed_service: Callable[..., Any]
) -> None:
    run = f"once{time.time_ns()}"
    task = GlueTask(name=run, job="flights", arguments={"--run": run})
    await end_all(
        "glue",
        [task] * 8,
        run=run,
        upstream=glue_door.port,
        endpoint="AWS_ENDPOINT_URL_GLUE",
        fault_proxy=fault_proxy,
        killed_service=killed_service,
        kills=1,
    )
    runs = runs_of(outside, run)
    assert len({one["Arguments"][KEY] for one in runs}) == 8
    live = Counter(one["Arguments"][KEY] for one in runs if one["Id"] not in glue_door.stopped)
    assert sorted(live.values()) == [1] * 8  # what two processes started at once, one of them has stopped


def test_the_example_of_the_documentation_runs(glue_door: GlueDoor, tmp_path: Path) -> None:
    glue_door.leaves = {"rows": 7}
    words = ("--outputs", "s3://glue-runs/run", "wf.py", "load", "--day", "2024-01-02")
    assert run_example("glue", tmp_path, *words, AWS_ALLOW_HTTP="true")["outputs"] == {"rows": 7}
    (asked,) = glue_door.calls("StartJobRun")
    assert asked["Arguments"]["--day"] == "2024-01-02"
