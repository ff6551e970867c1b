"""What an agent or a caller gives that can never be right: said at once, in a sentence, and never waited out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flyteidl2.core.literals_pb2 import Literal, LiteralMap, LiteralOffloadedMetadata

from airside import AsyncAgent, LogLink, OutputsAt, Resource, SyncAgent, Task
from airside.model import Phase
from airside.testing import harness
from airside.testing.client import Wire
from airside.wire import limits
from airside.wire.literals import to_literal

GOOD = LogLink("https://example.org/1", "Job")
BAD: Any = ("https://example.org/2", {"uri": "https://example.org/3"}, LogLink(7, "number"), GOOD)  # type: ignore[arg-type]  # what an author may return


class Answers(AsyncAgent[dict[str, str]]):
    """Answers with what it was made with."""

    task_type = "answers"

    def __init__(self, resource: Resource, links: Any = ()) -> None:
        self._resource = resource
        self._links = links

    async def create(self, task: Task) -> dict[str, str]:
        return {"x": repr(task.inputs.get("x"))}

    async def get(self, job: dict[str, str]) -> Resource:
        return self._resource

    async def delete(self, job: dict[str, str]) -> None: ...

    def links(self, job: dict[str, str]) -> Any:
        return self._links


class Does(SyncAgent):
    """Answers at once, with links that are none."""

    task_type = "does"

    async def do(self, task: Task) -> Resource:
        return Resource(Phase.SUCCEEDED, links=BAD)


@pytest.mark.parametrize("links", [BAD, list(BAD), 7, "https://example.org"])
async def test_links_that_are_none_are_left_out_with_a_warning(
    wire: Wire, links: Any, caplog: pytest.LogCaptureFixture
) -> None:
    expected = (GOOD,) if isinstance(links, tuple | list) else ()
    async with harness(Answers(Resource(Phase.RUNNING, message="all is well", links=links)), wire=wire) as h:
        resource = await h.get(await h.create())
    assert (resource.phase, resource.message, resource.links) == (Phase.RUNNING, "all is well", expected)
    assert "left out what is no LogLink(uri, name) of two texts" in caplog.text


async def test_links_without_the_backend_that_are_none_are_left_out_too(wire: Wire) -> None:
    async with harness(Answers(Resource(Phase.RUNNING), links=BAD), wire=wire) as h:
        resource = await h.get(await h.create())
    assert (resource.phase, resource.links) == (Phase.RUNNING, (GOOD,))


async def test_a_sync_agents_links_that_are_none_are_left_out_too() -> None:
    async with harness(Does(), wire="v1") as h:
        resource = await h.do()
    assert (resource.phase, resource.links) == (Phase.SUCCEEDED, (GOOD,))


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("ftp://host/run", "ftp://host/run/outputs.pb cannot be read or written: use a local path, file://, or one of"),
        ("", "outputs.pb"),
        ("s3:///run", "s3:///run/outputs.pb names no file: write s3://BUCKET/PATH."),
    ],
)
async def test_outputs_where_nothing_can_be_end_the_job_at_once(wire: Wire, uri: str, why: str) -> None:
    async with harness(Answers(Resource(Phase.SUCCEEDED, outputs=OutputsAt(uri))), wire=wire) as h:
        resource = await h.get(await h.create())
    assert resource.phase.is_terminal
    assert not resource.phase.is_success
    assert why in resource.message


async def test_a_failed_job_keeps_its_own_reason_wherever_its_error_should_lie(wire: Wire) -> None:
    failed = Resource(Phase.RETRYABLE_FAILED, message="out of memory", outputs=OutputsAt("ftp://host/run"))
    async with harness(Answers(failed), wire=wire) as h:
        resource = await h.get(await h.create())
    assert resource.phase is Phase.RETRYABLE_FAILED
    assert resource.message.startswith("out of memory (Retryable, id ")


class Measures(Answers):
    """Knows how long its input is."""

    length = 0

    async def create(self, task: Task) -> dict[str, str]:
        self.length = len(task.inputs["x"])
        return {}


async def create_offloaded(agent: Answers, wire: Wire, folder: Path, text: str) -> tuple[Phase, str]:
    """The phase and the message of a task whose text Flyte has offloaded."""
    file = folder / "x.pb"
    file.write_bytes(to_literal(text).SerializeToString())
    offloaded = Literal(offloaded_metadata=LiteralOffloadedMetadata(uri=str(file), size_bytes=len(text)))
    inputs = LiteralMap(literals={"x": offloaded}).SerializeToString()
    async with harness(agent, wire=wire) as h:
        request = h.client.create_request("answers", inputs=inputs, prefix=str(folder / "0"))
        handle = (await h.client.call("CreateTask", request, timeout=60.0)).resource_meta
        resource = await h.client.get(handle, "answers")
    return Phase(resource.phase), resource.message


async def test_an_offloaded_input_may_be_larger_than_a_request(tmp_path: Path, wire: Wire) -> None:
    agent = Measures(Resource(Phase.SUCCEEDED))
    size = limits.REQUEST + limits.MIB
    assert await create_offloaded(agent, wire, tmp_path, "x" * size) == (Phase.SUCCEEDED, "")
    assert agent.length == size


async def test_an_offloaded_input_has_its_limit_too(
    tmp_path: Path, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OFFLOADED", 1000)
    phase, message = await create_offloaded(Answers(Resource(Phase.SUCCEEDED)), wire, tmp_path, "x" * 1001)
    assert phase is Phase.FAILED
    assert "x.pb is too large to be read: " in message


@pytest.mark.parametrize("place", ["missing.pb", "ftp://host/x.pb"])
async def test_an_offloaded_input_that_cannot_be_had_is_named(tmp_path: Path, wire: Wire, place: str) -> None:
    uri = place if "://" in place else str(tmp_path / place)
    offloaded = Literal(offloaded_metadata=LiteralOffloadedMetadata(uri=uri, size_bytes=7))
    inputs = LiteralMap(literals={"x": offloaded}).SerializeToString()
    async with harness(Answers(Resource(Phase.RUNNING)), wire=wire) as h:
        prefix = str(tmp_path / "0")
        request = h.client.create_request("answers", inputs=inputs, prefix=prefix)
        handle = (await h.client.call("CreateTask", request)).resource_meta
        resource = await h.client.get(handle, "answers")
    assert resource.phase == Phase.FAILED
    assert resource.message.startswith(f"inputs.x: offloaded, but {uri} ")
