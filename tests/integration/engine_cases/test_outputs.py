"""What a job leaves: outputs, errors, links, and the answers of sync agents (E30 to E37)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flyteidl.admin import agent_pb2
from flyteidl2.core import execution_pb2
from tests.integration.engine_cases.service import (
    ADD,
    DONE,
    RUNNING,
    TASK,
    R,
    Service,
    Start,
    agents,
    config,
    engine,
    finish,
    literals,
    until,
    with_outputs,
)

from airside import Phase, TaskTemplate
from airside.wire.literal_map import LiteralValues


async def test_e30_outputs_are_written_as_they_came(start: Start) -> None:
    service = await start(script={"get": [with_outputs(literals(o0=7))]})
    outcome = await finish(config(service), ADD, {"a": 1})
    assert outcome.outputs == {"o0": 7}
    prefix = service.calls("create")[0].output_prefix
    assert await asyncio.to_thread(Path(prefix, "outputs.pb").read_bytes) == literals(o0=7)


async def write_file(service: Service, name: str, data: bytes) -> None:
    prefix = Path(service.calls("create")[-1].output_prefix)
    await asyncio.to_thread(lambda: (prefix.mkdir(parents=True, exist_ok=True), (prefix / name).write_bytes(data)))


def error_document(kind: int) -> bytes:
    error = execution_pb2.ContainerError(code="Boom", message="as told", kind=kind)
    return bytes(execution_pb2.ErrorDocument(error=error).SerializeToString())


@pytest.mark.parametrize(
    ("name", "data", "code", "outputs", "attempts"),
    [
        ("outputs.pb", literals(o0=9), "", {"o0": 9}, 1),
        ("nothing", b"", "RetriesExhausted|OutputsNotFound", {}, 2),
        ("error.pb", error_document(execution_pb2.ContainerError.RECOVERABLE), "RetriesExhausted|Boom", {}, 2),
        ("error.pb", error_document(execution_pb2.ContainerError.NON_RECOVERABLE), "Boom", {}, 1),
    ],
)
async def test_e31_e32_outputs_in_files(
    start: Start, name: str, data: bytes, code: str, outputs: dict[str, int], attempts: int
) -> None:
    service = await start(script={"get": [RUNNING]})
    async with engine(config(service)) as running:
        job = await running.submit(ADD, {"a": 1}, retries=1)
        for attempt in range(attempts):
            await until(lambda: len(service.calls("create")) > attempt)  # noqa: B023 - it is over before the loop goes on
            await write_file(service, name, data)
            service.script["get"] = [DONE]
            if attempt + 1 < attempts:
                await until(lambda: service.calls("delete"))
                service.script["get"] = [RUNNING]
        outcome = await running.wait(job)
    assert (outcome.code, outcome.outputs, outcome.attempts) == (code, outputs, attempts)


@pytest.mark.parametrize(("task", "outputs"), [(replace(ADD, outputs={}), {}), (ADD, {"o0": 7})])
async def test_e33_outputs_that_nobody_declared_are_ignored(
    start: Start, task: TaskTemplate, outputs: dict[str, int]
) -> None:
    service = await start(script={"get": [with_outputs(literals(o0=7))]})
    outcome = await finish(config(service), task, {"a": 1})
    assert (outcome.phase, outcome.outputs) == (Phase.SUCCEEDED, outputs)
    written = Path(service.calls("create")[0].output_prefix, "outputs.pb")
    assert await asyncio.to_thread(written.exists) == bool(outputs)


async def test_e34_links_that_come_late_are_published_deviation(start: Start) -> None:
    late = R(phase=Phase.RUNNING.value)
    late.log_links.add(uri="https://example.org/1", name="console")
    service = await start(script={"get": [RUNNING, late]})
    async with engine(config(service)) as running:
        job = await running.submit(TASK)
        await until(lambda: len(service.calls("get")) >= 4)
        assert [link.name for link in (await running.job(job)).job.links] == ["console"]


async def test_e35_a_sync_call_sends_header_and_inputs_and_takes_one_answer(start: Start) -> None:
    service = await start(is_sync=True, script={"do": [with_outputs(literals(o0=8))]})
    outcome = await finish(config(**agents(a=service)), ADD, {"a": 3})
    assert outcome.outputs == {"o0": 8}
    assert service.verbs == ["do"]
    (parts,) = service.calls("do")
    header, inputs = parts
    assert header.header.template.type == "spark"
    assert LiteralValues(inputs.inputs.SerializeToString(), None, where="inputs")["a"] == 3


async def test_e36_a_sync_agent_that_answers_running_fails_that_task_only(start: Start) -> None:
    service = await start(is_sync=True, script={"do": [RUNNING, DONE]})
    async with engine(config(**agents(a=service))) as running:
        assert (await running.wait(await running.submit(TASK))).code == "AgentError"
        assert (await running.wait(await running.submit(TASK))).phase is Phase.SUCCEEDED


@pytest.mark.parametrize(
    ("phase", "kind", "attempts"),
    [(8, agent_pb2.AgentError.NON_RECOVERABLE, 2), (5, agent_pb2.AgentError.RECOVERABLE, 1)],
)
async def test_e37_the_code_of_an_agent_error_is_used_and_the_phase_decides(
    start: Start, phase: int, kind: Any, attempts: int
) -> None:
    error = agent_pb2.AgentError(code="Quota", kind=kind)
    failed = agent_pb2.Resource(phase=phase, message="full", agent_error=error).SerializeToString()
    service = await start(script={"get": [failed]})
    outcome = await finish(config(service), retries=1)
    assert (outcome.code.rpartition("|")[2], outcome.attempts) == ("Quota", attempts)
