"""What a create says, and when it is repeated (E12 to E16, E39, E40)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from flyteidl2.connector import connector_pb2
from flyteidl2.core import literals_pb2, tasks_pb2
from tests.integration.engine_cases.service import (
    DONE,
    RUNNING,
    TASK,
    R,
    Start,
    config,
    engine,
    finish,
    until,
)

from airside import Container, Phase, TaskTemplate, kwtypes
from airside.engine.database import Database
from airside.engine.engine import Submitted, prepare
from airside.wire.families import V1, V2
from airside.wire.literal_map import LiteralValues

CONTAINER = TaskTemplate(
    name="box",
    task_type="spark",
    inputs=kwtypes(x=int),
    container=Container(image="i", args=("{{.Inputs.x}}", "{{ .outputPrefix }}")),
)


async def test_e12_the_request_is_complete_and_the_template_is_rendered_anew(start: Start) -> None:
    service = await start(script={"get": [R(phase=Phase.RETRYABLE_FAILED.value), DONE]})
    await finish(config(service), CONTAINER, {"x": 3}, retries=1)
    first, second = service.calls("create")
    assert list(first.template.container.args) == ["3", first.output_prefix]
    assert list(second.template.container.args) == ["3", second.output_prefix]
    assert first.output_prefix != second.output_prefix
    assert first.template.type == "spark"
    assert [entry.key for entry in interface_of(first).inputs.variables] == ["x"]
    assert LiteralValues(first.inputs.SerializeToString(), None, where="inputs")["x"] == 3
    task = first.task_execution_metadata.task_execution_id
    assert task.node_execution_id.execution_id.name
    assert task.node_execution_id.node_id == "box"
    assert (task.task_id.project, task.task_id.domain) == ("local", "local")
    assert task.task_id.name == "box"
    assert (task.retry_attempt, second.task_execution_metadata.task_execution_id.retry_attempt) == (0, 1)
    assert first.output_prefix.endswith(f"/{task.node_execution_id.execution_id.name}/0")


def interface_of(request: Any) -> Any:
    """The interface in a create request of either family, read with Flyte 2's classes."""
    return tasks_pb2.TaskTemplate.FromString(request.template.SerializeToString()).interface


async def test_e13_an_argument_that_nothing_fills_fails_before_any_call(start: Start) -> None:
    service = await start()
    task = replace(CONTAINER, container=Container(image="i", args=("{{.inputs.nope}}",)))
    outcome = await finish(config(service), task, {"x": 3})
    assert (outcome.phase, outcome.code) == (Phase.FAILED, "BadTaskTemplate")
    assert service.verbs == []


@pytest.mark.parametrize(("retries", "calls"), [(0, 1), (2, 3)])
async def test_e14_a_create_error_burns_an_attempt(start: Start, retries: int, calls: int) -> None:
    service = await start(script={"create": [grpc.StatusCode.INTERNAL]})
    outcome = await finish(config(service), retries=retries)
    assert outcome.code == "RetriesExhausted|Retryable"
    prefixes = [one.output_prefix.rpartition("/")[2] for one in service.calls("create")]
    assert prefixes == [str(number) for number in range(calls)]


async def test_e15_a_create_whose_answer_was_lost_is_repeated_with_the_same_prefix(
    start: Start, tmp_path: Path
) -> None:
    held = asyncio.Event()
    service = await start(script={"create": [lambda _: held.set() or grpc.StatusCode.UNAVAILABLE, b"job-1"]})
    store = tmp_path / "engine.db"
    async with engine(config(service), store) as running:
        save = running._store.save
        running._store.save = lambda *what: asyncio.Future() if held.is_set() else save(*what)  # type: ignore[method-assign]  # held up for the test
        job = await running.submit(TASK)
        await held.wait()
    async with engine(config(service), store) as running:
        assert (await running.wait(job)).phase is Phase.SUCCEEDED
    first, second = service.calls("create")
    assert first == second


async def test_e16_after_a_restart_the_same_job_is_asked_for(start: Start, tmp_path: Path) -> None:
    service = await start(script={"get": [RUNNING]})
    store = tmp_path / "engine.db"
    async with engine(config(service), store) as running:
        job = await running.submit(replace(TASK, task_type_version=0))
        await until(lambda: len(service.calls("get")) >= 2)
    service.script["get"] = [DONE]
    asked = len(service.calls("get"))
    async with engine(config(service), store) as running:
        assert (await running.wait(job)).phase is Phase.SUCCEEDED
    assert len(service.calls("create")) == 1
    last = service.calls("get")[asked]
    assert (last.resource_meta, last.task_category.name, last.task_type) == (b"job-1", "spark", "spark")
    assert last.output_prefix == service.calls("create")[0].output_prefix


