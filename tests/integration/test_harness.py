"""The author's harness: create, watch, cancel, restart and kill, over real gRPC on both families."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airside import (
    AsyncAgent,
    Call,
    Connection,
    Container,
    Fail,
    LogLine,
    LogLink,
    Metric,
    NotFound,
    Resource,
    Retry,
    SyncAgent,
    Task,
    TaskTemplate,
    UsageError,
    kwtypes,
)
from airside.model import Phase
from airside.testing import BlockingHarness, ScriptedAgent, blocking_harness, hang, harness
from airside.testing.client import RawClient, Wire


@dataclass(frozen=True)
class Job:
    path: str


class FileJobs(AsyncAgent[Job]):
    """Jobs that live in files, so that they outlive the service. A job is over when its file says so."""

    task_type = "file_job"

    @dataclass(frozen=True)
    class Options:
        greeting: str = "hello"

    def open(self, options: Options) -> None:
        self.greeting = options.greeting

    def create(self, task: Task) -> Job:
        path = Path(task.output_prefix) / "job.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"phase": "RUNNING", "made_by": os.getpid(), "x": task.inputs.get("x")}))
        return Job(str(path))

    def get(self, job: Job) -> Resource:
        try:
            state = json.loads(Path(job.path).read_text())
        except FileNotFoundError:
            raise NotFound(f"no file {job.path}") from None
        phase = Phase[state["phase"]]
        outputs = {"x": state["x"], "made_by": state["made_by"]} if phase.is_success else None
        return Resource(phase, message=self.greeting, outputs=outputs, links=[LogLink(f"file://{job.path}", "State")])

    def delete(self, job: Job) -> None:
        end(job.path, Phase.ABORTED)

    def logs(self, job: Job, *, after: str, limit: int) -> Iterator[LogLine]:
        for number in range(int(after or 0), 5):
            yield LogLine(f"line {number}", cursor=str(number + 1))

    def metrics(self, job: Job, *, queries: list[str], start: datetime, end: datetime, step: float) -> list[Metric]:
        return [Metric(query, [(start, step)]) for query in queries]


def end(path: str, phase: Phase = Phase.SUCCEEDED) -> None:
    state = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps({**state, "phase": phase.name}))


def file_of(job: object) -> str:
    return str(Path(job.output_prefix) / "job.json")  # type: ignore[attr-defined]  # each job here has one


async def test_a_job_is_created_watched_and_finished(wire: Wire) -> None:
    async with harness(FileJobs(), wire=wire) as h:
        job = await h.create(inputs={"x": 3}, outputs=kwtypes(x=float, made_by=int))
        running = await h.get(job)
        assert (running.phase, running.message) == (Phase.RUNNING, "hello")
        assert [(link.name, link.uri) for link in running.links] == [("State", f"file://{file_of(job)}")]
        end(file_of(job))
        done = await h.finish(job)
        assert done.phase is Phase.SUCCEEDED
        assert dict(done.outputs or {}) == {"x": 3.0, "made_by": os.getpid()}
        prefix = Path(job.output_prefix)
        assert prefix.is_dir()
    assert not prefix.exists()


async def test_every_job_has_a_prefix_of_its_own_and_a_given_one_repeats_the_create(wire: Wire) -> None:
    agent = ScriptedAgent(create=[b"1", b"2", b"3"])
    async with harness(agent, wire=wire) as h:
        first, second = await h.create(), await h.create()
        assert first.output_prefix != second.output_prefix
        again = await h.create(output_prefix=first.output_prefix)
        assert again.handle == first.handle
        assert again.task.key == first.task.key
        assert len(agent.calls("create")) == 2


async def test_what_create_is_given_reaches_the_agent(wire: Wire) -> None:
    agent = ScriptedAgent(task_types=["query", ("query", 2)])
    container = Container(image="alpine", command=("true",), env={"A": "b"})
    async with harness(agent, wire=wire) as h:
        await h.create(task_type=("query", 2), sql="select 1", config={"project": "p"}, attempt=1)
        await h.create(container=container, inputs={"names": ["a", "b"], "rows": {"a": 1}})
    sql, boxed = (call.task for call in agent.calls("create"))
    assert sql is not None
    assert sql.sql is not None
    assert (sql.type, sql.sql.statement, dict(sql.config)) == (("query", 2), "select 1", {"project": "p"})
    assert (sql.execution.attempt, sql.output_prefix[-2:]) == (1, "/1")
    assert boxed is not None
    assert boxed.container == container
    assert dict(boxed.inputs) == {"names": ["a", "b"], "rows": {"a": 1}}


async def test_a_task_template_says_everything(wire: Wire) -> None:
    task = TaskTemplate(
        name="greet", task_type="scripted", inputs=kwtypes(x=float, y=str), defaults={"y": "z"}, outputs=kwtypes(o=int)
    )
    agent = ScriptedAgent(get=Resource(Phase.SUCCEEDED, outputs={"o": 1}))
    async with harness(agent, wire=wire) as h:
        job = await h.create(task=task, inputs={"x": 3})
        assert (await h.finish(job)).outputs == {"o": 1}
    [created] = agent.calls("create")
    assert created.task is not None
    assert dict(created.task.inputs) == {"x": 3.0, "y": "z"}
    assert created.task.execution.task_name == "greet"


@pytest.mark.parametrize("wire", ["v2"])
async def test_a_connection_reaches_every_call(wire: Wire) -> None:
    agent = ScriptedAgent(get=Resource(Phase.RUNNING))
    async with harness(agent, wire=wire) as h:
        job = await h.create(connection=Connection(secrets={"token": "s3cr3t-value"}, configs={"host": "h"}))
        await h.get(job)
        await h.delete(job)
        log = h.log
    for verb in ("create", "get", "delete"):
        call = agent.calls(verb)[-1].call
        assert call is not None
        assert call.connection is not None
        assert call.connection.secrets == {"token": "s3cr3t-value"}
    assert "s3cr3t-value" not in log


async def test_delete_cancels(wire: Wire) -> None:
    async with harness(FileJobs(), wire=wire) as h:
        job = await h.create()
        await h.delete(job)
        assert json.loads(Path(file_of(job)).read_text())["phase"] == "ABORTED"
        assert (await h.finish(job)).phase.is_failure


async def test_a_sync_agent_is_done_on_both_families(wire: Wire) -> None:
    class Adder(SyncAgent):
        task_type = "add"

        def do(self, task: Task) -> Resource:
            return Resource(Phase.SUCCEEDED, outputs={"o0": task.inputs["a"] + task.inputs["b"]})

    async with harness(Adder(), wire=wire) as h:
        done = await h.do(inputs={"a": 1, "b": 2}, outputs=kwtypes(o0=int))
        assert dict(done.outputs or {}) == {"o0": 3}
        job = await h.create(inputs={"a": 1, "b": 2})
        assert (await h.finish(job)).phase is Phase.SUCCEEDED


async def test_logs_and_metrics(wire: Wire) -> None:
    noon = datetime(2024, 1, 2, 12, tzinfo=UTC)
    async with harness(FileJobs(), wire=wire) as h:
        job = await h.create()
        first = [line async for line in h.logs(job, limit=2)]
        assert [line.message for line in first] == ["line 0", "line 1"]
        rest = [line.message async for line in h.logs(job, after=first[-1].cursor)]
        assert rest == ["line 2", "line 3", "line 4"]
        [series] = await h.metrics(job, queries=["cpu"], start=noon, end=noon, step=5)
        assert (series.name, list(series.points)) == ("cpu", [(noon, 5.0)])


async def test_raw_stubs_use_the_channel(wire: Wire) -> None:
    async with harness(FileJobs(), wire=wire) as h:
        assert h.client.channel is h.channel
        [entry] = await h.client.list()
        assert entry.name == "FileJobs"


async def test_errors_come_as_the_agent_s_own(wire: Wire) -> None:
    failing = ScriptedAgent(create=[Retry("quota"), Fail("no such table", code="TableNotFound")])
    async with harness(failing, wire=wire) as h:
        with pytest.raises(Retry, match="quota"):
            await h.create()
        resource = await h.finish(await h.create())  # a permanent failure is an answer, not an error
        assert resource.phase is Phase.FAILED
        assert resource.message.startswith("no such table (TableNotFound, id ")
        if wire == "v1":
            assert resource.code == "TableNotFound"


async def test_finish_says_where_the_job_stands_when_time_is_up(wire: Wire) -> None:
    async with harness(ScriptedAgent(get=Resource(Phase.RUNNING, message="2 of 7 stages")), wire=wire) as h:
        job = await h.create()
        with pytest.raises(TimeoutError, match=r"RUNNING after 0\.05 s: 2 of 7 stages"):
            await h.finish(job, timeout=0.05)


async def test_options_reach_the_agent_and_a_wrong_one_is_named() -> None:
    async with harness(FileJobs(), options={"greeting": "moin"}) as h:
        assert (await h.get(await h.create())).message == "moin"
    with pytest.raises(UsageError, match=r"agents\.FileJobs\.greting: unknown key \(known: greeting\)"):
        async with harness(FileJobs(), options={"greting": "moin"}):
            pass


async def test_a_restart_keeps_jobs_and_makes_a_class_anew(wire: Wire) -> None:
    made: list[FileJobs] = []

    class Counted(FileJobs):
        def __init__(self) -> None:
            made.append(self)

    async with harness(Counted, wire=wire) as h:
        job = await h.create(inputs={"x": 3}, outputs=kwtypes(x=int, made_by=int))
        before = len(made)
        await h.restart()
        assert len(made) == before + 1
        assert (await h.get(job)).phase is Phase.RUNNING
        end(file_of(job))
        assert dict((await h.finish(job)).outputs or {}) == {"x": 3, "made_by": os.getpid()}


async def test_a_service_that_was_killed_comes_back_to_its_jobs() -> None:
    options = {"greeting": "from a child"}
    async with harness(FileJobs, wire="v1", process=True, options=options) as h:
        job = await h.create(inputs={"x": 3}, outputs=kwtypes(x=int, made_by=int))
        child = h.pid
        assert child != os.getpid()
        assert (await h.get(job)).message == "from a child"
        os.kill(child, signal.SIGKILL)
        with pytest.raises(Retry, match=r"No agent service answers|reset|closed"):
            await h.get(job)
        await h.restart(kill=True)
        assert h.pid not in (child, os.getpid())
        assert (await h.get(job)).phase is Phase.RUNNING
        end(file_of(job))
        assert dict((await h.finish(job)).outputs or {}) == {"x": 3, "made_by": child}
        other = await RawClient(h.channel, "v2").get(job.handle, "file_job")  # a handle belongs to no family
        assert other.phase == Phase.SUCCEEDED
        last = h.pid
        await h.kill()
    for pid in (child, last):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_only_a_child_can_be_killed() -> None:
    async with harness(FileJobs()) as h:
        with pytest.raises(UsageError, match="process=True"):
            await h.kill()


class NeedsArgument(FileJobs):
    def __init__(self, host: str) -> None:
        self.host = host


class Refuses(FileJobs):
    def __init__(self) -> None:
        raise ValueError("no licence")


@pytest.mark.parametrize(
    ("agent", "problem"),
    [
        ("nowhere:Agent", "Module 'nowhere' cannot be imported: ModuleNotFoundError"),
        ("airside.agents.echo", "does not name an agent; write module:Class"),
        ("airside.agents.echo:Eko", r"has no 'Eko' \(agents there: EchoAgent\)"),
        ("no/such/file.py:Agent", "There is no file no/such/file.py"),
        (object(), "object is not an agent"),
        (NeedsArgument, "NeedsArgument cannot be made without arguments: .*host"),
        (Refuses, "^Refuses cannot be made: ValueError: no licence$"),
    ],
)
def test_what_is_no_agent_is_said_in_a_sentence(agent: object, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        harness(agent)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("raise ValueError('no licence')", "ValueError: no licence"), ("raise SystemExit(4)", "SystemExit: 4")],
)
def test_what_raises_on_import_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    path = tmp_path / "broken_agents.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=rf"broken_agents\.py cannot be imported: {problem}"):
        harness(f"{path}:Agent")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=f"^Module 'broken_agents' cannot be imported: {problem}$"):
        harness("broken_agents:Agent")


_QUEUE = """
from __future__ import annotations
from dataclasses import dataclass
from neighbour import DONE
from airside import AsyncAgent, Resource

