"""Runs of one task with one agent, in this process: phases, outputs, retries, timeouts, cancelling, leaving."""

from __future__ import annotations

import asyncio
import enum
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flyteidl.admin import agent_pb2
from flyteidl2.core import execution_pb2, literals_pb2

from airside import (
    AgentBase,
    AsyncAgent,
    Call,
    Container,
    ConversionError,
    Fail,
    LogLink,
    NotFound,
    OutputsAt,
    Phase,
    PluginError,
    Resource,
    Retry,
    SyncAgent,
    Task,
    TaskError,
    TaskTemplate,
    UsageError,
    arun,
    kwtypes,
    run,
)
from airside.engine.local import LocalRun, run_task
from airside.engine.progress import Progress
from airside.model.redaction import hide
from airside.sdk.adapt import adapt
from airside.wire import storage
from airside.wire.literal_map import pack

RUNNING = Resource(Phase.RUNNING)
ADD = TaskTemplate(name="add", task_type="jobs", inputs=kwtypes(a=int), outputs=kwtypes(o0=float))
PLAIN = TaskTemplate(name="plain", task_type="jobs")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIRSIDE_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@dataclass
class Job:
    id: str


class Jobs(AsyncAgent[Job]):
    """Jobs that answer as they are told: the last answer repeats. A deleted job is ABORTED from then on."""

    task_type = "jobs"
    poll_interval = 0.02
    call_timeout = 5.0

    def __init__(
        self, *answers: Resource | Exception | Callable[[Task], Resource], creates: Sequence[Any] = ()
    ) -> None:
        self.answers = list(answers) or [Resource(Phase.SUCCEEDED)]
        self.creates = list(creates)
        self.deletes: list[Exception] = []
        self.tasks: list[Task] = []
        self.deleted: list[str] = []
        self.asked: list[float] = []

    def create(self, task: Task) -> Job:
        self.tasks.append(task)
        if self.creates:
            problem = self.creates.pop(0)
            if problem is not None:
                raise problem
        return Job(f"job-{len(self.tasks)}")

    async def get(self, job: Job, call: Call) -> Resource:
        self.asked.append(time.monotonic())
        if job.id in self.deleted:
            return Resource(Phase.ABORTED)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return await asyncio.to_thread(answer, self.tasks[-1]) if callable(answer) else answer

    def delete(self, job: Job) -> None:
        if self.deletes:
            raise self.deletes.pop(0)
        self.deleted.append(job.id)


# -- values and outputs --------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int


async def test_an_agent_gets_inputs_as_on_a_cluster_and_outputs_are_typed_by_the_interface(state: Path) -> None:
    template = TaskTemplate(
        name="typed",
        task_type="jobs",
        inputs=kwtypes(p=Point, c=Colour, o=int | None, n=int),
        outputs=kwtypes(o0=float, o1=list[int]),
        defaults={"n": 7},
        config={"k": 1},
    )
    agent = Jobs(Resource(Phase.SUCCEEDED, outputs={"o0": 3, "o1": [1], "extra": "dropped"}))
    outcome = await run_task(template, {"p": Point(1), "c": Colour.RED, "o": None}, adapt(agent))
    assert dict(outcome.outputs) == {"o0": 3.0, "o1": [1]}
    assert type(outcome.outputs["o0"]) is float
    task = agent.tasks[0]
    assert dict(task.inputs) == {"p": {"x": 1}, "c": "red", "o": None, "n": 7}
    assert task.config["k"] == 1
    assert (task.execution.name, task.execution.attempt, task.execution.task_name) == (outcome.run_id, 0, "typed")
    folder = state / "runs" / outcome.run_id
    assert task.output_prefix == str(folder / "0")
    assert len(task.key) == 32
    assert "p" in literals_pb2.LiteralMap.FromString((folder / "inputs.pb").read_bytes()).literals
    written = literals_pb2.LiteralMap.FromString((folder / "0" / "outputs.pb").read_bytes()).literals
    assert written["o0"].scalar.primitive.float_value == 3.0
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("outputs", "problem"),
    [
        ({}, "outputs.o0: missing"),
        ({"o0": "abc"}, "outputs.o0: expected float, got 'abc'"),
        ({"o0": None}, "outputs.o0: expected float, got None"),
    ],
)
async def test_outputs_that_do_not_fit_fail_the_task_for_good(outputs: dict[str, Any], problem: str) -> None:
    agent = Jobs(Resource(Phase.SUCCEEDED, outputs=outputs))
    outcome = await run_task(ADD, {"a": 1}, adapt(agent), retries=3)
    assert (outcome.phase, outcome.code, outcome.attempts) == (Phase.FAILED, "OutputConversionError", 1)
    assert problem in outcome.message
    assert dict(outcome.outputs) == {}


