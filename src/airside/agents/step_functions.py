"""`step_functions`: a task that is an execution of a state machine of AWS Step Functions, and `StepFunctionsTask`.

The execution is named after the task's key, and Step Functions has one execution of a name, whatever dies in between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airside.agents import step_functions_answers as answers
from airside.agents.aws import AccountOptions, check_region, console
from airside.agents.aws_agent import AWSAgent, listed, pages, picked
from airside.agents.config_keys import check_keys
from airside.agents.json_values import kind_of, to_json
from airside.agents.placeholders import render_value
from airside.agents.step_functions_history import lines_of
from airside.model import (
    Call,
    ConversionError,
    Fail,
    LogLine,
    LogLink,
    NotFound,
    Phase,
    Resource,
    Retry,
    Task,
    TaskTemplate,
    UsageError,
)

_MACHINE = re.compile(r"arn:(aws[a-z-]*):states:([a-z0-9-]+):(\d{12}):stateMachine:([^\s:/]{1,80})(?::([^\s:/]+))?\Z")
_KEYS = ("stateMachine", "input")
_LONGEST_INPUT = 262_144  # bytes
_PAGE, _MOST_PAGES = 1000, 10
_MOST_KNOWN = 1000  # state machines of which the kind is remembered
_EXPRESS = (
    "{} is an Express state machine: its executions can be neither found again nor watched. Make it a Standard one, or "
    "start it from one."
)


@dataclass(frozen=True, kw_only=True)
class StepFunctionsTask(TaskTemplate):
    """A task that starts an execution of a state machine and ends with it.

    state_machine: its ARN, or that of a version or an alias.
    input: what the execution gets; `{{.inputs.name}}` in any text of it stands for an input, and a text that is only
        that becomes its value. Without it: an object of the task's inputs.

    Its outputs are the fields of the execution's output of the same names; one that is alone gets the whole output, if
    that has no field of its name.

    >>> from airside import kwtypes
    >>> task = StepFunctionsTask(
    ...     name="load", state_machine="arn:aws:states:eu-west-1:123456789012:stateMachine:load",
    ...     inputs=kwtypes(day=str), outputs=kwtypes(rows=int), input={"partition": "day={{.inputs.day}}"},
    ... )
    >>> task.config["input"]
    {'partition': 'day={{.inputs.day}}'}
    """

    task_type: str = "step_functions"
    state_machine: str = ""
    input: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not _MACHINE.match(self.state_machine):
            raise UsageError(f"Task {self.name!r} needs state_machine, the ARN of a state machine.")
        told = {"stateMachine": self.state_machine, "input": self.input}
        object.__setattr__(
            self, "config", {**{name: one for name, one in told.items() if one is not None}, **self.config}
        )
        super().__post_init__()


@dataclass(frozen=True, slots=True)
class Execution:
    """What finds the execution again, and what it is to give."""

    arn: str
    outputs: dict[str, Any] = field(default_factory=dict)

    @property
    def region(self) -> str:
        return self.arn.split(":")[3]

    @property
    def machine(self) -> str:
        """The ARN of its state machine, without version or alias."""
        return self.arn.rpartition(":")[0].replace(":execution:", ":stateMachine:")


class StepFunctionsAgent(AWSAgent[Execution]):
    """Runs executions of state machines of AWS Step Functions."""

    name = "step_functions"
    task_type = "step_functions"
    service = "stepfunctions"
    poll_interval = 10.0
    create_is_idempotent = True  # Step Functions has one execution of a name

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Options(AccountOptions):
        """Whose account is used: see `AccountOptions`. The region is the state machine's."""

    def open(self, options: AccountOptions) -> None:
        super().open(options)
        self._standard: set[str] = set()

    def probe(self) -> str:
        """Ask Step Functions for a state machine."""
        self._ask(Call(), "", lambda client: client.list_state_machines(maxResults=1), creating=True)
        return "Step Functions answers"

    def create(self, task: Task) -> Execution:
        machine, job = _machine(task)[0], _execution(task, task.key)
        request = {"stateMachineArn": machine, "name": _name(task.key), "input": _input(task)}
        self._check_kind(task, machine, job.region)

        def start(client: Any) -> str:
            try:
                return str(client.start_execution(**request)["executionArn"])
            except client.exceptions.ExecutionAlreadyExists:  # it is over, or was given another input
                return ""

        arn = self._ask(task, job.region, start, creating=True)
        if not arn:
            self._check_same(task, job, request["input"])
            return job
        if ":express:" in arn:
            raise Fail(_EXPRESS.format(machine), code="NotSupported")
        return replace(job, arn=arn)

    def find(self, task: Task, key: str) -> Execution | None:
        """The execution named after this key."""
        job = _execution(task, key)
        try:
            self._describe(job, task)
        except NotFound:
            return None
        return job

    def get_many(self, jobs: Sequence[Execution], call: Call) -> Sequence[Resource | Exception]:
        """One list for many executions of a state machine; what it does not show as running is described."""
        known = listed(((job.machine, job.arn) for job in jobs), lambda machine, arns: self._list(machine, arns, call))
        return [self._answer(job, known.get((job.machine, job.arn)), call) for job in jobs]

    def delete(self, job: Execution, call: Call) -> None:
        self._ask(call, job.region, lambda client: client.stop_execution(executionArn=job.arn))

    def links(self, job: Execution) -> Sequence[LogLink]:
        home = f"{console(job.region)}/states/home?region={job.region}"
        return (LogLink(f"{home}#/v2/executions/details/{job.arn}", "Step Functions Console"),)

    def logs(self, job: Execution, *, after: str, limit: int, call: Call) -> Iterator[LogLine]:
        """The events of the execution's history, as they come."""

        def page(**request: Any) -> Mapping[str, Any]:
            answer: Mapping[str, Any] = self._ask(
                call, job.region, lambda client: client.get_execution_history(executionArn=job.arn, **request)
            )
            return answer

        return lines_of(page, after=after, limit=limit)

    # -- what is made of an answer ----------------------------------------------------------------------------------

    def _judge(self, job: Execution, found: Mapping[str, Any], _call: Call, /) -> Resource:
        status, links, info = str(found["status"]), self.links(job), answers.facts(found)
        phase = answers.phase_of(status)
        if not phase.is_terminal:
            return Resource(phase, links=links, info=info)
        if not phase.is_success:
            reason = answers.reason_of(found)
            return Resource(reason.phase, message=reason.message, code=reason.code, links=links, info=info)
        try:
            outputs = answers.outputs_of(found.get("output"), job.outputs)
        except ConversionError as exc:
            return Resource(Phase.FAILED, message=str(exc), code="OutputConversionError", links=links, info=info)
        return Resource(phase, outputs=outputs, links=links, info=info)

    # -- asking Step Functions --------------------------------------------------------------------------------------

    def _check_kind(self, task: Task, machine: str, region: str) -> None:
        """Raise `Fail` for an Express state machine, whose executions can be neither found nor watched."""
        if machine in self._standard:
            return
        try:
            kind = self._ask(
                task, region, lambda client: client.describe_state_machine(stateMachineArn=machine), creating=True
            ).get("type")
        except Fail as exc:
            if exc.code != "Forbidden":
                raise
            return  # it may not be looked at; the name of an execution will tell
        if kind == "EXPRESS":
            raise Fail(_EXPRESS.format(machine), code="NotSupported")
        if len(self._standard) >= _MOST_KNOWN:
            self._standard.clear()
        self._standard.add(machine)

    def _check_same(self, task: Task, job: Execution, wanted: str) -> None:
        """Raise `Fail` if the execution that has this name was given another input."""
        try:
            found = self._describe(job, task)
        except NotFound as exc:
            raise Retry(f"Step Functions has an execution {job.arn}, and does not show it yet") from exc
        given = found.get("input")
        if given is not None and json.loads(given) != json.loads(wanted):
            raise Fail(f"There is an execution {job.arn} already, with another input.", code="ExecutionExists")

    def _describe(self, job: Execution, call: Call | Task) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._ask(
            call, job.region, lambda client: client.describe_execution(executionArn=job.arn)
        )
        return found

    def _list(self, machine: str, arns: Collection[str], call: Call) -> dict[str, Mapping[str, Any]]:
        """Those of the executions that the newest pages show as running. Never more calls than executions."""
        asked = {"stateMachineArn": machine, "statusFilter": "RUNNING", "maxResults": _PAGE}

        def look(client: Any) -> dict[str, Mapping[str, Any]]:
            found = pages(client.list_executions, "executions", "nextToken", min(_MOST_PAGES, len(arns)), **asked)
            return picked(found, "executionArn", arns)

        return self._ask(call, machine.split(":")[3], look)

    @staticmethod
    def _is_missing(code: str, _message: str, /) -> bool:
        return code in ("ExecutionDoesNotExist", "StateMachineDoesNotExist")


