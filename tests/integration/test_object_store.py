"""Files in an object store: the real client against an S3 server of its own process."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from flyteidl2.core.execution_pb2 import ContainerError, ErrorDocument
from flyteidl2.core.literals_pb2 import LiteralMap

from airside import (
    AsyncAgent,
    Call,
    Engine,
    Phase,
    Resource,
    Retry,
    Task,
    TaskTemplate,
    TaskType,
    UsageError,
    kwtypes,
)
from airside.agents.sensor import SensorAgent
from airside.sdk.adapt import adapt
from airside.wire import storage


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(address, server)
            requests.put(f"{address}/bucket", timeout=10).raise_for_status()
            yield address
        finally:
            server.terminate()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    storage._store.cache_clear()
    yield "s3://bucket"
    storage._store.cache_clear()


def test_write_then_read(s3: str) -> None:
    uri = storage.join(f"{s3}/run é/0", "outputs.pb")
    storage.write(uri, b"\x00\xffpayload")
    assert storage.read(uri) == b"\x00\xffpayload"


def test_what_goes_wrong_is_said_in_one_line(s3: str) -> None:
    with pytest.raises(storage.FileMissing, match=r"^s3://bucket/none does not exist\.$"):
        storage.read(f"{s3}/none")
    storage.write(f"{s3}/big", b"x" * 3_000_000)
    with pytest.raises(UsageError, match=r"^s3://bucket/big is too large to be read: 2\.9 MiB, where 1 MiB"):
        storage.read(f"{s3}/big", limit=1_048_576)


def test_a_store_that_does_not_answer_may_answer_later(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage._store.cache_clear()
    with pytest.raises(Retry, match=r"^s3://bucket/x cannot be read: .*after 3 retries") as caught:
        storage.read(f"{s3}/x")
    assert "\n" not in str(caught.value)


# -- the engine's files ---------------------------------------------------------------------------------------------


class Copier(AsyncAgent[str]):
    """Leaves its outputs, or why there are none, where the engine said, as a job on another machine would."""

    task_type = "copier"
    poll_interval = 0.02

    def create(self, task: Task) -> str:
        values = LiteralMap.FromString(storage.read(storage.join(task.output_prefix.rpartition("/")[0], "inputs.pb")))
        made = LiteralMap()
        made.literals["n"].scalar.primitive.integer = values.literals["n"].scalar.primitive.integer + 1
        if task.execution.attempt == 0:
            error = ContainerError(code="Evicted", message="no disk", kind=ContainerError.RECOVERABLE)
            storage.write(f"{task.output_prefix}/error.pb", ErrorDocument(error=error).SerializeToString())
        else:
            storage.write(f"{task.output_prefix}/outputs.pb", made.SerializeToString())
        return task.output_prefix

    def get(self, prefix: str) -> Resource:
        return Resource(Phase.SUCCEEDED)

    def delete(self, prefix: str) -> None: ...


async def test_an_engine_keeps_inputs_and_outputs_in_s3(s3: str, tmp_path: Path) -> None:
    kept = kwtypes(n=int)
    add = TaskTemplate(name="add", task_type="copier", inputs=kept, outputs=kept, cache=True, cache_version="1")
    async with Engine(tmp_path / "engine.db", agents=[Copier()], outputs=f"{s3}/runs/") as engine:
        first = await engine.submit(add, {"n": 3}, retries=1)
        outcome = await engine.wait(first)
        assert (outcome.phase, outcome.outputs, outcome.attempts) == (Phase.SUCCEEDED, {"n": 4}, 2)
        assert (await engine.job(first)).root == f"{s3}/runs/{first}"
        assert any("no disk" in event.note for event in await engine.events(first))
        second = await engine.submit(add, {"n": 3})
        assert (await engine.wait(second)).message == f"The outputs of {first}, from the cache."
    for job, attempt in ((first, 1), (second, 0)):
        data = storage.read(f"{s3}/runs/{job}/{attempt}/outputs.pb")
        assert LiteralMap.FromString(data).literals["n"].scalar.primitive.integer == 4
    assert not (tmp_path / "runs").exists()


async def test_a_store_that_is_away_fails_the_attempt_in_one_line(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage._store.cache_clear()
    task = TaskTemplate(name="add", task_type="copier", inputs=kwtypes(n=int))
    async with Engine(tmp_path / "engine.db", agents=[Copier()], outputs=f"{s3}/runs") as engine:
        outcome = await engine.wait(await engine.submit(task, {"n": 3}))
    assert outcome.phase is Phase.FAILED
    assert "inputs.pb cannot be written" in outcome.message
    assert "\n" not in outcome.message


@pytest.mark.parametrize("outputs", ["ftp://host/runs", "s3://", "s3:///"])
async def test_a_place_for_outputs_that_is_none(outputs: str, tmp_path: Path) -> None:
    async with Engine(tmp_path / "engine.db", agents=[Copier()], outputs=outputs) as engine:
        with pytest.raises(UsageError, match=r"is no place for outputs: write a folder, or one of s3://BUCKET/PATH"):
            await engine.submit(TaskTemplate(name="add", task_type="copier"))


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert server.poll() is None, "the S3 server ended"
        try:
            requests.get(f"{address}/moto-api/", timeout=10)
        except requests.ConnectionError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("the S3 server did not start")


def test_a_large_file_is_copied_piece_by_piece(s3: str, tmp_path: Path) -> None:
    content = b"0123456789abcdef" * 500_000
    with (tmp_path / "between").open("w+b") as between:
        between.write(content)
        between.seek(0)
        storage.upload(f"{s3}/large", between)
        between.seek(0)
        between.truncate()
        assert storage.download(f"{s3}/large", between) == len(content)
        with pytest.raises(storage.FileMissing):
            storage.download(f"{s3}/no-such-file", between)
    assert (tmp_path / "between").read_bytes() == content


async def test_a_sensor_waits_for_an_object_or_anything_below_a_prefix(s3: str) -> None:
    sensor = adapt(SensorAgent())
    await sensor.open(SensorAgent.Options())
    try:
        done = f"{s3}/day=1/_SUCCESS"
        waiting = {
            path: await sensor.create(Task(type=TaskType("sensor"), config={"sensor": "file", "path": path}), Call())
            for path in (done, f"{s3}/day=1/", f"{s3}/day=2", f"{s3}/day")
        }
        jobs = list(waiting.values())
        assert [one.phase for one in await sensor.get_many(jobs, Call()) if isinstance(one, Resource)] == [
            Phase.RUNNING
        ] * 4
        await asyncio.to_thread(storage.write, done, b"")
        answers = await sensor.get_many(jobs, Call())
        met = [one.phase is Phase.SUCCEEDED for one in answers if isinstance(one, Resource)]
        assert met == [True, True, False, False]
    finally:
        await sensor.close()


async def test_a_sensor_of_a_store_that_does_not_answer_goes_on(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    storage._store.cache_clear()
    sensor = adapt(SensorAgent())
    await sensor.open(SensorAgent.Options(least_poke_interval=0.1))
    try:
        config = {"sensor": "file", "path": f"{s3}/x", "poke_interval": 3}
        job = await sensor.create(Task(type=TaskType("sensor"), config=config), Call())
        with pytest.raises(Retry, match=r"^s3://bucket/x cannot be looked for: .*after 3 retries") as caught:
            await sensor.get(job, Call())
        assert caught.value.after == 3.0
        short = Task(type=TaskType("sensor"), config={**config, "timeout": 0.1})
        resource = await sensor.get(await sensor.create(short, Call()), Call())
        assert (resource.phase, resource.code) == (Phase.FAILED, "SensorTimeout")
        assert "cannot be looked for" in resource.message
    finally:
        await sensor.close()