async def test_outputs_may_be_a_file_that_the_job_wrote(tmp_path: Path) -> None:
    where = str(tmp_path / "elsewhere")

    def finished(task: Task) -> Resource:
        storage.write(storage.join(where, "outputs.pb"), pack({"o0": 2.5}).data)
        return Resource(Phase.SUCCEEDED, outputs=OutputsAt(where))

    outcome = await run_task(ADD, {"a": 1}, adapt(Jobs(finished)))
    assert dict(outcome.outputs) == {"o0": 2.5}


async def test_a_job_that_says_nothing_of_outputs_may_have_left_them_under_its_prefix() -> None:
    def finished(task: Task) -> Resource:
        storage.write(storage.join(task.output_prefix, "outputs.pb"), pack({"o0": 2.5}).data)
        return Resource(Phase.SUCCEEDED)

    assert dict((await run_task(ADD, {"a": 1}, adapt(Jobs(finished)))).outputs) == {"o0": 2.5}


async def test_outputs_that_are_nowhere_are_retried() -> None:
    agent = Jobs(Resource(Phase.SUCCEEDED), Resource(Phase.SUCCEEDED, outputs={"o0": 1.0}))
    outcome = await run_task(ADD, {"a": 1}, adapt(agent), retries=1)
    assert (outcome.phase, outcome.attempts) == (Phase.SUCCEEDED, 2)
    outcome = await run_task(ADD, {"a": 1}, adapt(Jobs(Resource(Phase.SUCCEEDED))))
    assert (outcome.phase, outcome.code) == (Phase.RETRYABLE_FAILED, "OutputsNotFound")


async def test_a_failed_job_may_say_why_in_error_pb(tmp_path: Path) -> None:
    error = execution_pb2.ContainerError(code="OutOfMemory", message="killed at 3 GiB")
    (tmp_path / "error.pb").write_bytes(execution_pb2.ErrorDocument(error=error).SerializeToString())
    agent = Jobs(Resource(Phase.FAILED, message="exit status 137", outputs=OutputsAt(str(tmp_path))))
    outcome = await run_task(PLAIN, {}, adapt(agent))
    assert (outcome.phase, outcome.code) == (Phase.FAILED, "OutOfMemory")
    assert "killed at 3 GiB" in outcome.message


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({}, "inputs.a: missing"),
        ({"a": "abc"}, "inputs.a: expected int, got 'abc'"),
        ({"a": 1, "b": 2}, r"inputs.b: not an input of add \(inputs: a\)"),
    ],
)
async def test_wrong_inputs_are_refused_before_anything_starts(
    inputs: dict[str, Any], problem: str, state: Path
) -> None:
    agent = Jobs()
    with pytest.raises(ConversionError, match=problem):
        await run_task(ADD, inputs, adapt(agent))
    assert agent.tasks == []
    assert not state.exists()


async def test_the_arguments_of_a_container_are_filled_in_anew_for_each_attempt() -> None:
    container = Container(image="x", args=("--a", "{{.inputs.a}}", "{{.outputPrefix}}"))
    template = TaskTemplate(name="c", task_type="jobs", inputs=kwtypes(a=int), container=container, retries=1)
    agent = Jobs(Resource(Phase.RETRYABLE_FAILED), Resource(Phase.SUCCEEDED))
    await run_task(template, {"a": 5}, adapt(agent))
    assert [task.container.args for task in agent.tasks if task.container] == [
        ("--a", "5", task.output_prefix) for task in agent.tasks
    ]
    assert len(agent.tasks) == 2
    wrong = TaskTemplate(name="c", task_type="jobs", container=Container(image="x", args=("{{.inputs.z}}",)), retries=5)
    outcome = await run_task(wrong, {}, adapt(agent))
    assert (outcome.phase, outcome.code, outcome.attempts) == (Phase.FAILED, "BadTaskTemplate", 1)
    assert len(agent.tasks) == 2


