"""Ten thousand jobs of a backend that blocks for 100 ms, asked for in an open loop under a deadline of 50 ms."""

from __future__ import annotations

import asyncio
import json
import os
import re
import struct
import subprocess
import sys
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from flyteidl.admin import agent_pb2
from flyteidl.service.agent_pb2_grpc import AsyncAgentServiceStub
from flyteidl2.connector.connector_pb2 import CreateTaskRequest

from airside import AsyncAgent, Phase, Resource, Task
from airside.model import TaskType
from airside.sdk.adapt import adapt
from airside.server.service import Service
from airside.server.settings import ServerSettings

HERE = Path(__file__).parent
AIRSIDE = str(Path(sys.executable).with_name("airside"))
THREADS = 400  # two hundred calls of 100 ms are under way at 2,000 asks a second


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked, for how many seconds, and what must hold: the median and the p99 in milliseconds, the share
    missed, and the share of asks that reach the backend with `get_many`."""

    jobs: int
    rate: int
    seconds: float
    warm_up: float
    p50: float
    p99: float
    missed: float
    strict: bool = False
    many: float = 0.015


# The third ask of each job is the first that is expected, since the second one told how often it is asked for; and a
# round of `get_many` comes every five seconds.
SHORT = Load(jobs=300, rate=200, seconds=9, warm_up=3.5, p50=30, p99=100, missed=0.05)
FULL = Load(jobs=10_000, rate=2_000, seconds=60, warm_up=20, p50=20, p99=20, missed=0.0, strict=True)
BUSY = 0.05
"""The share of the time for which the service may wait for a core that others have; beyond, a run tells nothing."""
LATE = re.compile(r"grpc-status\x01[14]")  # the caller's deadline passed
JOB_BYTES = 2048
JOBS = 1_000  # whose memory is measured in this process
KINDS = ("single", "many")


class Quick(AsyncAgent[str]):
    """An agent whose backend answers at once."""

    task_type = "quick"

    async def create(self, task: Task) -> str:
        return task.key

    async def get(self, job: str) -> Resource:
        return Resource(Phase.RUNNING, message="computing")

    async def delete(self, job: str) -> None: ...


@dataclass(slots=True)
class Served:
    port: int
    metrics_port: int
    pid: int

    def memory(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def waited(self) -> float:
        """The seconds for which the loop's thread could have run, but others had the cores."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    def counted(self, kind: str) -> tuple[float, float]:
        """The calls of the backend, and the asks."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        series = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}
        operation = "get_many" if kind == "many" else "get"
        return (
            series[f'airside_backend_latency_seconds_count{{operation="{operation}",task_type="{kind}"}}'],
            series[f'flyte_connector_request_latency_seconds_count{{operation="get",task_type="{kind}"}}'],
        )


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    (folder / "loaded.py").write_text((HERE / "loaded.py").read_text())
    (folder / "airside.toml").write_text(f'[serve]\nagents = ["single", "many"]\nthreads = {THREADS}\n')
    log = folder / "log"
    flags = ["--port", "0", "--metrics-port", "0", "--log-format", "json", "--modules", "loaded", "--drain-delay", "0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRSIDE_")}
    with log.open("w") as stream:
        process = subprocess.Popen([AIRSIDE, "serve", *flags], cwd=folder, env=environment, stderr=stream)
    try:
        until = time.monotonic() + 60
        while not (found := re.search(r'"serving on port .*"port": (\d+), "metrics_port": (\d+)', log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield Served(int(found[1]), int(found[2]), process.pid)
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()


async def create(port: int, kind: str, numbers: range) -> list[bytes]:
    """The GetTaskRequests of new jobs."""
    requests: list[bytes] = []
    left = iter(numbers)

    async def worker(stub: AsyncAgentServiceStub) -> None:
        for number in left:
            request = agent_pb2.CreateTaskRequest(output_prefix=f"s3://bucket/metadata/run-{number}/n0/data/0")
            request.template.type = kind
            made = await stub.CreateTask(request, timeout=60)
            asked = agent_pb2.GetTaskRequest(resource_meta=made.resource_meta, task_category={"name": kind})
            requests.append(asked.SerializeToString())

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        stub = AsyncAgentServiceStub(channel)
        await asyncio.gather(*(worker(stub) for _ in range(50)))
    return requests


def ask(served: Served, kind: str, requests: list[bytes], folder: Path, load: Load) -> dict[str, Any]:
    """What the asker found, and the backend's calls for each ask once it was warm."""
    file = folder / "requests"
    file.write_bytes(b"".join(struct.pack(">I", len(one)) + one for one in requests))
    arguments = [str(served.port), str(file), str(load.rate), str(load.seconds), str(load.warm_up)]
    asker = subprocess.Popen(
        [sys.executable, str(HERE / "asker.py"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with asker:
        time.sleep(load.warm_up + 1)
        calls, asks = served.counted(kind)
        out, err = asker.communicate(timeout=600)
    assert asker.returncode == 0, err
    more_calls, more_asks = served.counted(kind)
    share = (more_calls - calls) / (more_asks - asks)
    return {**json.loads(out), "share": share, "all_calls": more_calls, "all_asks": more_asks}


def under_load(kind: str, load: Load, folder: Path, figures: Callable[..., None]) -> None:
    with serving(folder) as served:
        ahead = asyncio.run(create(served.port, kind, range(load.jobs, load.jobs + load.rate // 2)))
        ask(
            served, kind, ahead, folder, replace(load, seconds=2, warm_up=0)
        )  # threads and buffers are there afterwards
        before = served.memory()
        requests = asyncio.run(create(served.port, kind, range(load.jobs)))
        cpu, waited, began = served.cpu(), served.waited(), time.monotonic()
        found = ask(served, kind, requests, folder, load)
        took = time.monotonic() - began
        cpu, waited = (served.cpu() - cpu) / took, (served.waited() - waited) / took
        job_bytes = (served.memory() - before) / load.jobs
    figures(
        f"6. {load.jobs:,} jobs ({kind}), {load.rate:,} asks a second",
        missed=f"{found['missed']} of {found['asks']:,}",
        p50=f"{found['p50']:.1f} ms",
        p99=f"{found['p99']:.1f} ms",
        worst=f"{found['worst']:.0f} ms",
        backend_calls=f"{found['share']:.2%} of the asks",
        memory=f"{job_bytes:,.0f} bytes a job",
        service=f"{cpu:.0%} of a core, without one for {waited:.0%} of the time",
        client=f"late by {found['late_p99']:.1f} ms (p99)",
    )
    assert not [how for how in found["ends"] if how != "ok" and not LATE.search(how)], found
    jobs = load.jobs + load.rate // 2
    if kind == "single":
        assert found["all_calls"] <= found["all_asks"] + jobs, found  # one ahead of the next ask of each
    else:
        assert 0 < found["share"] <= load.many, found
    if load.strict and kind == "many":  # else the stacks of 400 threads are in it, too
        assert job_bytes < JOB_BYTES
    is_busy = waited > BUSY or found["late_p99"] > 5
    if load.strict and is_busy:
        pytest.skip("this machine is too busy to tell")
    assert found["missed"] <= (0.5 if is_busy else load.missed) * found["asks"], found
    assert found["p50"] < load.p50, found  # an ask that waits for the backend is answered after 40 ms
    assert is_busy or found["p99"] < load.p99, found


@pytest.mark.parametrize("kind", KINDS)
def test_asks_are_answered_in_time(kind: str, tmp_path: Path, figures: Callable[..., None]) -> None:
    under_load(kind, SHORT, tmp_path, figures)


def test_a_watched_job_takes_less_than_two_kib(figures: Callable[..., None]) -> None:
    async def create_and_ask(service: Service, numbers: range) -> None:
        for number in numbers:
            request = CreateTaskRequest(output_prefix=f"s3://bucket/metadata/run-{number}/n0/data/0")
            request.template.type = "quick"
            sealed = await service.create(request)
            await service.get(sealed, TaskType("quick"), None, None)

    async def main() -> float:
        service = Service([adapt(Quick())], ServerSettings())
        await create_and_ask(service, range(500))
        tracemalloc.start()
        await create_and_ask(service, range(500, 500 + JOBS))
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await service.watch.close()
        return used / JOBS

    job_bytes = asyncio.run(main())
    figures("6. memory", bytes_a_job=f"{job_bytes:,.0f}")
    assert job_bytes < JOB_BYTES


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
def test_asks_for_ten_thousand_jobs_are_answered_in_time(
    kind: str, tmp_path: Path, figures: Callable[..., None]
) -> None:
    under_load(kind, FULL, tmp_path, figures)
