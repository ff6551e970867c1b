"""The conformance suite against a service at an address: what it asks, what it refuses, what it starts."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format

from airside import ConversionError, Fail, Resource, Retry, Task, TaskTemplate, UsageError, kwtypes
from airside.model import Phase, TaskType
from airside.server.app import Server
from airside.testing import Report, ScriptedAgent, Status, check_agent, check_endpoint
from airside.testing.conformance import read_template_file
from airside.testing.service import FAST, LocalService
from airside.wire.literal_map import pack
from airside.wire.template import write_template


class Rows(ScriptedAgent):
    """Counts rows: running at the first look, done at the next; fails for a negative number."""

    def __init__(self, name: str = "rows", types: Sequence[Any] = ("rows", ("rows", 1))) -> None:
        super().__init__(name, types, create=self._create, get=self._look)

    def _create(self, task: Task) -> bytes:
        return f"{task.inputs.get('a', 0)} {task.key}".encode()

    def _look(self, meta: bytes) -> Resource:
        if any(call.meta == meta for call in self.calls("delete")):
            return Resource(Phase.ABORTED)
        if meta.startswith(b"-"):
            return Resource(Phase.FAILED, message="negative", code="NegativeRows")
        done = sum(call.meta == meta for call in self.calls("get")) > 1
        return Resource(Phase.SUCCEEDED, outputs={"rows": 3}) if done else Resource(Phase.RUNNING)


ROWS = TaskTemplate(name="count", task_type="rows", inputs=kwtypes(a=int, b=str), outputs=kwtypes(rows=int))
INPUTS: Mapping[str, Any] = {"a": 1, "b": "x"}

SERVICE = """
import os
import sys
from concurrent import futures
import grpc
from flyteidl.admin import agent_pb2
from flyteidl.service import agent_pb2_grpc

class Agent(agent_pb2_grpc.AsyncAgentServiceServicer):
    def CreateTask(self, request, context):
        return agent_pb2.CreateTaskResponse(resource_meta=request.output_prefix.encode())
    def GetTask(self, request, context):
        return agent_pb2.GetTaskResponse(resource=agent_pb2.Resource(phase=3, message="done by " + sys.argv[2]))
    def DeleteTask(self, request, context):
        return agent_pb2.DeleteTaskResponse()

    def GetTaskLogs(self, request, context):
        print("out of memory", flush=True)
        os._exit(4)

class Metadata(agent_pb2_grpc.AgentMetadataServiceServicer):
    def ListAgents(self, request, context):
        category = agent_pb2.TaskCategory(name="plain")
        return agent_pb2.ListAgentsResponse(agents=[
            agent_pb2.Agent(name="plain", supported_task_types=["plain"], supported_task_categories=[category])])

server = grpc.server(futures.ThreadPoolExecutor(4))
agent_pb2_grpc.add_AsyncAgentServiceServicer_to_server(Agent(), server)
if sys.argv[2] != "silent":
    agent_pb2_grpc.add_AgentMetadataServiceServicer_to_server(Metadata(), server)
if server.add_insecure_port("127.0.0.1:" + sys.argv[1]) == 0:
    sys.exit("port in use")