# -- retries, faults, timeouts -------------------------------------------------------------------------------------


async def test_a_retryable_failure_is_tried_again_under_a_new_prefix_and_key() -> None:
    agent = Jobs(RUNNING, Resource(Phase.RETRYABLE_FAILED, message="preempted"), RUNNING, Resource(Phase.SUCCEEDED))
    news: list[Progress] = []
    outcome = await run_task(PLAIN, {}, adapt(agent), retries=2, on_progress=news.append)
    assert (outcome.phase, outcome.attempts) == (Phase.SUCCEEDED, 2)
    first, second = agent.tasks
    assert first.key != second.key
    assert (first.output_prefix[-2:], second.output_prefix[-2:]) == ("/0", "/1")
    assert (first.execution.attempt, second.execution.attempt) == (0, 1)
    assert any("attempt 1 failed (preempted); the next begins in" in one.note for one in news)
    assert agent.deleted == []


async def test_spent_retries_end_with_the_last_failure() -> None:
    agent = Jobs(Resource(Phase.RETRYABLE_FAILED, message="no capacity", code="NoCapacity"))
    outcome = await run_task(PLAIN, {}, adapt(agent), retries=1)
    assert (outcome.phase, outcome.code, outcome.attempts) == (Phase.RETRYABLE_FAILED, "NoCapacity", 2)


@pytest.mark.parametrize(
    ("problem", "attempts", "phase"),
    [
        (Retry("quota", after=0.01), 2, Phase.SUCCEEDED),
        (ValueError("boom"), 2, Phase.SUCCEEDED),
        (Fail("no such table", code="TableNotFound"), 1, Phase.FAILED),
    ],
)
async def test_a_create_that_raises_costs_an_attempt_unless_it_can_never_work(
    problem: Exception, attempts: int, phase: Phase
) -> None:
    agent = Jobs(creates=[problem])
    outcome = await run_task(PLAIN, {}, adapt(agent), retries=3)
    assert (outcome.attempts, outcome.phase) == (attempts, phase)


async def test_a_job_of_a_create_that_failed_is_looked_up_and_cancelled() -> None:
    class Finder(Jobs):
        def find(self, task: Task, key: str) -> Job | None:
            return Job(f"job-{len(self.tasks)}") if key == task.key else None

    agent = Finder(creates=[ConnectionError("reset")])
    outcome = await run_task(PLAIN, {}, adapt(agent), retries=1)
    assert (outcome.phase, agent.deleted) == (Phase.SUCCEEDED, ["job-1"])


async def test_an_agent_that_cannot_say_for_a_while_does_no_harm() -> None:
    agent = Jobs(
        RUNNING, OSError("no route"), Retry("busy", after=0.01), NotFound("not yet"), Resource(Phase.SUCCEEDED)
    )
    news: list[Progress] = []
    outcome = await run_task(PLAIN, {}, adapt(agent), on_progress=news.append)
    assert (outcome.phase, outcome.attempts) == (Phase.SUCCEEDED, 1)
    notes = [one.note for one in news if one.note]
    assert notes == [
        f"the agent cannot say how the job stands ({why}); asking again"
        for why in ("OSError: no route", "busy", "not yet")
    ]


async def test_an_agent_that_never_says_is_given_up_and_its_job_cancelled() -> None:
    class Lost(Jobs):
        fault_tolerance = 0.2

    agent = Lost(Retry("no route", after=0.05))
    outcome = await run_task(PLAIN, {}, adapt(agent))
    assert (outcome.phase, outcome.code) == (Phase.RETRYABLE_FAILED, "AgentUnreachable")
    assert agent.deleted == ["job-1"]


async def test_an_attempt_that_takes_too_long_is_cancelled_and_tried_again() -> None:
    agent = Jobs(RUNNING)
    outcome = await run_task(PLAIN, {}, adapt(agent), timeout=0.6, retries=1)
    assert (outcome.phase, outcome.code, outcome.attempts) == (Phase.FAILED, "TimeoutExpired", 2)
    assert agent.deleted[0] == "job-1"
    assert outcome.message == "The run took longer than 1.2 s since it was queued."  # twice the time, as in Flyte


async def test_a_task_may_bring_its_own_timeout_and_retries() -> None:
    template = TaskTemplate(name="t", task_type="jobs", timeout=0.05, retries=1)
    assert (await run_task(template, {}, adapt(Jobs(RUNNING)))).attempts == 2


