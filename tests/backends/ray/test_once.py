"""One attempt, one job, although the service is killed in the middle of creates and the cluster goes wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests.backends.ray.conftest import TOKEN

from airside.agents.ray_job import RayJobTask
from airside.testing.client import Wire

pytestmark = [pytest.mark.backend, pytest.mark.may_block, pytest.mark.timeout(900)]
COUNT = 12
KINDS = ("reset_before", "reset_after", "429", "503", "503_after", "malformed")


@pytest.mark.parametrize("wire", ["v1", "v2"])
async def test_the_service_is_killed_during_creates_and_each_attempt_has_one_job(
    wire: Wire,
    cluster: Any,
    options: Mapping[str, Any],
    fault_proxy: Callable[..., Any],
    killed_service: Callable[..., Any],
) -> None:
    run = f"{wire}-{time.time_ns()}"
    proxy = fault_proxy(cluster.port, seed=7, share=0.25, kinds=list(KINDS), latency=[0.02, 0.2])
    service = killed_service("ray_job", env={"_FSEC_RAY_AUTH_TOKEN": TOKEN}, options=f'address = "{proxy.url}"', seed=7)
    task = RayJobTask(name="one", entrypoint=["true"], metadata={"run": run})
    handles = await service.create([task] * COUNT, run=run, kills=4, wire=wire)
    await service.finish(handles, "ray_job", wire)
    made = [one for one in json.loads(cluster.ask("/api/jobs/")) if (one["metadata"] or {}).get("run") == run]
    assert len(made) == len({one["metadata"]["airside_key"] for one in made}) == COUNT
    assert service.kills >= 1
    assert sum(proxy.counts()["faults"].values()) >= 5