@dataclass
class Ticket:
    number: Number

Number = int

class Queue(AsyncAgent[Ticket]):
    task_type = "queue"
    def create(self, task): return Ticket(1)
    def get(self, job): return Resource(DONE, message=f"{job.number}")
    def delete(self, job): ...
"""


@pytest.mark.parametrize("process", [False, True])
async def test_a_file_may_have_neighbours_and_the_name_of_a_known_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: bool
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "neighbour.py").write_text("from airside import Phase\nDONE = Phase.SUCCEEDED\n")
    (tmp_path / "queue.py").write_text(_QUEUE)
    async with harness(f"{tmp_path}/queue.py:Queue", process=process) as h:
        assert (await h.finish(await h.create())).message == "1"
    assert sys.modules["queue"].__file__ != str(tmp_path / "queue.py")


def test_a_wrong_wire_is_refused() -> None:
    with pytest.raises(UsageError, match=r'wire is "v1" .* not \'v3\''):
        harness(FileJobs(), wire="v3")  # type: ignore[arg-type]  # a mistake on purpose


def test_a_local_class_cannot_go_to_another_process() -> None:
    class Local(FileJobs):
        pass

    with pytest.raises(UsageError, match="Local is defined inside a function"):
        harness(Local, process=True)


def test_a_class_in_no_file_cannot_go_to_another_process() -> None:
    typed_in = type("TypedIn", (FileJobs,), {"__module__": "builtins"})
    with pytest.raises(UsageError, match="TypedIn is in no file; put it into a module"):
        harness(typed_in, process=True)


async def test_a_type_that_is_not_served_is_refused() -> None:
    async with harness(FileJobs()) as h:
        with pytest.raises(UsageError, match=r"FileJobs does not serve the task type spark \(it serves file_job\)"):
            await h.create(task_type="spark")


async def test_a_child_that_cannot_open_its_agent_says_why() -> None:
    with pytest.raises(UsageError, match="ShutDoor cannot be served: ConnectionError: no route to host"):
        async with harness(ShutDoor, process=True):
            pass


class ShutDoor(FileJobs):
    def open(self, options: FileJobs.Options) -> None:
        raise ConnectionError("no route to host")


async def test_two_harnesses_leave_the_log_level_as_it_was() -> None:
    logger = logging.getLogger("airside")
    before = logger.level
    one, two = harness(FileJobs()), harness(FileJobs())
    await one.__aenter__()
    await two.__aenter__()
    await one.__aexit__(None, None, None)
    await two.__aexit__(None, None, None)
    assert logger.level == before


# -- the blocking twin ------------------------------------------------------------------------------------------------


def test_the_blocking_twin_does_the_same(wire: Wire) -> None:
    with blocking_harness(FileJobs, wire=wire) as h:
        job = h.create(inputs={"x": 3}, outputs=kwtypes(x=int, made_by=int))
        assert h.get(job).phase is Phase.RUNNING
        assert [line.message for line in h.logs(job, limit=2)] == ["line 0", "line 1"]
        h.restart()
        end(file_of(job))
        assert dict(h.finish(job).outputs or {}) == {"x": 3, "made_by": os.getpid()}
        h.delete(job)


async def test_the_blocking_twin_works_inside_a_running_loop() -> None:
    with blocking_harness(FileJobs()) as h:
        assert h.get(h.create()).phase is Phase.RUNNING


def test_the_blocking_twin_leaves_nothing_behind_if_the_agent_does_not_open() -> None:
    with pytest.raises(UsageError, match="cannot be served"), blocking_harness(ShutDoor):
        pass


def test_the_fixture_serves_agents_on_each_family(
    agent_harness: Callable[..., BlockingHarness], agent_wire: Wire
) -> None:
    first, second = agent_harness(FileJobs()), agent_harness(ScriptedAgent())
    assert first.inner.wire == second.inner.wire == agent_wire
    assert first.get(first.create()).phase is Phase.RUNNING
    assert second.get(second.create()).phase is Phase.SUCCEEDED


@pytest.mark.parametrize("agent_wire", ["v2"])
def test_the_fixture_can_be_held_to_one_family(agent_harness: Callable[..., BlockingHarness]) -> None:
    assert agent_harness(FileJobs()).inner.wire == "v2"


def test_the_plugin_loads_nothing_heavy() -> None:
    """Every pytest run on a machine with Airside loads it, also those that have nothing to do with Airside."""
    script = """if True:
        import sys, airside.testing.plugin
        heavy = {"grpc", "google.protobuf", "flyteidl", "flyteidl2", "click", "airside.server"} & set(sys.modules)
        print(sorted(heavy))
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- the scripted agent -----------------------------------------------------------------------------------------------


