"""The Step Functions agent behind the real service, against moto, which carries out state machines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.session import get_session
from tests.backends.aws.conftest import AwsDoor, connect, opened
from tests.backends.aws.contract import departures, enum_of
from tests.backends.aws.examples import code_on, run_example
from tests.backends.aws.killing import end_all, end_untold

from airside import kwtypes
from airside.agents.aws import PASSING
from airside.agents.step_functions import Execution, StepFunctionsAgent, StepFunctionsTask
from airside.agents.step_functions_answers import STATES, outputs_of
from airside.agents.step_functions_history import ENDS
from airside.model import (
    Call,
    Connection,
    ConversionError,
    Fail,
    Interface,
    NotFound,
    Phase,
    Retry,
    Task,
    TaskType,
    UsageError,
)
from airside.testing import harness
from airside.testing.client import Wire

MODEL = get_session().get_service_model("stepfunctions")
ROLE = "arn:aws:iam::123456789012:role/flights"
CHECK = {
    "StartAt": "Check",
    "States": {
        "Check": {
            "Type": "Choice",
            "Choices": [
                {"Variable": "$.n", "NumericGreaterThan": 100, "Next": "Wait"},
                {"Variable": "$.n", "NumericGreaterThan": 5, "Next": "Refuse"},
            ],
            "Default": "Count",
        },
        "Count": {
            "Type": "Pass",
            "Parameters": {"n.$": "$.n", "all.$": "$", "seen": "2024-01-02T03:04:05Z"},
            "End": True,
        },
        "Refuse": {"Type": "Fail", "Error": "TooMany", "Cause": "more than five"},
        "Wait": {"Type": "Wait", "Seconds": 600, "Next": "Count"},
    },
}
LONG = 101  # as `n`: the execution waits

pytestmark = [pytest.mark.may_block, pytest.mark.usefixtures("door")]


@pytest.fixture(scope="module")
def outside(moto: int) -> Any:
    """Step Functions as another user sees it."""
    return connect("stepfunctions", f"http://127.0.0.1:{moto}")


@pytest.fixture(scope="module")
def machine(outside: Any) -> str:
    """The ARN of a state machine that counts, refuses or waits, as its input says."""
    made = outside.create_state_machine(name="flights", definition=json.dumps(CHECK), roleArn=ROLE)
    return str(made["stateMachineArn"])


@pytest.fixture(scope="module")
def one_door(moto: int) -> Iterator[AwsDoor]:
    with opened(AwsDoor(moto)) as door:
        yield door


@pytest.fixture
def door(one_door: AwsDoor, monkeypatch: pytest.MonkeyPatch) -> AwsDoor:
    """A door before moto, to which the agent under test is led."""
    one_door.forget()
    monkeypatch.setenv("AWS_ENDPOINT_URL", one_door.url)
    return one_door


@pytest.fixture(scope="module")
def one_agent() -> Any:
    made = StepFunctionsAgent()
    made.open(made.Options())
    yield made
    made.close()


@pytest.fixture
def agent(one_agent: StepFunctionsAgent) -> StepFunctionsAgent:
    one_agent._standard.clear()
    return one_agent


def task_of(machine: str, n: int = 1, **more: Any) -> Task:
    config = {"stateMachine": machine, **more.pop("config", {})}
    interface = Interface(inputs={"n": int}, outputs=more.pop("outputs", {}))
    key = more.pop("key", "") or f"{time.time_ns():032x}"
    return Task(type=TaskType("step_functions"), inputs={"n": n}, config=config, key=key, interface=interface, **more)


def described(status: str, **more: Any) -> Mapping[str, Any]:
    """What Step Functions tells of an execution."""
    arn = "arn:aws:states:eu-west-1:123456789012:execution:flights:a"
    machine = "arn:aws:states:eu-west-1:123456789012:stateMachine:flights"
    return {"executionArn": arn, "stateMachineArn": machine, "status": status, "startDate": 1704164645.5, **more}


async def test_an_execution_gives_its_output_as_typed_outputs(machine: str, outside: Any, wire: Wire) -> None:
    task = StepFunctionsTask(
        name="count",
        state_machine=machine,
        inputs=kwtypes(n=int, day=datetime),
        outputs=kwtypes(n=int, all=dict, seen=datetime),
    )
    day = datetime(2024, 1, 2, tzinfo=UTC)
    async with harness(StepFunctionsAgent(), wire=wire) as h:
        job = await h.create(task=task, inputs={"n": 3, "day": day})
        first = await h.get(job)
        resource = await h.finish(job)
    assert resource.phase is Phase.SUCCEEDED, resource.message
    given = {"n": 3, "day": "2024-01-02T00:00:00+00:00"}
    assert dict(resource.outputs) == {"n": 3, "all": given, "seen": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)}
    arn = machine.replace("stateMachine", "execution") + f":airside-{job.task.key}"
    assert resource.info["execution_arn"] == arn
    assert resource.info["stopped"] > resource.info["started"]
    link = f"https://eu-west-1.console.aws.amazon.com/states/home?region=eu-west-1#/v2/executions/details/{arn}"
    assert first.links[0].uri == link
    assert json.loads(outside.describe_execution(executionArn=arn)["input"]) == given


async def test_a_task_may_say_what_the_execution_gets(machine: str, outside: Any) -> None:
    task = StepFunctionsTask(
        name="count",
        state_machine=machine,
        inputs=kwtypes(x=int, day=str),
        outputs=kwtypes(n=int),
        input={"n": "{{.inputs.x}}", "path": "day={{.inputs.day}}", "to": "{{.outputPrefix}}"},
    )
    async with harness(StepFunctionsAgent()) as h:
        job = await h.create(task=task, inputs={"x": 2, "day": "monday"})
        resource = await h.finish(job)
    assert dict(resource.outputs) == {"n": 2}
    given = json.loads(outside.describe_execution(executionArn=resource.info["execution_arn"])["input"])
    assert given == {"n": 2, "path": "day=monday", "to": job.task.output_prefix}


async def test_a_failed_execution_may_be_repeated_and_tells_why(machine: str) -> None:
    task = StepFunctionsTask(name="count", state_machine=machine, inputs=kwtypes(n=int))
    async with harness(StepFunctionsAgent()) as h:
        job = await h.create(task=task, inputs={"n": 9})
        resource = await h.finish(job)
        lines = [line async for line in h.logs(job)]
    assert (resource.phase, resource.code) == (Phase.RETRYABLE_FAILED, "TooMany")
    assert resource.message.startswith("more than five (TooMany, id ")
    assert [line.message for line in lines][-2:] == [
        "FailStateEntered Refuse",
        "ExecutionFailed: TooMany: more than five",
    ]


async def test_an_execution_is_stopped(machine: str, outside: Any) -> None:
    task = StepFunctionsTask(name="count", state_machine=machine, inputs=kwtypes(n=int))
    async with harness(StepFunctionsAgent()) as h:
        job = await h.create(task=task, inputs={"n": LONG})
        arn = (await h.get(job)).info["execution_arn"]
        await h.delete(job)
    assert outside.describe_execution(executionArn=arn)["status"] == "ABORTED"


async def test_the_history_is_followed_in_pages(machine: str, outside: Any) -> None:
    task = StepFunctionsTask(name="count", state_machine=machine, inputs=kwtypes(n=int))
    async with harness(StepFunctionsAgent()) as h:
        job = await h.create(task=task, inputs={"n": LONG})
        arn = (await h.get(job)).info["execution_arn"]
        first = [line async for line in h.logs(job, limit=2)]
        rest = h.logs(job, after=first[-1].cursor)
        following = [await anext(rest)]
        outside.stop_execution(executionArn=arn)
        following += [line async for line in rest]
    lines = [line.message for line in first + following]
    assert lines[0] == "ExecutionStarted"
    assert "WaitStateEntered Wait" in lines
    assert lines[-1] == "ExecutionAborted"
    assert len(set(lines)) == len(lines)
    assert first[0].timestamp is not None


def test_a_repeated_create_is_the_same_execution(
    agent: StepFunctionsAgent, machine: str, outside: Any, door: Any
) -> None:
    running, over = task_of(machine, LONG), task_of(machine, 1)
    assert agent.find(over, over.key) is None
    for task in (running, over):
        job = agent.create(task)
        while task is over and not agent.get(job, Call()).phase.is_terminal:
            time.sleep(0.02)
        assert agent.create(task) == job
        assert agent.find(task, task.key) == job
    agent.delete(agent.create(running), Call())
    names = [one["name"] for one in outside.list_executions(stateMachineArn=machine)["executions"]]
    assert [names.count(f"airside-{task.key}") for task in (running, over)] == [1, 1]
    assert len({repr(one) for one in door.calls("StartExecution")}) == 2  # a repeated create is the same to the letter
    assert len(door.calls("DescribeStateMachine")) == 1


def test_the_same_attempt_with_another_input_is_refused(agent: StepFunctionsAgent, machine: str) -> None:
    first = task_of(machine, 1)
    agent.create(first)
    with pytest.raises(Fail, match="already, with another input") as raised:
        agent.create(task_of(machine, 2, key=first.key))
    assert raised.value.code == "ExecutionExists"


def test_an_execution_that_does_not_show_yet_is_waited_for(agent: StepFunctionsAgent, machine: str, door: Any) -> None:
    task = task_of(machine)
    door.answer("StartExecution", 400, {"__type": "ExecutionAlreadyExists", "message": "there"})
    door.answer("DescribeExecution", 400, {"__type": "ExecutionDoesNotExist", "message": "no"})
    with pytest.raises(Retry, match="does not show it yet"):
        agent.create(task)


def test_an_express_state_machine_is_refused(agent: StepFunctionsAgent, outside: Any, door: Any, machine: str) -> None:
    definition = json.dumps(CHECK)
    express = outside.create_state_machine(name="quick", definition=definition, roleArn=ROLE, type="EXPRESS")
    with pytest.raises(Fail, match="is an Express state machine") as raised:
        agent.create(task_of(express["stateMachineArn"]))
    assert raised.value.code == "NotSupported"
    assert door.calls("StartExecution") == []
    door.answer("DescribeStateMachine", 400, {"__type": "AccessDeniedException", "message": "no"})
    arn = machine.replace("stateMachine", "express") + ":a:b"
    door.answer("StartExecution", 200, {"executionArn": arn, "startDate": 1704164645.5})
    with pytest.raises(Fail, match="is an Express state machine"):
        agent.create(task_of(machine))


def test_many_executions_are_one_list(agent: StepFunctionsAgent, machine: str, door: Any) -> None:
    waiting = [agent.create(task_of(machine, LONG)) for _ in range(4)]
    over = agent.create(task_of(machine, 1))
    while not agent.get(over, Call()).phase.is_terminal:
        time.sleep(0.02)
    before = len(door.calls("DescribeExecution"))
    gone = Execution(over.arn + "0")
    found = agent.get_many([*waiting, over, gone], Call())
    assert [getattr(one, "phase", None) for one in found] == [Phase.RUNNING] * 4 + [Phase.SUCCEEDED, None]
    assert isinstance(found[-1], NotFound)
    assert len(door.calls("ListExecutions")) == 1
    assert len(door.calls("DescribeExecution")) == before + 2
    for job in waiting:
        agent.delete(job, Call())
    ended = agent.get_many(waiting[:2], Call())
    assert [getattr(one, "phase", None) for one in ended] == [Phase.ABORTED] * 2
    assert len(door.calls("ListExecutions")) == 1


def test_a_list_that_fails_is_the_answer_of_its_executions(agent: StepFunctionsAgent, machine: str, door: Any) -> None:
    arn = machine.replace("stateMachine", "execution")
    jobs = [Execution(f"{arn}:{number}") for number in range(3)]
    door.answer("ListExecutions", 400, {"__type": "ThrottlingException", "message": "slower"})
    found = agent.get_many([*jobs, Execution(f"{arn.replace(':flights', ':others')}:a")], Call())
    assert [type(one) for one in found] == [Retry] * 3 + [NotFound]
    assert len(door.calls("DescribeExecution")) == 1
    door.answer("ListExecutions", 400, {"__type": "StateMachineDoesNotExist", "message": "gone"})
    for _ in jobs:
        door.answer("DescribeExecution", 200, described("SUCCEEDED"))
    assert [getattr(one, "phase", None) for one in agent.get_many(jobs, Call())] == [Phase.SUCCEEDED] * 3


def test_the_list_is_read_page_by_page(agent: StepFunctionsAgent, machine: str, door: Any) -> None:
    jobs = [Execution(machine.replace("stateMachine", "execution") + f":{number}") for number in range(3)]
    shown = [described("RUNNING", executionArn=job.arn, name="a") for job in jobs]
    door.answer("ListExecutions", 200, {"executions": shown[:1], "nextToken": "more"})
    door.answer("ListExecutions", 200, {"executions": shown[1:]})
    assert [getattr(one, "phase", None) for one in agent.get_many(jobs, Call())] == [Phase.RUNNING] * 3
    assert [one.get("nextToken") for one in door.calls("ListExecutions")] == [None, "more"]


@pytest.mark.parametrize(
    ("told", "phase", "code", "message"),
    [
        ({"status": "FAILED", "error": "States.Runtime", "cause": "no $.x"}, Phase.FAILED, "States.Runtime", "no $.x"),
        ({"status": "FAILED"}, Phase.RETRYABLE_FAILED, "ExecutionFailed", "Step Functions tells no reason."),
        (
            {"status": "FAILED", "error": "KeyError", "cause": '{"errorMessage": "no x", "stackTrace": ["File a"]}'},
            *(Phase.RETRYABLE_FAILED, "KeyError", "no x"),
        ),
        ({"status": "TIMED_OUT", "error": "States.Timeout"}, Phase.FAILED, "TimeLimit", "States.Timeout"),
        ({"status": "ABORTED", "cause": "by hand"}, Phase.ABORTED, "Cancelled", "by hand"),
        ({"status": "NEW"}, Phase.RUNNING, "", ""),
    ],
)
def test_how_an_execution_ends(
    agent: StepFunctionsAgent, door: Any, told: dict[str, str], phase: Phase, code: str, message: str
) -> None:
    answer = described(**told)
    door.answer("DescribeExecution", 200, answer)
    resource = agent.get(Execution(str(answer["executionArn"])), Call())
    assert (resource.phase, resource.code, resource.message) == (phase, code, message)


@pytest.mark.parametrize(
    ("text", "declared", "made"),
    [
        ('{"a": 1, "b": null}', {"a": "int", "b": ["optional", "str"], "c": ["optional", "int"]}, [1, None, None]),
        ("7", {"n": "int"}, [7]),
        ("null", {"n": ["optional", "int"]}, [None]),
        ('{"a": 1}', {"whole": "any"}, [{"a": 1}]),
        ('{"uri": "s3://b/x.csv"}', {"n": ["optional", "int"]}, [None]),
        ("7", {}, []),
    ],
)
def test_the_output_of_an_execution_becomes_outputs(text: str, declared: dict[str, Any], made: list[Any]) -> None:
    assert list(outputs_of(text, declared).values()) == made


@pytest.mark.parametrize(
    ("text", "declared", "message"),
    [
        ('{"a": 1}', {"b": "int"}, r"outputs\.b: .*no such field \(fields: a\)"),
        ("7", {"a": "int", "b": "int"}, r"outputs\.a: .*\(fields: none, it is 7\)"),
        ('{"a": "soon"}', {"a": "datetime"}, r"outputs\.a: expected a time in ISO 8601, got 'soon'"),
        (None, {"a": "int"}, "does not tell"),
    ],
)
def test_an_output_that_is_not_there_is_told(text: str | None, declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        outputs_of(text, declared)


def test_an_output_that_does_not_fit_fails_the_task(agent: StepFunctionsAgent, machine: str) -> None:
    job = agent.create(task_of(machine, outputs={"rows": int}))
    while not (resource := agent.get(job, Call())).phase.is_terminal:
        time.sleep(0.02)
    assert (resource.phase, resource.code) == (Phase.FAILED, "OutputConversionError")
    assert "(fields: n, all, seen)" in resource.message


@pytest.mark.parametrize("kind", ["AccessDeniedException", "ThrottlingException", "KmsThrottlingException"])
def test_an_execution_that_is_there_is_asked_for_again(agent: StepFunctionsAgent, door: Any, kind: str) -> None:
    door.answer("DescribeExecution", 400, {"__type": kind, "message": "no"}, Retry_After="9")
    with pytest.raises(Retry) as raised:
        agent.get(Execution(str(described("RUNNING")["executionArn"])), Call())
    assert raised.value.after == 9.0


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"stateMachine": "load"}, "must be the ARN of a state machine"),
        ({"stateMachine": 3}, "must be the ARN of a state machine"),
        ({"stateMachine": "arn:aws:states:evil:123456789012:stateMachine:a"}, "'evil' is no region of AWS"),
        ({"input": {"a": "{{.inputs.gone}}"}}, "asks for the input 'gone'"),
        ({"inputs": {}}, r"config\.inputs: .* knows no such key \(known: stateMachine, input\)"),
        ({"input": {"a": object()}}, "no form in JSON"),
        ({"input": {"a": "x" * 262_144}}, "Step Functions takes 262144"),
        ({"input": {"a": float("nan")}}, "no form in JSON"),
    ],
)
def test_a_task_that_cannot_run_fails_for_good(
    agent: StepFunctionsAgent, machine: str, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(Fail, match=message):
        agent.create(task_of(machine, config=config))


def test_an_empty_input_is_one(agent: StepFunctionsAgent, machine: str, door: Any) -> None:
    task = StepFunctionsTask(name="count", state_machine=machine, input={}, inputs=kwtypes(n=int))
    agent.create(Task(type=task.type, inputs={"n": 1}, config=task.config, key=f"{time.time_ns():032x}"))
    assert door.calls("StartExecution")[0]["input"] == "{}"


def test_a_task_without_a_state_machine_is_refused_when_it_is_written() -> None:
    with pytest.raises(UsageError, match="needs state_machine"):
        StepFunctionsTask(name="load", state_machine="load")


def test_a_connections_keys_are_sent_to_listed_hosts_only(agent: StepFunctionsAgent, machine: str, door: Any) -> None:
    keys = {"aws_access_key_id": "AKIDOTHER", "aws_secret_access_key": "another-secret"}
    agent.create(task_of(machine, connection=Connection(name="mine", secrets=keys)))
    elsewhere = Connection(secrets=keys, configs={"endpoint_url": "https://states.example.org"})
    with pytest.raises(Fail, match=r"Credentials are not sent to states\.example\.org"):
        agent.create(task_of(machine, connection=elsewhere))


@pytest.mark.parametrize("after", ["x", "-1"])
def test_a_cursor_that_is_none_is_refused(agent: StepFunctionsAgent, after: str) -> None:
    with pytest.raises(Fail, match="no place in this log"):
        next(agent.logs(Execution(str(described("RUNNING")["executionArn"])), after=after, limit=1, call=Call()))


def test_nothing_comes_after_the_last_event(agent: StepFunctionsAgent, machine: str) -> None:
    job = agent.create(task_of(machine))
    last = list(agent.logs(job, after="", limit=100, call=Call()))[-1]
    assert last.message == "ExecutionSucceeded"
    assert list(agent.logs(job, after=last.cursor, limit=100, call=Call())) == []


def test_a_long_history_is_read_from_its_end(agent: StepFunctionsAgent, door: Any) -> None:
    job = Execution(str(described("RUNNING")["executionArn"]))
    events = [{"id": number, "type": "PassStateEntered", "timestamp": 1704164645.5} for number in range(1, 6)]
    events[-1]["type"] = "ExecutionSucceeded"
    door.answer("GetExecutionHistory", 200, {"events": [events[4], events[3]], "nextToken": "more"})
    door.answer("GetExecutionHistory", 200, {"events": [events[2], events[1]], "nextToken": "and more"})
    lines = list(agent.logs(job, after="2", limit=10, call=Call()))
    assert [line.cursor for line in lines] == ["3", "4", "5"]
    asked = door.calls("GetExecutionHistory")
    assert [(one["reverseOrder"], one.get("nextToken")) for one in asked] == [(True, None), (True, "more")]
    assert all(one["includeExecutionData"] is False for one in asked)


def test_the_tables_are_complete() -> None:
    assert set(enum_of(MODEL, "ExecutionStatus")) == set(STATES)
    assert {name for name in enum_of(MODEL, "HistoryEventType") if name.startswith("Execution")} == {
        *ENDS,
        *("ExecutionStarted", "ExecutionRedriven"),
    }


@pytest.mark.parametrize("operation", ["StartExecution", "DescribeExecution", "StopExecution"])
def test_every_error_of_the_service_is_known(operation: str) -> None:
    known = {
        *("ExecutionAlreadyExists", "ExecutionDoesNotExist", "ExecutionLimitExceeded", "InvalidArn", "InvalidName"),
        *("InvalidExecutionInput", "StateMachineDoesNotExist", "StateMachineDeleting", "ValidationException"),
        *("KmsAccessDeniedException", "KmsInvalidStateException", "KmsThrottlingException"),
    }
    assert {shape.name for shape in MODEL.operation_model(operation).error_shapes} <= known
    assert {"ExecutionLimitExceeded", "KmsThrottlingException"} <= PASSING


def test_every_request_is_one_that_the_api_describes(agent: StepFunctionsAgent, machine: str, door: Any) -> None:
    jobs = [agent.create(task_of(machine, LONG, config={"input": {"n": LONG}})) for _ in range(3)]
    agent.find(task := task_of(machine), task.key)
    agent.get_many(jobs, Call())
    agent.get(jobs[0], Call())
    for job in jobs:
        agent.delete(job, Call())
    list(agent.logs(jobs[0], after="1", limit=10, call=Call()))
    assert "answers" in agent.probe()
    assert {name for name, _ in door.asked} == {
        *("DescribeStateMachine", "StartExecution", "DescribeExecution", "ListExecutions", "StopExecution"),
        *("GetExecutionHistory", "ListStateMachines"),
    }
    assert [problem for name, body in door.asked for problem in departures(MODEL, name, body)] == []
    assert set(door.calls("StartExecution")[0]) == {"stateMachineArn", "name", "input"}


async def test_a_service_killed_before_it_is_told_leaves_one_execution(
    outside: Any, machine: str, door: Any, killed_service: Callable[..., Any]
) -> None:
    run = f"untold{time.time_ns()}"
    task = StepFunctionsTask(name=run, state_machine=machine, input={"n": 1, "run": run}, outputs=kwtypes(n=int))
    await end_untold(
        "step_functions", [task] * 3, door=door, operation="StartExecution", run=run, killed_service=killed_service
    )
    starts = [one for one in door.calls("StartExecution") if run in one["input"]]
    names = {one["name"] for one in starts}
    assert len(starts) == len(names) == 3  # the service that came after has found what was there
    made = outside.list_executions(stateMachineArn=machine)["executions"]
    assert sorted(one["name"] for one in made if one["name"] in names) == sorted(names)


@pytest.mark.backend  # a create whose service was killed may be left alone for a minute, so this takes 10 or 80 s
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_execution(
    outside: Any, machine: str, door: Any, fault_proxy: Callable[..., Any], killed_service: Callable[..., Any]
) -> None:
    run = f"once{time.time_ns()}"
    task = StepFunctionsTask(name=run, state_machine=machine, input={"n": 1, "run": run}, outputs=kwtypes(n=int))
    await end_all(
        "step_functions",
        [task] * 8,
        run=run,
        upstream=door.port,
        fault_proxy=fault_proxy,
        killed_service=killed_service,
        kills=1,
    )
    starts = [one for one in door.calls("StartExecution") if run in one["input"]]
    assert len({repr(one) for one in starts}) == 8  # a repeated create is the same to the letter
    made = outside.list_executions(stateMachineArn=machine)["executions"]
    names = {one["name"] for one in starts}
    assert sorted(one["name"] for one in made if one["name"] in names) == sorted(names)


def test_the_example_of_the_documentation_runs(outside: Any, moto: int, tmp_path: Path) -> None:
    definition = code_on("step_functions", "json")
    outside.create_state_machine(name="delays", definition=definition, roleArn=ROLE)
    words = ("wf.py", "delays", "--day", "2024-01-02")
    done = run_example("step_functions", tmp_path, *words, AWS_ENDPOINT_URL=f"http://127.0.0.1:{moto}")
    assert done["outputs"] == {
        "flights": 3,
        "report": {"uri": "s3://flights/reports/2024-01-02.csv", "format": ""},
    }
