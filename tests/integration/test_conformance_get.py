"""Conformance S19 to S32: GetTask."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import pytest

from airside import AsyncAgent, LogLink, NotFound, Resource, Task
from airside.model import Phase
from airside.testing.client import RawClient, Wire, refused
from airside.testing.scripted import ScriptedAgent
from airside.testing.service import LocalService

Serve = Callable[..., Awaitable[RawClient]]
StartService = Callable[..., Awaitable[LocalService]]

_FOREIGN = b'{"job_id": "made by another service"}'


def takes_foreign(name: str, *task_types: str | tuple[str, int]) -> ScriptedAgent:
    """An agent that understands handles which are not ours, so that only the request says whose job it is."""
    return ScriptedAgent(name, task_types, read_handle=lambda data: data, get=Resource(Phase.RUNNING, message=name))


def outputs_of(resource: Any, wire: Wire) -> Mapping[str, Any]:
    literals = resource.outputs.literals
    return dict(literals) if wire == "v1" else {one.name: one.value for one in literals}


async def test_s19_get_is_routed_by_category(serve: Serve) -> None:
    left, right = takes_foreign("left", "left", ("both", 0)), takes_foreign("right", "right", ("both", 1))
    client = await serve(left, right)
    routes = {("left", 0): "left", ("right", 0): "right", ("both", 0): "left", ("both", 1): "right"}
    for (name, version), owner in routes.items():
        request = client.job_request("GetTaskRequest", _FOREIGN, name, version)
        if client.wire == "v1":
            request.ClearField("task_type")
        assert (await client.call("GetTask", request)).resource.message == owner
    assert {call.meta for call in right.calls("get")} == {_FOREIGN}


@pytest.mark.parametrize("wire", ["v1"])
async def test_s20_a_task_type_alone_means_version_0(serve: Serve) -> None:
    old, new = takes_foreign("old", ("query", 0)), takes_foreign("new", ("query", 1))
    client = await serve(new, old)
    request = client.family.message("GetTaskRequest")(task_type="query", resource_meta=_FOREIGN)
    assert (await client.call("GetTask", request)).resource.message == "old"
    assert not new.calls("get")


@pytest.mark.parametrize("wire", ["v1"])
async def test_s21_the_category_wins_over_task_type(serve: Serve) -> None:
    left, right = takes_foreign("left", "left"), takes_foreign("right", "right")
    client = await serve(left, right)
    request = client.job_request("GetTaskRequest", _FOREIGN, "left")
    request.task_type = "right"
    assert (await client.call("GetTask", request)).resource.message == "left"
    assert not right.calls("get")


_STATES = {  # flyteidl's deprecated State: RETRYABLE_FAILURE 0, PERMANENT_FAILURE 1, PENDING 2, RUNNING 3, SUCCEEDED 4
    Phase.QUEUED: 2,
    Phase.WAITING_FOR_RESOURCES: 2,
    Phase.INITIALIZING: 2,
    Phase.RUNNING: 3,
    Phase.SUCCEEDED: 4,
    Phase.ABORTED: 1,
    Phase.FAILED: 1,
    Phase.RETRYABLE_FAILED: 0,
}


@pytest.mark.parametrize("phase", list(_STATES))
async def test_s22_every_phase_keeps_its_number(serve: Serve, phase: Phase) -> None:
    """But an agent's own ABORTED goes out as FAILED with its message: Flyte's engines would drop the text."""
    client = await serve(ScriptedAgent(get=Resource(phase, message="what happened")))
    resource = await client.get(await client.create())
    expected = Phase.FAILED if phase is Phase.ABORTED else phase
    assert resource.phase == int(expected)
    text, _, ending = resource.message.partition(" (")
    assert text == "what happened"
    assert bool(ending) is expected.is_failure
    if client.wire == "v1":
        assert resource.state in (0, _STATES[expected])


@pytest.mark.parametrize("answer", [Resource(Phase.UNDEFINED), None, "RUNNING", {"phase": 2}])
async def test_s23_no_phase_never_goes_out_as_0(serve: Serve, answer: object) -> None:
    client = await serve(ScriptedAgent(get=answer))
    resource = await client.get(await client.create())
    assert resource.phase in (Phase.QUEUED, Phase.RUNNING)


async def test_s24_outputs_are_literals(serve: Serve) -> None:
    client = await serve(ScriptedAgent(get=Resource(Phase.SUCCEEDED, outputs={"o0": 3})))
    resource = await client.get(await client.create(outputs={"o0": int}))
    assert resource.phase == Phase.SUCCEEDED
    assert resource.HasField("outputs")
    literal = outputs_of(resource, client.wire)["o0"]
    assert literal.scalar.primitive.WhichOneof("value") == "integer"
    assert literal.scalar.primitive.integer == 3


@pytest.mark.parametrize(("outputs", "present"), [(None, False), ({}, True)])
async def test_s25_no_outputs_and_empty_outputs_differ(serve: Serve, outputs: Any, present: bool) -> None:
    client = await serve(ScriptedAgent(get=Resource(Phase.SUCCEEDED, outputs=outputs)))
    resource = await client.get(await client.create())
    assert resource.HasField("outputs") is present
    assert outputs_of(resource, client.wire) == {}


async def test_s26_info_and_links_go_out(serve: Serve) -> None:
    links = [LogLink("https://example.org/jobs/1", "Console"), LogLink("https://example.org/logs/1", "Logs")]
    client = await serve(ScriptedAgent(get=Resource(Phase.RUNNING, info={"a": 1}, links=links)))
    resource = await client.get(await client.create())
    assert resource.custom_info.fields["a"].WhichOneof("kind") == "number_value"
    assert resource.custom_info["a"] == 1
    sent = [(link.uri, link.name, link.ShowWhilePending) for link in resource.log_links]
    assert sent == [(link.uri, link.name, True) for link in links]


async def test_s27_a_huge_message_is_cut(serve: Serve) -> None:
    message = "Traceback (most recent call last):\n" + "  File 'x'\n" * 100_000 + "ValueError: the end"
    client = await serve(ScriptedAgent(get=Resource(Phase.FAILED, message=message)))
    resource = await client.get(await client.create())
    assert resource.phase == Phase.FAILED
    assert 0 < len(resource.message.encode()) <= 64 * 1024
    assert "Traceback" in resource.message


@pytest.mark.parametrize(("phase", "kind"), [(Phase.FAILED, 0), (Phase.RETRYABLE_FAILED, 1)])
async def test_s28_a_failure_says_code_and_kind(serve: Serve, phase: Phase, kind: int) -> None:
    client = await serve(ScriptedAgent(get=Resource(phase, message="no table trips", code="TableNotFound")))
    resource = await client.get(await client.create())
    assert resource.phase == phase
    if client.wire == "v1":
        assert resource.HasField("agent_error")
        assert resource.agent_error.code == "TableNotFound"
        assert resource.agent_error.kind == kind  # NON_RECOVERABLE 0, RECOVERABLE 1
        assert resource.agent_error.origin in (1, 2)  # USER or SYSTEM, never UNKNOWN


async def test_s28_a_job_that_goes_well_has_no_error(serve: Serve) -> None:
    client = await serve(ScriptedAgent(get=Resource(Phase.RUNNING)))
    resource = await client.get(await client.create())
    assert client.wire == "v2" or not resource.HasField("agent_error")


_JUNK = [b"", b"\x00\xff", b"not a handle", b'{"job_id": 1}', b"\x89ASH", b"\x89ASH\x01\x00\xc1"]


@pytest.mark.parametrize("junk", _JUNK, ids=range(len(_JUNK)))
async def test_s29_bytes_that_are_no_handle_are_refused(serve: Serve, junk: bytes) -> None:
    agent = ScriptedAgent()
    client = await serve(agent)
    error = await refused(client.get(junk))
    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL)
    assert not agent.calls("get")
    assert (await client.get(await client.create())).phase == Phase.SUCCEEDED


class Steady(ScriptedAgent):
    """Made anew at each start of the service: it remembers nothing."""

    def __init__(self) -> None:
        done = Resource(Phase.SUCCEEDED, message="3 rows", outputs={"rows": 3}, info={"slots": 2})
        super().__init__(create=b"job-1", get=done)


async def test_s30_a_restarted_service_answers_the_same(start_service: StartService, wire: Wire) -> None:
    service = await start_service(Steady)
    client = RawClient(service.channel, wire)
    handle = await client.create(outputs={"rows": float})
    before = await client.get(handle)
    server = service.server
    await service.restart()
    assert service.server is not server
    after = await RawClient(service.channel, wire).get(handle)
    assert after == before
    # The restarted service has never seen the interface; the type is in the handle.
    assert outputs_of(after, wire)["rows"].scalar.primitive.float_value == 3.0


@pytest.mark.parametrize(
    "later", [Resource(Phase.RUNNING), Resource(Phase.ABORTED), NotFound("no such job")], ids=["runs", "ends", "gone"]
)
async def test_s31_get_after_delete_is_terminal(serve: Serve, later: Resource | NotFound) -> None:
    def get(meta: bytes) -> Resource:
        if not agent.calls("delete"):
            return Resource(Phase.RUNNING)
        if isinstance(later, NotFound):
            raise later
        return later

    agent = ScriptedAgent(get=get)
    client = await serve(agent)
    handle = await client.create()
    assert (await client.get(handle)).phase == Phase.RUNNING
    await client.delete(handle)
    for _ in range(3):
        assert Phase((await client.get(handle)).phase).is_failure


async def test_s31_a_service_that_did_not_delete_the_job_says_what_the_backend_says(
    start_service: StartService, wire: Wire
) -> None:
    agent = ScriptedAgent(get=lambda _: Resource(Phase.ABORTED if agent.calls("delete") else Phase.RUNNING))
    one = RawClient((await start_service(agent)).channel, wire)
    other = RawClient((await start_service(agent)).channel, wire)
    handle = await one.create()
    assert (await other.get(handle)).phase == Phase.RUNNING
    await one.delete(handle)
    assert Phase((await other.get(handle)).phase).is_failure


@pytest.mark.parametrize("style", ["async def", "def"])
async def test_s32_one_slow_handler_holds_up_nobody(serve: Serve, style: str) -> None:
    released = threading.Event()

    class Blocking(AsyncAgent[str]):
        task_type = "scripted"

        def create(self, task: Task) -> str:
            return task.output_prefix

        def get(self, job: str) -> Resource:
            if job == "/slow/0":
                released.wait(30)
            return Resource(Phase.RUNNING)

        def delete(self, job: str) -> None: ...

    async def get(meta: bytes) -> Resource:
        if meta == b"/slow/0":
            await asyncio.Event().wait()
        return Resource(Phase.RUNNING)

    scripted = ScriptedAgent(create=lambda task: task.output_prefix.encode(), get=get)
    client = await serve(Blocking() if style == "def" else scripted)
    slow = await client.create(prefix="/slow/0")
    quick = [await client.create(prefix=f"/quick/{number}/0") for number in range(100)]
    held = asyncio.create_task(client.get(slow))
    try:
        await asyncio.sleep(0.02)
        began = time.monotonic()
        answers = await asyncio.gather(*(client.get(handle) for handle in quick))
        assert time.monotonic() - began < 1
        assert not held.done()
        assert [answer.phase for answer in answers] == [Phase.RUNNING] * 100
    finally:
        released.set()
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
