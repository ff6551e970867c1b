"""The conformance suite as a product: its report, and the proof that each of its cases can fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from flyteidl.admin import agent_pb2
from grpc_health.v1 import health_pb2

from airside import (
    AsyncAgent,
    Connection,
    ConversionError,
    LogLine,
    LogLink,
    Metric,
    NotFound,
    Resource,
    Task,
    TaskTemplate,
    UsageError,
    kwtypes,
)
from airside.model import Phase
from airside.testing import Report, ScriptedAgent, Status, check_agent
from airside.testing.client import WIRES, Wire
from airside.testing.conformance import CASES, Result, get, limits, metadata
from airside.testing.conformance.suite import run_cases, specimen_of
from airside.testing.service import LocalService

OK = grpc.StatusCode.OK


class Rows(ScriptedAgent):
    """A well-behaved agent whose jobs need a few looks, with everything that an agent may have."""

    def __init__(self) -> None:
        super().__init__(
            "rows",
            ["rows", ("rows", 1)],
            create=lambda task: task.key.encode(),
            get=self._look,
            logs=[LogLine(str(number), cursor=str(number + 1)) for number in range(5)],
            metrics=lambda _: [] if self.calls("metrics")[-1].arguments["end"].year == 1970 else [Metric("cpu", [])],
        )

    def _look(self, meta: bytes) -> Resource:
        if any(call.meta == meta for call in self.calls("delete")):
            return Resource(Phase.ABORTED)
        looks = sum(call.meta == meta for call in self.calls("get"))
        links = [LogLink("https://example.org/1", "Console")]
        if looks < 3:
            return Resource(Phase.RUNNING, links=links)
        return Resource(Phase.SUCCEEDED, links=links, outputs={"rows": 3})


class Failing(ScriptedAgent):
    def __init__(self) -> None:
        super().__init__("rows", ["rows"], get=Resource(Phase.FAILED, message="no table", code="TableNotFound"))


class Picky(Rows):
    """Cannot start a job of a negative number, and says so by an error that nobody expects."""

    def __init__(self) -> None:
        super().__init__()
        self._scripts["create"] = self._create

    def _create(self, task: Task) -> bytes:
        if task.inputs["a"] < 0:
            raise ValueError("no warehouse has negative rows")
        return task.key.encode()


class Plain(ScriptedAgent):
    def __init__(self) -> None:
        super().__init__("rows", ["rows"])


class Sync(ScriptedAgent):
    def __init__(self) -> None:
        super().__init__("rows", ["rows"], is_sync=True, do=Resource(Phase.SUCCEEDED, outputs={"rows": 3}))


ROWS = TaskTemplate(name="count", task_type="rows", inputs=kwtypes(a=int, b=str), outputs=kwtypes(rows=int))
INPUTS: Mapping[str, Any] = {"a": 1, "b": "x"}
NOTHING = TaskTemplate(name="nothing", task_type="rows")


# -- a service that breaks one rule ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sabotage:
    """How a service breaks one rule: calls it refuses, errors it hides, answers it changes or delays."""

    method: str = ""
    refuses: Callable[[Any, int], bool] = lambda request, count: False
    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    hides_errors: bool = False
    swallows: bool = False  # says OK, and does nothing
    changes: Callable[[Any, Any, int], Any] = lambda message, request, count: message
    repeats: int = 1
    drops: Callable[[Any], bool] = lambda message: False
    seconds: float = 0.0
    # how the case is tried
    agent: type[ScriptedAgent] = Rows
    task: TaskTemplate = ROWS
    inputs: Mapping[str, Any] = field(default_factory=lambda: INPUTS)
    bad_inputs: Mapping[str, Any] | None = None
    wire: Wire = "v2"
    is_known: bool = True  # what the agent can do is known, as it is not of a service elsewhere


class Meddler(grpc.GenericRpcHandler):  # type: ignore[misc]  # untyped
    """A service in front of the real one, over real gRPC, which passes on everything but for its sabotage."""

    def __init__(self, inner: LocalService, sabotage: Sabotage) -> None:
        self.inner = inner
        self.sabotage = sabotage
        self.restarts = 0
        self._count = 0

    async def start(self) -> None:
        await self.inner.start()
        self._server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        self.channel = grpc.aio.insecure_channel(self.address)

    async def stop(self) -> None:
        await self.channel.close()
        await self._server.stop(None)
        await self.inner.stop()

    kill = stop

    async def restart(self, *, kill: bool = False) -> None:
        self.restarts += 1
        await self.inner.restart()

    def log(self) -> str:
        return self.inner.log()

    def connect(self, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.address, options=options)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        path = details.method
        method = path.rpartition("/")[2]
        sabotage = self.sabotage if method == self.sabotage.method else Sabotage()

        async def forward(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            received = [request async for request in requests]
            self._count += 1 if sabotage.method else 0
            request_type, response_type = messages_of(path)
            request = request_type.FromString(received[0]) if received else None
            if sabotage.method and sabotage.refuses(request, len(received) if "Sync" in path else self._count):
                await context.abort(sabotage.code, "sabotaged")
            if sabotage.swallows:
                yield response_type().SerializeToString()
                return
            await asyncio.sleep(sabotage.seconds)
            try:
                async for data in self.inner.channel.stream_stream(path)(iter(received)):
                    message = response_type.FromString(data)
                    if sabotage.drops(message):
                        continue
                    changed = sabotage.changes(message, request, self.restarts or self._count)
                    for _ in range(sabotage.repeats):
                        yield changed.SerializeToString()
            except grpc.aio.AioRpcError as exc:
                if sabotage.hides_errors:
                    yield response_type().SerializeToString()
                else:
                    await context.abort(exc.code(), exc.details() or "")

        return grpc.stream_stream_rpc_method_handler(forward)


def messages_of(path: str) -> tuple[Any, Any]:
    """The request and response classes of a method."""
    from flyteidl2.connector import connector_pb2

    service, method = path.strip("/").split("/")
    if "Health" in service:
        return health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
    module: Any = agent_pb2 if service.startswith("flyteidl.") else connector_pb2
    return getattr(module, f"{method}Request"), getattr(module, f"{method}Response")


async def try_case(number: str, sabotage: Sabotage, folder: Path, timeout: float) -> Result:
    """The result of one case against a service with this sabotage."""
    meddler = Meddler(LocalService([sabotage.agent]), sabotage)
    await meddler.start()
    try:
        given = (sabotage.task, sabotage.inputs, None, folder, sabotage.bad_inputs)
        specimen = specimen_of(sabotage.agent(), *given)
        if not sabotage.is_known:
            specimen = replace(specimen, supports=None)
        wires = [sabotage.wire]
        [result] = await run_cases(meddler, specimen, wires=wires, only=[number], timeout=timeout, slow=True)
        return result
    finally:
        await meddler.stop()


def always(request: Any, count: int) -> bool:
    return True


def edit(change: Callable[[Any], object]) -> Callable[[Any, Any, int], Any]:
    """Change each answer of the method."""

    def changes(message: Any, request: Any, count: int) -> Any:
        change(message)
        return message

    return changes


def edit_resource(change: Callable[[Any], object]) -> Callable[[Any, Any, int], Any]:
    return edit(lambda message: change(message.resource))


def set_phase(phase: int) -> Callable[[Any], object]:
    return lambda resource: setattr(resource, "phase", phase)


def set_text(resource: Any, text: str) -> None:
    for one in resource.outputs.literals:
        one.value.scalar.primitive.string_value = text


def set_count(message: Any, count: int) -> Any:
    for one in message.resource.outputs.literals:
        one.value.scalar.primitive.integer = count
    return message


def lose_meta(message: Any, request: Any, count: int) -> Any:
    message.resource_meta += b"%d" % count
    return message


def same_meta(message: Any, request: Any, count: int) -> Any:
    message.resource_meta = b"same for all"
    return message


def forgetful(message: Any, request: Any, restarts: int) -> Any:
    if restarts and restarts < 2 and message.resource.phase == Phase.SUCCEEDED:
        message.resource.phase = Phase.FAILED
    return message


def reversed_inputs(request: Any, count: int) -> bool:
    return [one.name for one in request.inputs.literals] == ["b", "a"]


CREATE, GET, DELETE, DO = "CreateTask", "GetTask", "DeleteTask", "ExecuteTaskSync"
EXHAUSTED, UNAVAILABLE = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE
SYNC: dict[str, Any] = {"method": DO, "agent": Sync, "wire": "v1"}

SABOTAGE: dict[str, Sabotage] = {
    "S02": Sabotage("ListConnectors", changes=edit(lambda m: m.connectors[0].supported_task_categories.pop())),
    "S03": Sabotage("ListAgents", changes=edit(lambda m: setattr(m.agents[0], "is_sync", True)), wire="v1"),
    "S04": Sabotage("ListConnectors", seconds=0.15),
    "S06": Sabotage("GetConnector", hides_errors=True),
    "S07": Sabotage(CREATE, refuses=always),
    "S08": Sabotage(CREATE, hides_errors=True),
    "S09": Sabotage(CREATE, refuses=always, code=grpc.StatusCode.NOT_FOUND),  # without naming the type
    "S10": Sabotage(CREATE, refuses=lambda r, n: n == 1, agent=Picky, bad_inputs={"a": -1}),
    "S11": Sabotage(CREATE, refuses=lambda r, n: not r.HasField("inputs"), task=NOTHING, inputs={}),
    "S12": Sabotage(CREATE, refuses=lambda r, n: not r.HasField("task_execution_metadata")),
    "S13": Sabotage(CREATE, changes=lose_meta),
    "S14": Sabotage(CREATE, changes=same_meta),
    "S15": Sabotage(CREATE, refuses=lambda r, n: r.ByteSize() > 4 * 1024 * 1024, code=EXHAUSTED),
    "S16": Sabotage(CREATE, refuses=lambda r, n: b"\xa2\x06\x05hello" in r.SerializeToString()),
    "S19": Sabotage(GET, refuses=lambda r, n: not r.task_type, wire="v1"),
    "S20": Sabotage(GET, refuses=lambda r, n: not r.task_category.name, wire="v1"),
    "S21": Sabotage(GET, refuses=lambda r, n: r.task_type == "no-such-type", wire="v1"),
    "S22": Sabotage(GET, changes=edit_resource(set_phase(77))),
    "S23": Sabotage(GET, changes=edit_resource(set_phase(0))),
    "S24": Sabotage(GET, changes=edit_resource(lambda r: r.outputs.ClearField("literals"))),
    "S26": Sabotage(GET, changes=edit_resource(lambda r: [setattr(link, "name", "") for link in r.log_links])),
    "S27": Sabotage(GET, changes=edit_resource(lambda r: setattr(r, "message", "x" * 100_000))),
    "S28": Sabotage(GET, changes=edit_resource(lambda r: r.ClearField("agent_error")), agent=Failing, wire="v1"),
    "S29": Sabotage(GET, refuses=lambda r, n: b"no handle" in r.resource_meta),
    "S30": Sabotage(GET, changes=forgetful),
    "S31": Sabotage(GET, changes=edit_resource(set_phase(Phase.RUNNING))),
    "S32": Sabotage(GET, seconds=0.15),
    "S33": Sabotage(DELETE, refuses=always, code=UNAVAILABLE),
    "S34": Sabotage(DELETE, refuses=lambda r, n: n > 1, code=grpc.StatusCode.NOT_FOUND),
    "S36": Sabotage(CREATE, changes=lose_meta),
    "S37": Sabotage(**SYNC, repeats=2),
    "S38": Sabotage(**SYNC, hides_errors=True, changes=lambda m, r, n: m if n < 2 else agent_pb2.GetAgentResponse()),
    "S39": Sabotage(**SYNC, refuses=lambda r, n: n < 2),
    "S40": Sabotage(**SYNC, refuses=lambda r, n: n < 2),
    "S42": Sabotage(method=DO, wire="v1", refuses=always),
    "S43": Sabotage("GetTaskLogs", drops=lambda m: m.WhichOneof("part") == "header"),
    "S44": Sabotage("GetTaskLogs", hides_errors=True, agent=Plain),
    "S45": Sabotage("GetTaskMetrics", hides_errors=True),
    "S46": Sabotage("Check", changes=edit(lambda m: setattr(m, "status", 2))),
    "S48": Sabotage(GET, changes=edit_resource(lambda r: setattr(r, "message", "token c0nf0rmance-canary-value"))),
    "S49": Sabotage(CREATE, refuses=reversed_inputs),
    "S50": Sabotage("Watch", refuses=always, code=UNAVAILABLE),
}


class Negative(Rows):
    """Fails for a negative number."""

    def __init__(self) -> None:
        super().__init__()
        self._scripts["create"] = lambda task: f"{task.inputs['a']} {task.key}".encode()

    def _look(self, meta: bytes) -> Resource:
        return super()._look(meta) if not meta.startswith(b"-") else Resource(Phase.FAILED, message="negative")


def first_wins(request: Any, count: int) -> bool:
    return len(request.inputs.literals) > 2


def one_more_line(message: Any, request: Any, count: int) -> Any:
    if message.WhichOneof("part") == "body":
        for _ in range(3):
            message.body.lines.add(message="one more")
    return message


# A rule may be broken in more ways than one.
FURTHER: list[tuple[str, Sabotage]] = [
    ("S02", Sabotage("ListAgents", changes=edit(lambda m: m.agents[0].ClearField("supported_task_types")), wire="v1")),
    ("S02", Sabotage("ListConnectors", changes=edit(lambda m: m.connectors.add().CopyFrom(m.connectors[0])))),
    ("S06", Sabotage("GetConnector", changes=edit(lambda m: setattr(m.connector, "name", "another")))),
    ("S22", Sabotage(GET, changes=edit_resource(lambda r: setattr(r, "state", 1)), wire="v1")),
    ("S22", Sabotage(GET, changes=edit_resource(set_phase(Phase.RUNNING)))),
    ("S24", Sabotage(GET, changes=edit_resource(lambda r: r.ClearField("outputs")))),
    ("S24", Sabotage(GET, changes=edit_resource(lambda r: set_text(r, "three")))),
    ("S24", Sabotage(GET, changes=edit_resource(lambda r: [o.value.Clear() for o in r.outputs.literals]))),
    (
        "S28",
        Sabotage(GET, changes=edit_resource(lambda r: setattr(r.agent_error, "kind", 1)), agent=Failing, wire="v1"),
    ),
    ("S29", Sabotage(GET, hides_errors=True)),
    ("S30", Sabotage(GET, changes=lambda m, r, restarts: set_count(m, 4) if 0 < restarts < 2 else m)),
    ("S33", Sabotage(DELETE, swallows=True)),
    ("S37", Sabotage(**SYNC, changes=edit(lambda m: set_phase(Phase.RUNNING)(m.header.resource)))),
    ("S37", Sabotage(**SYNC, changes=edit(lambda m: m.header.resource.outputs.Clear()))),
    ("S42", Sabotage(method=DO, wire="v1", hides_errors=True)),
    ("S43", Sabotage("GetTaskLogs", changes=one_more_line)),
    ("S44", Sabotage("GetTaskLogs", refuses=always, agent=Plain, is_known=False)),
    ("S44", Sabotage("GetTaskMetrics", refuses=always, agent=Plain, is_known=False)),
    ("S48", Sabotage(CREATE, changes=edit(lambda m: setattr(m, "resource_meta", b"c0nf0rmance-canary-value")))),
    ("S48", Sabotage(DELETE, refuses=lambda r, n: r.HasField("connection"))),
    ("S49", Sabotage(CREATE, refuses=first_wins, agent=Negative, bad_inputs={"a": -1})),
]


@pytest.mark.parametrize(("number", "sabotage"), FURTHER, ids=[number for number, _ in FURTHER])
async def test_a_case_fails_on_each_way_of_breaking_its_rule(number: str, sabotage: Sabotage, tmp_path: Path) -> None:
    result = await try_case(number, replace(sabotage, method=""), tmp_path, timeout=10.0)
    assert (result.status, result.why) == (Status.PASSED, "")
    broken = await try_case(number, sabotage, tmp_path, timeout=0.6)
    assert broken.status is Status.FAILED, broken.why
    assert broken.why
    assert "cannot be judged" not in broken.why


def test_every_case_is_sabotaged() -> None:
    assert sorted(SABOTAGE) == [case.id for case in CASES]


@pytest.mark.parametrize("number", SABOTAGE)
async def test_each_case_passes_on_an_honest_service_and_fails_on_one_that_breaks_its_rule(
    number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_PING_FOR", 0.1)
    monkeypatch.setattr(metadata, "_PROMPT", 10.0)  # this machine may be busy with other things
    monkeypatch.setattr(get, "_AT_ONCE", 10.0)
    sabotage = SABOTAGE[number]
    honest = await try_case(number, replace(sabotage, method=""), tmp_path, timeout=10.0)
    assert (honest.status, honest.why) == (Status.PASSED, "")
    monkeypatch.setattr(metadata, "_PROMPT", 0.1)
    monkeypatch.setattr(get, "_AT_ONCE", 0.1)
    broken = await try_case(number, sabotage, tmp_path, timeout=0.4)
    assert broken.status is Status.FAILED
    assert broken.why
    assert "cannot be judged" not in broken.why
    assert broken.exchanges or number == "S50"


# -- the report --------------------------------------------------------------------------------------------------------


def check_rows(**arguments: Any) -> Report:
    return check_agent(Rows, task=ROWS, inputs=INPUTS, **arguments)


def test_a_good_agent_passes_on_both_families() -> None:
    report = check_rows(wires=WIRES)
    assert [str(result) for result in report.failed] == []
    assert report.ok
    assert report.exit_code == 0
    passed = {(result.case, result.wire) for result in report.results if result.status is Status.PASSED}
    assert len(passed) > 50
    assert {("S13", "v1"), ("S13", "v2"), ("S33", "v1"), ("S43", "v2"), ("S48", "v2")} <= passed
    assert all(result.why for result in report.results if result.status is Status.SKIPPED)
    assert all(result.exchanges for result in report.results if result.status is Status.PASSED)


def test_every_job_that_the_suite_made_is_over_afterwards() -> None:
    agent = Rows()
    assert check_agent(agent, task=ROWS, inputs=INPUTS, wires=["v2"]).ok
    made = {call.task.key.encode() for call in agent.calls("create") if call.task}
    deleted = {call.meta for call in agent.calls("delete")}
    finished = {meta for meta in made if sum(call.meta == meta for call in agent.calls("get")) >= 3}
    assert len(made) > 5
    assert made <= deleted | finished


def test_a_broken_agent_fails_and_says_what_came_back() -> None:
    class Broken(Rows):
        def __init__(self) -> None:
            super().__init__()
            self._scripts["create"] = KeyError("warehouse")

    report = check_agent(Broken, task=ROWS, inputs=INPUTS, wires=["v2"], only=["S07", "S09"])
    assert (report.ok, report.exit_code) == (False, 1)
    [failed] = report.failed
    assert failed.case == "S07"
    assert "CreateTask is answered INTERNAL: KeyError: 'warehouse'" in failed.why
    assert failed.exchanges[-1].method == "CreateTask"
    assert 'type: "rows"' in failed.exchanges[-1].sent
    assert "INTERNAL" in failed.exchanges[-1].received
    text = str(report)
    assert "✗ S07 [v2] CreateTask of a served type is OK" in text
    assert "✓ S09 [v2]" in text
    assert text.endswith("1 passed, 1 failed, 0 skipped")


def test_the_report_is_json() -> None:
    data = json.loads(check_rows(only=["S09"], wires=["v1"]).to_json())
    assert (data["ok"], data["target"], data["summary"]) == (True, "rows", "1 passed, 0 failed, 0 skipped")
    [result] = data["results"]
    assert (result["case"], result["wire"], result["status"]) == ("S09", "v1", "passed")
    assert result["exchanges"][0]["method"] == "CreateTask"


def test_results_are_told_as_they_come() -> None:
    told: list[Result] = []
    report = check_rows(only=["S06", "S09"], wires=["v1"], watch=told.append)
    assert tuple(told) == report.results


def test_cases_that_do_not_apply_share_a_line_by_reason() -> None:
    text = str(check_agent("airside.agents.echo:EchoAgent", wires=["v1"], only=["S07", "S13", "S42"]))
    assert "· S07 S13 [v1] skipped: a sync agent is called by ExecuteTaskSync on Flyte 1" in text
    assert "· S42 [v1] skipped: the agent is sync" in text


async def test_a_check_can_be_made_inside_a_running_loop() -> None:
    assert await asyncio.to_thread(check_rows, only=["S09"])
    assert check_rows(only=["S09"]).ok


def test_a_secret_of_the_connection_is_in_no_report() -> None:
    connection = Connection(secrets={"token": "s3cr3t-of-the-check"}, configs={"host": "example.org"})
    report = check_rows(connection=connection, wires=["v2"])
    assert report.ok
    assert "example.org" in report.to_json()
    assert "s3cr3t-of-the-check" not in report.to_json()


def test_a_job_that_never_ends_is_waited_for_once_and_fails_the_check() -> None:
    class Endless(ScriptedAgent):
        def __init__(self) -> None:
            super().__init__("rows", ["rows"], get=self._look)

        def _look(self, meta: bytes) -> Resource:
            return Resource(Phase.ABORTED if self.calls("delete") else Phase.RUNNING)

    report = check_agent(Endless, wires=["v2"], timeout=0.3, only=["S19", "S22", "S29", "S32"])
    states = {result.case: result.status for result in report.results}
    assert states == dict.fromkeys(["S19", "S29", "S32"], Status.SKIPPED) | {"S22": Status.FAILED}
    assert "no terminal phase: the job was not over after 0.3 s (RUNNING); give it longer" in str(report)
    assert sum(result.seconds for result in report.results) < 0.9


class Forgetful(AsyncAgent[str]):
    """Remembers its jobs in itself: a restarted service makes a new one."""

    task_type = "forgetful"

    def __init__(self) -> None:
        self.jobs: set[str] = set()

    def create(self, task: Task) -> str:
        self.jobs.add(task.key)
        return task.key

    def get(self, job: str) -> Resource:
        if job not in self.jobs:
            raise NotFound(f"no job {job}")
        return Resource(Phase.SUCCEEDED)

    def delete(self, job: str) -> None: ...


_JOBS: set[str] = set()


class HalfForgetful(Forgetful):
    """Remembers its jobs in its process: only another process does not know them."""

    def __init__(self) -> None:
        self.jobs = _JOBS


@pytest.mark.parametrize(
    ("agent", "why"), [(Forgetful, "not after a restart"), (HalfForgetful, "not in another process")]
)
def test_an_agent_that_keeps_its_jobs_in_memory_fails(agent: type, why: str) -> None:
    report = check_agent(agent, wires=["v2"], only=["S07", "S30"], timeout=0.5)
    [failed] = report.failed
    assert failed.case == "S30"
    assert f"the job was over, but {why}: the job was not over after 0.5 s" in failed.why
    assert "no job" in failed.why


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        ({"target": "nowhere:Agent"}, UsageError, "Module 'nowhere' cannot be imported"),
        ({"only": ["S99"]}, UsageError, r"There is no case S99 \(cases: S02, S03"),
        ({"task": replace(ROWS, task_type="other")}, UsageError, "'count' has the type other, which rows does not"),
        ({"inputs": {"a": 1}}, ConversionError, r"inputs\.b: missing"),
        ({"inputs": {"a": "one", "b": "x"}}, ConversionError, r"inputs\.a: expected int, got 'one'"),
        ({"options": {"host": "x"}}, UsageError, "this agent has no options, but host is set"),
    ],
)
def test_bad_input_is_one_sentence(arguments: dict[str, Any], error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem):
        check_agent(**{"target": Rows, "task": ROWS, "inputs": INPUTS, **arguments})