async def test_polls_start_quickly() -> None:
    class Slow(Jobs):
        poll_interval = 60.0

    agent = Slow(*[RUNNING] * 4, Resource(Phase.SUCCEEDED))
    outcome = await run_task(PLAIN, {}, adapt(agent))
    assert outcome.elapsed < 2
    assert len(agent.asked) == 5


def test_a_state_folder_that_takes_no_files_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRSIDE_STATE", "/dev/null")
    with pytest.raises(
        UsageError, match=r"^/dev/null/runs cannot be written \(Not a directory\); set AIRSIDE_STATE to"
    ):
        run(PLAIN, agents=[Jobs()])


# -- progress ------------------------------------------------------------------------------------------------------


async def test_progress_tells_each_change_once_with_links_and_without_secrets() -> None:
    hide("s3cr3t-token")

    class Linked(Jobs):
        def links(self, job: Job) -> Sequence[LogLink]:
            return [LogLink(f"https://example.org/{job.id}", "console")]

    agent = Linked(RUNNING, RUNNING, Resource(Phase.RUNNING, message="s3cr3t-token used"), Resource(Phase.SUCCEEDED))
    news: list[Progress] = []
    outcome = await run_task(PLAIN, {}, adapt(agent), on_progress=news.append)
    assert [(one.phase, one.message, len(one.links)) for one in news] == [
        (Phase.QUEUED, "", 0),
        (Phase.QUEUED, "", 1),
        (Phase.RUNNING, "", 1),
        (Phase.RUNNING, "*** used", 1),
        (Phase.SUCCEEDED, "", 1),
    ]
    assert [link.uri for link in outcome.links] == ["https://example.org/job-1"]
    assert [one.elapsed for one in news] == sorted(one.elapsed for one in news)


# -- cancelling and leaving ----------------------------------------------------------------------------------------


async def _started(agent: Jobs, template: TaskTemplate = PLAIN, **settings: Any) -> tuple[LocalRun, asyncio.Task[Any]]:
    local = LocalRun(template, {}, adapt(agent), **settings)
    task = asyncio.create_task(local.finish())
    async with asyncio.timeout(5):
        while not agent.asked:
            await asyncio.sleep(0.01)
    return local, task


async def test_a_cancel_deletes_the_job_and_waits_until_it_is_over() -> None:
    class Lingering(Jobs):
        async def get(self, job: Job, call: Call) -> Resource:
            resource = await super().get(job, call)
            return resource if len(self.asked) > 5 else RUNNING

    agent = Lingering(RUNNING)
    local, task = await _started(agent, retries=3)
    local.cancel()
    outcome = await task
    assert (outcome.phase, outcome.attempts, agent.deleted) == (Phase.ABORTED, 1, ["job-1"])
    assert len(agent.asked) > 5


async def test_a_delete_that_fails_is_tried_again() -> None:
    agent = Jobs(RUNNING)
    agent.deletes = [OSError("no route"), Retry("busy", after=0.01)]
    local, task = await _started(agent)
    local.cancel()
    assert (await task).phase is Phase.ABORTED
    assert agent.deleted == ["job-1"]


async def test_a_job_that_ended_before_the_cancel_keeps_its_result() -> None:
    agent = Jobs(RUNNING)
    local, task = await _started(agent)
    agent.answers = [Resource(Phase.SUCCEEDED)]
    local.cancel()
    assert (await task).phase is Phase.SUCCEEDED
    assert agent.deleted == []


async def test_a_cancel_goes_on_though_the_outputs_of_the_job_that_ended_before_it_cannot_be_read(
    tmp_path: Path,
) -> None:
    await asyncio.to_thread(storage.write, str(tmp_path / "outputs.pb"), pack({"o0": 2.5}).data)
    agent = Jobs(RUNNING)
    local, task = await _started(agent, template=TaskTemplate(name="t", task_type="jobs", outputs=kwtypes(o0=float)))
    away = Resource(Phase.SUCCEEDED, outputs=OutputsAt("/dev/null/none"))
    agent.answers = [away, away, Resource(Phase.SUCCEEDED, outputs=OutputsAt(str(tmp_path)))]
    local.cancel()
    async with asyncio.timeout(30):
        outcome = await task
    assert (outcome.phase, outcome.outputs, agent.deleted) == (Phase.SUCCEEDED, {"o0": 2.5}, [])


