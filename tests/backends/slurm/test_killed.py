"""One attempt, one job, although the service is killed in the middle of creates and slurmrestd goes wrong."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

pytestmark = pytest.mark.may_block
COUNT = 16

Options = Mapping[str, Any]


def table(options: Options) -> str:
    return "\n".join(f"{name} = {json.dumps(value)}" for name, value in options.items())


def jobs_named(cluster: Any, name: str) -> list[str]:
    """The keys of the jobs with this name."""
    lines = cluster.run("squeue", "-h", "-t", "all", "-O", "Name:|,Comment:|").splitlines()
    return [line.split("|")[1] for line in lines if line.startswith(f"{name}|")]


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


@pytest.mark.backend  # its creates back off for up to a minute
async def test_slurmrestd_loses_answers_and_each_attempt_has_one_live_job(
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
    handles = await service.create([task] * COUNT, run=name, kills=2, wire="v1")
    proxy.set(share=0.0, latency=[0, 0])
    await service.finish(handles, "slurm", "v1")
    assert sorted(Counter(jobs_named(cluster, name)).values()) == [1] * COUNT
    assert sum(proxy.counts()["faults"].values()) >= 5