def offloaded(**uris: str) -> bytes:
    """A literal map whose values are in files of their own."""
    message = literals_pb2.LiteralMap()
    for name, uri in uris.items():
        message.literals[name].offloaded_metadata.uri = uri
    return bytes(message.SerializeToString())


def hand_in(store: Path, *jobs: Submitted) -> None:
    """Write jobs into a store as `airside run --detach` does."""
    with Database(store) as database, database.transaction():
        for one in jobs:
            database.add(one.record, one.template, one.inputs)


async def test_e39_an_offloaded_input_is_fetched_before_it_is_used(start: Start, tmp_path: Path) -> None:
    kept = literals_pb2.Literal()
    kept.scalar.primitive.integer = 41
    (tmp_path / "x.pb").write_bytes(kept.SerializeToString())
    service = await start()
    store = tmp_path / "engine.db"
    there, gone = (
        replace(prepare(CONTAINER, {"x": 3}), inputs=offloaded(x=str(tmp_path / name))) for name in ("x.pb", "gone.pb")
    )
    await asyncio.to_thread(hand_in, store, there, gone)
    async with asyncio.timeout(20), engine(config(service), store) as running:
        assert (await running.wait(there.record.job.id)).phase is Phase.SUCCEEDED
        outcome = await running.wait(gone.record.job.id)
    assert outcome.phase is Phase.FAILED
    assert f"{tmp_path / 'gone.pb'} does not exist" in outcome.message
    (request,) = service.calls("create")  # the input that is gone stops its attempt before any call
    assert request.template.container.args[0] == "41"
    assert request.inputs.literals["x"].offloaded_metadata.uri == str(tmp_path / "x.pb")


async def test_e40_a_template_without_config_is_created_deviation(start: Start) -> None:
    service = await start(family=V2)
    assert (await finish(config(service))).phase is Phase.SUCCEEDED
    (request,) = service.calls("create")
    assert not request.connection.secrets
    assert not request.connection.configs
    assert {one.verb for one in service.received} == {"list", "create", "get"}


async def test_flyte_2_is_sent_the_connection_with_every_call(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FSEC_BANK_TOKEN", "s3cret-of-the-bank")
    task = replace(TASK, config={"secrets": {"token": "bank_token"}, "configs": {"host": "h"}, "size": 3})
    lost = connector_pb2.Resource(phase=8)
    for family, secrets, configs in ((V2, {"token": "s3cret-of-the-bank"}, {"host": "h"}), (V1, {}, {})):
        service = await start(family=family, script={"get": [lost, connector_pb2.Resource(phase=3)]})
        async with asyncio.timeout(20), engine(config(service)) as running:
            job = await running.submit(task, retries=1)
            assert (await running.wait(job)).phase is Phase.SUCCEEDED
            assert "s3cret" not in str((await running.job(job)).source)
        assert service.verbs == ["create", "get", "delete", "create", "get"]
        for verb in ("create", "get", "delete"):
            data = service.calls(verb)[0].SerializeToString()
            connection = V2.methods[verb].request.FromString(data).connection
            assert (dict(connection.secrets), dict(connection.configs)) == (secrets, configs), (family.name, verb)


async def test_a_secret_that_is_missing_fails_the_task_before_any_call(start: Start) -> None:
    service = await start(family=V2)
    outcome = await finish(config(service), replace(TASK, config={"secrets": {"token": "nowhere"}}))
    assert outcome.phase is Phase.FAILED
    assert "Secret 'nowhere' is missing: set _FSEC_NOWHERE or put it into the file" in outcome.message
    assert "create" not in service.verbs


async def test_the_template_is_written_for_arguments_that_name_it(start: Start) -> None:
    service = await start()
    box = Container(image="i", args=("{{.TaskTemplatePath}}", "{{$Input}}", "{{ .rawoutputdataprefix }}"))
    await finish(config(service), replace(TASK, container=box))
    (request,) = service.calls("create")
    template, inputs, raw = request.template.container.args
    assert tasks_pb2.TaskTemplate.FromString(Path(template).read_bytes()).container.args[0] == "{{.TaskTemplatePath}}"
    assert Path(inputs).exists()
    assert raw == f"{request.output_prefix}/raw"