async def test_a_job_that_the_backend_forgets_after_the_delete_is_over() -> None:
    class Forgetful(Jobs):
        async def get(self, job: Job, call: Call) -> Resource:
            if job.id in self.deleted:
                raise NotFound
            return await super().get(job, call)

    local, task = await _started(Forgetful(RUNNING))
    local.cancel()
    assert (await task).phase is Phase.ABORTED


async def test_a_cancel_during_create_waits_for_the_job_and_cancels_it() -> None:
    class SlowStart(Jobs):
        def create(self, task: Task) -> Job:
            began.set()
            time.sleep(0.2)
            return super().create(task)

    began = threading.Event()
    agent = SlowStart(RUNNING)
    local = LocalRun(PLAIN, {}, adapt(agent))
    task = asyncio.create_task(local.finish())
    await asyncio.to_thread(began.wait, 10)
    local.cancel()
    assert (await task).phase is Phase.ABORTED
    assert agent.deleted == ["job-1"]


class Hanging(Jobs):
    """Its jobs cannot be asked for: the backend does not answer."""

    async def get(self, job: Job, call: Call) -> Resource:
        resource = await super().get(job, call)
        if job.id not in self.deleted:
            await asyncio.sleep(60)
        return resource


async def test_a_cancel_does_not_wait_for_an_answer_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airside.engine.calls.LAST_LOOK", 0.05)
    agent = Hanging(RUNNING)
    local, task = await _started(agent)
    local.cancel()
    async with asyncio.timeout(3):
        assert (await task).phase is Phase.ABORTED
    assert agent.deleted == ["job-1"]


async def test_a_timeout_does_not_wait_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airside.engine.calls.LAST_LOOK", 0.05)
    outcome = await run_task(PLAIN, {}, adapt(Hanging(RUNNING)), timeout=0.1)
    assert outcome.code == "TimeoutExpired"
    assert outcome.elapsed < 3


async def test_a_job_that_cannot_be_cancelled_is_said_to_live() -> None:
    agent = Jobs(RUNNING)
    agent.deletes = [Retry("no route", after=0.001)] * 10
    local, task = await _started(agent)
    local.cancel()
    outcome = await task
    assert (outcome.phase, outcome.job_may_live, outcome.handle) == (Phase.ABORTED, True, '{"id":"job-1"}')
    assert outcome.message == "Cancelled. The job could not be cancelled, so it may still run: no route"


async def test_no_attempt_begins_while_the_job_of_the_last_one_may_live() -> None:
    agent = Jobs(RUNNING)
    agent.deletes = [Retry("no route", after=0.001)] * 10
    outcome = await run_task(PLAIN, {}, adapt(agent), timeout=0.05, retries=3)
    assert (outcome.code, outcome.attempts, outcome.job_may_live) == ("TimeoutExpired", 1, True)


async def test_links_that_raise_harm_nobody() -> None:
    class Unlinked(Jobs):
        def links(self, job: Job) -> Sequence[LogLink]:
            raise KeyError("region")

    outcome = await run_task(PLAIN, {}, adapt(Unlinked(RUNNING, Resource(Phase.SUCCEEDED))))
    assert (outcome.phase, outcome.links) == (Phase.SUCCEEDED, ())


async def test_leaving_returns_at_once_and_leaves_the_job_alone() -> None:
    agent = Jobs(Resource(Phase.RUNNING, message="3 of 7"))
    local, task = await _started(agent)
    local.detach()
    outcome = await task
    assert outcome.detached
    assert (outcome.phase, outcome.message, outcome.handle) == (Phase.RUNNING, "3 of 7", '{"id":"job-1"}')
    assert agent.deleted == []


async def test_cancelling_the_awaiting_task_cancels_the_job_and_waits() -> None:
    agent = Jobs(RUNNING)
    _, task = await _started(agent)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert agent.deleted == ["job-1"]


# -- sync agents ---------------------------------------------------------------------------------------------------


class Adder(SyncAgent):
    task_type = "sync"

    async def do(self, task: Task) -> Resource:
        wait = task.inputs["a"]
        await asyncio.sleep(max(0, wait))
        if wait < 0:
            raise Retry("not now")
        return Resource(Phase.SUCCEEDED, outputs={"o0": task.inputs["a"] + 1})


