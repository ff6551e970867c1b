"""Runs whose files are in object stores: what the engine, a served agent and its job write there, the others read."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flyteidl2.core import literals_pb2
from tests.backends.conftest import Process, answers
from tests.backends.storage.conftest import Store

from airside import Container, Engine, Phase, Task, TaskTemplate, UsageError, kwtypes
from airside.engine.engine import prepare
from airside.testing import ScriptedAgent
from airside.wire import storage

AIRSIDE = str(Path(sys.executable).with_name("airside"))
WORKFLOW = '''
from flyteidl2.core.execution_pb2 import ContainerError, ErrorDocument
from flyteidl2.core.literals_pb2 import LiteralMap

from airside import (
    AgentRegistry, AsyncAgent, Container, File, OutputsAt, Phase, Resource, Task, TaskTemplate, kwtypes,
)
from airside.wire import storage


def leave_error(prefix, kind):
    error = ContainerError(code="Evicted", message="no disk", kind=kind)
    storage.write(f"{prefix}/error.pb", ErrorDocument(error=error).SerializeToString())


class Remote(AsyncAgent[str]):
    """Does what a job on another machine would: finds its inputs, and leaves its files where the engine said."""

    task_type = "remote"
    poll_interval = 0.05
    max_age = 0.02

    def create(self, task: Task) -> str:
        inputs, prefix, raw, number = task.container.args
        values = LiteralMap.FromString(storage.read(inputs)).literals
        assert number == str(values["n"].scalar.primitive.integer)
        if task.execution.attempt == 0:
            leave_error(prefix, ContainerError.RECOVERABLE)
            return prefix
        storage.write(f"{raw}/table.csv", b"a,b")
        made = LiteralMap()
        made.literals["n"].scalar.primitive.integer = int(number) + 1
        made.literals["table"].scalar.blob.uri = f"{raw}/table.csv"
        storage.write(f"{prefix}/outputs.pb", made.SerializeToString())
        return prefix

    def get(self, prefix: str) -> Resource:
        return Resource(Phase.SUCCEEDED)

    def delete(self, prefix: str) -> None: ...


class Teller(AsyncAgent[str]):
    """Answers with what it was given: in the answer, in a file of its own, or with why it failed."""

    task_type = "teller"
    poll_interval = 0.05
    max_age = 0.02

    def create(self, task: Task) -> str:
        how = task.config["how"]
        if how == "large":
            return "large"
        elsewhere = f"{task.output_prefix}/elsewhere"
        if how == "failed":
            leave_error(elsewhere, ContainerError.NON_RECOVERABLE)
        else:
            made = LiteralMap()
            made.literals["s"].scalar.primitive.string_value = task.inputs["s"]
            storage.write(f"{elsewhere}/outputs.pb", made.SerializeToString())
        return f"{how} {elsewhere}"

    def get(self, job: str) -> Resource:
        how, _, place = job.partition(" ")
        if how == "large":
            return Resource(Phase.SUCCEEDED, outputs={"s": "x" * 4_000_000})
        return Resource(Phase.FAILED if how == "failed" else Phase.SUCCEEDED, outputs=OutputsAt(place))

    def delete(self, job: str) -> None: ...


AgentRegistry.register(Remote())
AgentRegistry.register(Teller())

remote = TaskTemplate(
    name="remote", task_type="remote", inputs=kwtypes(n=int), outputs=kwtypes(n=int, table=File),
    container=Container(
        image="none", args=("{{.input}}", "{{.outputPrefix}}", "{{.rawOutputDataPrefix}}", "{{.inputs.n}}")
    ),
    cache=True, cache_version="1",
)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "wf.py").write_text(WORKFLOW)
    monkeypatch.setenv("AIRSIDE_STATE", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def endpoint(store: Store, folder: Path, free_port: Callable[[], int]) -> Iterator[str]:
    """`airside serve` in a process of its own, with the environment of the store's user."""
    port = free_port()
    options = ["--port", str(port), "--metrics-port", "-1", "--drain-delay", "0", "--modules", "wf"]
    service = Process([AIRSIDE, "serve", *options], {**os.environ, "PYTHONPATH": str(folder)}, folder / "service.log")
    try:
        service.wait_for(lambda: answers(port))
        yield f"127.0.0.1:{port}"
    finally:
        service.stop()