async def test_a_script_steps_through_its_answers_and_remembers_its_calls(wire: Wire) -> None:
    def unlucky(meta: bytes) -> Resource:
        raise Retry(f"busy with {meta.decode()}")

    async def late(meta: bytes) -> Resource:
        return Resource(Phase.SUCCEEDED)

    agent = ScriptedAgent(get=[Resource(Phase.QUEUED), unlucky, Resource(Phase.RUNNING), late])
    async with harness(agent, wire=wire) as h:
        job = await h.create()
        answers = [await h.get(job) for _ in range(4)]
    assert [answer.phase for answer in answers] == [Phase.QUEUED, Phase.QUEUED, Phase.RUNNING, Phase.SUCCEEDED]
    assert "busy with job-1" in answers[1].message
    assert [call.meta for call in agent.calls("get")] == [b"job-1"] * 4
    assert (agent.opened, agent.closed) == (1, 1)


def test_a_script_for_an_unknown_verb_is_refused() -> None:
    with pytest.raises(TypeError, match=r"no such verb: got \(verbs: create, get"):
        ScriptedAgent(got=1)


async def test_a_hanging_get_does_not_hold_up_the_caller(wire: Wire) -> None:
    async with harness(ScriptedAgent(get=hang), wire=wire) as h:
        job = await h.create()
        began = time.monotonic()
        work = Call(task_type=job.task.type, deadline=time.monotonic() + 0.3)
        assert (await h.remote.get(job.handle, work)).phase is Phase.QUEUED
        assert time.monotonic() - began < 1