def _machine(task: Task) -> re.Match[str]:
    """The ARN of the task's state machine, in parts."""
    check_keys(task.config, _KEYS, "step_functions")
    machine = task.config.get("stateMachine")
    found = _MACHINE.match(machine) if isinstance(machine, str) else None
    if found is None:
        raise Fail(
            f"config.stateMachine must be the ARN of a state machine, such as arn:aws:states:eu-west-1:123456789012:"
            f"stateMachine:load, not {machine!r}."
        )
    check_region(found[2])
    return found


def _execution(task: Task, key: str) -> Execution:
    partition, region, account, name, _ = _machine(task).groups()
    arn = f"arn:{partition}:states:{region}:{account}:execution:{name}:{_name(key)}"
    return Execution(arn, {output: kind_of(annotation) for output, annotation in task.interface.outputs.items()})


def _name(key: str) -> str:
    return f"airside-{key}"


def _input(task: Task) -> str:
    """What the execution gets: the same text for every create of one attempt."""
    template = task.config.get("input")
    others = {"outputprefix": task.output_prefix, "perretryuniquekey": task.key}
    try:
        if template is None:
            made = {name: to_json(value) for name, value in task.inputs.items()}
        else:
            made = render_value(dict(template) if isinstance(template, Mapping) else template, task.inputs, others)
        text = json.dumps(made, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise Fail(f"The inputs have no form in JSON: {exc}.") from exc
    if len(text.encode()) > _LONGEST_INPUT:
        raise Fail(
            f"The input has {len(text.encode())} bytes; Step Functions takes {_LONGEST_INPUT}. Pass a File by its uri."
        )
    return text
