"""One attempt, one job, although the service is killed in the middle of creates, and its connections break."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airside.testing.client import Wire

pytestmark = pytest.mark.may_block
COUNT = 16

Options = Mapping[str, Any]


@dataclass
class Scissors:
    """A way to a port on which connections break, each after a random time."""

    upstream: int
    lives: tuple[float, float]
    port: int = 0
    cuts: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self.upstream)
        ways = [asyncio.create_task(_copy(reader, ours)), asyncio.create_task(_copy(theirs, writer))]
        try:
            async with asyncio.timeout(random.uniform(*self.lives)):  # noqa: S311 - no secret
                await asyncio.gather(*ways)
        except TimeoutError:
            self.cuts += 1
        finally:
            for one in (writer, ours):
                one.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)


@asynccontextmanager
async def cut(upstream: int, lives: tuple[float, float]) -> AsyncIterator[Scissors]:
    scissors = Scissors(upstream, lives)
    server = await asyncio.start_server(scissors.serve, "127.0.0.1", 0)
    scissors.port = server.sockets[0].getsockname()[1]
    try:
        yield scissors
    finally:
        server.close()


def table(options: Options) -> str:
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())


def jobs_named(cluster: Any, name: str) -> list[str]:
    """The keys of the jobs with this name."""
    lines = cluster.run("squeue", "-h", "-t", "all", "-O", "Name:|,Comment:|").splitlines()
    return [line.split("|")[1] for line in lines if line.startswith(f"{name}|")]


@pytest.mark.backend  # test_once.py has a shorter one
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_job(
    cluster: Any, options: Options, shell_task: Callable[..., Any], killed_service: Callable[..., Any]
) -> None:
    name = f"ssh-{time.time_ns()}"
    task = shell_task("true", sbatch={"job-name": name})
    service = killed_service("slurm", env={}, options=table(options), seed=7)
    handles = await service.create([task] * COUNT, run=name, kills=3, wire="v2")
    await service.finish(handles, "slurm", "v2")
    assert sorted(Counter(jobs_named(cluster, name)).values()) == [1] * COUNT
    assert service.kills >= 1


@pytest.mark.parametrize(
    ("tasks", "kills"),
    [pytest.param(COUNT, 3, marks=pytest.mark.backend), pytest.param(40, 6, marks=pytest.mark.faults)],
)
async def test_connections_break_as_well_and_each_attempt_has_one_job(
    tasks: int,
    kills: int,
    cluster: Any,
    options: Options,
    shell_task: Callable[..., Any],
    killed_service: Callable[..., Any],
    tmp_path: Path,
    figures: Callable[..., None],
) -> None:
    name = f"cut-{time.time_ns()}"
    task = shell_task("true", sbatch={"job-name": name, "time": 5})
    async with cut(cluster.ports["ssh"], (0.3, 3.0)) as scissors:
        known = (cluster.folder / "known_hosts").read_text()
        (tmp_path / "known_hosts").write_text(known.replace(f":{cluster.ports['ssh']} ", f":{scissors.port} "))
        through = {**options, "port": scissors.port, "known_hosts": str(tmp_path / "known_hosts")}
        service = killed_service("slurm", env={}, options=table(through), seed=7)
        handles = await service.create([task] * tasks, run=name, kills=kills, wire="v2")
        await service.finish(handles, "slurm", "v2")
    assert sorted(Counter(jobs_named(cluster, name)).values()) == [1] * tasks
    figures("slurm, cut connections", tasks=tasks, cuts=scissors.cuts)
    assert scissors.cuts >= 1


@pytest.mark.parametrize(
    ("wire", "tasks", "kills"),
    [
        pytest.param("v1", COUNT, 2, marks=pytest.mark.backend),  # its creates back off for up to a minute
        pytest.param("v2", 40, 6, marks=pytest.mark.faults),
    ],
)
async def test_slurmrestd_loses_answers_and_each_attempt_has_one_live_job(
    wire: Wire,
    tasks: int,
    kills: int,
    cluster: Any,
    rest_options: Options,
    shell_task: Callable[..., Any],
    fault_proxy: Callable[..., Any],
    killed_service: Callable[..., Any],
) -> None:
    name = f"rest-{time.time_ns()}"
    kinds = ["reset_before", "reset_after", "429", "503", "503_after", "malformed"]
    proxy = fault_proxy(cluster.ports["rest"], seed=7, share=0.3, kinds=kinds, latency=[0.02, 0.1])
    task = shell_task("true", sbatch={"job-name": name, "time": 5})
    through = {**rest_options, "allowed_hosts": [proxy.url], "rest_url": proxy.url}
    service = killed_service("slurm", env={}, options=table(through), seed=7)
    handles = await service.create([task] * tasks, run=name, kills=kills, wire=wire)
    await service.finish(handles, "slurm", wire)  # its calls go on failing, and no GetTask does
    assert sorted(Counter(jobs_named(cluster, name)).values()) == [1] * tasks
    assert sum(proxy.counts()["faults"].values()) >= 5