server.start()
print("serving", flush=True)
server.wait_for_termination()
"""


def _same(agent: ScriptedAgent) -> ScriptedAgent:
    return agent


@asynccontextmanager
async def serving(*agents: ScriptedAgent) -> AsyncIterator[LocalService]:
    service = LocalService([partial(_same, agent) for agent in agents])
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def check(service: LocalService | str, **arguments: Any) -> Report:
    address = service if isinstance(service, str) else service.address
    return await asyncio.to_thread(check_endpoint, address, **arguments)


def states(report: Report) -> dict[tuple[str, str], Status]:
    return {(result.case, result.wire): result.status for result in report.results}


def read_xml(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - our own


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def test_a_service_is_judged_as_its_agent_is_but_for_what_only_a_restart_shows() -> None:
    given: dict[str, Any] = {"task": ROWS, "inputs": INPUTS, "bad_inputs": {"a": -1}}
    async with serving(Rows()) as service:
        outside = await check(service, **given)
    assert [str(result) for result in outside.failed] == []
    inside = check_agent(Rows, **given)
    differ = {case for case in states(inside) if states(outside)[case] is not states(inside)[case]}
    assert differ == {("S30", "v1"), ("S30", "v2")}
    assert states(outside)["S28", "v1"] is Status.PASSED
    assert all(result.exchanges for result in outside.results if result.status is Status.PASSED)


async def test_the_only_task_type_is_found_out() -> None:
    async with serving(ScriptedAgent("one", [("single", 2)])) as service:
        report = await check(service, only=["S07"])
    assert list(states(report).values()) == [Status.PASSED, Status.PASSED]
    assert report.target == service.address


async def test_a_version_may_be_asked_for() -> None:
    agent = Rows()
    async with serving(agent) as service:
        await check(service, task_type="rows", only=["S07"], wires=["v2"])
        await check(service, task_type=TaskType("rows", 1), only=["S07"], wires=["v2"])
    assert [call.task.type.version for call in agent.calls("create") if call.task] == [0, 1]


async def test_inputs_may_be_a_literal_map() -> None:
    agent = Rows()
    async with serving(agent) as service:
        await check(service, task=ROWS, inputs=pack({"a": 7, "b": "y"}).data, only=["S07"], wires=["v1"])
    [created] = agent.calls("create")
    assert created.task is not None
    assert dict(created.task.inputs) == {"a": 7, "b": "y"}


async def test_get_is_asked_with_the_output_prefix_as_engines_do() -> None:
    async with serving(Rows()) as service:
        report = await check(service, task=ROWS, inputs=INPUTS, only=["S22"], prefix="s3://bucket/base")
    for result in report.results:
        [created, asked] = result.exchanges
        assert (created.method, asked.method) == ("CreateTask", "GetTask")
        assert 'output_prefix: "s3://bucket/base/' in asked.sent


@pytest.mark.parametrize("silent", [False, True])
async def test_a_service_of_one_family_is_started_restarted_and_stopped(tmp_path: Path, silent: bool) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    port = free_port()
    how = "silent" if silent else "loud"
    report = await check(
        f"127.0.0.1:{port}",
        command=[sys.executable, str(tmp_path / "service.py"), str(port), how],
        task_type="plain",
        only=["S02", "S07", "S30"],
    )
    wanted = {"S02": Status.FAILED if silent else Status.PASSED, "S07": Status.PASSED, "S30": Status.PASSED}
    assert states(report) == {(case, "v1"): status for case, status in wanted.items()}
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_a_service_that_ends_fails_the_case_and_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    port = free_port()
    command = [sys.executable, str(tmp_path / "service.py"), str(port), "loud"]
    report = await check(f"127.0.0.1:{port}", command=command, only=["S07", "S43", "S45"])
    assert [(result.case, result.status.value) for result in report.results] == [
        ("S07", "passed"),
        ("S43", "failed"),
        ("S45", "skipped"),
    ]
    assert report.failed[0].why.startswith("the service ended with 4: out of memory")


async def test_an_agent_that_announces_its_type_without_a_version_can_be_tried(tmp_path: Path) -> None:
    file = tmp_path / "service.py"
    file.write_text(SERVICE.replace(", supported_task_categories=[category]", ""))
    port = free_port()
    command = [sys.executable, str(file), str(port), "old"]
    report = await check(f"127.0.0.1:{port}", command=command, only=["S02", "S07"])
    assert states(report) == {("S02", "v1"): Status.FAILED, ("S07", "v1"): Status.PASSED}


async def test_what_the_service_prints_is_read(tmp_path: Path) -> None:
    port = free_port()
    problem = f"{sys.executable} ended with 3 instead of serving at 127.0.0.1:{port}: no database"
    with pytest.raises(UsageError) as caught:
        await check(f"127.0.0.1:{port}", command=[sys.executable, "-c", "print('no database'); raise SystemExit(3)"])
    assert str(caught.value) == problem


async def test_a_token_goes_along(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("let-me-in-please\n")
    server = Server([Rows()], FAST, token_file=tmp_path / "tokens")
    await server.start()
    address = f"127.0.0.1:{server.port}"
    try:
        report = await check(address, task=ROWS, inputs=INPUTS, token="let-me-in-please")
        assert [str(result) for result in report.failed] == []
        assert "let-me-in-please" not in report.to_json()
        with pytest.raises(Fail, match=r"refuses the check: UNAUTHENTICATED"):
            await check(address, task=ROWS, inputs=INPUTS)
    finally:
        await server.stop(drain_delay=0.0)


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        ({}, UsageError, r"Say which task type to try on 127\.0\.0\.1:\d+: it serves rows, rows v1, other\."),
        ({"task_type": "gone"}, UsageError, r"does not serve the task type gone \(it serves rows, rows v1, other\)"),
        ({"task_type": TaskType("rows", 7)}, UsageError, r"does not serve the task type rows v7 \(it serves rows,"),
        ({"task": ROWS, "task_type": "other"}, UsageError, r"The task has the type rows, not other\."),
        ({"task": ROWS, "inputs": {"a": 1}}, ConversionError, r"inputs\.b: missing"),
        ({"task": ROWS, "inputs": {"a": "one", "b": "x"}}, ConversionError, r"inputs\.a: expected int, got 'one'"),
        ({"only": ["S99"]}, UsageError, r"There is no case S99 \(cases: S02"),
        ({"command": ["true"]}, UsageError, r"Something answers at 127\.0\.0\.1:\d+ already; it must be free for true"),
    ],
)
async def test_bad_input_is_one_sentence(arguments: dict[str, Any], error: type[Exception], problem: str) -> None:
    async with serving(Rows(), Rows("other", ["other"])) as service:
        with pytest.raises(error, match=problem):
            await check(service, **arguments)


async def test_a_place_where_nothing_answers_is_told_so() -> None:
    port = free_port()
    with pytest.raises(Retry, match=rf"No agent service answers at localhost:{port}: Connection refused\."):
        await check(f"localhost:{port}")
    with pytest.raises(UsageError, match=r"'localhost' is no endpoint: write HOST:PORT"):
        await check("localhost")
    with pytest.raises(UsageError, match=r"no-such-command cannot be started: No such file or directory\."):
        await check(f"localhost:{port}", command=["no-such-command"])
    with pytest.raises(UsageError, match=r"A token for example\.org:80 would travel in clear text"):
        await check("example.org:80", token="let-me-in-please")


async def test_a_service_of_something_else_is_told_so() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(UsageError, match=r"answers, but it serves no agents to Flyte 1 and Flyte 2"):
            await check(f"127.0.0.1:{port}")
        with pytest.raises(UsageError, match=r"answers, but it serves no agents to Flyte 2: "):
            await check(f"127.0.0.1:{port}", wires=["v2"])
    finally:
        await server.stop(None)


async def test_the_report_is_junit_xml() -> None:
    async with serving(Rows()) as service:
        report = await check(service, task=ROWS, inputs={"a": 1, "b": "\x07"}, only=["S06", "S28", "S31"])
        failing = await check(service, task=ROWS, inputs={"a": -1, "b": "\x07"}, only=["S24"], wires=["v2"])
    root = read_xml(report.to_junit())
    assert root.attrib["tests"] == "5"
    assert root.attrib["skipped"] == "1"
    assert [suite.attrib["name"][-3:] for suite in root] == [" v1", " v2"]
    skipped = root.find(".//testcase/skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == "the task succeeded"
    failed = read_xml(failing.to_junit())  # what was sent has a character that XML cannot hold
    assert failed.attrib["failures"] == "1"
    assert failed.find(".//testcase/failure") is not None


def test_a_failure_in_junit_xml_has_what_was_said() -> None:
    class Broken(Rows):
        def _create(self, task: Task) -> bytes:
            raise ValueError("no warehouse \x07")

    report = check_agent(Broken, task=ROWS, inputs=INPUTS, only=["S07"], wires=["v1"])
    root = read_xml(report.to_junit())
    assert root.attrib["failures"] == "1"
    failure = root.find(".//testcase/failure")
    assert failure is not None
    assert "no warehouse" in failure.attrib["message"]
    assert failure.text is not None
    assert failure.text.startswith("CreateTask\n      sent {")


@pytest.mark.parametrize("suffix", ["pb", "json"])
async def test_a_template_is_read_from_a_file(tmp_path: Path, suffix: str) -> None:
    message = write_template(ROWS)
    file = tmp_path / f"task.{suffix}"
    file.write_bytes(message.SerializeToString() if suffix == "pb" else json_format.MessageToJson(message).encode())
    template = read_template_file(str(file))
    assert (template.name, template.task_type, dict(template.inputs)) == ("count", ("rows", 0), {"a": int, "b": str})
    async with serving(Rows()) as service:
        report = await check(service, task=template, inputs=INPUTS, only=["S24"])
    assert set(states(report).values()) == {Status.PASSED}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("gone.pb", None, r"gone\.pb cannot be read: No such file or directory\."),
        ("empty.pb", b"", r"empty\.pb is no task template: it has no type\."),
        ("odd.pb", b"\xff\xff", r"odd\.pb is no task template: "),
        ("odd.json", b"{", r"odd\.json is no task template: "),
        ("odd.json", b'{"typ": "x"}', r"odd\.json is no task template: .*typ"),
    ],
)
def test_a_template_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=problem):
        read_template_file(str(tmp_path / name))