SYNC = TaskTemplate(name="sync", task_type="sync", inputs=kwtypes(a=float), outputs=kwtypes(o0=float))


async def test_a_sync_agent_runs_through_do() -> None:
    assert dict((await run_task(SYNC, {"a": 0}, adapt(Adder()))).outputs) == {"o0": 1.0}
    outcome = await run_task(SYNC, {"a": -1}, adapt(Adder()), retries=1)
    assert (outcome.phase, outcome.attempts, outcome.message) == (Phase.RETRYABLE_FAILED, 2, "not now (attempt 2 of 2)")
    outcome = await run_task(SYNC, {"a": 60}, adapt(Adder()), timeout=0.05)
    assert outcome.code == "TimeoutExpired"


async def test_a_sync_task_is_cancelled_where_it_stands() -> None:
    local = LocalRun(SYNC, {"a": 60}, adapt(Adder()))
    task = asyncio.create_task(local.finish())
    await asyncio.sleep(0.05)
    local.cancel()
    assert (await task).phase is Phase.ABORTED


# -- the Python API ------------------------------------------------------------------------------------------------


def test_run_returns_the_outputs_by_name() -> None:
    assert run(SYNC, agents=[Adder()], a=0) == {"o0": 1.0}


@pytest.mark.may_block  # `run` blocks whoever calls it
async def test_run_works_inside_a_running_loop_and_so_does_arun() -> None:
    assert run(SYNC, agents=[Adder()], a=0) == {"o0": 1.0}
    assert await arun(SYNC, agents=[Adder()], a=0) == {"o0": 1.0}


def test_run_raises_what_went_wrong() -> None:
    broken = Jobs(Resource(Phase.FAILED, message="no", code="Bad", links=[LogLink("https://example.org/1", "log")]))
    with pytest.raises(TaskError, match=r"^Bad: task plain: no \(log: https://example.org/1\)$") as caught:
        run(PLAIN, agents=[broken])
    assert (caught.value.phase, caught.value.code) == (Phase.FAILED, "Bad")
    with pytest.raises(ConversionError, match=r"inputs\.a: expected float, got 'x'"):
        run(SYNC, agents=[Adder()], a="x")
    with pytest.raises(UsageError, match=r"None of the given agents runs task type jobs \(they run: sync\)"):
        run(PLAIN, agents=[Adder()])
    with pytest.raises(UsageError, match=r"No agent here runs task type nobodys \(task types here: .*echo"):
        run(TaskTemplate(name="x", task_type="nobodys"))


def test_run_knows_agents_written_against_flytes_messages() -> None:
    class Custom(AgentBase):
        def create(self, context: Any, output_prefix: str, task_template: Any, inputs: Any = None) -> Any:
            return agent_pb2.CreateTaskResponse(resource_meta=b"job-1")

        def get(self, context: Any, resource_meta: bytes) -> Any:
            return agent_pb2.GetTaskResponse(resource=agent_pb2.Resource(phase=3, message=resource_meta.decode()))

        def delete(self, context: Any, resource_meta: bytes) -> Any:
            return agent_pb2.DeleteTaskResponse()

    assert run(TaskTemplate(name="t", task_type="custom"), agents=[Custom(task_type="custom")]) == {}


def test_run_gives_the_agent_its_options() -> None:
    @dataclass(frozen=True)
    class Options:
        step: float = 1.0

    class Stepper(SyncAgent):
        task_type = "sync"

        def open(self, options: Options) -> None:
            self.step = options.step
            if self.step < 0:
                raise ConnectionRefusedError("no such step")

        def do(self, task: Task) -> Resource:
            return Resource(Phase.SUCCEEDED, outputs={"o0": task.inputs["a"] + self.step})

    Stepper.Options = Options
    assert run(SYNC, agents=[Stepper()], options={"step": 5}, a=0) == {"o0": 5.0}
    with pytest.raises(UsageError, match=r"options of Stepper\.stop: unknown key \(known: step\)"):
        run(SYNC, agents=[Stepper()], options={"stop": 5}, a=0)
    with pytest.raises(PluginError, match="Agent Stepper cannot be opened: ConnectionRefusedError: no such step"):
        run(SYNC, agents=[Stepper()], options={"step": -1.0}, a=0)
