"""Errors that nobody foresaw: the user gets one sentence with a code and an id, the log the traceback under that id."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from airside import AsyncAgent, Fail, NotFound, Phase, Resource, Retry, SyncAgent, Task
from airside.model import TaskType
from airside.sdk.adapt import adapt
from airside.server.app import Server
from airside.server.handle import Handle, seal
from airside.server.settings import ServerSettings
from airside.testing.client import RawClient, Wire

SENTENCE = re.compile(r"KeyError: 'rows' \(UnexpectedError, id ([0-9a-f]{8})\)")


class Mistaken(AsyncAgent[str]):
    """Looks into the wrong place, at each call that `wrong` names."""

    task_type = "mistaken"
    max_age = 0.001
    create_is_idempotent = True

    def __init__(self, *wrong: str) -> None:
        self.wrong = wrong
        self.gets = 0

    def look(self, verb: str) -> None:
        empty: dict[str, int] = {}
        if verb in self.wrong:
            empty["rows"]

    async def create(self, task: Task) -> str:
        if "late" in self.wrong:
            await asyncio.sleep(2.5)
        self.look("create")
        return "job"

    async def get(self, job: str) -> Resource:
        self.gets += 1
        self.look("get")
        return Resource(Phase.RUNNING)

    async def delete(self, job: str) -> None:
        self.look("delete")


@asynccontextmanager
async def served(agent: AsyncAgent[str] | SyncAgent, wire: Wire) -> AsyncIterator[RawClient]:
    server = Server([adapt(agent)], ServerSettings(port=0))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield RawClient(channel, wire)
    finally:
        await server.stop(drain_delay=0.0, grace=0.1)  # a create is still repeated


def tracebacks(caplog: pytest.LogCaptureFixture, correlation: str) -> list[logging.LogRecord]:
    """The records with a traceback that the id leads to."""
    found = [one for one in caplog.records if one.exc_info and correlation in one.getMessage()]
    return [one for one in found if one.exc_info and one.exc_info[1] is not None and one.exc_info[1].args == ("rows",)]


async def test_of_a_check(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    agent = Mistaken("get")
    async with served(agent, wire) as client:
        handle = await client.create("mistaken", prefix="s3://b/run/n0/0")
        async with asyncio.timeout(20):
            while agent.gets < 4:
                told = await client.get(handle, "mistaken")
    found = SENTENCE.search(told.message)
    assert found, told.message
    assert len(tracebacks(caplog, found[1])) == 1  # not one for each check


class Once(Mistaken):
    """Its create cannot be repeated."""

    create_is_idempotent = False


async def test_of_a_create(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    async with served(Once("create"), wire) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.create("mistaken", prefix="s3://b/run/n0/0")
    found = SENTENCE.fullmatch(caught.value.details() or "")
    assert found, caught.value.details()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert len(tracebacks(caplog, found[1])) == 1


async def test_of_a_create_behind_a_pending_handle(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    async with served(Mistaken("create", "late"), wire) as client:
        request = client.create_request("mistaken", prefix="s3://b/run/n0/0")
        handle = bytes((await client.call("CreateTask", request, timeout=2.0)).resource_meta)
        found = None
        async with asyncio.timeout(20):
            while not found:
                found = SENTENCE.search((await client.get(handle, "mistaken")).message)
                await asyncio.sleep(0.05)
    assert tracebacks(caplog, found[1])


async def test_of_a_delete(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    async with served(Mistaken("delete"), wire) as client:
        handle = await client.create("mistaken", prefix="s3://b/run/n0/0")
        request = client.job_request("DeleteTaskRequest", handle, "mistaken")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call("DeleteTask", request, timeout=5)
    found = SENTENCE.search(caught.value.details() or "")
    assert found, caught.value.details()
    assert tracebacks(caplog, found[1])


class Many(Mistaken):
    """Answers many at once, for one of them with what is no answer."""

    task_type = "many"
    poll_interval = 0.05

    async def get_many(self, jobs: Sequence[str]) -> Sequence[Resource]:
        answers: Sequence[Resource] = [
            Resource(Phase.RUNNING, message="well") if job == "job" else job  # type: ignore[misc]  # one of them is no Resource
            for job in jobs
        ]
        return answers


async def test_one_job_of_a_batch_does_not_cost_the_others_their_answers(wire: Wire) -> None:
    def handle(number: int, meta: bytes) -> bytes:
        return seal(Handle(task_type=TaskType("many"), key=f"{number:032x}", meta=meta))

    handles = [handle(0, b"no JSON"), handle(1, b'"other"'), *(handle(number, b'"job"') for number in range(2, 6))]
    async with served(Many(), wire) as client:
        unreadable, wrong, *rest = [
            one.message for one in await asyncio.gather(*(client.get(one, "many") for one in handles))
        ]
    assert "Many cannot read the job's metadata, which another version of it may have written" in unreadable
    assert "Many.get_many returned str, not a Resource" in wrong
    assert rest == ["well"] * 4


class Refusing(AsyncAgent[str]):
    """Raises what it was given, at the call that it was given for."""

    task_type = "refusing"
    max_age = 0.001

    def __init__(self, verb: str, error: Exception) -> None:
        self.verb = verb
        self.error = error

    def look(self, verb: str) -> None:
        if verb == self.verb:
            raise self.error

    async def create(self, task: Task) -> str:
        self.look("create")
        return "job"

    async def get(self, job: str) -> Resource:
        self.look("get")
        return Resource(Phase.RUNNING)

    async def delete(self, job: str) -> None:
        self.look("delete")


REFUSALS = [
    ("create", Fail("no such table", code="TableNotFound"), "TableNotFound"),
    ("create", Retry("no slot is free"), "Retryable"),
    ("get", Fail("it was purged", code="Purged"), "Purged"),
    ("get", Retry("busy"), "Retryable"),
    ("get", NotFound("no job 7"), "JobNotFound"),
    ("delete", Fail("it is protected", code="Protected"), "Protected"),
    ("delete", Retry("busy"), "Retryable"),
]


@pytest.mark.parametrize(("verb", "error", "code"), REFUSALS, ids=str)
async def test_what_an_agent_means_has_a_code_and_the_id_of_its_lines_in_the_log(
    wire: Wire, caplog: pytest.LogCaptureFixture, verb: str, error: Exception, code: str
) -> None:
    caplog.set_level(logging.INFO, "airside")
    async with served(Refusing(verb, error), wire) as client:
        try:
            request = client.create_request("refusing", prefix="s3://b/run/n0/0")
            handle = bytes((await client.call("CreateTask", request, timeout=5)).resource_meta)
            if verb == "delete":
                request = client.job_request("DeleteTaskRequest", handle, "refusing")
                await client.call("DeleteTask", request, timeout=5)
            told = (await client.get(handle, "refusing")).message
        except grpc.aio.AioRpcError as exc:
            told = exc.details() or ""
    found = re.search(rf"{error} \({code}, id ([0-9a-f]{{8}})\)", told)
    assert found, told
    assert told.count(found[1]) == 1
    lines = [one for one in caplog.records if found[1] in one.getMessage()]
    assert lines
    assert all(one.__dict__["key"].startswith(found[1]) for one in lines)
    assert not [one for one in caplog.records if one.exc_info]


class Unlucky(AsyncAgent[str]):
    """Its jobs end as it was told: nothing is raised."""

    task_type = "unlucky"

    def __init__(self, end: Resource) -> None:
        self.end = end

    async def create(self, task: Task) -> str:
        return "job"

    async def get(self, job: str) -> Resource:
        return self.end

    async def delete(self, job: str) -> None: ...


ENDS = [
    (Resource(Phase.FAILED, message="exited with 3", code="ExitCode"), "exited with 3", "ExitCode"),
    (Resource(Phase.FAILED), "The job failed", "UserError"),
    (Resource(Phase.RETRYABLE_FAILED, message="preempted"), "preempted", "Retryable"),
    (Resource(Phase.ABORTED, message="killed by root"), "killed by root", "Aborted"),
    (Resource(Phase.SUCCEEDED, outputs=[3]), "expected values by name, got list", "OutputConversionError"),  # type: ignore[arg-type]  # what an author may return
]


@pytest.mark.parametrize(("end", "text", "code"), ENDS, ids=lambda one: one if isinstance(one, str) else "")
async def test_a_job_that_failed_has_them_too(
    wire: Wire, caplog: pytest.LogCaptureFixture, end: Resource, text: str, code: str
) -> None:
    caplog.set_level(logging.INFO, "airside")
    async with served(Unlucky(end), wire) as client:
        told = await client.get(await client.create("unlucky", prefix="s3://b/run/n0/0"), "unlucky")
    found = re.fullmatch(rf".*{text} \({code}, id ([0-9a-f]{{8}})\)", told.message)
    assert found, told.message
    assert [one for one in caplog.records if str(one.__dict__.get("key", "")).startswith(found[1])]


class Sum(SyncAgent):
    """Fails in the way that it is asked for."""

    task_type = "sum"

    def __init__(self, end: Resource | Exception) -> None:
        self.end = end

    async def do(self, task: Task) -> Resource:
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


BAD_SUM = [Fail("1 + None", code="BadSum"), Resource(Phase.FAILED, message="1 + None", code="BadSum")]


@pytest.mark.parametrize("end", BAD_SUM, ids=["raised", "returned"])
async def test_flyte_1_shows_the_code_of_a_sync_task_itself_so_its_sentence_does_not(end: Resource | Exception) -> None:
    async with served(Sum(end), "v1") as client:
        told = await client.do(client.sync_header("sum", 0, prefix="s3://b/run/n0/0"), client.sync_inputs(b""))
        made = await client.get(await client.create("sum", prefix="s3://b/run/n1/0"), "sum")
    sync = told[0].header.resource
    assert sync.agent_error.code == "BadSum"
    assert re.fullmatch(r"1 \+ None \(id [0-9a-f]{8}\)", sync.message)
    assert re.fullmatch(r"1 \+ None \(BadSum, id [0-9a-f]{8}\)", made.message)  # here Flyte drops the code


async def test_a_sync_task_that_nobody_foresaw_has_the_id_of_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with served(Sum(KeyError("rows")), "v1") as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.do(client.sync_header("sum", 0, prefix="s3://b/run/n0/0"), client.sync_inputs(b""))
    found = SENTENCE.fullmatch(caught.value.details() or "")
    assert found, caught.value.details()
    assert len(tracebacks(caplog, found[1])) == 1
