"""SIGTERM under load, two replicas, a client that learns of the removal late: no call fails, no create is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from flyteidl.admin import agent_pb2
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.service.agent_pb2_grpc import AsyncAgentServiceStub

AIRSIDE = str(Path(sys.executable).with_name("airside"))
MODULE = """
import time
from pathlib import Path
from airside import AgentRegistry, AsyncAgent, NotFound, Phase, Resource

JOBS = Path("jobs")

class Filed(AsyncAgent[str]):
    "A job is a file; making one takes a while."
    task_type = "filed"

    def create(self, task):
        time.sleep(0.1)
        with (JOBS / task.key).open("a") as job:
            job.write("made ")
        return task.key

    def find(self, task, key):
        return key if (JOBS / key).exists() else None

    def get(self, job):
        if not (JOBS / job).exists():
            raise NotFound(job)
        return Resource(Phase.RUNNING, message="there")

    def delete(self, job):
        (JOBS / "deleted").touch()

AgentRegistry.register(Filed())
"""


@dataclass(frozen=True, slots=True)
class Form:
    """Seconds: of load, until the signal, from it until the client knows, of the drain delay; and calls a second."""

    load: float
    signal_at: float
    late: float
    drain_delay: float
    rate: int = 200


SHORT = Form(load=5.0, signal_at=1.0, late=2.0, drain_delay=3.0)
FULL = Form(load=40.0, signal_at=10.0, late=10.0, drain_delay=15.0)


@dataclass(slots=True)
class Tally:
    handles: list[bytes] = field(default_factory=list)
    gets: int = 0
    failures: list[str] = field(default_factory=list)


@contextmanager
def replica(folder: Path, form: Form) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    flags = ["--port", "0", "--metrics-port", "-1", "--modules", "filed", "--drain-delay", str(form.drain_delay)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRSIDE_")}
    command = [AIRSIDE, "serve", *flags]
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".log") as log:  # a pipe that nobody reads fills up
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=log)
        try:
            until = time.monotonic() + 60
            while not (found := re.search(r"serving on port (\d+)", Path(log.name).read_text())):
                assert process.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < until, "the service did not start"
                time.sleep(0.05)
            yield process, int(found[1])
        finally:
            process.kill()
            process.wait()


async def call(stub: AsyncAgentServiceStub, number: int, tally: Tally) -> None:
    """One create in four calls, else a get of a job made before."""
    try:
        if number % 4 == 0 or not tally.handles:
            request = agent_pb2.CreateTaskRequest(output_prefix=f"s3://b/{number}/0")
            request.template.type = "filed"
            tally.handles.append((await stub.CreateTask(request, timeout=10)).resource_meta)
        else:
            await ask(stub, tally.handles[number % len(tally.handles)])
            tally.gets += 1
    except grpc.aio.AioRpcError as exc:
        tally.failures.append(f"call {number}: {exc.code()} {exc.details()}")


async def ask(stub: AsyncAgentServiceStub, meta: bytes) -> agent_pb2.Resource:
    request = agent_pb2.GetTaskRequest(resource_meta=meta, task_category={"name": "filed"})
    return (await stub.GetTask(request, timeout=10)).resource


async def under_load(folder: Path, form: Form, figures: Callable[..., None]) -> None:
    (folder / "filed.py").write_text(MODULE)
    (folder / "airside.toml").write_text('[serve]\nagents = ["filed"]\nthreads = 32\n')
    (folder / "jobs").mkdir()
    tally = Tally()
    with replica(folder, form) as (leaving, first), replica(folder, form) as (_, second):
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{first}") as one,
            grpc.aio.insecure_channel(f"127.0.0.1:{second}") as two,
        ):
            stubs = [AsyncAgentServiceStub(one), AsyncAgentServiceStub(two)]
            began, told, calls = time.monotonic(), False, []
            for number in range(int(form.load * form.rate)):
                now = time.monotonic() - began
                await asyncio.sleep(max(0.0, number / form.rate - now))
                if now >= form.signal_at and not told:
                    leaving.send_signal(signal.SIGTERM)
                    told = True
                knows = now >= form.signal_at + form.late
                calls.append(asyncio.create_task(call(stubs[1 if knows else number % 2], number, tally)))
            await asyncio.gather(*calls)
            code = await asyncio.to_thread(leaving.wait, 30)
            kept = [await ask(stubs[1], meta) for meta in tally.handles]
    figures(
        f"4. SIGTERM under {form.rate:g} calls a second",
        calls=f"{len(calls):,}",
        creates=len(tally.handles),
        failed=len(tally.failures),
        jobs_made=len(list((folder / "jobs").iterdir())),
    )
    assert tally.failures == []
    assert code == 0
    assert len(tally.handles) >= form.load * form.rate / 4
    assert {resource.phase for resource in kept} == {TaskExecution.RUNNING}
    made = [path.read_text() for path in (folder / "jobs").iterdir()]  # none was deleted either
    assert made == ["made "] * len(tally.handles)


async def test_a_replica_leaves_without_a_failed_call(tmp_path: Path, figures: Callable[..., None]) -> None:
    await under_load(tmp_path, SHORT, figures)


@pytest.mark.faults
async def test_a_replica_leaves_without_a_failed_call_at_full_length(
    tmp_path: Path, figures: Callable[..., None]
) -> None:
    await under_load(tmp_path, FULL, figures)