def airside(folder: Path, *args: str) -> dict[str, Any]:
    """What a command says as JSON."""
    done = subprocess.run([AIRSIDE, *args], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_files_of_a_run_pass_between_engine_agent_and_job(store: Store, endpoint: str, folder: Path) -> None:
    """`inputs.pb`, `error.pb` of the first attempt, `outputs.pb` and a raw file of the second, then the cache."""
    where = ["--endpoint", endpoint, "--outputs", f"{store.root}/runs/", "--retries", "1", "--json"]
    first = airside(folder, "run", *where, "wf.py", "remote", "--n", "3")
    prefix = f"{store.root}/runs/{first['job']}/1"
    assert (first["phase"], first["attempts"]) == ("SUCCEEDED", 2)
    assert first["outputs"] == {"n": 4, "table": {"uri": f"{prefix}/raw/table.csv", "format": ""}}
    assert storage.read(f"{prefix}/raw/table.csv") == b"a,b"
    assert storage.exists(f"{store.root}/runs/{first['job']}/inputs.pb")
    events = airside(folder, "jobs", "show", first["job"], "--json")["events"]
    assert any("no disk" in event["note"] for event in events)

    second = airside(folder, "run", *where, "wf.py", "remote", "--n", "3")
    assert second["message"] == f"The outputs of {first['job']}, from the cache."
    assert second["outputs"] == first["outputs"]
    assert storage.exists(f"{store.root}/runs/{second['job']}/0/outputs.pb")
    assert not (folder / "state" / "runs" / first["job"]).exists()


async def test_what_the_service_reads_and_writes(store: Store, endpoint: str, folder: Path) -> None:
    """Outputs too large for an answer, outputs and errors in files that an agent names, and inputs in files."""
    kept = literals_pb2.Literal()
    kept.scalar.primitive.string_value = "offloaded"
    await asyncio.to_thread(storage.write, f"{store.root}/value.pb", kept.SerializeToString())
    told = {
        how: prepare(teller(how), {"s": "given"}, outputs=f"{store.root}/runs") for how in ("large", "at", "failed")
    }
    told["offloaded"] = replace(
        prepare(teller("at"), {"s": ""}, outputs=f"{store.root}/runs"), inputs=offloaded(s=f"{store.root}/value.pb")
    )
    async with asyncio.timeout(60), Engine(folder / "engine.db", endpoint=endpoint) as engine:
        for one in told.values():
            await engine.take(one)
        ends = {how: await engine.wait(one.record.job.id) for how, one in told.items()}
    assert {how: end.phase for how, end in ends.items() if how != "failed"} == dict.fromkeys(
        ("large", "at", "offloaded"), Phase.SUCCEEDED
    ), [end.message for end in ends.values()]
    assert ends["large"].outputs == {"s": "x" * 4_000_000}
    assert ends["at"].outputs == {"s": "given"}
    assert ends["offloaded"].outputs == {"s": "offloaded"}
    assert (ends["failed"].phase, ends["failed"].code) == (Phase.FAILED, "Evicted")
    assert "no disk" in ends["failed"].message
    large = await asyncio.to_thread(storage.read, f"{store.root}/runs/{told['large'].record.job.id}/0/outputs.pb")
    assert len(large) > 4_000_000


async def test_an_offloaded_input_is_fetched_for_the_arguments(store: Store, folder: Path) -> None:
    """By the engine itself: a container's arguments need the value."""
    kept = literals_pb2.Literal()
    kept.scalar.primitive.integer = 41
    await asyncio.to_thread(storage.write, f"{store.root}/n.pb", kept.SerializeToString())
    seen: list[tuple[str, ...]] = []

    def create(task: Task) -> bytes:
        assert task.container is not None
        seen.append((*task.container.args, str(task.inputs["n"])))
        return b"1"

    agent = ScriptedAgent(task_types=("remote",), create=create)
    task = TaskTemplate(
        name="args", task_type="remote", inputs=kwtypes(n=int), container=Container(image="i", args=("{{.inputs.n}}",))
    )
    made = replace(prepare(task, {"n": 0}, outputs=f"{store.root}/runs"), inputs=offloaded(n=f"{store.root}/n.pb"))
    async with asyncio.timeout(60), Engine(":memory:", agents=[agent]) as engine:
        assert (await engine.wait(await engine.take(made))).phase is Phase.SUCCEEDED
    assert seen == [("41", "41")]


async def test_a_store_that_is_away_fails_the_attempt_in_one_line(away: Store, folder: Path) -> None:
    task = TaskTemplate(name="add", task_type="echo", inputs=kwtypes(n=int))
    async with asyncio.timeout(60), Engine(":memory:", outputs=f"{away.root}/runs") as engine:
        outcome = await engine.wait(await engine.submit(task, {"n": 3}))
    assert outcome.phase is Phase.FAILED
    assert "inputs.pb cannot be written" in outcome.message
    assert "\n" not in outcome.message


async def test_a_bucket_that_is_not_there_fails_the_attempt_for_good(store: Store, folder: Path) -> None:
    task = TaskTemplate(name="add", task_type="echo", inputs=kwtypes(n=int))
    nowhere = store.root.replace("bucket", "no-such-bucket")
    async with asyncio.timeout(60), Engine(":memory:", outputs=f"{nowhere}/runs") as engine:
        outcome = await engine.wait(await engine.submit(task, {"n": 3}, retries=5))
    assert (outcome.phase, outcome.attempts) == (Phase.FAILED, 1)
    assert outcome.message.endswith(
        "cannot be written: there is no bucket or container " + nowhere.split("://")[1] + "."
    )


@pytest.mark.parametrize("outputs", ["ftp://host/runs", "s3://", "s3:///"])
async def test_a_place_for_outputs_that_is_none(outputs: str, tmp_path: Path) -> None:
    async with Engine(tmp_path / "engine.db", outputs=outputs) as engine:
        with pytest.raises(UsageError, match=r"is no place for outputs: write a folder, or one of s3://BUCKET/PATH"):
            await engine.submit(TaskTemplate(name="add", task_type="copier"))


def teller(how: str) -> TaskTemplate:
    kept = kwtypes(s=str)
    return TaskTemplate(name=how, task_type="teller", inputs=kept, outputs=kept, config={"how": how})


def offloaded(**uris: str) -> bytes:
    """A literal map whose values are in files of their own."""
    message = literals_pb2.LiteralMap()
    for name, uri in uris.items():
        message.literals[name].offloaded_metadata.uri = uri
    return bytes(message.SerializeToString())
